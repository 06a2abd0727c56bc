//! Files that are in their place before they are on the disk.
//!
//! A session that is brought back does not wait for the disk to have its files: whatever a machine
//! that goes down loses of them can be built again from where they came. Until they are on the disk,
//! which is seen to behind its back, the store knows so, and in which boot of the machine they were
//! built. A daemon that finds this in the same boot has all the files; in another one nobody knows.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::api::Refusal;
use super::shared::Shared;
use crate::domain::{Point, SandboxId, Session, SessionId};
use crate::fault;
use crate::store::{Store, StoreError, Unsynced};
use crate::tree::{Tree, TreeError};

impl Shared {
    /// Notes that a session's files are built from a point for this sandbox and do not wait for the
    /// disk.
    pub(super) async fn note_unsynced(
        &self,
        session: &Session,
        point: &Point,
        build: SandboxId,
    ) -> Result<(), Refusal> {
        let boot = boot().map_err(|error| Refusal::Internal(error.to_string()))?;
        let files = Unsynced { session: session.id, point: point.id, build, boot };
        Ok(self.store.note_unsynced(files).await?)
    }

    /// Has the files of builds put on the disk, in the background.
    pub(super) fn sync_later(&self, builds: Vec<(SessionId, SandboxId)>) {
        let (store, dir) = (self.store.clone(), self.places.sessions());
        tokio::spawn(async move {
            match sync(&store, dir, builds).await {
                // The next daemon finds them.
                Ok(()) | Err(Refusal::Store(StoreError::Closed)) => {}
                // They are built again should the machine go down.
                Err(error) => tracing::error!(
                    %error, "files that were brought back may not be on the disk"
                ),
            }
        });
    }

    /// Puts a session's files on the disk if they may not be there.
    pub(super) async fn sync_files(&self, session: SessionId) -> Result<(), Refusal> {
        let mut builds = self.unsynced().await?;
        builds.retain(|(of, _)| *of == session);
        sync(&self.store, self.places.sessions(), builds).await
    }

    /// Has everything put on the disk that a daemon before this one left to be, in the background.
    pub(super) async fn sync_left(&self) -> Result<(), Refusal> {
        self.sync_later(self.unsynced().await?);
        Ok(())
    }

    async fn unsynced(&self) -> Result<Vec<(SessionId, SandboxId)>, Refusal> {
        let all = self.store.unsynced().await?.into_iter();
        Ok(all.map(|files| (files.session, files.build)).collect())
    }
}

/// Sessions of which files may be lost, because the machine went down before they were on the disk.
///
/// # Errors
/// When the store cannot be read, or the boot is not known.
pub(super) async fn unsure(store: &dyn Store) -> Result<Vec<SessionId>, Refusal> {
    let all = store.unsynced().await?;
    if all.is_empty() {
        return Ok(vec![]);
    }
    let boot = boot().map_err(|error| Refusal::Internal(error.to_string()))?;
    let of_before = all.into_iter().filter(|files| files.boot != boot);
    Ok(of_before.map(|files| files.session).collect())
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
    let flush = move || -> Result<(), TreeError> {
        Tree::open(&dir)?.sync()?;
        fault::point("restore.synced");
        Ok(())
    };
    let flushed = spawn_blocking(flush).await.map_err(|error| error.to_string());
    flushed.and_then(|flushed| flushed.map_err(|error| error.to_string())).map_err(|error| {
        tracing::error!(error, "the disk could not be flushed");
        Refusal::Internal("the session's files may not be on the disk".to_owned())
    })?;
    for (session, build) in builds {
        store.synced(session, build).await?;
    }
    Ok(())
}

/// Names the time since this machine was started, see random(4).
fn boot() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}
