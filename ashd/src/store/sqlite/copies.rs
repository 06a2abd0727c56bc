//! What the object store has.

use rusqlite::{Connection, OptionalExtension, params};

use super::points;
use super::sessions;
use super::values::Json;
use crate::domain::{Point, PointId, SessionId};
use crate::store::{PurgedCopy, Result};

/// In the place of a generation: this machine is about to take the session, or has.
const CLAIMING: i64 = -1;

pub(super) fn sessions(conn: &Connection) -> Result<Vec<SessionId>> {
    let sql = "SELECT id FROM sessions
         WHERE key IN (SELECT DISTINCT session FROM points WHERE copied = 0) ORDER BY key";
    let mut query = conn.prepare_cached(sql)?;
    let ids = query.query_map([], |row| row.get(0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

/// The newest is in any case the last, and there only when it has not been copied.
pub(super) fn points(conn: &Connection, id: SessionId) -> Result<Vec<Point>> {
    let sql = format!(
        "{} {} AND copied = 0 AND (name IS NOT NULL OR points.key = (
             SELECT key FROM points AS newest WHERE newest.session = points.session
             ORDER BY seq DESC, key DESC LIMIT 1))
         ORDER BY seq, points.key",
        points::SELECT_ALL,
        points::OF_SESSION
    );
    let mut query = conn.prepare_cached(&sql)?;
    Ok(query.query_map([id], points::read)?.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn copied(
    conn: &Connection,
    id: SessionId,
    point: &Point,
    named: &[PointId],
) -> Result<()> {
    let all = points::of_session(conn, id)?;
    let name = |id: PointId| all.iter().find(|now| now.id == id).map(|now| now.name.as_ref());
    let is_so = name(point.id).is_none_or(|name| name == point.name.as_ref());
    if !is_so || !named.iter().all(|other| name(*other).flatten().is_some()) {
        return Ok(());
    }
    let sql = "UPDATE points SET copied = 1
         WHERE copied = 0 AND session = (SELECT key FROM sessions WHERE id = ?1)
         AND (id = ?2 OR name IS NULL AND seq <= (SELECT seq FROM points WHERE id = ?2)
             AND key <= (SELECT key FROM points WHERE id = ?2))";
    conn.prepare_cached(sql)?.execute(params![id, point.id])?;
    Ok(())
}

pub(super) fn generation(conn: &Connection, id: SessionId) -> Result<Option<u32>> {
    let sql = "SELECT generation FROM copies
         WHERE session = (SELECT key FROM sessions WHERE id = ?) AND generation <> ?";
    let generation = |row: &rusqlite::Row<'_>| row.get(0);
    Ok(conn.prepare_cached(sql)?.query_row(params![id, CLAIMING], generation).optional()?)
}

pub(super) fn note_claim(conn: &Connection, id: SessionId) -> Result<()> {
    let head = sessions::head(conn, id)?;
    let sql = "INSERT OR IGNORE INTO copies (session, generation) VALUES (?, ?)";
    conn.prepare_cached(sql)?.execute(params![head.key, CLAIMING])?;
    Ok(())
}

pub(super) fn set_generation(conn: &Connection, id: SessionId, generation: u32) -> Result<()> {
    let head = sessions::head(conn, id)?;
    let sql = "INSERT OR REPLACE INTO copies (session, generation) VALUES (?, ?)";
    conn.prepare_cached(sql)?.execute(params![head.key, generation])?;
    Ok(())
}

/// All of them are in the object store. The newest is put there again, as that of its new owner: what
/// the one before still writes does not count then.
pub(super) fn adopt(conn: &Connection, adopted: &[(Point, Vec<(u64, u64)>)]) -> Result<()> {
    let Some((newest, undone)) = adopted.last() else { return Ok(()) };
    for (point, undone) in adopted {
        points::insert(conn, point)?;
        let sql = "UPDATE points SET undone = ?2, copied = ?3 WHERE id = ?1";
        let copied = point.id != newest.id;
        conn.prepare_cached(sql)?.execute(params![point.id, Json(undone), copied])?;
    }
    sessions::undo(conn, sessions::head(conn, newest.session)?.key, undone)
}

pub(super) fn all_purged(conn: &Connection) -> Result<Vec<SessionId>> {
    let mut query = conn.prepare_cached("SELECT id FROM purged_copies")?;
    let ids = query.query_map([], |row| row.get(0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn purged(conn: &Connection, id: SessionId) -> Result<Option<PurgedCopy>> {
    let mut query =
        conn.prepare_cached("SELECT tenant, id, generation FROM purged_copies WHERE id = ?")?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok(PurgedCopy { tenant: row.get(0)?, session: row.get(1)?, generation: row.get(2)? })
    };
    Ok(query.query_row([id], read).optional()?)
}

pub(super) fn forget_purged(conn: &Connection, id: SessionId) -> Result<()> {
    conn.prepare_cached("DELETE FROM purged_copies WHERE id = ?")?.execute([id])?;
    Ok(())
}
