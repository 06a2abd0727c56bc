//! The objects of agents and sessions, kept in step with the service.
//!
//! News only says what to look at: each step asks the service how things are now and makes the
//! tree agree, under one lock. So steps may come late, twice or out of order.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use ash_dbus::{Error, ROOT, path};
use tokio::sync::Mutex;
use tracing::warn;
use zbus::Connection;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::OwnedObjectPath;

use super::agent::Agent;
use super::gate::Gated;
use super::manager::Manager;
use super::session::Session;
use super::words;
use crate::domain::{AgentName, Scope, SessionId, Status};
use crate::session::Service;
use crate::session::SessionFilter;
use crate::session::api::{Caller, Happened, Refusal};

/// How many ended sessions keep an object for reading.
const READABLE: usize = 64;

/// What all objects on one connection share.
pub(super) struct Desk {
    /// The verbs.
    pub(super) service: Service,
    /// On whose behalf callers of the bus act.
    pub(super) caller: Caller,
    known: Mutex<Known>,
}

/// What is in the tree.
#[derive(Default)]
struct Known {
    agents: HashSet<AgentName>,
    sessions: HashSet<SessionId>,
    /// Ended ones, oldest first.
    readable: VecDeque<SessionId>,
}

/// The object of an agent.
pub(super) fn agent_path(name: &AgentName) -> Result<OwnedObjectPath, Error> {
    path::of_agent(name.as_str()).ok_or_else(|| Error::Failed("an agent without a name".into()))
}

/// The object of a session.
pub(super) fn session_path(id: SessionId) -> Result<OwnedObjectPath, Error> {
    path::of_session(&id.to_string()).ok_or_else(|| Error::Failed("an id without a path".into()))
}

impl Desk {
    /// Nothing is in the tree yet.
    pub(super) fn new(service: Service) -> Arc<Self> {
        let caller = Caller { tenant: Default::default(), scope: Scope::Manage };
        Arc::new(Desk { service, caller, known: Mutex::default() })
    }

    /// Makes the tree agree with the service altogether.
    pub(super) async fn sync_all(self: &Arc<Self>, bus: &Connection) -> Result<(), Error> {
        let (mut agents, mut sessions) = {
            let known = self.known.lock().await;
            (known.agents.clone(), known.sessions.clone())
        };
        let found = self.service.agents(&self.caller).await.map_err(words::refused)?;
        agents.extend(found.into_iter().map(|agent| agent.name));
        for status in Status::ALL.into_iter().filter(|status| *status != Status::Ended) {
            let filter = SessionFilter { status: Some(status), ..Default::default() };
            let (found, _) =
                self.service.sessions(&self.caller, filter).await.map_err(words::refused)?;
            sessions.extend(found.into_iter().map(|session| session.id));
        }
        for name in agents {
            self.sync_agent(bus, &name).await?;
        }
        for id in sessions {
            self.sync_session(bus, id).await?;
        }
        Ok(())
    }

    /// Looks at what happened. What cannot be done now is logged, the next news heals it.
    pub(super) async fn look_at(self: &Arc<Self>, bus: &Connection, news: Happened) {
        let done = match news {
            Happened::AgentChanged(tenant, name) if tenant == self.caller.tenant => {
                self.announce_agent(bus, &name).await
            }
            Happened::AgentDeployed(tenant, name, _) | Happened::AgentDeleted(tenant, name)
                if tenant == self.caller.tenant =>
            {
                self.sync_agent(bus, &name).await
            }
            Happened::SessionCreated(tenant, id)
            | Happened::SessionChanged(tenant, id, _)
            | Happened::SessionPurged(tenant, id)
                if tenant == self.caller.tenant =>
            {
                self.sync_session(bus, id).await
            }
            _ => Ok(()),
        };
        if let Err(error) = done {
            warn!(%error, "the objects on D-Bus are behind");
        }
    }

    /// Makes the object of one agent agree with the service.
    pub(super) async fn sync_agent(
        self: &Arc<Self>,
        bus: &Connection,
        name: &AgentName,
    ) -> Result<(), Error> {
        let mut known = self.known.lock().await;
        match self.service.agent(&self.caller, name).await {
            Ok(agent) if known.agents.contains(name) => {
                announce_version(bus, name).await?;
                Ok(Manager::agent_deployed(&root(bus)?, name.as_str(), agent.version).await?)
            }
            Ok(agent) => {
                let object = Gated(Agent { desk: self.clone(), name: name.clone() });
                bus.object_server().at(agent_path(name)?, object).await?;
                known.agents.insert(name.clone());
                Ok(Manager::agent_deployed(&root(bus)?, name.as_str(), agent.version).await?)
            }
            Err(Refusal::NoAgent | Refusal::NoAgentNamed(_)) => {
                if known.agents.remove(name) {
                    bus.object_server().remove::<Gated<Agent>, _>(agent_path(name)?).await?;
                    Manager::agent_deleted(&root(bus)?, name.as_str()).await?;
                }
                Ok(())
            }
            Err(refusal) => Err(words::refused(refusal)),
        }
    }

    /// Says that an agent is not as it was, if it has an object.
    async fn announce_agent(&self, bus: &Connection, name: &AgentName) -> Result<(), Error> {
        match self.known.lock().await.agents.contains(name) {
            true => announce_version(bus, name).await,
            false => Ok(()),
        }
    }

    /// Makes the object of one session agree with the service.
    pub(super) async fn sync_session(
        self: &Arc<Self>,
        bus: &Connection,
        id: SessionId,
    ) -> Result<(), Error> {
        let mut known = self.known.lock().await;
        let path = session_path(id)?;
        let status = self.status(id).await?;
        let is_alive = status.is_some_and(|status| status != Status::Ended);
        match (is_alive, known.sessions.contains(&id)) {
            (true, true) => announce_status(bus, &path).await?,
            (true, false) => {
                self.put(bus, id).await?;
                known.sessions.insert(id);
                Manager::session_added(&root(bus)?, &id.to_string(), path).await?;
            }
            (false, true) => {
                known.sessions.remove(&id);
                bus.object_server().remove::<Gated<Session>, _>(&path).await?;
                Manager::session_removed(&root(bus)?, &id.to_string(), path).await?;
            }
            (false, false) if status.is_none() => known.forget(bus, id).await?,
            (false, false) => {}
        }
        Ok(())
    }

    /// Gives an ended session an object for reading; the oldest such object goes for it.
    pub(super) async fn make_readable(
        self: &Arc<Self>,
        bus: &Connection,
        id: SessionId,
    ) -> Result<(), Error> {
        let mut known = self.known.lock().await;
        if known.sessions.contains(&id) || known.readable.contains(&id) {
            return Ok(());
        }
        self.put(bus, id).await?;
        known.readable.push_back(id);
        match known.readable.front().copied() {
            Some(oldest) if known.readable.len() > READABLE => known.forget(bus, oldest).await,
            _ => Ok(()),
        }
    }

    async fn put(self: &Arc<Self>, bus: &Connection, id: SessionId) -> Result<(), Error> {
        let object = Gated(Session { desk: self.clone(), id });
        bus.object_server().at(session_path(id)?, object).await?;
        Ok(())
    }

    /// The status of a session; `None` when there is no such session.
    async fn status(&self, id: SessionId) -> Result<Option<Status>, Error> {
        match self.service.session(&self.caller, id).await {
            Ok(view) => Ok(Some(view.session.status)),
            Err(Refusal::NoSession) => Ok(None),
            Err(refusal) => Err(words::refused(refusal)),
        }
    }
}

impl Known {
    /// Takes an ended session's object away again.
    async fn forget(&mut self, bus: &Connection, id: SessionId) -> Result<(), Error> {
        if let Some(at) = self.readable.iter().position(|readable| *readable == id) {
            self.readable.remove(at);
            bus.object_server().remove::<Gated<Session>, _>(session_path(id)?).await?;
        }
        Ok(())
    }
}

/// Signals of the manager go out from its object.
fn root(bus: &Connection) -> zbus::Result<SignalEmitter<'static>> {
    SignalEmitter::new(bus, ROOT)
}

async fn announce_version(bus: &Connection, name: &AgentName) -> Result<(), Error> {
    let object = bus.object_server().interface::<_, Gated<Agent>>(agent_path(name)?).await?;
    let agent = object.get().await;
    agent.0.version_changed(object.signal_emitter()).await?;
    Ok(agent.0.updated_at_changed(object.signal_emitter()).await?)
}

async fn announce_status(bus: &Connection, path: &OwnedObjectPath) -> Result<(), Error> {
    let object = bus.object_server().interface::<_, Gated<Session>>(path).await?;
    Ok(object.get().await.0.status_changed(object.signal_emitter()).await?)
}
