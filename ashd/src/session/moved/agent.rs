//! How the agent of a session that moves comes along.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use tokio::task::spawn_blocking;

use super::damage;
use crate::domain::{Agent, Root, SessionId, Tenant};
use crate::fault;
use crate::objects::Manifest;
use crate::session::api::{Happened, Refusal};
use crate::session::copies::send::digest;
use crate::session::keeping::unkept;
use crate::session::service::{Result, Service};
use crate::snapshot::{Restoring, SnapshotError};
use crate::telemetry::message;
use crate::tree::{TreeError, remove_all};

impl Service {
    /// Puts the version of the agent that a session was made with in its place, beside the others that
    /// are here, when there is none; one that is there must be the same. One that is newer than all
    /// becomes the agent's newest.
    pub(super) async fn bring_agent(&self, tenant: &Tenant, manifest: &Manifest) -> Result<()> {
        let shared = &self.shared;
        let _no_deployment = self.deployments.pause().await;
        let agent = manifest.agent(tenant).map_err(|error| damage(error.to_string()))?;
        let known = shared.store.agent(tenant, &agent.name).await?;
        let place = shared.places.version(tenant, &agent.name, agent.version);
        let is_newest = known.as_ref().is_none_or(|known| known.version < agent.version);
        // What is there of a version that is newer than all was left by somebody who never recorded it.
        if !is_newest && is_there(place.clone(), &agent, manifest.agent.digest).await? {
            return Ok(());
        }
        self.build_agent(tenant, manifest, place).await?;
        fault::point("import.agent");
        if is_newest { self.record_agent(agent, known).await } else { Ok(()) }
    }

    /// Builds the folder of a version where none is.
    async fn build_agent(
        &self,
        tenant: &Tenant,
        manifest: &Manifest,
        place: PathBuf,
    ) -> Result<()> {
        let (staging, snapshots) = (self.shared.places.staging(), self.shared.snapshots.clone());
        let (owned, root) = (tenant.clone(), Root(manifest.agent.root));
        let build = move || {
            build_folder(&staging, &place, |parent, name| {
                let cancel = AtomicBool::new(false);
                let session = SessionId::random();
                let restoring = Restoring::new(session, (parent, name), &cancel);
                let vault = snapshots.vault(&owned)?;
                vault.restore(root, &restoring)?;
                vault.forget(session)
            })
        };
        let built = spawn_blocking(build).await.unwrap_or(Err(SnapshotError::Cancelled));
        built.map_err(|error| unkept(SessionId(manifest.session_id()), error))
    }

    /// Records a version that is newer than all that are known. What holds for the agent beside its
    /// folder stays as it is here.
    async fn record_agent(&self, came: Agent, known: Option<Agent>) -> Result<()> {
        let (version, updated_at) = (came.version, came.updated_at);
        let agent = match known {
            Some(known) => Agent { version, updated_at, ..known },
            None => came,
        };
        let (tenant, name) = (agent.tenant.clone(), agent.name.clone());
        self.shared.store.adopt_agent(agent).await?;
        tracing::info!(
            message_id = message::AGENT_DEPLOYED, ash_agent = %name, ash_tenant = %tenant, version,
            "agent imported from the object store"
        );
        self.shared.tell(Happened::AgentDeployed(tenant, name, version));
        Ok(())
    }
}

/// Whether a version's folder is in its place; one that has other files is refused.
async fn is_there(place: PathBuf, agent: &Agent, wanted: [u8; 32]) -> Result<bool> {
    let looked = spawn_blocking(move || digest_of(&place)).await;
    match looked.map_err(|error| Refusal::Internal(error.to_string()))? {
        Ok(None) => Ok(false),
        Ok(Some(digest)) if digest == wanted => Ok(true),
        Ok(Some(_)) => {
            Err(Refusal::OtherAgent { name: agent.name.clone(), version: agent.version })
        }
        Err(error) => {
            tracing::error!(ash_agent = %agent.name, %error, "an agent's folder cannot be read");
            Err(Refusal::Internal("the agent's folder cannot be read".to_owned()))
        }
    }
}

/// What tells a folder from others; `None` when there is none.
fn digest_of(place: &Path) -> std::result::Result<Option<[u8; 32]>, TreeError> {
    match place.try_exists() {
        Ok(true) => digest(place).map(Some),
        Ok(false) => Ok(None),
        Err(error) => Err(TreeError::Io { path: String::new(), error }),
    }
}

/// Builds a version's folder and moves it to its place.
fn build_folder(
    staging: &Path,
    place: &Path,
    build: impl FnOnce(&Path, &str) -> std::result::Result<(), SnapshotError>,
) -> std::result::Result<(), SnapshotError> {
    let name = uuid::Uuid::new_v4().to_string();
    std::fs::create_dir_all(staging)?;
    let built = build(staging, &name).and_then(|()| put(&staging.join(&name).join("agent"), place));
    remove_all(staging, &name)?;
    built
}

/// Moves a version's folder to its place. One that is there was left by somebody who never recorded it.
fn put(folder: &Path, place: &Path) -> std::result::Result<(), SnapshotError> {
    let parent = place.parent().unwrap_or(place);
    let version = place.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    std::fs::create_dir_all(parent)?;
    remove_all(parent, version)?;
    std::fs::rename(folder, place)?;
    Ok(std::fs::File::open(parent)?.sync_all()?)
}
