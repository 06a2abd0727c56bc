//! Where the state directory keeps what.

use std::path::PathBuf;

use crate::domain::{AgentName, SessionId, Tenant};

/// The directories of a session that a point holds.
pub(super) const ROOTS: [&str; 2] = ["workspace", "home"];

/// The state directory.
#[derive(Clone, Debug)]
pub struct Places {
    /// Its path, absolute.
    pub data_dir: PathBuf,
}

impl Places {
    /// Every agent of every tenant.
    pub fn agents(&self) -> PathBuf {
        self.data_dir.join("agents")
    }

    /// Deployments under way.
    pub fn staging(&self) -> PathBuf {
        self.data_dir.join("agents/.staging")
    }

    /// Every version of an agent.
    pub fn agent(&self, tenant: &Tenant, name: &AgentName) -> PathBuf {
        self.agents().join(tenant.as_str()).join(name.as_str())
    }

    /// One version of an agent.
    pub fn version(&self, tenant: &Tenant, name: &AgentName, version: u32) -> PathBuf {
        self.agent(tenant, name).join(version.to_string())
    }

    /// Every session that has not ended.
    pub fn sessions(&self) -> PathBuf {
        self.data_dir.join("sessions")
    }

    /// One session: its workspace and its home.
    pub fn session(&self, id: SessionId) -> PathBuf {
        self.sessions().join(id.to_string())
    }

    /// Whether workspace and home of a session are there.
    pub fn has_files(&self, id: SessionId) -> bool {
        let root = self.session(id);
        ROOTS.iter().all(|name| root.join(name).is_dir())
    }

    /// Attachments of every session.
    pub fn attachments(&self) -> PathBuf {
        self.data_dir.join("attachments")
    }

    /// Attachments of one session, by their ids.
    pub fn attachments_of(&self, id: SessionId) -> PathBuf {
        self.attachments().join(id.to_string())
    }

    /// What is kept of sessions: a vault for each tenant.
    pub fn vaults(&self) -> PathBuf {
        self.data_dir.join("snapshots/store")
    }

    /// Workspaces of sessions that ended before there were points.
    pub fn old_snapshots(&self) -> PathBuf {
        self.data_dir.join("snapshots")
    }
}
