//! Agents and what was deployed of them.

use rusqlite::{Connection, OptionalExtension, Params, Row, params};

use super::tenants;
use super::values::{Json, exists};
use crate::domain::{Agent, AgentId, AgentName, Tenant};
use crate::store::{Result, StoreError};

const WHAT: &str = "this version of the agent";

const SELECT: &str =
    "SELECT id, tenant, name, version, env, config, created_at, updated_at FROM agents";

/// Records a deployment; what the agent had before wins over what is said to be its id and time of
/// creation.
pub(super) fn deploy(conn: &Connection, mut agent: Agent) -> Result<Agent> {
    let known = find(conn, &agent.tenant, &agent.name)?;
    let newest = known.as_ref().map_or(0, |known| known.version);
    if u64::from(agent.version) != u64::from(newest) + 1 {
        return Err(StoreError::Exists { what: WHAT });
    }
    if let Some(known) = known {
        (agent.id, agent.created_at) = (known.id, known.created_at);
        advance(conn, &agent)?;
    } else {
        insert(conn, &agent)?;
    }
    keep_version(conn, &agent)?;
    Ok(agent)
}

/// Records an agent at whatever version it has: one that is new here, or a newer version of one that is
/// known.
pub(super) fn adopt(conn: &Connection, agent: &Agent) -> Result<()> {
    match find(conn, &agent.tenant, &agent.name)? {
        None => insert(conn, agent)?,
        Some(known) if known.id == agent.id && known.version < agent.version => {
            advance(conn, agent)?;
        }
        Some(_) => return Err(StoreError::Exists { what: WHAT }),
    }
    keep_version(conn, agent)
}

fn insert(conn: &Connection, agent: &Agent) -> Result<()> {
    tenants::stays(conn, &agent.tenant)?;
    let sql = "INSERT INTO agents (id, tenant, name, version, created_at, env, config, updated_at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    let row = params![
        agent.id,
        agent.tenant,
        agent.name,
        agent.version,
        agent.created_at,
        Json(&agent.env),
        Json(&agent.config),
        agent.updated_at,
    ];
    conn.execute(sql, row).map_err(exists("an agent with this id"))?;
    Ok(())
}

fn advance(conn: &Connection, agent: &Agent) -> Result<()> {
    conn.execute("UPDATE agents SET version = ? WHERE id = ?", params![agent.version, agent.id])?;
    change(conn, agent)?;
    Ok(())
}

/// Writes what can change without a deployment.
pub(super) fn change(conn: &Connection, agent: &Agent) -> Result<bool> {
    let sql = "UPDATE agents SET env = ?, config = ?, updated_at = ? WHERE id = ?";
    let row = params![Json(&agent.env), Json(&agent.config), agent.updated_at, agent.id];
    Ok(conn.execute(sql, row)? > 0)
}

fn keep_version(conn: &Connection, agent: &Agent) -> Result<()> {
    let sql = "INSERT INTO agent_versions (agent, version, env, deployed_at)
               SELECT key, version, ?2, ?3 FROM agents WHERE id = ?1";
    conn.execute(sql, params![agent.id, Json(&agent.env), agent.updated_at])?;
    Ok(())
}

pub(super) fn find(conn: &Connection, tenant: &Tenant, name: &AgentName) -> Result<Option<Agent>> {
    let sql = format!("{SELECT} WHERE tenant = ? AND name = ?");
    let mut query = conn.prepare_cached(&sql)?;
    Ok(query.query_row(params![tenant, name], read).optional()?)
}

/// Whether there is an agent with this id, and it is called like this.
pub(super) fn is_called(
    conn: &Connection,
    id: AgentId,
    (tenant, name): (&Tenant, &AgentName),
) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM agents WHERE tenant = ? AND name = ? AND id = ?)";
    let mut query = conn.prepare_cached(sql)?;
    Ok(query.query_row(params![tenant, name, id], |row| row.get(0))?)
}

/// Every agent of a tenant, by name.
pub(super) fn of_tenant(conn: &Connection, tenant: &Tenant) -> Result<Vec<Agent>> {
    list(conn, &format!("{SELECT} WHERE tenant = ? ORDER BY name"), [tenant])
}

/// Every agent, by tenant and name.
pub(super) fn all(conn: &Connection) -> Result<Vec<Agent>> {
    list(conn, &format!("{SELECT} ORDER BY tenant, name"), [])
}

pub(super) fn delete(conn: &Connection, tenant: &Tenant, name: &AgentName) -> Result<bool> {
    let sql = "DELETE FROM agents WHERE tenant = ? AND name = ?";
    Ok(conn.execute(sql, params![tenant, name])? > 0)
}

fn list(conn: &Connection, sql: &str, params: impl Params) -> Result<Vec<Agent>> {
    Ok(conn.prepare_cached(sql)?.query_map(params, read)?.collect::<rusqlite::Result<_>>()?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Agent> {
    let (Json(env), Json(config)) = (row.get(4)?, row.get(5)?);
    Ok(Agent {
        id: row.get(0)?,
        tenant: row.get(1)?,
        name: row.get(2)?,
        version: row.get(3)?,
        env,
        config,
        created_at: row.get(6)?,
        updated_at: row.get(7)?,
    })
}
