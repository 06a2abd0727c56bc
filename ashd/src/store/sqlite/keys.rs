//! API keys.

use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::values::exists;
use crate::store::{Key, Result};

pub(super) fn add(conn: &Connection, key: &Key) -> Result<()> {
    let sql = "INSERT INTO keys (id, tenant, hash, label, created_at) VALUES (?, ?, ?, ?, ?)";
    let row = params![key.id.as_bytes(), key.tenant, key.hash, key.label, key.created_at];
    conn.execute(sql, row).map_err(exists("the key"))?;
    Ok(())
}

/// Every key, oldest first.
pub(super) fn all(conn: &Connection) -> Result<Vec<Key>> {
    let sql = "SELECT id, tenant, hash, label, created_at FROM keys ORDER BY rowid";
    Ok(conn.prepare_cached(sql)?.query_map([], read)?.collect::<rusqlite::Result<_>>()?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Key> {
    Ok(Key {
        id: Uuid::from_bytes(row.get(0)?),
        tenant: row.get(1)?,
        hash: row.get(2)?,
        label: row.get(3)?,
        created_at: row.get(4)?,
    })
}
