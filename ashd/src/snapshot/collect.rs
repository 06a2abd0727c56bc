//! Making room: what no point needs goes.

use std::time::Duration;

use super::SnapshotError;
use super::vault::Vault;
use crate::domain::Root;

/// Which packs go, what is needed of them being moved. Those in which something lies that was purged do in
/// any case; of packs of which all is needed none does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extent {
    /// No others.
    Purged,
    /// Also those of which little is needed, and small ones when there are many, unless they are young.
    Worthwhile,
    /// All.
    All,
}

/// How to collect.
#[derive(Clone, Copy, Debug)]
pub struct Collecting {
    /// Which packs go.
    pub extent: Extent,
    /// Packs younger than this are young.
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
        // Else something might go that an index does not know to be needed, or to be nowhere else.
        self.look_through(false)?;
        let Some(collector) = self.gate.begin(how.patience) else { return Ok(None) };
        let worker = self.desks.worker();
        if !worker.work(|| collector.is_in_the_way()) {
            return Ok(None);
        }
        // Before points are asked for: what is purged later is of another mark.
        let seen = self.see_purged();
        let purged = seen.as_ref().map(|seen| &seen.purged);
        let decided = self.decide((&collector, &worker), (how, purged), points)?;
        let Some(going) = decided else { return Ok(None) };
        if how.preview {
            return Ok(Some(going.preview()));
        }
        let collected = self.sweep(going, &collector)?;
        if let (Some(seen), Some(Collected { held: 0, read: 0, .. })) = (&seen, collected) {
            self.forget_purged(seen)?;
        }
        Ok(collected)
    }
}
