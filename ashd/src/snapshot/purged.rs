//! What was purged, and may not be gone yet.
//!
//! A mark on the disk says that something was. Whose it was, and which points they had, is kept in memory
//! only: a daemon that finds a mark of before knows of nobody, and leaves nothing of what no point needs.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;

use uuid::Uuid;

use super::SnapshotError;
use super::vault::Vault;
use crate::domain::{Root, SessionId};
use crate::fault;

/// The file that says that something was purged.
const PURGED: &str = "purged";

/// What was noted, and was not found to be gone since.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// Whether a daemon before this one has left something.
    is_before: bool,
    sessions: HashMap<SessionId, Session>,
    /// How often a collecting has looked at this.
    looks: u64,
    /// Whether it is on the disk that something was purged, and no collecting has seen that.
    is_on_disk: bool,
}

/// A session that was purged.
#[derive(Debug)]
struct Session {
    /// The content of the points that it had.
    points: HashSet<Root>,
    /// How often a collecting had looked when it was noted last.
    looks: u64,
    /// Whether its points may still be recorded.
    is_begun: bool,
}

/// What a collecting has seen.
pub(super) struct Seen {
    mark: Vec<u8>,
    looks: u64,
    pub(super) purged: Purged,
}

/// What is to go because it was purged.
pub(super) enum Purged {
    /// Whatever no point needs: it is not known whose it was.
    Anything,
    /// What these sessions have stored, and what their points had.
    Of { sessions: HashSet<SessionId>, points: Vec<Root> },
}

impl Noted {
    /// What is noted in a vault that is opened.
    pub(super) fn load(dir: &Path) -> Noted {
        Noted { is_before: is_marked(dir), ..Noted::default() }
    }

    fn purged(&self) -> Purged {
        if self.is_before || self.sessions.is_empty() {
            return Purged::Anything;
        }
        let sessions = self.sessions.keys().copied().collect();
        let points = self.sessions.values().flat_map(|session| session.points.iter().copied());
        Purged::Of { sessions, points: points.collect() }
    }
}

/// Whether it is on the disk that something was purged of a vault.
pub(super) fn is_marked(dir: &Path) -> bool {
    dir.join(PURGED).exists()
}

impl Vault {
    /// Notes that a session is about to be purged, and the content of the points that it has: until it is
    /// [noted](Self::note_purge) that it is, or [given up](Self::give_up_purge), no collecting is the last one
    /// that looks for what it leaves. Waits for the disk only when a collecting may have seen what was noted
    /// before.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn begin_purge(&self, session: SessionId, points: Vec<Root>) -> Result<(), SnapshotError> {
        self.note_as(session, points, true)
    }

    /// Notes that a session is purged, and the content of the points that it had: the next collecting leaves
    /// nothing of what no other point needs, also when this is another daemon's. Waits for the disk as
    /// [`begin_purge`](Self::begin_purge) does.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn note_purge(&self, session: SessionId, points: Vec<Root>) -> Result<(), SnapshotError> {
        self.note_as(session, points, false)
    }

    /// Notes that a session stays that was about to be purged.
    pub fn give_up_purge(&self, session: SessionId) {
        let mut noted = self.noted();
        // Somebody else may have purged it.
        if noted.sessions.get(&session).is_some_and(|known| known.is_begun) {
            noted.sessions.remove(&session);
        }
    }

    fn note_as(
        &self,
        session: SessionId,
        points: Vec<Root>,
        is_begun: bool,
    ) -> Result<(), SnapshotError> {
        let mut noted = self.noted();
        let looks = noted.looks;
        let new = || Session { points: HashSet::new(), looks, is_begun };
        let known = noted.sessions.entry(session).or_insert_with(new);
        known.looks = looks;
        // Of two who purge it, one may be through with that, and the other find no points any more.
        known.is_begun &= is_begun;
        known.points.extend(points);
        if noted.is_on_disk {
            return Ok(());
        }
        // Another than before: a collecting under way has not heard of this one.
        std::fs::write(self.beside(PURGED), Uuid::new_v4().as_bytes())?;
        File::open(self.beside(PURGED))?.sync_all()?;
        File::open(self.beside(""))?.sync_all()?;
        fault::point("purge.marked");
        noted.is_on_disk = true;
        Ok(())
    }

    /// Whether something was purged of which something may be left.
    pub fn was_purged(&self) -> bool {
        is_marked(&self.beside(""))
    }

    /// What was noted by now. What is purged from here on is noted anew.
    pub(super) fn see_purged(&self) -> Option<Seen> {
        let mut noted = self.noted();
        noted.is_on_disk = false;
        let mark = self.purge_mark()?;
        let (looks, purged) = (noted.looks, noted.purged());
        noted.looks += 1;
        Some(Seen { mark, looks, purged })
    }

    /// Nothing is left of what a collecting has seen, but of what is about to be purged.
    pub(super) fn forget_purged(&self, seen: &Seen) -> Result<(), SnapshotError> {
        let sessions = match &seen.purged {
            Purged::Anything => None,
            Purged::Of { sessions, .. } => Some(sessions),
        };
        // What others need of theirs is anybody's from now on. Before the mark goes: else it would stay
        // theirs behind a crash, and be left by whoever purges the others.
        self.index().forget_writers(sessions)?;
        let mut noted = self.noted();
        noted.sessions.retain(|_, session| session.is_begun || session.looks > seen.looks);
        if matches!(seen.purged, Purged::Anything) {
            noted.is_before = false;
        }
        // What is about to be purged was needed yet. Whoever dies behind that leaves the mark.
        let is_begun = noted.sessions.values().any(|session| session.is_begun);
        if !is_begun && self.purge_mark().is_some_and(|now| now == seen.mark) {
            std::fs::remove_file(self.beside(PURGED))?;
        }
        Ok(())
    }

    fn purge_mark(&self) -> Option<Vec<u8>> {
        std::fs::read(self.beside(PURGED)).ok()
    }
}
