//! What goes because of its age, or because there is too much of it. Each step takes little at a time.

use rusqlite::{Connection, params};

use super::values::Json;
use crate::domain::{Root, SessionId, Tenant, Timestamp};
use crate::store::{Result, Spared};

/// Sessions that ended before a time. Their newest event is their end, or says why it was; they were
/// last active before it, by which they are found.
pub(super) const ENDED: &str = "SELECT tenant, id FROM sessions INDEXED BY sessions_ended
     WHERE status = 'ended' AND slot IS NULL AND last_active_at < ?1
     AND ifnull((SELECT at FROM events WHERE session = sessions.key AND seq = last_seq),
         last_active_at) < ?1
     ORDER BY last_active_at LIMIT ?2 OFFSET ?3";

/// Points by how old they are.
pub(super) const POINTS: &str = "points INDEXED BY points_by_age
     JOIN sessions ON session = sessions.key";

/// Points that may go: without a name, not the newest of their session, and none that it is to be
/// brought back to. None of some tenants (?1), and none of a session that would be brought back from
/// content that is damaged (?2).
pub(super) const SPARE: &str = "name IS NULL AND points.id IS NOT restore AND EXISTS (
     SELECT 1 FROM points AS newer WHERE newer.session = points.session
     AND (newer.seq, newer.key) > (points.seq, points.key))
     AND tenant NOT IN (SELECT value FROM json_each(?1))
     AND lower(hex(ifnull((SELECT back.root FROM points AS back WHERE back.id = restore),
         (SELECT newest.root FROM points AS newest WHERE newest.session = points.session
          ORDER BY newest.seq DESC, newest.key DESC LIMIT 1))))
         NOT IN (SELECT value FROM json_each(?2))";

/// What is left of an event that was forgotten.
const FORGOTTEN: &[u8] = br#"{"action":"forgotten"}"#;

/// Sessions whose end was before a time, those that were active longest ago first, without the first
/// `skip`.
pub(super) fn ended(
    conn: &Connection,
    before: Timestamp,
    skip: u32,
    limit: u32,
) -> Result<Vec<(Tenant, SessionId)>> {
    let mut query = conn.prepare_cached(ENDED)?;
    let both = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let rows = query.query_map(params![before, limit, skip], both)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// What is spared, as conditions name it.
fn lists(spared: &Spared) -> (Json<&[Tenant]>, Json<Vec<String>>) {
    (Json(spared.tenants.as_slice()), Json(spared.damaged.iter().map(Root::to_string).collect()))
}

/// Removes points of before a time; how many.
pub(super) fn old_points(
    conn: &Connection,
    before: Timestamp,
    spared: &Spared,
    limit: u32,
) -> Result<u64> {
    let sql = format!(
        "DELETE FROM points WHERE key IN (
             SELECT points.key FROM {POINTS}
             WHERE points.created_at < ?3 AND {SPARE} ORDER BY points.created_at LIMIT ?4)"
    );
    let (tenants, damaged) = lists(spared);
    Ok(conn.prepare_cached(&sql)?.execute(params![tenants, damaged, before, limit])? as u64)
}

/// Removes the oldest points until so many bytes were written for them; how many, and how many bytes
/// that was.
pub(super) fn oldest_points(
    conn: &Connection,
    bytes: u64,
    spared: &Spared,
    limit: u32,
) -> Result<(u64, u64)> {
    let sql = format!(
        "SELECT points.key, written FROM {POINTS}
         WHERE {SPARE} ORDER BY points.created_at LIMIT ?3"
    );
    let (tenants, damaged) = lists(spared);
    let mut query = conn.prepare_cached(&sql)?;
    let mut rows = query.query(params![tenants, damaged, limit])?;
    let mut chosen = vec![];
    let mut sum = 0u64;
    while sum < bytes
        && let Some(row) = rows.next()?
    {
        chosen.push(row.get::<_, i64>(0)?);
        sum = sum.saturating_add(row.get(1)?);
    }
    let mut remove = conn.prepare_cached("DELETE FROM points WHERE key = ?")?;
    for key in &chosen {
        remove.execute([key])?;
    }
    Ok((chosen.len() as u64, sum))
}

/// Sessions whose oldest event that is not forgotten is of before a time, by their ids, from one on.
pub(super) fn with_old_events(
    conn: &Connection,
    before: Timestamp,
    after: Option<SessionId>,
    limit: u32,
) -> Result<Vec<SessionId>> {
    let sql = "SELECT id FROM sessions WHERE id > ?1
         AND (SELECT at FROM events WHERE session = key AND seq = forgotten + 1) < ?2
         ORDER BY id LIMIT ?3";
    let after = after.unwrap_or(SessionId(uuid::Uuid::nil()));
    let mut query = conn.prepare_cached(sql)?;
    let ids = query.query_map(params![after, before, limit], |row| row.get(0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

/// Forgets the oldest events of a session; how many were looked at. They keep their numbers and times.
/// Of a session that may go on the newest two turns stay: it is reckoned from them.
pub(super) fn forget(
    conn: &Connection,
    id: SessionId,
    before: Timestamp,
    limit: u32,
) -> Result<u64> {
    let sql = "SELECT key, forgotten, iif(status = 'ended', last_seq + 1, ifnull(
             (SELECT seq FROM events WHERE session = key AND kind = 'user'
              ORDER BY seq DESC LIMIT 1 OFFSET 1), 0))
         FROM sessions WHERE id = ?";
    let head = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let found: Option<(i64, u64, u64)> =
        rusqlite::OptionalExtension::optional(conn.prepare_cached(sql)?.query_row([id], head))?;
    let Some((key, done, end)) = found else { return Ok(0) };
    // In the order of their numbers; one that is younger keeps what is behind it.
    let sql = "SELECT seq, at FROM events WHERE session = ? AND seq > ? AND seq < ?
         ORDER BY seq LIMIT ?";
    let mut query = conn.prepare_cached(sql)?;
    let mut rows = query.query(params![key, done, end, limit])?;
    let mut upto = done;
    while let Some(row) = rows.next()?
        && row.get::<_, Timestamp>(1)? < before
    {
        upto = row.get(0)?;
    }
    drop(rows);
    if upto == done {
        return Ok(0);
    }
    let sql = "UPDATE events SET kind = 'lifecycle', turn = NULL, replaces = 0, body = ?4
         WHERE session = ?1 AND seq > ?2 AND seq <= ?3 AND kind <> 'lifecycle'";
    conn.prepare_cached(sql)?.execute(params![key, done, upto, FORGOTTEN])?;
    let sql = "UPDATE sessions SET forgotten = ? WHERE key = ?";
    conn.prepare_cached(sql)?.execute(params![upto, key])?;
    Ok(upto - done)
}
