//! The one place where the host reads and writes trees that an agent owns.
//!
//! A [`Tree`] holds its directory open. Whatever is done in it is done beneath that directory,
//! never through a symbolic link, never across a mount, and never with anything but directories,
//! regular files and links as data. So nothing an agent puts there, before or meanwhile, leads the
//! host anywhere else.
//!
//! Everything here blocks; errors name paths as seen from the tree, and are fit for API users.

mod path;
pub use path::RelPath;

mod open;
mod write;

mod place;

mod check;
mod copy;
mod list;
mod remove;
mod walk;

pub mod dir;
pub mod pack;

mod archive;

pub use check::Summary;
pub use copy::Links;
pub use list::{Found, Listing};
pub use place::Over;
pub use remove::remove_all;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Why something in a tree was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A name that is not taken.
    #[error("{path}: {reason}")]
    Name {
        /// The name.
        path: String,
        /// One sentence.
        reason: &'static str,
    },
    /// It is not there.
    #[error("{0} does not exist")]
    Missing(String),
    /// It is there already.
    #[error("{0} is there twice")]
    Duplicate(String),
    /// Something else than a regular file where one is needed.
    #[error("{0} is not a regular file")]
    NotFile(String),
    /// Something else than a directory where one is needed.
    #[error("{0} is not a directory")]
    NotDirectory(String),
    /// The way leads through a symbolic link.
    #[error("{0} leads through a symbolic link")]
    ThroughLink(String),
    /// A link to somewhere else.
    #[error("{0} is a link that leads out of the folder; only relative links inside it are taken")]
    Escapes(String),
    /// A link of which it could not be seen where it leads.
    #[error(
        "where {0} leads cannot be seen, because files are being renamed all the time; try again"
    )]
    Unsure(String),
    /// Links that lead to each other.
    #[error("{0} is a link that leads to itself")]
    Loop(String),
    /// Device nodes, FIFOs, sockets, hard links in archives and the like.
    #[error("{path} is {what}; only files, directories and links inside the folder are taken")]
    Special {
        /// Where.
        path: String,
        /// What, with its article.
        what: &'static str,
    },
    /// Somebody has a lease on it.
    #[error("{0} is held by a program that has a lease on it; try again in a minute")]
    Held(String),
    /// A mount inside the tree.
    #[error("{0} is on another file system")]
    OtherFileSystem(String),
    /// Larger than a reader wants.
    #[error("{path} is over the limit of {limit} bytes")]
    FileTooLarge {
        /// Which file.
        path: String,
        /// The limit.
        limit: u64,
    },
    /// Too many files, directories and links.
    #[error("there are more than {0} files")]
    TooMany(u64),
    /// Too many bytes altogether.
    #[error("all files together are over the limit of {0} bytes")]
    TooLarge(u64),
    /// No CLAUDE.md.
    #[error("there is no CLAUDE.md; put the agent's instructions into a file of that name")]
    NoInstructions,
    /// The archive is not one, or it is cut off.
    #[error("the archive is damaged: {0}")]
    Archive(&'static str),
    /// The system failed.
    #[error("{path}: {error}")]
    Io {
        /// Where; empty for the tree itself.
        path: String,
        /// How.
        error: io::Error,
    },
}

/// Bounds of what is taken into a tree or copied out of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TreeLimits {
    /// Files, directories and links.
    pub files: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

impl Default for TreeLimits {
    fn default() -> Self {
        TreeLimits { files: 20_000, bytes: 1024 * 1024 * 1024 }
    }
}

/// How deep directories may nest.
const MAX_DEPTH: usize = 128;

/// A directory, held open.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

impl Tree {
    /// Opens a directory of the daemon. `path` itself must not be under an agent's control; its
    /// last part must not be a link.
    ///
    /// # Errors
    /// When there is no directory at `path`.
    pub fn open(path: &Path) -> Result<Tree, TreeError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(root) => Ok(Tree { root }),
            Err(Errno::NOENT) => Err(TreeError::Missing("the folder".into())),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(TreeError::NotDirectory("the folder".into())),
            Err(error) => Err(TreeError::Io { path: "the folder".into(), error: error.into() }),
        }
    }

    /// Makes a directory that must not exist, owned by `owner`, and opens it.
    ///
    /// # Errors
    /// When there is something at `path`, or it cannot be made.
    pub fn create_root(path: &Path, owner: u32, mode: u32) -> Result<Tree, TreeError> {
        let failed =
            |error: Errno| TreeError::Io { path: "the folder".into(), error: error.into() };
        rustix::fs::mkdir(path, Mode::RWXU).map_err(failed)?;
        let tree = Tree::open(path)?;
        open::give(&tree.root, owner, mode).map_err(failed)?;
        Ok(tree)
    }

    /// Opens a directory in the tree as a tree of its own.
    ///
    /// # Errors
    /// [`TreeError::Missing`], [`TreeError::NotDirectory`], [`TreeError::ThroughLink`], and when
    /// `rel` is no path in a tree.
    pub fn subtree(&self, rel: &str) -> Result<Tree, TreeError> {
        let rel = RelPath::parse(rel)?;
        let root = open::dir(self.fd(), rel.as_str().as_bytes());
        Ok(Tree { root: root.map_err(|error| TreeError::at(rel.as_str(), error))? })
    }

    /// Reads a whole regular file of at most `max` bytes.
    ///
    /// # Errors
    /// [`TreeError::Missing`], [`TreeError::NotFile`], [`TreeError::ThroughLink`],
    /// [`TreeError::Held`], [`TreeError::FileTooLarge`], and when `rel` is no path in a tree.
    pub fn read(&self, rel: &str, max: u64) -> Result<Vec<u8>, TreeError> {
        let rel = RelPath::parse(rel)?;
        let file = self.file(&rel)?;
        read_at_most(file, max)
            .map_err(|error| TreeError::io(rel.as_str(), error))?
            .ok_or_else(|| TreeError::FileTooLarge { path: rel.as_str().to_owned(), limit: max })
    }

    /// Whether there is a regular file, reached through no link.
    ///
    /// # Errors
    /// When `rel` is no path in a tree, or the system fails.
    pub fn exists_file(&self, rel: &str) -> Result<bool, TreeError> {
        let rel = RelPath::parse(rel)?;
        let there = open::place(self.fd(), rel.as_str().as_bytes());
        match there.map_err(|error| TreeError::at(rel.as_str(), error)) {
            Ok(_) => Ok(true),
            Err(
                TreeError::Missing(_)
                | TreeError::NotFile(_)
                | TreeError::NotDirectory(_)
                | TreeError::ThroughLink(_),
            ) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits until everything written to the tree's file system is on the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> Result<(), TreeError> {
        rustix::fs::syncfs(&self.root).map_err(|error| TreeError::io("", error.into()))
    }

    fn file(&self, rel: &RelPath) -> Result<File, TreeError> {
        let file = open::file(self.root.as_fd(), rel.as_str().as_bytes())
            .map_err(|error| TreeError::at(rel.as_str(), error))?;
        Ok(file)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// All bytes of a file, or `None` when it holds more than `max`.
fn read_at_most(file: File, max: u64) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= max).then_some(bytes))
}

impl TreeError {
    fn io(path: &str, error: io::Error) -> Self {
        TreeError::Io { path: path.to_owned(), error }
    }

    /// What an error of the system at this place means.
    fn at(path: &str, error: Errno) -> Self {
        let path = path.to_owned();
        match error {
            Errno::NOENT => TreeError::Missing(path),
            Errno::EXIST => TreeError::Duplicate(path),
            Errno::LOOP => TreeError::ThroughLink(path),
            Errno::XDEV => TreeError::OtherFileSystem(path),
            Errno::NOTDIR => TreeError::NotDirectory(path),
            // What opening a directory for writing, a socket, or a FIFO nobody reads says.
            Errno::ISDIR | Errno::NXIO | Errno::NODEV => TreeError::NotFile(path),
            // Of links that may lead anywhere it says something else.
            Errno::AGAIN => TreeError::Held(path),
            Errno::NAMETOOLONG => TreeError::Name { path, reason: "the name is too long" },
            error => TreeError::Io { path, error: error.into() },
        }
    }
}

/// A name for error texts: no control characters, nothing that is not text.
fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests;
