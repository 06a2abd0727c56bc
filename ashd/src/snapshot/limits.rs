//! How much a point can have: an agent decides how much there is, and whoever looks at it keeps the
//! names of all of it in memory.

use std::sync::atomic::{AtomicU64, Ordering};

use super::SnapshotError;

/// How much of files a point can have.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most files, directories and links.
    pub entries: u64,
    /// The most bytes of what is noted of them: paths, what links say, attributes, and where content
    /// lies.
    pub bytes: u64,
    /// The most bytes of a file's or a directory's extended attributes; what is more is left out.
    pub attributes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        // Of attributes the largest that there is, and as much again.
        Limits { entries: 2_000_000, bytes: 512 << 20, attributes: 128 << 10 }
    }
}

/// How much a look has met.
pub(super) struct Tally {
    limits: Limits,
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    pub(super) fn new(limits: Limits) -> Tally {
        Tally { limits, entries: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// How many more entries there may be.
    pub(super) fn room(&self) -> u64 {
        self.limits.entries.saturating_sub(self.entries.load(Ordering::Relaxed))
    }

    /// Counts entries.
    pub(super) fn entries(&self, more: usize) -> Result<(), SnapshotError> {
        let before = self.entries.fetch_add(more as u64, Ordering::Relaxed);
        match before + more as u64 > self.limits.entries {
            true => Err(SnapshotError::TooMany(self.limits.entries)),
            false => Ok(()),
        }
    }

    /// Counts bytes of what is noted.
    pub(super) fn bytes(&self, more: usize) -> Result<(), SnapshotError> {
        let before = self.bytes.fetch_add(more as u64, Ordering::Relaxed);
        match before + more as u64 > self.limits.bytes {
            true => Err(SnapshotError::TooLong(self.limits.bytes >> 20)),
            false => Ok(()),
        }
    }
}
