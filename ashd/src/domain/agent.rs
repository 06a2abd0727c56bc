//! Agents.

use std::collections::BTreeMap;

use super::{AgentConfig, AgentId, AgentName, Tenant, Timestamp};

/// A deployed folder, at its newest version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Agent {
    /// Stays the same across versions.
    pub id: AgentId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Unique within the tenant.
    pub name: AgentName,
    /// Counts deployments from 1.
    pub version: u32,
    /// Environment that every session of it gets.
    pub env: BTreeMap<String, String>,
    /// What holds for the sessions that will be made with it.
    pub config: AgentConfig,
    /// Time of the first deployment.
    pub created_at: Timestamp,
    /// Time of the newest deployment or change.
    pub updated_at: Timestamp,
}
