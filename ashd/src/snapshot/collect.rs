//! Making room: what no point needs goes.

use std::fs::File;
use std::sync::atomic::Ordering;
use std::time::Duration;

use uuid::Uuid;

use super::SnapshotError;
use super::vault::Vault;
use crate::domain::Root;

/// How to collect.
#[derive(Clone, Copy, Debug)]
pub struct Collecting {
    /// Packs younger than this stay as they are, unless something was purged.
    pub grace: Duration,
    /// Only say what would be done.
    pub preview: bool,
    /// How long to wait for a moment at which nobody is there who may rely on anything, before anything is
    /// looked at.
    pub patience: Duration,
    /// How long to wait for such a moment once more when it is known what may go, also for those to end who
    /// save since before that.
    pub patience_with_saves: Duration,
}

/// The file that says that something was purged.
const PURGED: &str = "purged";

/// What was collected.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Collected {
    /// Chunks that points need.
    pub needed: u64,
    /// Packs that were removed; what points need of them was moved.
    pub packs: u64,
    /// Bytes that this gave back.
    pub bytes: u64,
    /// Points that cannot be followed. What they may need stays.
    pub damaged: u64,
    /// Packs that stay because of them, because something in them is damaged or cannot be read, or
    /// because they cannot be removed.
    pub held: u64,
    /// Points that were removed, and stay because somebody was at them.
    pub read: u64,
}

impl Vault {
    /// Removes what none of the points needs. They are asked for several times, the last time when nobody
    /// is left who relies on more than what is in them, or does not count what may go as stored. Nobody is
    /// kept waiting but while it is noted what goes. `None` when there was always somebody who may rely on
    /// anything, or who had been saving for too long, or somebody waited until this was over.
    ///
    /// # Errors
    /// What `points` says, and when the disk fails. A point that cannot be followed is no error: what
    /// it may need is held.
    pub fn collect<E: From<SnapshotError>>(
        &self,
        how: &Collecting,
        points: impl Fn() -> Result<Vec<Root>, E>,
    ) -> Result<Option<Collected>, E> {
        let Some(collector) = self.gate.begin(how.patience) else { return Ok(None) };
        // Before points are asked for: what is purged later is of another mark.
        let mark = self.see_purge();
        let decided = self.decide(&collector, (how, mark.is_some()), points)?;
        let Some(going) = decided else { return Ok(None) };
        if how.preview {
            return Ok(Some(going.preview()));
        }
        let collected = self.sweep(going, &collector)?;
        if let (Some(mark), Some(Collected { held: 0, read: 0, .. })) = (mark, collected) {
            self.forget_purge(&mark)?;
        }
        Ok(collected)
    }

    /// Notes that something is about to be purged: the next collecting leaves nothing of what no point
    /// needs, also when this is another daemon's. Waits for the disk only when a collecting may have seen what
    /// was noted before.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn note_purge(&self) -> Result<(), SnapshotError> {
        let _alone = self.notes();
        if self.is_purge_noted.load(Ordering::Relaxed) {
            return Ok(());
        }
        // Another than before: a collecting under way has not heard of this one.
        std::fs::write(self.beside(PURGED), Uuid::new_v4().as_bytes())?;
        File::open(self.beside(PURGED))?.sync_all()?;
        File::open(self.beside(""))?.sync_all()?;
        self.is_purge_noted.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether something was purged of which something may be left.
    pub fn was_purged(&self) -> bool {
        self.beside(PURGED).exists()
    }

    /// What was noted by now. What is purged from here on is noted anew.
    fn see_purge(&self) -> Option<Vec<u8>> {
        let _alone = self.notes();
        self.is_purge_noted.store(false, Ordering::Relaxed);
        self.purge_mark()
    }

    fn purge_mark(&self) -> Option<Vec<u8>> {
        std::fs::read(self.beside(PURGED)).ok()
    }

    fn forget_purge(&self, mark: &[u8]) -> Result<(), SnapshotError> {
        let _alone = self.notes();
        if self.purge_mark().is_some_and(|now| now == mark) {
            std::fs::remove_file(self.beside(PURGED))?;
        }
        Ok(())
    }
}
