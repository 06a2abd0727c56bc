//! What lies in a folder.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, statat};

use super::{Folder, FolderError};

/// What is never part of an agent: version control, caches, what can be fetched again.
const SKIPPED: [&str; 12] = [
    ".git",
    "node_modules",
    "__pycache__",
    ".cache",
    ".npm",
    ".pnpm-store",
    ".yarn",
    ".venv",
    "venv",
    ".tmp",
    "tmp",
    ".DS_Store",
];

/// Directories in directories; deeper is a mistake.
const DEEPEST: usize = 100;

/// A file, a link, or a directory.
pub(super) struct Entry {
    /// Relative to the folder, with `/`.
    pub(super) path: String,
    /// Whether it is a directory.
    pub(super) is_directory: bool,
}

/// Everything in the folder that is deployed, in order of names, directories before what is in
/// them.
pub(super) fn entries(folder: &Folder) -> Result<Vec<Entry>, FolderError> {
    let mut found = Vec::new();
    descend(folder, "", &mut found)?;
    Ok(found)
}

fn descend(folder: &Folder, path: &str, found: &mut Vec<Entry>) -> Result<(), FolderError> {
    let failed = |error: io::Error| FolderError::Entry(folder.path.join(path), error);
    if path.split('/').count() > DEEPEST {
        return Err(failed(io::Error::other("the directories are nested too deeply")));
    }
    let directory = open(folder, path).map_err(failed)?;
    for name in names(&directory).map_err(failed)? {
        let name = name.into_string().map_err(|name| FolderError::Name(folder.path.join(name)))?;
        if is_skipped(&name) {
            continue;
        }
        let stat = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW);
        let mode = stat.map_err(|error| failed(error.into()))?.st_mode;
        let path = if path.is_empty() { name } else { format!("{path}/{name}") };
        match FileType::from_raw_mode(mode) {
            FileType::Directory => {
                found.push(Entry { path: format!("{path}/"), is_directory: true });
                descend(folder, &path, found)?;
            }
            FileType::RegularFile | FileType::Symlink => {
                found.push(Entry { path, is_directory: false });
            }
            _ => return Err(FolderError::Kind(folder.path.join(path))),
        }
    }
    Ok(())
}

fn open(folder: &Folder, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let path = if path.is_empty() { "." } else { path };
    Ok(openat2(&folder.root, path, flags, Mode::empty(), beneath)?)
}

/// The names in a directory, sorted.
fn names(directory: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Files with environment are read, not sent.
fn is_skipped(name: &str) -> bool {
    SKIPPED.contains(&name) || name.ends_with(".env") || name.ends_with(".env.local")
}
