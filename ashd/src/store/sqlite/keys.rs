//! API keys.

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::values::exists;
use crate::domain::Tenant;
use crate::store::{Key, Result};

const COLUMNS: &str = "id, tenant, hash, label, scope, created_at";

pub(super) fn add(conn: &Connection, key: &Key) -> Result<()> {
    let sql = format!("INSERT INTO keys ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)");
    let row =
        params![key.id.as_bytes(), key.tenant, key.hash, key.label, key.scope, key.created_at];
    conn.execute(&sql, row).map_err(exists("the key"))?;
    Ok(())
}

/// Every key, oldest first.
pub(super) fn all(conn: &Connection) -> Result<Vec<Key>> {
    let sql = format!("SELECT {COLUMNS} FROM keys ORDER BY rowid");
    Ok(conn.prepare_cached(&sql)?.query_map([], read)?.collect::<rusqlite::Result<_>>()?)
}

/// Removes a key of a tenant and returns it as it was.
pub(super) fn remove(conn: &Connection, tenant: &Tenant, id: Uuid) -> Result<Option<Key>> {
    let sql = format!("DELETE FROM keys WHERE id = ? AND tenant = ? RETURNING {COLUMNS}");
    Ok(conn.query_row(&sql, params![id.as_bytes(), tenant], read).optional()?)
}

/// Removes every key of a tenant and returns them as they were.
pub(super) fn remove_all(conn: &Connection, tenant: &Tenant) -> Result<Vec<Key>> {
    let sql = format!("DELETE FROM keys WHERE tenant = ? RETURNING {COLUMNS}");
    Ok(conn.prepare(&sql)?.query_map([tenant], read)?.collect::<rusqlite::Result<_>>()?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Key> {
    Ok(Key {
        id: Uuid::from_bytes(row.get(0)?),
        tenant: row.get(1)?,
        hash: row.get(2)?,
        label: row.get(3)?,
        scope: row.get(4)?,
        created_at: row.get(5)?,
    })
}
