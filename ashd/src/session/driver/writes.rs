//! Changes of a session's files that no turn makes: from outside its sandbox, and by commands.
//!
//! They go through the driver, so that each is before or behind whatever else happens to the files:
//! not in the middle of a cut, of going back to a point, or of building the files for a sandbox. A
//! turn that runs does not stand in the way: the agent sees a new file at once. Whoever waits for the
//! session's sandbox does: what comes behind it is done behind it, so that nobody who changes files all
//! the time keeps a message waiting, which would lose its place in the line for a sandbox each time.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::Driver;
use crate::domain::{Changed, SessionChange};
use crate::session::api::Refusal;
use crate::tree::Tree;

/// How long after a change the files are saved, when no turn does so at its end. Those who change
/// many files make one point.
const SETTLED: Duration = Duration::from_secs(2);

/// Where an agent works, for those who change something there.
pub(in crate::session) struct Workspace {
    /// Its files.
    pub(in crate::session) tree: Tree,
    /// Whose they are.
    pub(in crate::session) owner: u32,
    /// Whether a sandbox works with them.
    pub(in crate::session) live: bool,
}

/// A change of files, done on a thread that may block; tells whoever asked for it by itself.
pub(in crate::session) type Write = Box<dyn FnOnce(Result<&Workspace, Refusal>) + Send>;

/// Changes of files that wait, in the order in which they came.
#[derive(Default)]
pub(super) struct Writes {
    waiting: Vec<Write>,
    /// How many of them had come when a sandbox was asked for.
    ahead: usize,
}

impl Writes {
    pub(super) fn add(&mut self, write: Write) {
        self.waiting.push(write);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A sandbox is asked for: what comes from here on is behind whoever waits for it.
    pub(super) fn let_by(&mut self) {
        self.ahead = self.waiting.len();
    }

    /// Takes those whose turn it is: all of them, or, while a sandbox is asked for, those that came before.
    fn take(&mut self, is_asked: bool) -> Vec<Write> {
        let ahead = std::mem::take(&mut self.ahead);
        let number = if is_asked { ahead } else { self.waiting.len() };
        self.waiting.drain(..number).collect()
    }
}

/// How often files were changed.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub(super) struct Changes {
    /// By what was put or removed from outside.
    puts: u64,
    /// By that, or maybe by commands.
    pub(super) all: u64,
}

impl Changes {
    /// What is in no point when one is recorded that has everything up to `then`, and commands run, or
    /// not, that may have changed more.
    pub(super) fn since(self, then: Changes, is_idle: bool) -> Changed {
        match self.puts == then.puts {
            false => Changed::Kept,
            true if self == then && is_idle => Changed::No,
            true => Changed::Maybe,
        }
    }
}

impl Driver {
    /// Carries out the changes whose turn it is, unless something is under way that they would disturb.
    pub(super) async fn write_waiting(&mut self) {
        if self.over || self.launching.is_some() || self.is_looking() {
            return;
        }
        let writes = self.writes.take(self.entering.is_some());
        if writes.is_empty() {
            return;
        }
        self.note_use();
        let had_asked = self.stand_back();
        let workspace = match self.workspace().await {
            Ok(workspace) => self.begin_change().await.map(|()| workspace),
            Err(refusal) => Err(refusal),
        };
        let carry_out = move || {
            for write in writes {
                write(workspace.as_ref().map_err(Clone::clone));
            }
        };
        if let Err(error) = spawn_blocking(carry_out).await {
            tracing::error!(ash_session = %self.session.id, %error, "a change of files broke off");
        }
        self.come_back(had_asked);
        self.settle_soon();
    }

    /// Before files are changed: whatever becomes of this daemon, the store knows that something has to
    /// be saved. When the machine goes down they stay as they are, so that all of them have to be on the
    /// disk by then.
    async fn begin_change(&mut self) -> Result<(), Refusal> {
        if !self.is_synced {
            self.shared.sync_files(self.session.id).await?;
            self.is_synced = true;
        }
        self.changes.puts += 1;
        self.note_change(Changed::Kept).await
    }

    /// Notes that files are about to be changed, or may be, by others than a turn.
    pub(super) async fn note_change(&mut self, what: Changed) -> Result<(), Refusal> {
        self.changes.all += 1;
        if self.session.changed >= what {
            return Ok(());
        }
        let change = SessionChange { changed: Some(what), ..SessionChange::none() };
        Ok(self.commit(change, vec![]).await?)
    }

    /// Files were changed, or may have been: they are saved when that is over.
    pub(super) fn settle_soon(&mut self) {
        self.settles_at = Some(Instant::now() + SETTLED);
    }

    /// Where the agent works: brought back first, if it waits to be.
    async fn workspace(&mut self) -> Result<Workspace, Refusal> {
        self.settle_files().await?;
        let slot = self.session.slot.ok_or(Refusal::ReadOnly)?;
        let owner = self.shared.slots.uids(slot).agent;
        let path = self.shared.places.session(self.session.id).join("workspace");
        let opened = spawn_blocking(move || Tree::open(&path)).await;
        let lost = |error: String| Refusal::Internal(error);
        let tree = opened.map_err(|error| lost(error.to_string()))?;
        let tree = tree.map_err(|error| lost(error.to_string()))?;
        Ok(Workspace { tree, owner, live: self.link.is_some() })
    }

    /// What was changed has settled: it is saved. A turn that runs saves at its end, which is too late
    /// only for what would keep its files as a machine leaves them that goes down.
    pub(super) fn settled(&mut self) {
        self.settles_at = None;
        if self.is_for_now() {
            self.save_changes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_behind_whoever_waits_for_a_sandbox_waits_for_it_as_well() {
        let mut writes = Writes::default();
        let add = |writes: &mut Writes| writes.add(Box::new(|_| {}));
        add(&mut writes);
        add(&mut writes);
        writes.let_by();
        add(&mut writes);
        assert_eq!(writes.take(true).len(), 2, "these came first");
        add(&mut writes);
        assert_eq!(writes.take(true).len(), 0);
        assert_eq!(writes.take(false).len(), 2);
        assert!(writes.is_empty());
        // What had come then is of no concern to the next one.
        writes.let_by();
        add(&mut writes);
        assert_eq!(writes.take(true).len(), 0);
    }
}
