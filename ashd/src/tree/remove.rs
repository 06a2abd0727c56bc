//! Removing a tree, whatever an agent made of it.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::walk::{names, stat};
use super::{Tree, TreeError, open};
use crate::fault;

/// Directories held open at a time; deeper ones are moved up first.
const DEEP: usize = 64;

/// Names taken from a directory at a time: what bounds memory, whatever the directory holds.
const BATCH: u64 = 4096;

/// Removes `name`, a file or a tree, from the directory `parent`. Follows no link and crosses no
/// mount. It is fine when there is nothing of that name.
///
/// # Errors
/// When something is a mount point, keeps being made anew, or the system fails.
pub fn remove_all(parent: &Path, name: &str) -> Result<(), TreeError> {
    let parent = match Tree::open(parent) {
        Err(TreeError::Missing(_)) => return Ok(()),
        other => other?,
    };
    let at = |error| TreeError::at(name, error);
    let name = CString::new(name).map_err(|_| at(Errno::INVAL))?;
    if name.is_empty() || name.to_bytes().contains(&b'/') {
        return Err(at(Errno::INVAL));
    }
    entry(parent.fd(), &name).map_err(at)
}

/// Removes a file or a tree of a directory that is open.
fn entry(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    if !is_dir(parent, name)? {
        return gone(rustix::fs::unlinkat(parent, name, AtFlags::empty()));
    }
    let root = open::dir(parent, name.to_bytes())?;
    let mut moved = Moved { root: root.as_fd(), count: 0 };
    empty(root.as_fd(), 0, &mut moved)?;
    gone(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR))
}

/// Where deep directories are moved to.
struct Moved<'a> {
    root: BorrowedFd<'a>,
    count: u64,
}

impl Moved<'_> {
    /// Moves a directory to the top of the tree, where the loop over the top meets it again.
    fn up(&mut self, from: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        loop {
            self.count += 1;
            let to = format!(".ash-deep-{}", self.count);
            match rustix::fs::renameat(from, name, self.root, to.as_str()) {
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                other => return other,
            }
        }
    }
}

fn empty(dir: BorrowedFd<'_>, depth: usize, moved: &mut Moved<'_>) -> Result<(), Errno> {
    loop {
        let names = names(dir, BATCH)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            one(dir, &name, depth, moved)?;
        }
    }
}

fn one(dir: BorrowedFd<'_>, name: &CStr, depth: usize, moved: &mut Moved<'_>) -> Result<(), Errno> {
    if !is_dir(dir, name)? {
        gone(rustix::fs::unlinkat(dir, name, AtFlags::empty()))?;
        fault::point("tree.removing");
        return Ok(());
    }
    if depth >= DEEP {
        return moved.up(dir, name);
    }
    let child = open::dir(dir, name.to_bytes())?;
    empty(child.as_fd(), depth + 1, moved)?;
    gone(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR))
}

fn is_dir(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    match stat(dir, name) {
        Ok((kind, _)) => Ok(kind == FileType::Directory),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn gone(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}
