//! Files that may be lost when the machine goes down.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::points;
use super::sessions::{self, head};
use crate::domain::{NewEvent, PointId, SandboxId, SessionChange, SessionId, Which};
use crate::store::{Commit, IN_DOUBT, Result, Unsynced};

/// Whose files may be lost, in the order in which the sessions were made. There are few of these among all
/// sessions: so the order of the join is said.
pub(super) const ALL: &str = "SELECT id, sandbox, build, boot <> ?, changed
     FROM unsynced CROSS JOIN sessions ON session = key
     WHERE status <> 'starting' AND (status <> 'ended' OR slot IS NOT NULL) ORDER BY session";

/// The same of one session, which is found by its id.
pub(super) const ONE: &str = "SELECT id, sandbox, build, boot <> ?1, changed
     FROM sessions CROSS JOIN unsynced ON session = key
     WHERE id = ?2 AND status <> 'starting' AND (status <> 'ended' OR slot IS NOT NULL)";

/// A session has a sandbox in this boot. With `build`, all of its files are built for it.
pub(super) fn used(
    conn: &Connection,
    session: i64,
    (boot, build): (&str, Option<SandboxId>),
) -> Result<()> {
    let sql = "INSERT INTO unsynced (session, boot, build) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET boot = ?2, build = coalesce(?3, build)";
    conn.prepare_cached(sql)?.execute(params![session, boot, build])?;
    Ok(())
}

pub(super) fn note(
    conn: &Connection,
    session: SessionId,
    (boot, build): (&str, SandboxId),
) -> Result<()> {
    used(conn, head(conn, session)?.key, (boot, Some(build)))
}

pub(super) fn build_of(conn: &Connection, session: SessionId) -> Result<Option<SandboxId>> {
    let sql = "SELECT build FROM unsynced
         WHERE session = (SELECT key FROM sessions WHERE id = ?)";
    let build = conn.prepare_cached(sql)?.query_row([session], |row| row.get(0)).optional()?;
    Ok(build.flatten())
}

pub(super) fn synced(conn: &Connection, builds: &[(SessionId, SandboxId)]) -> Result<()> {
    let sql = "UPDATE unsynced SET build = NULL
         WHERE session = (SELECT key FROM sessions WHERE id = ?1) AND build = ?2";
    let mut update = conn.prepare_cached(sql)?;
    for (session, build) in builds {
        update.execute(params![session, build])?;
    }
    Ok(())
}

pub(super) fn doubt(conn: &Connection, sessions: &[SessionId], boot: &str) -> Result<()> {
    let sql = "UPDATE unsynced SET build = ?2
         WHERE session = (SELECT key FROM sessions WHERE id = ?1) AND boot = ?3";
    let mut update = conn.prepare_cached(sql)?;
    for session in sessions {
        update.execute(params![session, IN_DOUBT, boot])?;
    }
    Ok(())
}

pub(super) fn at_rest(conn: &Connection, sandboxes: &[(SessionId, SandboxId)]) -> Result<()> {
    let sql = "DELETE FROM unsynced
         WHERE session = (SELECT key FROM sessions WHERE id = ?1 AND sandbox = ?2)
         AND (build IS NULL OR build = ?2)";
    let mut delete = conn.prepare_cached(sql)?;
    for (session, sandbox) in sandboxes {
        delete.execute(params![session, sandbox])?;
    }
    Ok(())
}

pub(super) fn in_use(conn: &Connection, sessions: &[SessionId], boot: &str) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO unsynced (session, boot)
         SELECT key, ?2 FROM sessions WHERE id = ?1";
    let mut insert = conn.prepare_cached(sql)?;
    for session in sessions {
        insert.execute(params![session, boot])?;
    }
    Ok(())
}

/// What is in place does not matter any more.
pub(super) fn forget(conn: &Connection, session: i64) -> Result<()> {
    conn.prepare_cached("DELETE FROM unsynced WHERE session = ?")?.execute([session])?;
    Ok(())
}

pub(super) fn all(conn: &Connection, boot: &str) -> Result<Vec<Unsynced>> {
    Ok(conn.prepare_cached(ALL)?.query_map([boot], read)?.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn one(conn: &Connection, session: SessionId, boot: &str) -> Result<Option<Unsynced>> {
    Ok(conn.prepare_cached(ONE)?.query_row(params![boot, session], read).optional()?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Unsynced> {
    let (session, sandbox, build) = (row.get(0)?, row.get(1)?, row.get(2)?);
    Ok(Unsynced { session, sandbox, build, lost: row.get(3)?, changed: row.get(4)? })
}

pub(super) fn build_again(
    conn: &Connection,
    session: SessionId,
    told: Option<NewEvent>,
) -> Result<()> {
    if let Some(event) = told {
        let told = Commit::of(session, SessionChange::none(), vec![event]);
        sessions::commit(conn, (&told, ""))?;
    }
    let head = head(conn, session)?;
    if let Some(newest) = points::find(conn, session, &Which::Newest)? {
        let sql = "UPDATE sessions SET restore = ?2, cli_session = ?3
             WHERE key = ?1 AND restore IS NULL";
        let row = params![head.key, newest.id, newest.cli_session];
        conn.prepare_cached(sql)?.execute(row)?;
    }
    conn.prepare_cached("UPDATE sessions SET changed = 0 WHERE key = ?")?.execute([head.key])?;
    forget(conn, head.key)
}

pub(super) fn put_away(conn: &Connection, session: SessionId, point: PointId) -> Result<bool> {
    let head = head(conn, session)?;
    let sql = "UPDATE sessions SET restore = ?2
         WHERE key = ?1 AND restore IS NULL AND turn IS NULL AND changed = 0
         AND EXISTS (SELECT 1 FROM points WHERE points.id = ?2 AND points.session = ?1)";
    let is_put = conn.prepare_cached(sql)?.execute(params![head.key, point])? > 0;
    if is_put {
        forget(conn, head.key)?;
    }
    Ok(is_put)
}
