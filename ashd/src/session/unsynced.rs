//! Files that a machine that goes down may lose.
//!
//! What an agent writes is on the disk when the kernel has put it there, or never. The store knows which
//! sessions have had a sandbox in this boot of the machine. After another boot their files are what
//! they were at their newest point, or what the agent's folder has if they have none: with them the
//! conversation is one that there was. Only what was changed from outside, which is flushed before it is
//! acknowledged, can be in no point: then the files stay as they are.
//!
//! For the same reason a session that is brought back does not wait for the disk to have its files:
//! until they are, which is seen to behind its back, they are those of the point in any case. So are those
//! of which nobody can tell whether they are (see [`disk`](super::disk)).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::api::Refusal;
use super::disk::Since;
use super::gathering::Gathering;
use super::going_on;
use super::service::blocking;
use super::shared::Shared;
use crate::domain::{Changed, SandboxId, Session, SessionId, Which};
use crate::fault;
use crate::snapshot::SnapshotError;
use crate::store::{IN_DOUBT, Store, StoreError, Unsynced};
use crate::tree::TreeError;

/// How long to wait for others whose files can be put on the disk together, and for those that go on
/// soon.
pub(super) const GATHERING: Duration = Duration::from_secs(5);

/// What was built of a session, and may not be on the disk.
pub(super) struct Built {
    pub(super) session: SessionId,
    /// The sandbox that all of it was built for.
    pub(super) build: SandboxId,
    /// From before anything of it was written.
    pub(super) since: Since,
}

/// What was built and is put on the disk with others: one thread waits for that, however many there are.
pub(super) struct Syncing {
    /// Forks, which come to rest with it.
    forks: Arc<Gathering<Built>>,
    /// Sessions that were made. Only a daemon that is killed makes a difference to them, so that others are
    /// waited for, and the disk is not busy with each.
    made: Arc<Gathering<Built>>,
}

impl Default for Syncing {
    fn default() -> Syncing {
        Syncing { forks: Gathering::new(None), made: Gathering::new(Some(GATHERING)) }
    }
}

impl Shared {
    /// From now on every write is heard of that fails. What a daemon before this one has built in this boot of
    /// the machine, and not recorded as being on the disk, is in doubt: it may have been told of one.
    pub(super) async fn watch_disk(&self) -> Result<(), Refusal> {
        let (disk, sessions) = (self.disk.clone(), self.places.sessions());
        let internal = |error: TreeError| Refusal::Internal(error.to_string());
        blocking(move || disk.watch(&sessions).map_err(internal)).await?;
        let left = self.store.unsynced().await?.into_iter();
        let is_new = |build: &SandboxId| *build != IN_DOUBT;
        let left = left.filter(|files| files.build.as_ref().is_some_and(is_new) && !files.lost);
        Ok(self.store.doubt(left.map(|files| files.session).collect()).await?)
    }

    /// Has what was built of a session put on the disk, in the background.
    pub(super) fn sync_later(self: &Arc<Self>, built: Built) {
        let shared = self.clone();
        tokio::spawn(async move { log_unsynced(shared.sync_built(&[built]).await.map(drop)) });
    }

    /// Of a launch that came to nothing: what was built for it may be in its place, and nobody else has it put
    /// on the disk. Until it is, neither files nor uids of the session are given back.
    pub(super) async fn sync_abandoned(self: &Arc<Self>, built: Built) {
        let noted = self.store.unsynced_build(built.session).await;
        if noted.is_ok_and(|build| build == Some(built.build)) {
            self.sync_later(built);
        }
    }

    /// Waits until what was built is on the disk, and records it. Returns of what that is sure: the rest is
    /// built again, should the machine go down.
    async fn sync_built(&self, all: &[Built]) -> Result<Vec<(SessionId, SandboxId)>, Refusal> {
        if all.is_empty() {
            return Ok(vec![]);
        }
        self.flush_then(built_is_flushed).await?;
        let (sure, doubtful): (Vec<&Built>, Vec<&Built>) =
            all.iter().partition(|built| self.disk.is_sure(built.since));
        for Built { session, .. } in &doubtful {
            tracing::error!(ash_session = %session, "its files may not be on the disk");
        }
        self.store.doubt(doubtful.iter().map(|built| built.session).collect()).await?;
        let sure: Vec<_> = sure.iter().map(|built| (built.session, built.build)).collect();
        self.store.synced(sure.clone()).await?;
        Ok(sure)
    }

    /// Has the files of a fork put on the disk, in the background. If it has no sandbox till then, they stay
    /// as they are whatever becomes of the machine.
    pub(super) fn sync_fork_later(self: &Arc<Self>, fork: Built) {
        let shared = self.clone();
        self.syncing.forks.add(fork, move |forks| {
            let shared = shared.clone();
            async move { log_unsynced(shared.rest_forks(forks).await) }
        });
    }

    async fn rest_forks(&self, forks: Vec<Built>) -> Result<(), Refusal> {
        let synced = self.sync_built(&forks).await?;
        Ok(self.store.at_rest(synced).await?)
    }

    /// Has what was laid out for a session that was made put on the disk, in the background: what a daemon
    /// leaves of which that is not recorded is in doubt, and would be built anew later on.
    pub(super) fn sync_made_later(self: &Arc<Self>, made: Built) {
        let shared = self.clone();
        self.syncing.made.add(made, move |made| {
            let shared = shared.clone();
            async move { log_unsynced(shared.sync_built(&made).await.map(drop)) }
        });
    }

    /// Does so now with all that wait for it.
    pub(super) async fn sync_made(&self) {
        let made = self.syncing.made.take();
        log_unsynced(self.sync_built(&made).await.map(drop));
    }

    /// Records of a session that was recorded just now that it is in doubt, if it is: whoever heard of a write
    /// that failed did not find it.
    pub(super) async fn note_doubt(&self, session: SessionId, since: Since) {
        if self.disk.is_sure(since) {
            return;
        }
        tracing::error!(ash_session = %session, "its files may not be on the disk");
        // It is tried again when its files are to be put on the disk.
        if let Err(error) = self.store.doubt(vec![session]).await {
            tracing::error!(ash_session = %session, %error, "this was not recorded");
        }
    }

    /// Puts all of a session's files on the disk if none of them may be there.
    pub(super) async fn sync_files(&self, session: SessionId) -> Result<(), Refusal> {
        match self.store.unsynced_build(session).await? {
            Some(build) => self.sync_for_change(session, build).await,
            None => Ok(()),
        }
    }

    /// Before files are changed from outside, which then stay as they are should the machine go down:
    /// puts everything of the session on the disk that may not be there.
    pub(super) async fn sync_before_change(&self, session: SessionId) -> Result<(), Refusal> {
        match self.store.unsynced_of(session).await? {
            Some(Unsynced { build: Some(build), .. }) => self.sync_for_change(session, build).await,
            Some(files) if files.changed < Changed::Kept => {
                self.flush_then(|| fault::point("change.synced")).await
            }
            _ => Ok(()),
        }
    }

    /// What is in doubt counts as being on the disk here: else what is put there from outside would go when
    /// the machine goes down, and that is certain, where the rest is not.
    async fn sync_for_change(&self, session: SessionId, build: SandboxId) -> Result<(), Refusal> {
        self.flush_then(built_is_flushed).await?;
        Ok(self.store.synced(vec![(session, build)]).await?)
    }

    /// Records which sessions have sandboxes, if a daemon from before that was recorded has left them.
    pub(super) async fn note_in_use(&self, mut sessions: Vec<SessionId>) -> Result<(), Refusal> {
        let known: BTreeSet<_> =
            self.store.unsynced().await?.into_iter().map(|files| files.session).collect();
        sessions.retain(|id| !known.contains(id));
        Ok(self.store.in_use(sessions).await?)
    }

    /// Puts on the disk what stays as a boot before this one left it. What is in doubt, and what its point has,
    /// as a fork that nobody has used, is built from that again when it is used. The rest of it is used as it
    /// is, and goes back to its point should the machine go down.
    pub(super) async fn sync_left(&self) -> Result<(), Refusal> {
        let all = self.store.unsynced().await?;
        for files in all.iter().filter(|files| files.build == Some(IN_DOUBT) && !files.lost) {
            self.build_if_saved(files.session).await?;
        }
        let kept: Vec<_> = all.iter().filter(|files| files.lost && stays(files)).collect();
        for files in &kept {
            if let Some(session) = self.store.session(files.session).await? {
                self.forget_known(&session).await;
            }
        }
        let kept = kept.into_iter().map(|files| (files.session, files.sandbox));
        self.put_to_rest(kept.collect()).await
    }

    /// Has a session built from its newest point again if nothing has happened behind that, and nobody has it.
    async fn build_if_saved(&self, id: SessionId) -> Result<(), Refusal> {
        let session = self.store.session(id).await?;
        let point = self.store.point(id, Which::Newest).await?;
        let (Some(session), Some(point)) = (session, point) else { return Ok(()) };
        let is_saved = point.seq == session.last_seq && session.changed == Changed::No;
        if !is_saved || self.registry.handle(id).is_some() {
            return Ok(());
        }
        self.forget_known(&session).await;
        Ok(self.store.build_again(id, None).await?)
    }

    /// Puts everything on the disk that a sandbox has written, when there is none any more, nor anything
    /// that is built for one. What is in doubt counts as being there when it is in no point: else it would go
    /// when the machine does, and that is certain, where the rest is not.
    pub(super) async fn sync_all(&self) -> Result<(), Refusal> {
        let mut all = self.store.unsynced().await?;
        if all.is_empty() {
            return Ok(());
        }
        self.flush().await?;
        let unsaved = self.store.unsaved_sessions().await?;
        let is_unsaved = |id: SessionId| unsaved.iter().any(|session| session.id == id);
        all.retain(|files| files.build != Some(IN_DOUBT) || is_unsaved(files.session));
        // Of sessions that went on before what was built was known to be there.
        let builds = all.iter().filter_map(|files| Some((files.session, files.build?)));
        self.store.synced(builds.collect()).await?;
        let sandboxes = all.iter().map(|files| (files.session, files.sandbox)).collect();
        Ok(self.store.at_rest(sandboxes).await?)
    }

    /// Has the files of a session put on the disk whose sandbox is gone: in the background, and
    /// together with those of others.
    pub(super) fn rest_later(self: &Arc<Self>, session: SessionId, sandbox: SandboxId) {
        let shared = self.clone();
        self.resting.add((session, sandbox), move |sandboxes| {
            let shared = shared.clone();
            async move {
                if let Err(error) = shared.rest_now(sandboxes).await {
                    tracing::warn!(%error, "sessions' files may not be on the disk");
                }
            }
        });
    }

    /// Sessions that have gone on meanwhile are in use again.
    async fn rest_now(&self, mut sandboxes: Vec<(SessionId, SandboxId)>) -> Result<(), Refusal> {
        let all = self.store.unsynced().await?.into_iter();
        let newest: BTreeSet<_> = all.map(|files| (files.session, files.sandbox)).collect();
        sandboxes.retain(|sandbox| newest.contains(sandbox));
        self.put_to_rest(sandboxes).await
    }

    async fn put_to_rest(&self, sandboxes: Vec<(SessionId, SandboxId)>) -> Result<(), Refusal> {
        if sandboxes.is_empty() {
            return Ok(());
        }
        self.flush().await?;
        match self.disk.is_settled() {
            true => Ok(self.store.at_rest(sandboxes).await?),
            // Some of them may be in doubt, because somebody else was told of a write that failed.
            false => Err(not_flushed()),
        }
    }

    /// Waits until everything that was written since then is on the disk.
    pub(super) async fn flush_since(&self, since: Since) -> Result<(), Refusal> {
        self.flush().await?;
        match self.disk.is_sure(since) {
            true => Ok(()),
            false => Err(not_flushed()),
        }
    }

    async fn flush(&self) -> Result<(), Refusal> {
        self.flush_then(|| ()).await
    }

    /// Waits until everything that sessions have is on the disk. When it fails, whatever may not be there is in
    /// doubt from then on.
    async fn flush_then(&self, then: impl FnOnce() + Send + 'static) -> Result<(), Refusal> {
        let (disk, sessions) = (self.disk.clone(), self.places.sessions());
        let flush = move || -> Result<(), Refusal> {
            disk.flush(&sessions).map_err(|error| unwritten(&error))?;
            then();
            Ok(())
        };
        let Err(refusal) = blocking(flush).await else { return Ok(()) };
        let failed = self.disk.now();
        let all = self.store.unsynced().await?.into_iter().filter(|files| !files.lost);
        self.store.doubt(all.map(|files| files.session).collect()).await?;
        self.disk.settle(failed);
        Err(refusal)
    }

    /// Has a session go on with files that there were, when those in place may be torn. What history has
    /// behind them stays, and says so.
    pub(super) async fn give_up_files(&self, session: &Session) -> Result<(), Refusal> {
        let id = session.id;
        self.forget_known(session).await;
        let since = self.disk.now();
        let point = self.store.point(id, Which::Newest).await?;
        if point.is_none() {
            self.lay_out_again(session, &id.to_string()).await?;
            self.flush_since(since).await?;
        }
        let behind = point.as_ref().map_or(0, |point| point.seq);
        let is_behind = session.restore.is_none() && self.is_spoken_behind(id, behind).await?;
        let told = is_behind.then(|| going_on::gone_down(point.as_ref(), session.last_seq + 1));
        Ok(self.store.build_again(id, told).await?)
    }

    /// Forgets what is known of a session's files: when the machine goes down, content and times
    /// of a file can be of different moments. Neither a cut nor a fork may take the one for the
    /// other.
    async fn forget_known(&self, session: &Session) {
        let (id, tenant) = (session.id, session.tenant.clone());
        let snapshots = self.snapshots.clone();
        let forget = move || -> Result<(), SnapshotError> {
            let vault = snapshots.known_vault(&tenant)?;
            vault.map_or(Ok(()), |vault| vault.forget(id))
        };
        // A store that fails here gives nothing to anybody.
        if let Ok(Err(error)) = spawn_blocking(forget).await {
            tracing::warn!(ash_session = %id, %error, "what is known of files was not forgotten");
        }
    }
}

/// Sessions whose files may be torn, because the machine went down while they had sandboxes.
///
/// # Errors
/// When the store cannot be read.
pub(super) async fn unsure(store: &dyn Store) -> Result<Vec<SessionId>, Refusal> {
    let torn = store.unsynced().await?.into_iter().filter(|files| files.lost && !stays(files));
    Ok(torn.map(|files| files.session).collect())
}

/// Whether files are left as they are, also behind another boot.
fn stays(files: &Unsynced) -> bool {
    files.changed == Changed::Kept && files.build.is_none()
}

/// What was built is on the disk, which the store does not know.
fn built_is_flushed() {
    fault::point("restore.synced");
}

fn log_unsynced(synced: Result<(), Refusal>) {
    match synced {
        // The next daemon finds them.
        Ok(()) | Err(Refusal::Store(StoreError::Closed)) => {}
        // They are built again should the machine go down.
        Err(error) => {
            tracing::error!(%error, "files that were built may not be on the disk");
        }
    }
}

fn unwritten(error: &TreeError) -> Refusal {
    tracing::error!(%error, "the disk could not be flushed");
    not_flushed()
}

fn not_flushed() -> Refusal {
    Refusal::Internal("the session's files may not be on the disk".to_owned())
}

#[cfg(test)]
#[path = "unsynced_tests.rs"]
mod tests;
