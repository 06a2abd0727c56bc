//! Files that may not be on the disk.

use rusqlite::{Connection, Row, params};

use super::sessions::head;
use crate::domain::{PointId, SandboxId, SessionId};
use crate::store::{Result, Unsynced};

pub(super) fn note(conn: &Connection, files: &Unsynced) -> Result<()> {
    let head = head(conn, files.session)?;
    let sql = "INSERT OR REPLACE INTO unsynced (session, point, build, boot) VALUES (?, ?, ?, ?)";
    let row = params![head.key, files.point, files.build, files.boot];
    conn.prepare_cached(sql)?.execute(row)?;
    Ok(())
}

/// A session has another point: whatever is lost of its files, they are in there.
pub(super) fn saved(conn: &Connection, session: SessionId, point: PointId) -> Result<()> {
    let sql = "UPDATE unsynced SET point = ?2
         WHERE session = (SELECT key FROM sessions WHERE id = ?1)";
    conn.prepare_cached(sql)?.execute(params![session, point])?;
    Ok(())
}

pub(super) fn forget(conn: &Connection, session: SessionId, build: SandboxId) -> Result<()> {
    let sql = "DELETE FROM unsynced
         WHERE session = (SELECT key FROM sessions WHERE id = ?1) AND build = ?2";
    conn.prepare_cached(sql)?.execute(params![session, build])?;
    Ok(())
}

/// What is in place does not matter any more.
pub(super) fn forget_all(conn: &Connection, session: i64) -> Result<()> {
    conn.prepare_cached("DELETE FROM unsynced WHERE session = ?")?.execute([session])?;
    Ok(())
}

pub(super) fn all(conn: &Connection) -> Result<Vec<Unsynced>> {
    let sql = "SELECT id, point, build, boot FROM unsynced JOIN sessions ON session = key
         WHERE status <> 'ended' ORDER BY key";
    let read = |row: &Row<'_>| {
        let (session, point, build) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(Unsynced { session, point, build, boot: row.get(3)? })
    };
    Ok(conn.prepare_cached(sql)?.query_map([], read)?.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn build_again(conn: &Connection, session: SessionId) -> Result<()> {
    let head = head(conn, session)?;
    let sql = "UPDATE sessions SET restore =
             coalesce(restore, (SELECT point FROM unsynced WHERE session = key))
         WHERE key = ?";
    conn.prepare_cached(sql)?.execute([head.key])?;
    forget_all(conn, head.key)
}
