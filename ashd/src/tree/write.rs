//! Making files.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::Bytes;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::{RelPath, Tree, TreeError, TreeLimits, open};
use crate::fault;

/// Mode of directories that are made on the way.
const DIR_MODE: u32 = 0o755;

/// Mode of files that come without one.
const FILE_MODE: u32 = 0o644;

impl Tree {
    /// Makes a file with everything in it, or replaces one, in one step: a reader sees the old
    /// one or the new one. Directories on the way are made. `owner` is uid and gid.
    ///
    /// # Errors
    /// When `rel` is no path in a tree, leads through a link or a file, or names a directory.
    pub fn create(&self, rel: &str, mode: u32, owner: u32, bytes: &[u8]) -> Result<(), TreeError> {
        let rel = RelPath::parse(rel)?;
        let at = |error| TreeError::at(rel.as_str(), error);
        let (dir, name) = self.parent(&rel, owner)?;
        let temporary = format!(".ash-{}", uuid::Uuid::new_v4().as_simple());
        let file = open::new_file(dir.as_fd(), temporary.as_bytes()).map_err(at)?;
        let made = fill(file, bytes, owner, mode)
            .inspect(|()| fault::point("tree.publish"))
            .and_then(|()| rustix::fs::renameat(&dir, temporary.as_str(), &dir, name).map_err(at));
        if made.is_err() {
            // It may be gone already; what matters is why the file could not be made.
            let _ = rustix::fs::unlinkat(&dir, temporary.as_str(), AtFlags::empty());
        }
        made
    }

    /// Makes files that must not exist yet, owned by `owner`.
    ///
    /// # Errors
    /// At the first file that cannot be made; those before it stay.
    pub fn write_files(
        &self,
        files: &[(String, Bytes)],
        owner: u32,
        limits: TreeLimits,
    ) -> Result<(), TreeError> {
        let total: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        if total > limits.bytes {
            return Err(TreeError::TooLarge(limits.bytes));
        }
        if files.len() as u64 > limits.files {
            return Err(TreeError::TooMany(limits.files));
        }
        files.iter().try_for_each(|(rel, bytes)| self.add(rel, bytes, owner))
    }

    fn add(&self, rel: &str, bytes: &[u8], owner: u32) -> Result<(), TreeError> {
        let rel = RelPath::parse(rel)?;
        let (dir, name) = self.parent(&rel, owner)?;
        let file = open::new_file(dir.as_fd(), name.as_bytes())
            .map_err(|error| TreeError::at(rel.as_str(), error))?;
        fill(file, bytes, owner, FILE_MODE)
    }

    /// The directory that holds `rel`, made where it is missing, and the last name.
    pub(super) fn parent<'a>(
        &self,
        rel: &'a RelPath,
        owner: u32,
    ) -> Result<(OwnedFd, &'a str), TreeError> {
        let at = |error| TreeError::at(rel.as_str(), error);
        let Some((above, last)) = rel.as_str().rsplit_once('/') else {
            let root = self.fd().try_clone_to_owned();
            return Ok((root.map_err(|e| TreeError::io(rel.as_str(), e))?, rel.as_str()));
        };
        // Most often it is there already.
        match open::dir(self.fd(), above.as_bytes()) {
            Err(Errno::NOENT) => {}
            other => return Ok((other.map_err(at)?, last)),
        }
        let mut names = above.split('/');
        let first = names.next().unwrap_or_default();
        let mut dir = enter(self.fd(), first.as_bytes(), owner).map_err(at)?;
        for name in names {
            dir = enter(dir.as_fd(), name.as_bytes(), owner).map_err(at)?;
        }
        Ok((dir, last))
    }
}

/// Opens a directory, made if there is nothing of that name.
pub(super) fn enter(dir: BorrowedFd<'_>, name: &[u8], owner: u32) -> Result<OwnedFd, Errno> {
    match open::dir(dir, name) {
        Err(Errno::NOENT) => {
            let made = open::new_dir(dir, name)?;
            open::give(&made, owner, DIR_MODE)?;
            Ok(made)
        }
        other => other,
    }
}

fn fill(mut file: std::fs::File, bytes: &[u8], owner: u32, mode: u32) -> Result<(), TreeError> {
    let io = |error| TreeError::io("", error);
    file.write_all(bytes).map_err(io)?;
    open::give(&file, owner, mode).map_err(|error| io(error.into()))
}
