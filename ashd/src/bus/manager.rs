//! The root object.

use std::sync::Arc;

use ash_dbus::Error;
use ash_dbus::value::{
    AgentInfo, BackupInfo, CollectionInfo, DeployOptions, DifferenceInfo, Health, KeyInfo,
    LoadInfo, SessionFilter, SessionInfo,
};
use zbus::Connection;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::{OwnedFd, OwnedObjectPath};

use super::objects::{Desk, agent_path, behind, session_path};
use super::{parse, top, upload, words};
use crate::domain::{AgentName, SessionId, Status, Tenant};
use crate::session::api::{Deployment, NewSession, Refusal, Source};
use crate::session::{Deleted, Found};

/// As many differences as one reply carries.
const MOST_DIFFERENCES: usize = 10_000;

fn told(found: Result<Found, Refusal>) -> Result<(Vec<DifferenceInfo>, u64), Error> {
    let found = found.map_err(words::refused)?;
    let shown = found.differences.iter().rev().take(MOST_DIFFERENCES);
    Ok((shown.map(words::difference).collect(), found.chunks))
}

/// `org.ashd.Ash1.Manager`.
pub(super) struct Manager {
    /// What it stands on.
    pub(super) desk: Arc<Desk>,
}

#[zbus::interface(name = "org.ashd.Ash1.Manager", introspection_docs = false)]
impl Manager {
    #[zbus(out_args("agent", "version"))]
    async fn deploy(
        &self,
        name: &str,
        folder: OwnedFd,
        options: DeployOptions,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(OwnedObjectPath, u32), Error> {
        let name: AgentName = parse::word("name", name)?;
        let archive =
            upload::archive(folder.into()).map_err(|wrong| Error::Invalid(wrong.to_string()))?;
        let deployment = Deployment {
            name: name.clone(),
            source: Source::Tar(archive),
            system_prompt: options.system_prompt,
            env: options.env.map(|env| env.into_iter().collect()),
            config: options.config.as_deref().map(parse::whole_config).transpose()?,
        };
        let deployed = self.desk.service.deploy(&self.desk.caller, deployment).await;
        let agent = deployed.map_err(words::refused)?;
        self.desk.sync_agent(bus, &name).await.map_err(behind)?;
        Ok((agent_path(&name)?, agent.version))
    }

    #[zbus(out_args("agents"))]
    async fn list_agents(&self) -> Result<Vec<AgentInfo>, Error> {
        let service = &self.desk.service;
        let agents = service.agents(&self.desk.caller).await.map_err(words::refused)?;
        Ok(agents.iter().map(|agent| words::agent(service, agent)).collect())
    }

    #[zbus(out_args("agent", "info"))]
    async fn get_agent(&self, name: &str) -> Result<(OwnedObjectPath, AgentInfo), Error> {
        let name: AgentName = parse::word("name", name)?;
        let found = self.desk.service.agent(&self.desk.caller, &name).await;
        let agent = found.map_err(words::refused)?;
        Ok((agent_path(&name)?, words::agent(&self.desk.service, &agent)))
    }

    #[zbus(out_args("sessions", "total"))]
    async fn list_sessions(&self, filter: SessionFilter) -> Result<(Vec<SessionInfo>, u64), Error> {
        let listed = self.desk.service.sessions(&self.desk.caller, parse::filter(filter)?).await;
        let (sessions, total) = listed.map_err(words::refused)?;
        Ok((sessions.iter().map(words::session).collect(), total))
    }

    #[zbus(out_args("session", "info"))]
    async fn get_session(
        &self,
        id: &str,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(OwnedObjectPath, SessionInfo), Error> {
        let id: SessionId = parse::word("id", id)?;
        let found = self.desk.service.session(&self.desk.caller, id).await;
        let view = found.map_err(words::refused)?;
        if view.session.status == Status::Ended {
            self.desk.make_readable(bus, id).await.map_err(behind)?;
        }
        Ok((session_path(id)?, words::session(&view.session)))
    }

    #[zbus(out_args("session", "id"))]
    async fn create_session(
        &self,
        agent: &str,
        settings: &str,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(OwnedObjectPath, String), Error> {
        let agent = parse::word("agent", agent)?;
        let new = NewSession { agent, settings: parse::settings(settings)? };
        let created = self.desk.service.create(&self.desk.caller, new).await;
        let id = created.map_err(words::refused)?.session.id;
        self.desk.sync_session(bus, id).await.map_err(behind)?;
        Ok((session_path(id)?, id.to_string()))
    }

    #[zbus(out_args("session", "id"))]
    async fn import_session(
        &self,
        id: &str,
        checkpoint: &str,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(OwnedObjectPath, String), Error> {
        let id: SessionId = parse::word("id", id)?;
        let point = match checkpoint {
            "" => None,
            point => Some(parse::word("checkpoint", point)?),
        };
        let imported = self.desk.service.import(&self.desk.caller, id, point).await;
        imported.map_err(words::refused)?;
        self.desk.sync_session(bus, id).await.map_err(behind)?;
        Ok((session_path(id)?, id.to_string()))
    }

    #[zbus(out_args("sessions"))]
    async fn top(&self) -> Result<Vec<LoadInfo>, Error> {
        top::rows(&self.desk).await
    }

    #[zbus(out_args("id", "key"))]
    async fn create_key(&self, name: &str, scope: &str) -> Result<(String, String), Error> {
        let scope = parse::word("scope", scope)?;
        let created = self.desk.keys.create(&self.desk.caller, name, scope).await;
        let (key, text) = created.map_err(words::refused)?;
        Ok((key.id.to_string(), text))
    }

    #[zbus(out_args("keys"))]
    async fn list_keys(&self) -> Result<Vec<KeyInfo>, Error> {
        let keys = self.desk.keys.list(&self.desk.caller).await.map_err(words::refused)?;
        Ok(keys.into_iter().map(words::key).collect())
    }

    async fn revoke_key(&self, id: &str) -> Result<(), Error> {
        let id = parse::key_id(id)?;
        self.desk.keys.revoke(&self.desk.caller, id).await.map_err(words::refused)
    }

    #[zbus(out_args("differences", "chunks"))]
    async fn fsck(&self, deep: bool) -> Result<(Vec<DifferenceInfo>, u64), Error> {
        told(self.desk.service.fsck(deep).await)
    }

    #[zbus(out_args("differences", "chunks"))]
    async fn check_snapshots(&self) -> Result<(Vec<DifferenceInfo>, u64), Error> {
        told(self.desk.service.check_snapshots().await)
    }

    #[zbus(out_args("collected"))]
    async fn collect_snapshots(&self, preview: bool) -> Result<Vec<CollectionInfo>, Error> {
        let collected = self.desk.service.collect(preview).await.map_err(words::refused)?;
        Ok(collected.iter().map(words::collection).collect())
    }

    #[zbus(out_args("backup"))]
    async fn backup(&self, directory: OwnedFd) -> Result<BackupInfo, Error> {
        let made = self.desk.service.back_up(directory.into()).await.map_err(words::refused)?;
        Ok(words::backup(&made))
    }

    #[zbus(out_args("sessions", "agents", "keys"))]
    async fn delete_tenant(&self, name: &str) -> Result<(u64, u64, u64), Error> {
        let tenant: Tenant = parse::word("name", name)?;
        let deleted = self.desk.service.delete_tenant(&self.desk.keys, &tenant).await;
        let Deleted { sessions, agents, keys } = deleted.map_err(words::refused)?;
        Ok((sessions, agents, keys))
    }

    #[zbus(property(emits_changed_signal = "const"))]
    async fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    #[zbus(property(emits_changed_signal = "false"))]
    async fn status(&self) -> Health {
        words::health(self.desk.service.health().await)
    }

    #[zbus(signal)]
    pub(super) async fn agent_deployed(
        emitter: &SignalEmitter<'_>,
        name: &str,
        version: u32,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn agent_deleted(emitter: &SignalEmitter<'_>, name: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn session_added(
        emitter: &SignalEmitter<'_>,
        id: &str,
        path: OwnedObjectPath,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn session_removed(
        emitter: &SignalEmitter<'_>,
        id: &str,
        path: OwnedObjectPath,
    ) -> zbus::Result<()>;
}
