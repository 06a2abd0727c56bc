//! Listing directories, and keeping count.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Dir, FileType, Stat};
use rustix::io::Errno;

use super::dir::SOCKET;
use super::{MAX_DEPTH, TreeError, TreeLimits, shown};

/// What one directory holds: names, at most `max + 1` of them.
pub(super) fn names(dir: BorrowedFd<'_>, max: u64) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
        if names.len() as u64 > max {
            break;
        }
    }
    Ok(names)
}

/// What is there, itself and not what it leads to.
pub(super) fn stat(dir: BorrowedFd<'_>, name: &CStr) -> Result<(FileType, Stat), Errno> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((FileType::from_raw_mode(stat.st_mode), stat))
}

/// What neither file, directory nor link is called.
pub(super) fn special(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a FIFO",
        FileType::Socket => SOCKET,
        FileType::CharacterDevice | FileType::BlockDevice => "a device node",
        _ => "something unknown",
    }
}

/// Where a walk is, and how much it has met.
#[derive(Debug)]
pub(super) struct Meter {
    limits: TreeLimits,
    path: Vec<u8>,
    depth: usize,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl Meter {
    pub(super) fn new(limits: TreeLimits) -> Self {
        Meter { limits, path: Vec::new(), depth: 0, files: 0, bytes: 0 }
    }

    /// How many more files fit.
    pub(super) fn room(&self) -> u64 {
        self.limits.files.saturating_sub(self.files)
    }

    /// How many directories lie above what is looked at.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Path of what is looked at.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    /// Looks at `name` from here on; [`leave`](Self::leave) takes what this returns.
    pub(super) fn enter(&mut self, name: &[u8]) -> usize {
        let before = self.path.len();
        if before > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        before
    }

    /// Ends [`enter`](Self::enter).
    pub(super) fn leave(&mut self, before: usize) {
        self.path.truncate(before);
    }

    /// Goes down into the directory that is looked at.
    pub(super) fn descend(&mut self) -> Result<(), TreeError> {
        if self.depth + 1 >= MAX_DEPTH {
            let path = shown(&self.path[..self.path.len().min(64)]) + "…";
            return Err(TreeError::Name { path, reason: "folders nest more than 128 deep" });
        }
        self.depth += 1;
        Ok(())
    }

    /// Ends [`descend`](Self::descend).
    pub(super) fn ascend(&mut self) {
        self.depth -= 1;
    }

    /// Looks at `name` while `body` runs.
    pub(super) fn within<T>(
        &mut self,
        name: &[u8],
        body: impl FnOnce(&mut Self) -> Result<T, TreeError>,
    ) -> Result<T, TreeError> {
        let before = self.enter(name);
        let done = body(self);
        self.leave(before);
        done
    }

    /// Goes down into the directory that is looked at while `body` runs.
    pub(super) fn down<T>(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<T, TreeError>,
    ) -> Result<T, TreeError> {
        self.descend()?;
        let done = body(self);
        self.ascend();
        done
    }

    /// Counts one file, directory or link.
    pub(super) fn count(&mut self) -> Result<(), TreeError> {
        self.files += 1;
        if self.files > self.limits.files {
            return Err(TreeError::TooMany(self.limits.files));
        }
        Ok(())
    }

    /// Counts bytes of a file.
    pub(super) fn add(&mut self, bytes: u64) -> Result<(), TreeError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limits.bytes {
            return Err(TreeError::TooLarge(self.limits.bytes));
        }
        Ok(())
    }

    /// Says where an error of the system happened.
    pub(super) fn at(&self, error: Errno) -> TreeError {
        TreeError::at(&shown(&self.path), error)
    }
}
