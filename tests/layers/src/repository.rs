//! The files of this repository.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What is made, not written.
const MADE: &[&str] = &[".git", ".ash", "target", "__pycache__"];

/// The top directory of the repository.
pub fn root() -> PathBuf {
    package().join("../..")
}

/// The directory of this package. Asked when running, not when compiling: a build directory that
/// serves several checkouts may hold a program that was compiled from another one.
pub fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| ".".into(), PathBuf::from)
}

/// Every text file beneath a directory with its path relative to it, in order. What is not UTF-8 is
/// left out, and so is what tools make.
///
/// # Errors
/// When a directory or file cannot be read.
pub fn texts(directory: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let mut texts = Vec::new();
    for path in files(directory)? {
        if let Ok(text) = String::from_utf8(fs::read(&path)?) {
            texts.push((path.strip_prefix(directory).unwrap_or(&path).to_owned(), text));
        }
    }
    Ok(texts)
}

/// What is wrong with the corpora of fuzz targets beneath a directory: one that is empty, or none
/// at all.
///
/// # Errors
/// When a directory cannot be read.
pub fn check_corpora(directory: &Path) -> io::Result<Vec<String>> {
    let files = files(directory)?;
    let targets = files.iter().filter(|path| path.parent().is_some_and(is_targets));
    let wrong = targets.filter_map(|target| {
        let corpus = target.parent()?.with_file_name("corpus").join(target.file_stem()?);
        let inputs = files.iter().filter(|path| path.starts_with(&corpus)).count();
        (inputs == 0).then(|| format!("{}: its corpus is empty", target.display()))
    });
    Ok(wrong.collect())
}

fn is_targets(directory: &Path) -> bool {
    directory.ends_with("fuzz_targets")
}

fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        let made = entry.file_name().to_str().is_some_and(|name| MADE.contains(&name));
        if made {
            continue;
        }
        if kind.is_dir() {
            files.extend(self::files(&entry.path())?);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}
