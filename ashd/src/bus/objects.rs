//! The objects of agents and sessions, kept in step with the service.
//!
//! News only says what to look at: each step asks the service how things are now and makes the
//! tree agree, under one lock. So steps may come late, twice or out of order.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use ash_dbus::{Error, ROOT, path};
use tokio::sync::Mutex;
use tracing::warn;
use zbus::Connection;
use zbus::fdo::Properties;
use zbus::object_server::{Interface, SignalEmitter};
use zbus::zvariant::{OwnedObjectPath, Value};

use super::agent::Agent;
use super::manager::Manager;
use super::serve::Verbs;
use super::session::Session;
use super::words;
use crate::domain::{self, AgentId, AgentName, Scope, SessionId, Status, Timestamp};
use crate::session::api::{Caller, Happened, Refusal};
use crate::session::keys::KeyRing;
use crate::session::{Service, SessionFilter, SessionView};

/// How many ended sessions keep an object for reading.
const READABLE: usize = 64;

/// What all objects on one connection share.
pub(super) struct Desk {
    /// The verbs.
    pub(super) service: Service,
    /// Those about API keys.
    pub(super) keys: KeyRing,
    /// On whose behalf callers of the bus act.
    pub(super) caller: Caller,
    known: Mutex<Known>,
}

/// What is in the tree.
#[derive(Default)]
struct Known {
    stage: Stage,
    agents: HashMap<AgentName, Said>,
    sessions: HashSet<SessionId>,
    /// Ended ones, oldest first.
    readable: VecDeque<SessionId>,
}

/// How an agent was when it was last spoken of: what did not happen since is not told again.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Said {
    /// Which agent, at which version: one that is deleted and made anew has another id.
    deployed: (AgentId, u32),
    updated_at: Timestamp,
}

impl Said {
    fn of(agent: &domain::Agent) -> Self {
        Said { deployed: (agent.id, agent.version), updated_at: agent.updated_at }
    }
}

/// Whether there is somebody to tell.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum Stage {
    /// The tree is being filled: what is put there is no news.
    #[default]
    Filling,
    /// Callers are answered.
    Serving,
    /// The name goes away, and with it what keeps signals from those who may not hear them.
    Leaving,
}

/// The object of an agent.
pub(super) fn agent_path(name: &AgentName) -> Result<OwnedObjectPath, Error> {
    path::of_agent(name.as_str()).ok_or_else(|| Error::Failed("an agent without a name".into()))
}

/// The object of a session.
pub(super) fn session_path(id: SessionId) -> Result<OwnedObjectPath, Error> {
    path::of_session(&id.to_string()).ok_or_else(|| Error::Failed("an id without a path".into()))
}

/// What a caller is told when the tree could not be changed. An error of zbus has no name of ours.
pub(super) fn behind(error: Error) -> Error {
    match error {
        Error::Bus(error) => Error::Failed(format!("the objects on D-Bus are behind: {error}")),
        named => named,
    }
}

impl Desk {
    /// Nothing is in the tree yet.
    pub(super) fn new(verbs: Verbs) -> Arc<Self> {
        let Verbs { service, keys } = verbs;
        let caller = Caller { tenant: Default::default(), scope: Scope::Manage };
        Arc::new(Desk { service, keys, caller, known: Mutex::default() })
    }

    /// From now on news is told.
    pub(super) async fn serve(&self) {
        self.known.lock().await.stage = Stage::Serving;
    }

    /// From now on nothing is told, and the tree stays as it is.
    pub(super) async fn leave(&self) {
        self.known.lock().await.stage = Stage::Leaving;
    }

    /// Makes the tree agree with the service altogether.
    pub(super) async fn sync_all(self: &Arc<Self>, bus: &Connection) -> Result<(), Error> {
        let (mut agents, mut sessions) = {
            let known = self.known.lock().await;
            (known.agents.keys().cloned().collect::<HashSet<_>>(), known.sessions.clone())
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

    /// Looks at what happened. What cannot be done now is logged; the next news heals it.
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
            Happened::SessionTurned(tenant, id) if tenant == self.caller.tenant => {
                self.announce_turn(bus, id).await
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
        if known.stage == Stage::Leaving {
            return Ok(());
        }
        match self.service.agent(&self.caller, name).await {
            Ok(agent) => self.show_agent(bus, &mut known, &agent).await,
            Err(Refusal::NoAgent | Refusal::NoAgentNamed(_)) => {
                if known.agents.remove(name).is_some() {
                    bus.object_server().remove::<Agent, _>(agent_path(name)?).await?;
                    Manager::agent_deleted(&root(bus)?, name.as_str()).await?;
                }
                Ok(())
            }
            Err(refusal) => Err(words::refused(refusal)),
        }
    }

    /// Gives an agent its object, or says what is new about one that has it.
    async fn show_agent(
        self: &Arc<Self>,
        bus: &Connection,
        known: &mut Known,
        agent: &domain::Agent,
    ) -> Result<(), Error> {
        let (said, now) = (known.agents.get(&agent.name).copied(), Said::of(agent));
        match said {
            Some(said) if said == now => return Ok(()),
            Some(_) => announce_agent(bus, agent).await?,
            None => {
                let object = Agent { desk: self.clone(), name: agent.name.clone() };
                bus.object_server().at(agent_path(&agent.name)?, object).await?;
            }
        }
        known.agents.insert(agent.name.clone(), now);
        let is_deployed = said.is_none_or(|said| said.deployed != now.deployed);
        if is_deployed && known.stage == Stage::Serving {
            Manager::agent_deployed(&root(bus)?, agent.name.as_str(), agent.version).await?;
        }
        Ok(())
    }

    /// Says that an agent is not as it was, if it has an object.
    async fn announce_agent(&self, bus: &Connection, name: &AgentName) -> Result<(), Error> {
        let mut known = self.known.lock().await;
        if known.stage == Stage::Leaving {
            return Ok(());
        }
        let Some(said) = known.agents.get_mut(name) else { return Ok(()) };
        let agent = self.service.agent(&self.caller, name).await.map_err(words::refused)?;
        announce_agent(bus, &agent).await?;
        // A deployment has news of its own.
        said.updated_at = agent.updated_at;
        Ok(())
    }

    /// Says that a turn has begun or ended, if the session has an object.
    async fn announce_turn(&self, bus: &Connection, id: SessionId) -> Result<(), Error> {
        let known = self.known.lock().await;
        if known.stage == Stage::Leaving || !known.sessions.contains(&id) {
            return Ok(());
        }
        match self.service.session(&self.caller, id).await {
            Ok(view) => announce_session(bus, &view.session).await,
            Err(Refusal::NoSession) => Ok(()),
            Err(refusal) => Err(words::refused(refusal)),
        }
    }

    /// Makes the object of one session agree with the service.
    pub(super) async fn sync_session(
        self: &Arc<Self>,
        bus: &Connection,
        id: SessionId,
    ) -> Result<(), Error> {
        let mut known = self.known.lock().await;
        if known.stage == Stage::Leaving {
            return Ok(());
        }
        let path = session_path(id)?;
        let session = self.found(id).await?;
        let alive = session.as_ref().filter(|view| view.session.status != Status::Ended);
        match (alive, known.sessions.contains(&id)) {
            (Some(view), true) => announce_session(bus, &view.session).await?,
            (Some(_), false) => {
                self.put(bus, id).await?;
                known.lives(id);
                if known.stage == Stage::Serving {
                    Manager::session_added(&root(bus)?, &id.to_string(), path).await?;
                }
            }
            (None, true) => {
                known.sessions.remove(&id);
                bus.object_server().remove::<Session, _>(&path).await?;
                Manager::session_removed(&root(bus)?, &id.to_string(), path).await?;
            }
            (None, false) if session.is_none() => known.forget(bus, id).await?,
            (None, false) => {}
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
        let has_object = known.sessions.contains(&id) || known.readable.contains(&id);
        if has_object || known.stage == Stage::Leaving {
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
        let object = Session { desk: self.clone(), id };
        bus.object_server().at(session_path(id)?, object).await?;
        Ok(())
    }

    /// A session, if there is one.
    async fn found(&self, id: SessionId) -> Result<Option<Arc<SessionView>>, Error> {
        match self.service.session(&self.caller, id).await {
            Ok(view) => Ok(Some(view)),
            Err(Refusal::NoSession) => Ok(None),
            Err(refusal) => Err(words::refused(refusal)),
        }
    }
}

impl Known {
    /// Counts a session among those that live. One that came back may have an object for reading, which
    /// is no longer one that goes for others.
    fn lives(&mut self, id: SessionId) {
        self.readable.retain(|readable| *readable != id);
        self.sessions.insert(id);
    }

    /// Takes an ended session's object away again.
    async fn forget(&mut self, bus: &Connection, id: SessionId) -> Result<(), Error> {
        if let Some(at) = self.readable.iter().position(|readable| *readable == id) {
            self.readable.remove(at);
            bus.object_server().remove::<Session, _>(session_path(id)?).await?;
        }
        Ok(())
    }
}

/// Signals of the manager go out from its object.
fn root(bus: &Connection) -> zbus::Result<SignalEmitter<'static>> {
    SignalEmitter::new(bus, ROOT)
}

/// Says what may have changed about an agent, in one signal.
async fn announce_agent(bus: &Connection, agent: &domain::Agent) -> Result<(), Error> {
    let changed = HashMap::from([
        ("EnvNames", Value::from(words::env_names(agent))),
        ("UpdatedAt", Value::from(agent.updated_at.to_string())),
        ("Version", Value::from(agent.version)),
    ]);
    announce::<Agent>(bus, agent_path(&agent.name)?, changed).await
}

/// Says what may have changed about a session, in one signal.
async fn announce_session(bus: &Connection, session: &domain::Session) -> Result<(), Error> {
    let info = words::session(session);
    let changed = HashMap::from([
        ("CliVersion", Value::from(info.cli_version)),
        ("LastActiveAt", Value::from(info.last_active_at)),
        ("LastError", Value::from(info.last_error)),
        ("LastSeq", Value::from(info.last_seq)),
        ("Status", Value::from(info.status)),
        ("Turn", Value::from(info.turn)),
    ]);
    announce::<Session>(bus, session_path(session.id)?, changed).await
}

async fn announce<I: Interface>(
    bus: &Connection,
    path: OwnedObjectPath,
    changed: HashMap<&str, Value<'_>>,
) -> Result<(), Error> {
    let emitter = SignalEmitter::new(bus, path)?;
    Ok(Properties::properties_changed(&emitter, I::name(), changed, Cow::Borrowed(&[])).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It ended here because another machine had it, was read, and was imported again.
    #[test]
    fn a_session_that_comes_back_loses_its_object_to_no_other_one() {
        let mut known = Known::default();
        let [back, ended] = [SessionId::random(), SessionId::random()];
        known.readable.extend([back, ended]);
        known.lives(back);
        assert_eq!(known.readable, [ended]);
        assert!(known.sessions.contains(&back));
    }
}
