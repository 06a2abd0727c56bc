//! Copies of points in the object store.
//!
//! Made in the background, one session after the other, when a session has a new point. What fails
//! for a time is tried again, and said once; a daemon that starts goes on with what the store says is
//! not there yet. A session that another machine has taken ends here.

pub(super) mod fetch;
pub(super) mod send;
mod sweep;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::shared::Shared;
use crate::domain::{AgentName, PointId, SessionId, Tenant};
use crate::objects::{Claimed, FolderCopy, Objects, ObjectsError, Place};
use crate::snapshot::SnapshotError;
use crate::store::{PurgedCopy, StoreError};
use crate::telemetry::message;
use uuid::Uuid;

/// How long to wait after a failure, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How often what no point needs is removed from the object store.
const SWEEP_EVERY: Duration = Duration::from_secs(6 * 3600);

/// What is known of the object store, and what is to be done.
#[derive(Default)]
pub(super) struct Copies {
    objects: Option<Objects>,
    /// Sessions with points that are to be copied.
    waiting: Mutex<BTreeSet<SessionId>>,
    there: Notify,
    /// Imports, one at a time: of two of the same session both would have it.
    pub(super) importing: tokio::sync::Mutex<()>,
    /// Held while something is put there: whoever removes a tenant waits for it.
    pub(super) sending: tokio::sync::Mutex<()>,
    /// Whether one of them is being copied.
    busy: AtomicBool,
    failing: AtomicBool,
    /// When each pack was put there, as far as is known.
    packs: Mutex<HashMap<Tenant, HashMap<Uuid, std::time::SystemTime>>>,
    folders: Mutex<HashMap<Version, (Instant, FolderCopy)>>,
    /// Points there that other machines gave a name, as far as is known.
    named: Mutex<BTreeSet<PointId>>,
}

/// A version of an agent.
type Version = (Tenant, AgentName, u32);

/// How the object store is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Copying {
    /// Sessions whose newest points are not there yet.
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
    fn is_passing(&self) -> bool {
        match self {
            NotCopied::Objects(error) => error.is_passing(),
            NotCopied::Store(_) | NotCopied::Disk(_) => true,
            NotCopied::Snapshots(_) | NotCopied::Folder(_) | NotCopied::Lost => false,
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

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<SessionId>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session has a new point, or it is to be seen whether another machine has taken it.
    pub(super) fn wake(&self, session: SessionId) {
        if self.objects.is_some() {
            self.waiting().insert(session);
            self.there.notify_one();
        }
    }

    /// The next session to copy. It counts as waiting until it is copied.
    fn next(&self) -> Option<SessionId> {
        let mut waiting = self.waiting();
        let next = waiting.pop_first();
        self.busy.store(next.is_some(), Ordering::Relaxed);
        next
    }

    /// What is there of a tenant has to be looked up again.
    pub(super) fn forget_packs(&self, tenant: &Tenant) {
        self.packs.lock().unwrap_or_else(PoisonError::into_inner).remove(tenant);
    }

    /// Nothing is certain to be there any more: one that was away may come back without what it had.
    fn forget_all(&self) {
        self.packs.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A session was purged, as the store says.
    pub(super) fn purged(&self) {
        self.there.notify_one();
    }

    /// How it is doing; `None`: there is no object store.
    pub(super) fn state(&self) -> Option<Copying> {
        self.objects.as_ref()?;
        let waiting = self.waiting();
        let failing = self.failing.load(Ordering::Relaxed);
        let busy = u64::from(self.busy.load(Ordering::Relaxed));
        Some(Copying { waiting: waiting.len() as u64 + busy, failing })
    }
}

/// Copies as long as the daemon lives.
pub(super) async fn copy_for_ever(shared: Arc<Shared>) {
    let copies = &shared.copies;
    if copies.objects.is_none() {
        return;
    }
    match shared.store.sessions_to_copy().await {
        Ok(sessions) => copies.waiting().extend(sessions),
        Err(error) => tracing::error!(%error, "what is to be copied is not known"),
    }
    let (mut pause, mut swept) = (PAUSE.0, Instant::now());
    loop {
        let done = all_waiting(&shared).await;
        copies.failing.store(done.is_err(), Ordering::Relaxed);
        match done {
            Ok(()) => {
                pause = PAUSE.0;
                if swept.elapsed() >= SWEEP_EVERY {
                    swept = Instant::now();
                    sweep::sweep(&shared).await;
                }
                let _ = tokio::time::timeout(SWEEP_EVERY, copies.there.notified()).await;
            }
            Err(error) => {
                if pause == PAUSE.0 {
                    tracing::warn!(
                        message_id = message::NOT_COPIED, %error,
                        "the object store does not get what is saved; trying again until it does"
                    );
                }
                copies.forget_all();
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

/// Copies what waits, until nothing does or something fails that may pass.
async fn all_waiting(shared: &Arc<Shared>) -> Result<(), NotCopied> {
    let copies = &shared.copies;
    let Some(objects) = &copies.objects else { return Ok(()) };
    for purged in shared.store.purged_copies().await? {
        let PurgedCopy { tenant, session, generation } = purged;
        let there = objects.generation(&tenant, session).await?;
        // One that another machine has taken is that one's.
        let ours = match there {
            Some(there) if generation == send::RESTORED => {
                objects.owner(&tenant, session, there).await? == Claimed::Ours
            }
            there => there.is_none_or(|there| there <= generation),
        };
        if ours {
            objects.remove_all(&Place::Session(&tenant, session)).await?;
        }
        shared.store.forget_purged(session).await?;
    }
    loop {
        let Some(id) = copies.next() else { return Ok(()) };
        let sent = {
            let _sending = copies.sending.lock().await;
            send::session(shared, objects, id).await
        };
        copies.busy.store(false, Ordering::Relaxed);
        match sent {
            Ok(()) => {}
            Err(NotCopied::Lost) => lost(shared, id).await,
            Err(error) if error.is_passing() => {
                copies.waiting().insert(id);
                return Err(error);
            }
            Err(error) => {
                tracing::error!(ash_session = %id, %error, "a point was not copied");
            }
        }
    }
}

/// Ends a session that another machine has taken: it goes on there.
async fn lost(shared: &Arc<Shared>, id: SessionId) {
    tracing::warn!(
        message_id = message::SESSION_LOST, ash_session = %id,
        "another machine goes on with this session; it ends here"
    );
    if let Err(error) = super::moved::end_here(shared, id).await {
        tracing::error!(ash_session = %id, %error, "a session that moved has not ended here");
    }
}
