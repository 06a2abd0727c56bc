//! Copies of points in the object store.
//!
//! Made in the background, one session after the other, when a session has a new point; those of a
//! session that was purged are removed in the same way. What fails for a time is tried again, behind
//! all others, and said once; a daemon that starts goes on with what the store says is not done yet. A
//! session that another machine has taken ends here.

mod packs;
mod waiting;

pub(super) mod choose;
pub(super) mod fetch;
pub(super) mod graves;
pub(super) mod send;
mod sweep;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout_at};

use self::packs::Packs;
use self::waiting::Waiting;
use super::shared::Shared;
use super::under_way::UnderWay;
use crate::domain::{AgentId, PointId, Root, SessionId, Tenant};
use crate::objects::{FolderCopy, Objects, ObjectsError};
use crate::snapshot::SnapshotError;
use crate::store::StoreError;
use crate::telemetry::message;

/// How long to wait after a failure, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// So many failures, one behind the other, are those of the object store and not of the sessions.
const IN_A_ROW: u32 = 3;

/// How often what no point needs is removed from the object store.
const SWEEP_EVERY: Duration = Duration::from_secs(6 * 3600);

/// How long after the start that is done first: also a daemon that is restarted often does it.
const FIRST_SWEEP: Duration = Duration::from_secs(10 * 60);

/// What is known of the object store, and what is to be done.
#[derive(Default)]
pub(super) struct Copies {
    objects: Option<Objects>,
    /// Sessions with points that are to be copied, or that were purged.
    waiting: Mutex<Waiting>,
    there: Notify,
    /// Imports, one at a time: of two of the same session both would have it.
    pub(super) importing: tokio::sync::Mutex<()>,
    /// Sessions that end here because they go on elsewhere: one comes back behind that.
    pub(super) losing: UnderWay<SessionId>,
    /// Held while something is put there: whoever removes a tenant waits for it.
    pub(super) sending: tokio::sync::Mutex<()>,
    failing: AtomicBool,
    packs: Packs,
    folders: Mutex<HashMap<Version, (Instant, FolderCopy)>>,
    /// Content that is sent and in no point.
    pub(super) on_its_way: UnderWay<(Tenant, Root)>,
    /// Points there that other machines gave a name, as far as is known.
    named: Mutex<BTreeSet<PointId>>,
}

/// A version of an agent. One that is made anew under the same name is another.
type Version = (AgentId, u32);

/// How the object store is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Copying {
    /// Sessions whose newest points are not there yet, or that were purged and are.
    pub waiting: u64,
    /// Whether the newest attempt failed.
    pub failing: bool,
}

/// Why something was not copied.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotCopied {
    /// The object store.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// The snapshot store.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk.
    #[error("the disk failed: {0}")]
    Disk(#[from] std::io::Error),
    /// The agent's folder.
    #[error("the agent's folder cannot be read: {0}")]
    Folder(#[from] crate::tree::TreeError),
    /// Another machine has the session.
    #[error("another machine has the session")]
    Lost,
}

impl NotCopied {
    /// Whether trying again can help without anything having changed here.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            NotCopied::Objects(error) => error.is_passing(),
            NotCopied::Store(_) | NotCopied::Disk(_) => true,
            NotCopied::Folder(error) => matches!(error, crate::tree::TreeError::Io { .. }),
            NotCopied::Snapshots(error) => !matches!(
                error,
                SnapshotError::Damaged { .. }
                    | SnapshotError::TooMany(_)
                    | SnapshotError::TooLong(_)
            ),
            NotCopied::Lost => false,
        }
    }
}

impl Copies {
    /// With an object store, or without.
    pub(super) fn new(objects: Option<Objects>) -> Copies {
        Copies { objects, ..Copies::default() }
    }

    /// The object store, if there is one.
    pub(super) fn objects(&self) -> Option<&Objects> {
        self.objects.as_ref()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session has a new point or was purged, or it is to be seen whether another machine has taken
    /// it.
    pub(super) fn wake(&self, session: SessionId) {
        if self.objects.is_some() {
            self.waiting().add(session);
            self.there.notify_one();
        }
    }

    /// What is there of a tenant has to be looked up again.
    pub(super) fn forget_packs(&self, tenant: &Tenant) {
        self.packs.forget_tenant(tenant);
    }

    /// Notes what came of an attempt.
    fn note(&self, failed: Option<&NotCopied>) {
        let was_failing = self.failing.load(Ordering::Relaxed);
        let failing = failed.is_some() || was_failing && self.waiting().has_failed();
        self.failing.store(failing, Ordering::Relaxed);
        let Some(error) = failed else { return };
        if !was_failing {
            tracing::warn!(
                message_id = message::NOT_COPIED, %error,
                "the object store does not get what is saved; trying again until it does"
            );
        }
        self.forget_all();
    }

    /// Nothing is certain to be there any more: one that was away may come back without what it had.
    fn forget_all(&self) {
        self.packs.forget_all();
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How it is doing; `None`: there is no object store.
    pub(super) fn state(&self) -> Option<Copying> {
        self.objects.as_ref()?;
        let failing = self.failing.load(Ordering::Relaxed);
        Some(Copying { waiting: self.waiting().count(), failing })
    }
}

/// What came of one attempt at everything that waits.
#[derive(Default)]
struct Pass {
    /// What failed last, of that which may pass.
    failed: Option<NotCopied>,
    /// So many have failed, one behind the other.
    in_a_row: u32,
}

impl Pass {
    /// Whether the rest was not tried any more.
    fn is_given_up(&self) -> bool {
        self.in_a_row >= IN_A_ROW
    }
}

/// Copies as long as the daemon lives.
pub(super) async fn copy_for_ever(shared: Arc<Shared>) {
    let copies = &shared.copies;
    let Some(objects) = &copies.objects else { return };
    if let Err(error) = wake_all(&shared).await {
        tracing::error!(%error, "what is to be copied is not known");
    }
    let (mut pause, mut sweep_at) = (PAUSE.0, Instant::now() + FIRST_SWEEP);
    let mut again_at: Option<Instant> = None;
    loop {
        if again_at.take_if(|at| *at <= Instant::now()).is_some() {
            copies.waiting().try_again();
        }
        let pass = all_waiting(&shared, objects).await;
        copies.note(pass.failed.as_ref());
        if !copies.waiting().has_failed() {
            (pause, again_at) = (PAUSE.0, None);
            if Instant::now() >= sweep_at {
                sweep_at = Instant::now() + SWEEP_EVERY;
                sweep::sweep(&shared).await;
            }
            let _ = timeout_at(sweep_at.into(), copies.there.notified()).await;
            continue;
        }
        let at = *again_at.get_or_insert_with(|| Instant::now() + pause);
        pause = (pause * 2).min(PAUSE.1);
        match pass.is_given_up() {
            true => sleep_until(at.into()).await,
            // Others need not wait.
            false => drop(timeout_at(at.into(), copies.there.notified()).await),
        }
    }
}

/// What the store says is not done yet.
async fn wake_all(shared: &Shared) -> Result<(), StoreError> {
    let sessions = shared.store.sessions_to_copy().await?;
    let purged = shared.store.purged_copies().await?;
    sessions.into_iter().chain(purged).for_each(|id| shared.copies.waiting().add(id));
    Ok(())
}

/// Copies what waits, until nothing does or one after the other fails.
async fn all_waiting(shared: &Arc<Shared>, objects: &Objects) -> Pass {
    let mut pass = Pass::default();
    while !pass.is_given_up() {
        let Some(id) = shared.copies.waiting().next() else { break };
        let done = one(shared, objects, id).await;
        let mut waiting = shared.copies.waiting();
        match done {
            Ok(Outcome::Done) => {
                pass.in_a_row = 0;
                waiting.done();
            }
            Ok(Outcome::Later) => waiting.put_off(),
            Err(error) if error.is_passing() => {
                pass.in_a_row += 1;
                pass.failed = Some(error);
                waiting.put_off();
            }
            Err(error) => {
                tracing::error!(ash_session = %id, %error, "a point was not copied");
                waiting.give_up();
            }
        }
    }
    pass
}

/// What became of what was to be done for a session.
enum Outcome {
    Done,
    /// Something here stands in the way for a time.
    Later,
}

/// Does what is to be done for a session.
async fn one(shared: &Arc<Shared>, objects: &Objects, id: SessionId) -> Result<Outcome, NotCopied> {
    let sent = {
        let _sending = shared.copies.sending.lock().await;
        match shared.store.session(id).await? {
            Some(session) => send::session(shared, objects, &session).await,
            None => return graves::purge(shared, objects, id).await,
        }
    };
    match sent {
        Ok(()) => Ok(Outcome::Done),
        Err(NotCopied::Lost) => Ok(lost(shared, id).await),
        Err(error) => Err(error),
    }
}

/// Ends a session that another machine has taken: it goes on there. One that is coming back is another one by
/// now.
async fn lost(shared: &Arc<Shared>, id: SessionId) -> Outcome {
    let _losing = shared.copies.losing.begin(id);
    if shared.making.has(|(made, _)| *made == id) {
        return Outcome::Later;
    }
    tracing::warn!(
        message_id = message::SESSION_LOST, ash_session = %id,
        "another machine goes on with this session; it ends here"
    );
    match super::gone::end_here(shared, id).await {
        Ok(()) => Outcome::Done,
        Err(error) => {
            tracing::error!(ash_session = %id, %error, "a session that moved has not ended here");
            Outcome::Later
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Session, Status};
    use crate::session::stage::Stage;

    /// What was lost is what was here before it.
    #[tokio::test]
    async fn a_session_that_is_coming_back_is_not_ended() {
        let stage = Stage::set().await;
        let (shared, session) = (&stage.shared, Session::example(1));
        stage.add(&session).await;
        let status = async || shared.store.session(session.id).await.unwrap().unwrap().status;
        let coming = shared.making.begin((session.id, 0));
        assert!(matches!(lost(shared, session.id).await, Outcome::Later));
        assert_eq!(status().await, session.status);
        drop(coming);
        assert!(matches!(lost(shared, session.id).await, Outcome::Done));
        assert_eq!(status().await, Status::Ended);
    }
}
