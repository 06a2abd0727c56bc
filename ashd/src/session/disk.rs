//! Whether what was written of sessions' files is on the disk.
//!
//! The kernel tells of a write that has failed each descriptor of the file system that was open then, once,
//! and none that is opened when somebody has been told (syncfs(2)). So one is open for as long as the daemon
//! lives, and whatever was being written before a failure is in doubt from then on. So is what a daemon
//! before this one has built and not recorded as being on the disk: nobody knows what that one was told, or
//! who else has asked. Asking again does not help: what could not be written counts as written from then on,
//! and reading it shows what is in memory. So only writing all of it anew ends a doubt.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::tree::{Tree, TreeError};

/// The file system that sessions' files are on. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Disk(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Held by whoever waits for the disk: of several who ask at once, one would be told of a failure.
    tree: Mutex<Option<Tree>>,
    failures: Mutex<Failures>,
}

/// How often a write has failed.
#[derive(Default)]
struct Failures {
    known: u64,
    /// So many of them are settled: what is in doubt because of them is recorded.
    settled: u64,
}

/// When something began to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Since(u64);

impl Disk {
    /// From now on every failure is heard of. Sessions' files are in this directory, which is made when there
    /// is none.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn watch(&self, sessions: &Path) -> Result<(), TreeError> {
        watched(&mut self.tree(), sessions).map(|_| ())
    }

    /// What is written from now on is in no doubt.
    pub(super) fn now(&self) -> Since {
        Since(self.failures().known)
    }

    /// Whether no write has failed since then, as far as is known. To be asked behind a [`flush`](Self::flush).
    pub(super) fn is_sure(&self, since: Since) -> bool {
        self.failures().known == since.0
    }

    /// Waits until everything that was written is on the disk.
    ///
    /// # Errors
    /// When a write has failed since this was asked last. Everything is in doubt that was written before,
    /// which is to be recorded, and then to be [`settled`](Self::settle).
    pub(super) fn flush(&self, sessions: &Path) -> Result<(), TreeError> {
        let mut tree = self.tree();
        let flushed = watched(&mut tree, sessions).and_then(Tree::sync);
        if flushed.is_err() {
            self.failed();
        }
        flushed
    }

    /// A write has failed.
    pub(super) fn failed(&self) {
        self.failures().known += 1;
    }

    /// What is in doubt because of all failures up to then is recorded.
    pub(super) fn settle(&self, failed: Since) {
        let mut failures = self.failures();
        failures.settled = failures.settled.max(failed.0);
    }

    /// Whether all is recorded that is in doubt.
    pub(super) fn is_settled(&self) -> bool {
        let failures = self.failures();
        failures.settled == failures.known
    }

    fn tree(&self) -> MutexGuard<'_, Option<Tree>> {
        self.0.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.0.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn watched<'a>(tree: &'a mut Option<Tree>, sessions: &Path) -> Result<&'a Tree, TreeError> {
    match tree {
        Some(tree) => Ok(tree),
        none => {
            let failed = |error| TreeError::Io { path: String::new(), error };
            std::fs::create_dir_all(sessions).map_err(failed)?;
            Ok(none.insert(Tree::open(sessions)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_before_a_failure_is_in_doubt() {
        let disk = Disk::default();
        let before = disk.now();
        assert!(disk.is_sure(before) && disk.is_settled());
        disk.failed();
        let behind = disk.now();
        assert!(!disk.is_sure(before) && disk.is_sure(behind) && !disk.is_settled());
        // Somebody else has heard of another one.
        disk.failed();
        disk.settle(behind);
        assert!(!disk.is_settled() && !disk.is_sure(behind));
        disk.settle(disk.now());
        assert!(disk.is_settled() && !disk.is_sure(before));
    }

    #[test]
    fn a_disk_that_does_not_fail_leaves_no_doubt() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, sessions) = (Disk::default(), dir.path().join("sessions"));
        let before = disk.now();
        disk.watch(&sessions).unwrap();
        disk.flush(&sessions).unwrap();
        assert!(disk.is_sure(before) && disk.is_settled() && sessions.is_dir());
    }
}
