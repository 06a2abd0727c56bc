//! Points.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::values::{Json, exists};
use crate::domain::session::RunningTurn;
use crate::domain::{Point, PointId, Root, SessionId, Tenant, Which};
use crate::store::{Result, StoreError};

pub(super) const SELECT_ALL: &str = "SELECT points.id, sessions.id, name, seq, points.turn,
         points.turn_user_seq, points.cli_session, root, files, bytes, written, left_out,
         points.created_at
     FROM points JOIN sessions ON session = sessions.key";

pub(super) const OF_SESSION: &str = "WHERE sessions.id = ?1";

/// Newest first: of two with the same events, the one that was saved later.
const ORDER: &str = "ORDER BY seq DESC, points.key DESC";

/// A condition for points that history has not gone back behind.
const UPTO: &str = "seq <= ?2 AND NOT EXISTS (SELECT 1 FROM undone
     WHERE undone.session = points.session AND seq BETWEEN first AND last)";

/// The history that ends at a point.
pub(super) struct History {
    /// Stands for the point's session in other tables.
    pub(super) session: i64,
    /// Its last event.
    pub(super) seq: u64,
    /// What was undone, as pairs of the first and the last number.
    pub(super) undone: Vec<(u64, u64)>,
}

pub(super) fn add(conn: &Connection, point: &Point, keep: u32) -> Result<()> {
    insert(conn, point)?;
    // Newest first. The one that a session is to be brought back to is needed until it is.
    let sql = "DELETE FROM points WHERE key IN (
             SELECT points.key FROM points JOIN sessions ON session = sessions.key
             WHERE sessions.id = ?1 AND name IS NULL AND points.id IS NOT restore
             ORDER BY seq DESC, points.key DESC LIMIT -1 OFFSET ?2)";
    conn.prepare_cached(sql)?.execute(params![point.session, keep.max(1)])?;
    Ok(())
}

pub(super) fn insert(conn: &Connection, point: &Point) -> Result<()> {
    let sql = "INSERT INTO points (session, id, name, seq, turn, turn_user_seq, cli_session, root,
             files, bytes, written, left_out, created_at, undone)
         SELECT key, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13,
             (SELECT json_group_array(json_array(first, min(last, ?4))) FROM undone
              WHERE session = key AND first <= ?4)
         FROM sessions WHERE id = ?1";
    let row = params![
        point.session,
        point.id,
        point.name,
        point.seq,
        point.turn.map(|turn| turn.id),
        point.turn.map(|turn| turn.user_seq),
        point.cli_session,
        point.root,
        point.files,
        point.bytes,
        point.written,
        point.left_out,
        point.created_at,
    ];
    match conn.prepare_cached(sql)?.execute(row).map_err(exists("a point with this name"))? {
        0 => Err(StoreError::Missing { what: "the session" }),
        _ => Ok(()),
    }
}

pub(super) fn of_session(conn: &Connection, id: SessionId) -> Result<Vec<Point>> {
    let sql = format!("{SELECT_ALL} {OF_SESSION} {ORDER}");
    Ok(conn.prepare_cached(&sql)?.query_map([id], read)?.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn find(conn: &Connection, id: SessionId, which: &Which) -> Result<Option<Point>> {
    let one = |condition: &str, value: &dyn rusqlite::ToSql| {
        let sql = format!("{SELECT_ALL} {OF_SESSION} AND {condition} {ORDER} LIMIT 1");
        conn.prepare_cached(&sql)?.query_row(params![id, value], read).optional()
    };
    Ok(match which {
        Which::Id(point) => one("points.id = ?2", point),
        Which::Named(name) => one("name = ?2", name),
        // No event has a number beyond what SQLite can hold.
        Which::Upto(seq) => one(UPTO, &i64::try_from(*seq).unwrap_or(i64::MAX)),
        Which::Newest => one("seq <= ?2", &i64::MAX),
    }?)
}

/// The history that ends at a point: of this session, if one is given.
pub(super) fn ended(conn: &Connection, id: PointId, of: Option<i64>) -> Result<History> {
    let sql =
        "SELECT session, seq, undone FROM points WHERE id = ?1 AND session = ifnull(?2, session)";
    let history = |row: &Row<'_>| {
        let Json(undone) = row.get(2)?;
        Ok(History { session: row.get(0)?, seq: row.get(1)?, undone })
    };
    let found = conn.prepare_cached(sql)?.query_row(params![id, of], history).optional()?;
    found.ok_or(StoreError::Missing { what: "the point" })
}

/// The newest point is to be copied once more: it says which others have a name.
fn copy_newest_again(conn: &Connection, id: SessionId) -> Result<()> {
    let sql = "UPDATE points SET copied = 0 WHERE key = (
             SELECT points.key FROM points JOIN sessions ON session = sessions.key
             WHERE sessions.id = ? ORDER BY seq DESC, points.key DESC LIMIT 1)";
    conn.prepare_cached(sql)?.execute([id])?;
    Ok(())
}

pub(super) fn unname(conn: &Connection, id: SessionId, point: PointId) -> Result<bool> {
    let sql = "UPDATE points SET name = NULL
         WHERE id = ?2 AND session = (SELECT key FROM sessions WHERE id = ?1)";
    let is_there = conn.prepare_cached(sql)?.execute(params![id, point])? > 0;
    if is_there {
        copy_newest_again(conn, id)?;
    }
    Ok(is_there)
}

pub(super) fn remove(conn: &Connection, id: SessionId, point: PointId) -> Result<bool> {
    let sql = "DELETE FROM points
         WHERE id = ?2 AND session = (SELECT key FROM sessions WHERE id = ?1)
         AND id IS NOT (SELECT restore FROM sessions WHERE id = ?1)
         RETURNING name IS NOT NULL";
    let mut removed = conn.prepare_cached(sql)?;
    let had_name = removed.query_row(params![id, point], |row| row.get(0)).optional()?;
    if had_name == Some(true) {
        copy_newest_again(conn, id)?;
    }
    Ok(had_name.is_some())
}

pub(super) fn with(conn: &Connection, tenant: &Tenant, root: Root) -> Result<Vec<Point>> {
    let sql = format!("{SELECT_ALL} WHERE tenant = ?1 AND root = ?2 {ORDER}");
    let mut query = conn.prepare(&sql)?;
    Ok(query.query_map(params![tenant, root], read)?.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn roots(conn: &Connection, tenant: &Tenant) -> Result<Vec<Root>> {
    let sql = "SELECT DISTINCT root FROM points JOIN sessions ON session = sessions.key
         WHERE tenant = ?";
    let mut query = conn.prepare_cached(sql)?;
    let roots = query.query_map([tenant], |row| row.get(0))?;
    Ok(roots.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Point> {
    let turn = Option::zip(row.get(4)?, row.get(5)?);
    Ok(Point {
        id: row.get(0)?,
        session: row.get(1)?,
        name: row.get(2)?,
        seq: row.get(3)?,
        turn: turn.map(|(id, user_seq)| RunningTurn { id, user_seq }),
        cli_session: row.get(6)?,
        root: row.get(7)?,
        files: row.get(8)?,
        bytes: row.get(9)?,
        written: row.get(10)?,
        left_out: row.get(11)?,
        created_at: row.get(12)?,
    })
}
