//! What all clients share: where the daemon is, another place each time it is started, and what was killed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, ensure};
use ash_journey::PATIENCE;

/// Where the daemon is, and what was killed.
pub(super) struct Shared {
    /// How many daemons there were before, and where this one answers.
    daemon: Mutex<(usize, String)>,
    changed: Condvar,
    /// In this round: how much was killed that makes sandboxes or serves them.
    helpers: AtomicUsize,
    /// In this round: how much was killed in sandboxes.
    inside: AtomicUsize,
}

impl Shared {
    /// Of a daemon that answers there.
    pub(super) fn new(address: &str) -> Shared {
        Shared {
            daemon: Mutex::new((0, address.to_owned())),
            changed: Condvar::new(),
            helpers: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, (usize, String)> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many daemons there were before, and where this one answers.
    pub(super) fn daemon(&self) -> (usize, String) {
        self.lock().clone()
    }

    /// The next daemon answers there.
    pub(super) fn next_daemon(&self, address: &str) {
        let mut daemon = self.lock();
        *daemon = (daemon.0 + 1, address.to_owned());
        drop(daemon);
        self.changed.notify_all();
    }

    /// Waits for a daemon behind the one with so many before it.
    pub(super) fn wait_behind(&self, number: usize) -> Result<()> {
        let is_the_same = |daemon: &mut (usize, String)| daemon.0 <= number;
        let (daemon, _) = self
            .changed
            .wait_timeout_while(self.lock(), 2 * PATIENCE, is_the_same)
            .unwrap_or_else(PoisonError::into_inner);
        ensure!(daemon.0 > number, "a connection broke, and the daemon was not killed");
        Ok(())
    }

    /// A round begins.
    pub(super) fn forget_kills(&self) {
        self.helpers.store(0, Ordering::SeqCst);
        self.inside.store(0, Ordering::SeqCst);
    }

    /// Something is about to be killed that makes sandboxes or serves them.
    pub(super) fn kills_helper(&self) {
        self.helpers.fetch_add(1, Ordering::SeqCst);
    }

    /// Something is about to be killed in a sandbox.
    pub(super) fn kills_inside(&self) {
        self.inside.fetch_add(1, Ordering::SeqCst);
    }

    /// How much was killed in sandboxes. No more turns than this may fail.
    pub(super) fn inside(&self) -> usize {
        self.inside.load(Ordering::SeqCst)
    }

    /// Whether anything was killed but the daemon, of whose death nobody suffers.
    pub(super) fn has_killed(&self) -> bool {
        self.inside() + self.helpers.load(Ordering::SeqCst) > 0
    }
}
