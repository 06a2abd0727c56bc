//! Files that a machine that goes down may lose.
//!
//! What an agent writes is on the disk when the kernel has put it there, or never. The store knows which
//! sessions have had a sandbox in this boot of the machine. After another boot their files are what
//! they were at their newest point, or what the agent's folder has if they have none: with them the
//! conversation is one that there was. Only what was changed from outside, which is flushed before it is
//! acknowledged, can be in no point: then the files stay as they are.
//!
//! For the same reason a session that is brought back does not wait for the disk to have its files:
//! until they are, which is seen to behind its back, they are those of the point in any case.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::api::Refusal;
use super::going_on;
use super::incoming::unwritable;
use super::service::blocking;
use super::shared::Shared;
use crate::domain::{Changed, SandboxId, Session, SessionId, Which};
use crate::fault;
use crate::snapshot::SnapshotError;
use crate::store::{Store, StoreError, Unsynced};
use crate::tree::{Tree, TreeError};

/// How long to wait for others whose files can be put on the disk together, and for those that go on
/// soon.
pub(super) const GATHERING: Duration = Duration::from_secs(5);

/// A fork whose files may not be on the disk.
pub(super) struct Forked {
    id: SessionId,
    /// What its files were built for.
    build: SandboxId,
    /// Opened before they were built. The kernel tells of a failed write each descriptor that was open then,
    /// and none that is opened when somebody has been told (syncfs(2)).
    dir: Tree,
}

impl Forked {
    /// Waits until its files are on the disk; false if they may not be: then they are built again, should the
    /// machine go down.
    fn sync(&self) -> bool {
        let flushed = self.dir.sync();
        if let Err(error) = &flushed {
            tracing::error!(ash_session = %self.id, %error, "a fork's files may not be on the disk");
        }
        flushed.is_ok()
    }
}

impl Shared {
    /// Has the files of builds put on the disk, in the background.
    pub(super) fn sync_later(&self, builds: Vec<(SessionId, SandboxId)>) {
        let (store, dir) = (self.store.clone(), self.places.sessions());
        tokio::spawn(async move { log_unsynced(sync(&store, dir, builds).await) });
    }

    /// What [`sync_fork_later`](Self::sync_fork_later) needs of a fork. For before anything of it is built.
    pub(super) async fn unsynced_fork(&self, fork: &Session) -> Result<Forked, Refusal> {
        let (id, build, sessions) = (fork.id, fork.sandbox, self.places.sessions());
        let open = move || -> Result<Tree, Refusal> {
            std::fs::create_dir_all(&sessions).map_err(|error| unwritable(&error))?;
            Tree::open(&sessions).map_err(|error| Refusal::Internal(error.to_string()))
        };
        Ok(Forked { id, build, dir: blocking(open).await? })
    }

    /// Has the files of a fork put on the disk, in the background. If it has no sandbox till then, they stay
    /// as they are whatever becomes of the machine. One thread waits for the disk, however many there are.
    pub(super) fn sync_fork_later(self: &Arc<Self>, fork: Forked) {
        let shared = self.clone();
        self.forks.add(fork, move |forks| {
            let shared = shared.clone();
            async move { log_unsynced(shared.rest_forks(forks).await) }
        });
    }

    async fn rest_forks(&self, forks: Vec<Forked>) -> Result<(), Refusal> {
        let flush = move || -> Result<Vec<(SessionId, SandboxId)>, Refusal> {
            // Behind the first one there is next to nothing left to wait for.
            let synced = forks.iter().filter(|fork| fork.sync());
            let synced = synced.map(|fork| (fork.id, fork.build)).collect();
            built_is_flushed();
            Ok(synced)
        };
        let synced = blocking(flush).await?;
        self.store.synced(synced.clone()).await?;
        Ok(self.store.at_rest(synced).await?)
    }

    /// Puts all of a session's files on the disk if none of them may be there.
    pub(super) async fn sync_files(&self, session: SessionId) -> Result<(), Refusal> {
        let build = self.store.unsynced_build(session).await?;
        let builds = build.map(|build| (session, build)).into_iter().collect();
        sync(&self.store, self.places.sessions(), builds).await
    }

    /// Before files are changed from outside, which then stay as they are should the machine go down:
    /// puts everything of the session on the disk that may not be there.
    pub(super) async fn sync_before_change(&self, session: SessionId) -> Result<(), Refusal> {
        let mut all = self.store.unsynced().await?.into_iter();
        match all.find(|files| files.session == session) {
            Some(Unsynced { build: Some(build), .. }) => {
                sync(&self.store, self.places.sessions(), vec![(session, build)]).await
            }
            Some(files) if files.changed < Changed::Kept => {
                flush(self.places.sessions(), || fault::point("change.synced")).await
            }
            _ => Ok(()),
        }
    }

    /// Records which sessions have sandboxes, if a daemon from before that was recorded has left them.
    pub(super) async fn note_in_use(&self, mut sessions: Vec<SessionId>) -> Result<(), Refusal> {
        let known: BTreeSet<_> =
            self.store.unsynced().await?.into_iter().map(|files| files.session).collect();
        sessions.retain(|id| !known.contains(id));
        match sessions.is_empty() {
            true => Ok(()),
            false => Ok(self.store.in_use(sessions).await?),
        }
    }

    /// Has everything put on the disk that a daemon before this one left to be, in the background. What
    /// stays as a boot before this one left it is put there now.
    pub(super) async fn sync_left(&self) -> Result<(), Refusal> {
        let all = self.store.unsynced().await?.into_iter();
        let kept: Vec<_> = all.filter(|files| files.lost && stays(files)).collect();
        for files in &kept {
            if let Some(session) = self.store.session(files.session).await? {
                self.forget_known(&session).await;
            }
        }
        let kept = kept.into_iter().map(|files| (files.session, files.sandbox));
        self.put_to_rest(kept.collect()).await?;
        self.sync_later(self.unsynced().await?);
        Ok(())
    }

    /// Puts everything on the disk that a sandbox has written, when there is none any more, nor anything
    /// that is built for one.
    pub(super) async fn sync_all(&self) -> Result<(), Refusal> {
        let all = self.store.unsynced().await?;
        if all.is_empty() {
            return Ok(());
        }
        self.flush().await?;
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
        Ok(self.store.at_rest(sandboxes).await?)
    }

    /// Waits until everything that sessions have is on the disk.
    pub(super) async fn flush(&self) -> Result<(), Refusal> {
        flush(self.places.sessions(), || ()).await
    }

    async fn unsynced(&self) -> Result<Vec<(SessionId, SandboxId)>, Refusal> {
        let all = self.store.unsynced().await?.into_iter();
        Ok(all.filter_map(|files| Some((files.session, files.build?))).collect())
    }

    /// Has a session go on with files that there were, when those in place may be torn. What history has
    /// behind them stays, and says so.
    pub(super) async fn give_up_files(&self, session: &Session) -> Result<(), Refusal> {
        let id = session.id;
        self.forget_known(session).await;
        let point = self.store.point(id, Which::Newest).await?;
        if point.is_none() {
            self.lay_out_again(session, &id.to_string()).await?;
            self.flush().await?;
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

/// Waits until everything beneath a directory is on the disk, if there are builds that may not be, and
/// records that they are.
async fn sync(
    store: &Arc<dyn Store>,
    dir: PathBuf,
    builds: Vec<(SessionId, SandboxId)>,
) -> Result<(), Refusal> {
    if builds.is_empty() {
        return Ok(());
    }
    flush(dir, built_is_flushed).await?;
    Ok(store.synced(builds).await?)
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
            tracing::error!(%error, "files that were brought back may not be on the disk");
        }
    }
}

/// Waits until everything on the file system of a directory is on the disk.
async fn flush(dir: PathBuf, then: impl FnOnce() + Send + 'static) -> Result<(), Refusal> {
    let flush = move || -> Result<(), TreeError> {
        Tree::open(&dir)?.sync()?;
        then();
        Ok(())
    };
    let flushed = spawn_blocking(flush).await.map_err(|error| error.to_string());
    flushed.and_then(|flushed| flushed.map_err(|error| error.to_string())).map_err(|error| {
        tracing::error!(error, "the disk could not be flushed");
        Refusal::Internal("the session's files may not be on the disk".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::any::Any;
    use std::io;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::domain::SessionChange;
    use crate::session::keeping::point_of;
    use crate::session::stage::Stage;
    use crate::snapshot::Cutting;
    use crate::store::Commit;
    use crate::store::sqlite::{Options, Sqlite};

    /// As long as the slowest disk takes.
    const A_LONG_TIME: Duration = Duration::from_secs(60);

    fn nobody() -> io::Result<Box<dyn Any>> {
        Ok(Box::new(()))
    }

    /// A session with files and a point of them; and what is known of them.
    async fn saved(stage: &Stage) -> (Session, PathBuf) {
        let session = Session::example(1);
        stage.add_with_files(&session).await;
        let places = &stage.shared.places;
        let workspace = places.session(session.id).join("workspace");
        let (roots, cancel) = ([("workspace", workspace.as_path())], AtomicBool::new(false));
        let vault = stage.shared.snapshots.vault(&session.tenant).unwrap();
        let cutting = Cutting::new(session.id, &roots, &cancel);
        let cut = vault.cut(&cutting, &nobody, &|_| true).unwrap();
        let point = point_of(&cut, &session, None);
        stage.shared.store.add_point(point, u32::MAX).await.unwrap();
        let scans = places.vaults().join(session.tenant.as_str()).join("scans");
        let known = scans.join(session.id.to_string());
        assert!(known.exists());
        (session, known)
    }

    /// A fork that is made, and may not be on the disk.
    async fn forked(stage: &Stage, number: u128) -> Forked {
        let fork = Session::example(number);
        stage.add_with_files(&fork).await;
        stage.shared.store.note_unsynced(fork.id, fork.sandbox).await.unwrap();
        stage.shared.unsynced_fork(&fork).await.unwrap()
    }

    /// Has another sandbox of a session recorded.
    async fn go_on(stage: &Stage, session: SessionId) {
        let sandbox = Some(SandboxId::random());
        let change = SessionChange { sandbox, ..SessionChange::none() };
        stage.shared.store.commit(Commit::of(session, change, vec![])).await.unwrap();
    }

    #[tokio::test]
    async fn a_fork_that_goes_on_while_it_is_flushed_with_others_is_not_at_rest() {
        let stage = Stage::set().await;
        let shared = &stage.shared;
        let mut forks = vec![];
        for number in 1..=3 {
            forks.push(forked(&stage, number).await);
        }
        let in_use = forks[1].id;
        go_on(&stage, in_use).await;
        shared.rest_forks(forks).await.unwrap();
        let left = shared.store.unsynced().await.unwrap();
        let left: Vec<_> = left.iter().map(|files| (files.session, files.build)).collect();
        assert_eq!(left, [(in_use, None)], "the others are at rest");
    }

    #[tokio::test]
    async fn a_fork_comes_to_rest_whenever_it_comes() {
        let stage = Stage::set().await;
        let shared = &stage.shared;
        for number in 1..=3 {
            shared.sync_fork_later(forked(&stage, number).await);
            let rests = async {
                while !shared.store.unsynced().await.unwrap().is_empty() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(A_LONG_TIME, rests).await.expect("nobody flushes it");
        }
    }

    #[tokio::test]
    async fn nothing_of_a_machine_that_is_shut_down_is_built_again() {
        let stage = Stage::set().await;
        let fork = forked(&stage, 1).await;
        // It goes on before its files are known to be on the disk.
        go_on(&stage, fork.id).await;
        stage.shared.sync_all().await.unwrap();
        assert_eq!(stage.shared.store.unsynced().await.unwrap(), []);
    }

    #[tokio::test]
    async fn nothing_is_known_of_files_that_may_be_torn() {
        let stage = Stage::set().await;
        let (session, known) = saved(&stage).await;
        stage.shared.give_up_files(&session).await.unwrap();
        assert!(!known.exists());
        let session = stage.shared.store.session(session.id).await.unwrap().unwrap();
        assert!(session.restore.is_some());
    }

    #[tokio::test]
    async fn nor_of_those_that_stay_as_another_boot_has_left_them() {
        let stage = Stage::set().await;
        let (session, known) = saved(&stage).await;
        let database = stage.shared.places.data_dir.join("ash.db");
        let options = Options { boot: "before".to_owned(), ..Options::default() };
        let before = Sqlite::open(&database, options).unwrap();
        before.in_use(vec![session.id]).await.unwrap();
        let change = SessionChange { changed: Some(Changed::Kept), ..SessionChange::none() };
        before.commit(Commit::of(session.id, change, vec![])).await.unwrap();
        before.close().await;
        assert!(stage.shared.store.unsynced().await.unwrap()[0].lost);
        stage.shared.sync_left().await.unwrap();
        assert!(!known.exists());
        assert!(stage.shared.store.unsynced().await.unwrap().is_empty());
    }
}
