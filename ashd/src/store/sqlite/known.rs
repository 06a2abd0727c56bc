//! Agents as they were last read. Whoever makes a session asks for its agent, which is nearly always what it
//! was a moment ago: to wait for a thread that reads the row takes longer than much else of it.
//!
//! What is known is what a read would find. Each transaction that may have changed agents has all of them
//! forgotten, behind its end and before anybody is told of it; what was read meanwhile is not kept.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::{Agent, AgentName, Tenant};

/// The most agents that are kept. One more, and it begins anew.
const MOST: usize = 64;

/// Bytes of an environment, names and values, above which an agent is not kept.
const LARGE: usize = 16 * 1024;

/// Agents that are known.
#[derive(Default)]
pub(super) struct KnownAgents(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    agents: HashMap<(Tenant, AgentName), Agent>,
    /// How often all were forgotten.
    forgotten: u64,
}

/// From when on an agent is read that is not known.
pub(super) struct Since(u64);

impl KnownAgents {
    /// An agent that is known; else from when on it is read.
    pub(super) fn find(&self, tenant: &Tenant, name: &AgentName) -> Result<Agent, Since> {
        let inner = self.lock();
        let known = inner.agents.get(&(tenant.clone(), name.clone()));
        known.cloned().ok_or(Since(inner.forgotten))
    }

    /// Keeps what was read, unless something may have been changed since that was begun.
    pub(super) fn keep(&self, agent: &Agent, Since(since): Since) {
        let bytes: usize = agent.env.iter().map(|(name, value)| name.len() + value.len()).sum();
        let mut inner = self.lock();
        if inner.forgotten != since || bytes > LARGE {
            return;
        }
        if inner.agents.len() >= MOST {
            inner.agents.clear();
        }
        inner.agents.insert((agent.tenant.clone(), agent.name.clone()), agent.clone());
    }

    /// Agents may have been changed.
    pub(super) fn forget(&self) {
        let mut inner = self.lock();
        inner.agents.clear();
        inner.forgotten += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AgentConfig, AgentId, Timestamp};

    fn agent(name: &str) -> Agent {
        Agent {
            id: AgentId(uuid::Uuid::nil()),
            tenant: Tenant::default(),
            name: name.parse().unwrap(),
            version: 1,
            env: Default::default(),
            config: AgentConfig::default(),
            created_at: Timestamp(1),
            updated_at: Timestamp(1),
        }
    }

    fn find(known: &KnownAgents, agent: &Agent) -> Result<Agent, Since> {
        known.find(&agent.tenant, &agent.name)
    }

    /// Reads an agent that is not known.
    fn read(known: &KnownAgents, agent: &Agent) {
        let Err(since) = find(known, agent) else { panic!("it is known") };
        known.keep(agent, since);
    }

    #[test]
    fn what_was_read_while_something_changed_is_not_kept() {
        let (known, agent) = (KnownAgents::default(), agent("a"));
        let Err(since) = find(&known, &agent) else { panic!("it is known") };
        known.forget();
        known.keep(&agent, since);
        assert!(find(&known, &agent).is_err());
        read(&known, &agent);
        assert!(find(&known, &agent).is_ok_and(|found| found == agent));
        let other: Tenant = "other".parse().unwrap();
        assert!(known.find(&other, &agent.name).is_err());
        known.forget();
        assert!(find(&known, &agent).is_err());
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let known = KnownAgents::default();
        let mut large = agent("large");
        large.env.insert("A".to_owned(), "x".repeat(LARGE));
        read(&known, &large);
        assert!(find(&known, &large).is_err());
        let agents: Vec<_> = (0..3 * MOST).map(|n| agent(&format!("a{n}"))).collect();
        for agent in &agents {
            read(&known, agent);
            assert!(find(&known, agent).is_ok());
        }
        let kept = agents.iter().filter(|agent| find(&known, agent).is_ok()).count();
        assert!(kept <= MOST, "{kept} are kept");
    }
}
