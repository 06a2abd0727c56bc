//! Purging sessions. A history can be large, and every other commit waits for the transaction that
//! removes it: so it goes in steps.
//!
//! The first takes the session out of everybody's sight, for good, with all that is small. Most often that
//! is all of it. What is left belongs to a row that nobody asks for, and goes with later steps, after a
//! crash as well.

use rusqlite::{Connection, OptionalExtension, params};

use crate::domain::SessionId;
use crate::store::{Purged, Result};

/// Bytes of bodies behind which a step ends. They are overwritten.
const STEP_BYTES: u64 = 4 << 20;

/// Rows that one step removes.
const STEP_ROWS: u64 = 1_000;

/// What goes with the first step.
const SMALL: [&str; 6] =
    ["session_settings", "points", "undone", "attachments", "copies", "unsynced"];

/// Takes a session out of everybody's sight, and says whether something of it is left, which goes with
/// [`go_on`].
pub(super) fn begin(conn: &Connection, id: SessionId) -> Result<Option<(Purged, bool)>> {
    let sql = "SELECT key, slot FROM sessions WHERE id = ?";
    let found = conn.prepare_cached(sql)?.query_row([id], |row| Ok((row.get(0)?, row.get(1)?)));
    let Some((key, slot)): Option<(i64, Option<u32>)> = found.optional()? else {
        return Ok(None);
    };
    // One that is still being made is not given up by whoever has it. One that was about to be taken may be
    // this machine's in any generation.
    let sql = "INSERT OR REPLACE INTO purged_copies (id, tenant, generation)
         SELECT id, tenant, max(generation, 0) FROM sessions JOIN copies ON session = key
         WHERE key = ? AND status <> 'starting'";
    conn.prepare_cached(sql)?.execute([key])?;
    let is_left = !step(conn, key)?;
    if is_left {
        hide(conn, key)?;
    }
    Ok(Some((Purged { slot }, is_left)))
}

/// Leaves of a session what is too much for one step.
fn hide(conn: &Connection, key: i64) -> Result<()> {
    for table in SMALL {
        conn.execute(&format!("DELETE FROM {table} WHERE session = ?"), [key])?;
    }
    // No session, tenant or status is called like that, and there is nothing in it to forget. The row
    // stays while others belong to it: its number would be given to the next session.
    let sql =
        "UPDATE sessions SET id = randomblob(16), tenant = '', status = 'purged', slot = NULL,
             forgotten = last_seq
         WHERE key = ?";
    conn.prepare_cached(sql)?.execute([key])?;
    Ok(())
}

/// Whether something is left of sessions that were purged.
pub(super) fn are_left(conn: &Connection) -> Result<bool> {
    left(conn).map(|left| left.is_some())
}

/// Removes some of what is left of sessions that were purged.
pub(super) fn go_on(conn: &Connection) -> Result<()> {
    match left(conn)? {
        Some(key) => step(conn, key).map(drop),
        None => Ok(()),
    }
}

fn left(conn: &Connection) -> Result<Option<i64>> {
    let sql = "SELECT key FROM sessions WHERE status = 'purged' LIMIT 1";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?)
}

/// One step; true when that was the last, with which the row itself goes, and whatever else belongs to it.
fn step(conn: &Connection, key: i64) -> Result<bool> {
    if !remove_events(conn, key)? {
        return Ok(false);
    }
    let sql = "DELETE FROM usage WHERE key IN (SELECT key FROM usage WHERE session = ? LIMIT ?)";
    let removed = conn.prepare_cached(sql)?.execute(params![key, STEP_ROWS])? as u64;
    if removed == STEP_ROWS {
        return Ok(false);
    }
    conn.prepare_cached("DELETE FROM sessions WHERE key = ?")?.execute([key])?;
    Ok(true)
}

/// Removes the oldest events; true when that is all of them.
fn remove_events(conn: &Connection, key: i64) -> Result<bool> {
    let sql = "SELECT seq, length(body) FROM events WHERE session = ? ORDER BY seq LIMIT ?";
    let mut query = conn.prepare_cached(sql)?;
    let mut found = query.query(params![key, STEP_ROWS])?;
    let (mut last, mut rows, mut bytes) = (0u64, 0, 0u64);
    while bytes < STEP_BYTES
        && let Some(row) = found.next()?
    {
        last = row.get(0)?;
        rows += 1;
        bytes = bytes.saturating_add(row.get(1)?);
    }
    drop(found);
    let sql = "DELETE FROM events WHERE session = ? AND seq <= ?";
    conn.prepare_cached(sql)?.execute(params![key, last])?;
    Ok(rows < STEP_ROWS && bytes < STEP_BYTES)
}
