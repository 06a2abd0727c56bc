//! Agents.

use std::collections::BTreeMap;

use super::{AgentId, AgentName, Tenant, Timestamp};

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
    /// Time of the first deployment.
    pub created_at: Timestamp,
    /// Time of this version's deployment.
    pub updated_at: Timestamp,
}
