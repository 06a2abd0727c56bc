//! An agent's folder: its files as a tar archive, its `.env` files as environment.

mod env_file;
mod walk;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

pub(crate) use env_file::assignment;

/// Why a folder cannot be deployed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// It is no readable directory.
    #[error("{0}: {1}")]
    Folder(PathBuf, io::Error),
    /// It is not an agent.
    #[error("{0} has no CLAUDE.md; an agent is a folder with a CLAUDE.md")]
    NoClaude(PathBuf),
    /// Something in it cannot be read.
    #[error("{0}: {1}")]
    Entry(PathBuf, io::Error),
    /// Something in it is neither a file nor a directory.
    #[error("{0}: only files and directories can be deployed")]
    Kind(PathBuf),
    /// A link leaves the folder.
    #[error("{0}: the link leads out of the folder; put a copy of the file there")]
    Outside(PathBuf),
    /// A link leads to a directory.
    #[error("{0}: a link to a directory cannot be deployed; put the directory there")]
    LinkedDirectory(PathBuf),
    /// A name is not UTF-8.
    #[error("{0:?}: names of files must be UTF-8")]
    Name(PathBuf),
    /// A `.env` file has a line that is no assignment.
    #[error("{path}, line {line}: {why}", path = .path.display())]
    Env {
        /// The file.
        path: PathBuf,
        /// Counts from 1.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// The archive cannot be written.
    #[error("the folder cannot be sent: {0}")]
    Send(io::Error),
}

/// The variables of a file that is written as `.env` is, in order.
pub(crate) fn variables(path: &Path) -> Result<Vec<(String, String)>, FolderError> {
    let text = std::fs::read_to_string(path);
    assignments(path.into(), &text.map_err(|error| FolderError::Entry(path.into(), error))?)
}

fn assignments(path: PathBuf, text: &str) -> Result<Vec<(String, String)>, FolderError> {
    env_file::parse(text).map_err(|(line, why)| FolderError::Env { path, line, why })
}

/// An open folder. Nothing outside of it is ever opened, whatever its links say.
pub(crate) struct Folder {
    root: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder, and checks that it is an agent.
    pub(crate) fn open(path: &Path) -> Result<Self, FolderError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| FolderError::Folder(path.into(), error.into()))?;
        let folder = Folder { root, path: path.into() };
        match folder.file("CLAUDE.md") {
            Ok(_) => Ok(folder),
            Err(FolderError::Entry(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                Err(FolderError::NoClaude(path.into()))
            }
            Err(error) => Err(error),
        }
    }

    /// The name of an agent made from the folder's, if anything is left of it.
    pub(crate) fn name(&self) -> Option<String> {
        let path = self.path.canonicalize().ok()?;
        normal(path.file_name()?.to_str()?)
    }

    /// The environment from `.env` and `.env.local`, the latter winning; `None` without either.
    pub(crate) fn env(&self) -> Result<Option<HashMap<String, String>>, FolderError> {
        let mut env = None;
        for name in [".env", ".env.local"] {
            let mut text = String::new();
            match self.file(name) {
                Ok(mut file) => file
                    .read_to_string(&mut text)
                    .map_err(|error| FolderError::Entry(self.path.join(name), error))?,
                Err(FolderError::Entry(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let read = assignments(self.path.join(name), &text)?;
            env.get_or_insert_with(HashMap::new).extend(read);
        }
        Ok(env)
    }

    /// Writes the folder's contents as a tar archive: in order of names, links to files inside as
    /// the files. Returns the number of files.
    pub(crate) fn send(&self, sink: impl Write) -> Result<u64, FolderError> {
        let mut archive = tar::Builder::new(sink);
        let mut files = 0;
        for entry in walk::entries(self)? {
            let added = match entry.is_directory {
                true => archive.append_data(&mut directory(), &entry.path, io::empty()),
                false => self.append(&mut archive, &entry.path)?,
            };
            added.map_err(|error| sent(&self.path.join(&entry.path), error))?;
            files += u64::from(!entry.is_directory);
        }
        archive.into_inner().and_then(|mut sink| sink.flush()).map_err(FolderError::Send)?;
        Ok(files)
    }

    fn append<W: Write>(
        &self,
        archive: &mut tar::Builder<W>,
        path: &str,
    ) -> Result<io::Result<()>, FolderError> {
        let file = self.file(path)?;
        let meta = file.metadata().map_err(|error| FolderError::Entry(path.into(), error))?;
        let mut header = tar::Header::new_gnu();
        header.set_mode(if meta.mode() & 0o111 == 0 { 0o644 } else { 0o755 });
        header.set_size(meta.len());
        header.set_mtime(meta.mtime().try_into().unwrap_or_default());
        Ok(archive.append_data(&mut header, path, Exactly { file, left: meta.len() }))
    }

    /// Opens a regular file of the folder.
    fn file(&self, path: &str) -> Result<File, FolderError> {
        let whole = || self.path.join(path);
        // NONBLOCK: a file that has become a FIFO must not hold us up.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened = openat2(&self.root, path, flags, Mode::empty(), beneath);
        let file = File::from(opened.map_err(|error| match error {
            rustix::io::Errno::XDEV => FolderError::Outside(whole()),
            error => FolderError::Entry(whole(), error.into()),
        })?);
        let meta = file.metadata().map_err(|error| FolderError::Entry(whole(), error))?;
        match (meta.is_file(), meta.is_dir()) {
            (true, _) => Ok(file),
            (_, true) => Err(FolderError::LinkedDirectory(whole())),
            _ => Err(FolderError::Kind(whole())),
        }
    }
}

/// A pipe that the daemon closed is no fault of the entry.
fn sent(path: &Path, error: io::Error) -> FolderError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => FolderError::Send(error),
        _ => FolderError::Entry(path.into(), error),
    }
}

fn directory() -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    header
}

/// A file as long as it was when the archive was told its length.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read(&mut into[..most])?;
        if count == 0 && most > 0 {
            return Err(io::Error::other("it became shorter while it was read"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// A name with every run of other characters than `A-Z a-z 0-9 _ -` made one `-`.
pub(crate) fn normal(name: &str) -> Option<String> {
    let plain = |each: char| each.is_ascii_alphanumeric() || each == '_' || each == '-';
    let parts = name.split(|each| !plain(each)).filter(|part| !part.is_empty());
    let joined = parts.collect::<Vec<_>>().join("-");
    (1..=255).contains(&joined.len()).then_some(joined)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn agent() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("CLAUDE.md"), "You help.").unwrap();
        dir
    }

    fn listed(dir: &Path) -> Result<Vec<String>, String> {
        let mut bytes = Vec::new();
        let folder = Folder::open(dir).map_err(|error| error.to_string())?;
        folder.send(&mut bytes).map_err(|error| error.to_string())?;
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let mode = entry.header().mode().unwrap();
            format!("{} {mode:o} {}", entry.path().unwrap().display(), entry.size())
        });
        Ok(entries.collect())
    }

    #[test]
    fn files_and_directories_travel_in_order() {
        let dir = agent();
        fs::create_dir_all(dir.path().join("b/empty")).unwrap();
        fs::write(dir.path().join("b/run.sh"), "x").unwrap();
        fs::set_permissions(dir.path().join("b/run.sh"), fs::Permissions::from_mode(0o700))
            .unwrap();
        symlink("../CLAUDE.md", dir.path().join("b/link")).unwrap();
        fs::create_dir_all(dir.path().join(".git/objects")).unwrap();
        for left_behind in [".env", ".env.local", "b/prod.env", "b/.DS_Store"] {
            fs::write(dir.path().join(left_behind), "A=1").unwrap();
        }
        let long = "n".repeat(200);
        fs::write(dir.path().join(&long), "").unwrap();
        assert_eq!(
            listed(dir.path()).unwrap(),
            [
                "CLAUDE.md 644 9",
                "b/ 755 0",
                "b/empty/ 755 0",
                "b/link 644 9",
                "b/run.sh 755 1",
                &format!("{long} 644 0"),
            ]
        );
    }

    #[test]
    fn what_is_no_agent_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let said = |path: &Path| listed(path).unwrap_err();
        assert!(said(dir.path()).contains("has no CLAUDE.md"));
        assert!(said(&dir.path().join("gone")).contains("No such file"));
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(said(&dir.path().join("file")).contains("Not a directory"));
        fs::create_dir(dir.path().join("CLAUDE.md")).unwrap();
        assert!(said(dir.path()).contains("link to a directory"));
    }

    #[test]
    fn links_out_and_odd_files_are_refused() {
        for (name, target, want) in [
            ("out", "/etc/passwd", "leads out"),
            ("up", "../x", "leads out"),
            ("dir", ".", "link to a directory"),
            ("gone", "nothing", "No such file"),
            ("loop", "loop", "symbolic link"),
        ] {
            let dir = agent();
            symlink(target, dir.path().join(name)).unwrap();
            let said = listed(dir.path()).unwrap_err();
            assert!(said.contains(want) && said.contains(name), "{name}: {said}");
        }
        let dir = agent();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        assert!(listed(dir.path()).unwrap_err().contains("only files and directories"));
    }

    #[test]
    fn the_local_environment_wins() {
        let dir = agent();
        let env = || Folder::open(dir.path()).unwrap().env().unwrap();
        assert_eq!(env(), None);
        fs::write(dir.path().join(".env"), "A=1\nB=2").unwrap();
        fs::write(dir.path().join(".env.local"), "B=3").unwrap();
        let want = [("A", "1"), ("B", "3")].map(|(key, value)| (key.into(), value.into()));
        assert_eq!(env(), Some(HashMap::from(want)));
        fs::write(dir.path().join(".env"), "ok=1\nnonsense").unwrap();
        let error = Folder::open(dir.path()).unwrap().env().unwrap_err().to_string();
        assert!(error.ends_with(".env, line 2: it is not of the form NAME=VALUE"), "{error}");
    }

    #[test]
    fn names_are_normalised() {
        for (name, want) in
            [("hello", "hello"), ("my agent (v2)", "my-agent-v2"), ("a_b-c", "a_b-c"), ("é", "")]
        {
            assert_eq!(normal(name).unwrap_or_default(), want);
        }
        assert_eq!(normal(&"x".repeat(256)), None);
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        let mut short = Exactly { file, left: 5 };
        assert!(io::copy(&mut short, &mut io::sink()).is_err());
    }
}
