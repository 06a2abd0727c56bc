//! Tenants that are deleted.

use rusqlite::{Connection, params};

use super::keys;
use crate::domain::Tenant;
use crate::store::{Key, Result, StoreError};

/// Marks a tenant as one that is being deleted, and takes its keys away. `None`: there is nothing of
/// it, and it is not marked.
pub(super) fn leave(conn: &Connection, tenant: &Tenant) -> Result<Option<Vec<Key>>> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sessions WHERE tenant = ?1)
         OR EXISTS (SELECT 1 FROM agents WHERE tenant = ?1)
         OR EXISTS (SELECT 1 FROM keys WHERE tenant = ?1)
         OR EXISTS (SELECT 1 FROM purged_copies WHERE tenant = ?1)
         OR EXISTS (SELECT 1 FROM leaving_tenants WHERE tenant = ?1)";
    if !conn.query_row(sql, [tenant], |row| row.get::<_, bool>(0))? {
        return Ok(None);
    }
    let sql = "INSERT OR IGNORE INTO leaving_tenants (tenant) VALUES (?)";
    conn.execute(sql, [tenant])?;
    keys::remove_all(conn, tenant).map(Some)
}

pub(super) fn leaving(conn: &Connection) -> Result<Vec<Tenant>> {
    let mut query = conn.prepare_cached("SELECT tenant FROM leaving_tenants ORDER BY tenant")?;
    let tenants = query.query_map([], |row| row.get(0))?;
    Ok(tenants.collect::<rusqlite::Result<_>>()?)
}

/// Refuses what would be added to a tenant that is being deleted.
pub(super) fn stays(conn: &Connection, tenant: &Tenant) -> Result<()> {
    let sql = "SELECT EXISTS (SELECT 1 FROM leaving_tenants WHERE tenant = ?)";
    match conn.prepare_cached(sql)?.query_row([tenant], |row| row.get(0))? {
        true => Err(StoreError::Missing { what: "the tenant, which is being deleted," }),
        false => Ok(()),
    }
}

/// Removes what is left of a tenant, and the mark. Keys that were made meanwhile stay.
pub(super) fn left(conn: &Connection, tenant: &Tenant) -> Result<()> {
    for table in ["sessions", "agents", "purged_copies", "leaving_tenants"] {
        conn.execute(&format!("DELETE FROM {table} WHERE tenant = ?"), params![tenant])?;
    }
    Ok(())
}
