//! Sessions.

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use super::agents;
use super::events;
use super::points::{self, History};
use super::tenants;
use super::unsynced;
use super::values::{Json, exists};
use crate::domain::session::RunningTurn;
use crate::domain::{
    AgentId, NewEvent, Session, SessionChange, SessionCounts, SessionId, Status, Tenant, Timestamp,
};
use crate::store::{Commit, Copying, Result, SessionFilter, StoreError};

const WHAT: &str = "the session";

const SELECT: &str = "SELECT id, tenant, agent, agent_version, status, sandbox, settings,
         cli_session, cli_version, turn, turn_user_seq, slot, last_seq, created_at, last_active_at,
         last_error, parent, restore, cold, changed, altered
     FROM sessions JOIN session_settings ON session = key";

/// How many sessions there are of each status of each agent; what is being purged is nobody's any more.
pub(super) const COUNT: &str =
    "SELECT status, sessions FROM session_counts WHERE status <> 'purged'";

/// What a commit needs to know of a session.
pub(super) struct Head {
    /// Stands for the session in other tables.
    pub(super) key: i64,
    /// Its newest event.
    pub(super) last_seq: u64,
}

pub(super) fn begin(
    conn: &Connection,
    agent: AgentId,
    (session, boot): (&Session, &str),
    events: &[NewEvent],
) -> Result<bool> {
    if !agents::is_called(conn, agent, (&session.tenant, &session.agent))? {
        return Ok(false);
    }
    let key = create(conn, session, events)?;
    unsynced::used(conn, key, (boot, Some(session.sandbox)))?;
    Ok(true)
}

/// Records a session, and says what stands for it in other tables.
pub(super) fn create(conn: &Connection, session: &Session, events: &[NewEvent]) -> Result<i64> {
    tenants::stays(conn, &session.tenant)?;
    insert(conn, session, events.last().map_or(0, |newest| newest.seq))?;
    let head = Head { key: conn.last_insert_rowid(), last_seq: 0 };
    let sql = "INSERT INTO session_settings (session, settings) VALUES (?, ?)";
    conn.prepare_cached(sql)?.execute(params![head.key, Json(&session.settings)])?;
    // Apart from the row's insertion, so that a refusal says what it was that exists.
    place(conn, &head, session.slot)?;
    // It refuses what is not numbered up to the newest without a gap.
    events::append(conn, &head, events)?;
    Ok(head.key)
}

fn insert(conn: &Connection, session: &Session, last_seq: u64) -> Result<()> {
    let sql = "INSERT INTO sessions (id, tenant, agent, agent_version, status, sandbox,
             cli_session, cli_version, turn, turn_user_seq, last_seq, created_at, last_active_at,
             last_error, parent, restore, cold, changed, altered)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let row = params![
        session.id,
        session.tenant,
        session.agent,
        session.agent_version,
        session.status,
        session.sandbox,
        session.cli_session,
        session.cli_version,
        session.turn.map(|turn| turn.id),
        session.turn.map(|turn| turn.user_seq),
        last_seq,
        session.created_at,
        session.last_active_at,
        session.last_error,
        session.parent,
        session.restore,
        session.cold,
        session.changed,
        session.altered,
    ];
    conn.prepare_cached(sql)?.execute(row).map_err(exists(WHAT))?;
    Ok(())
}

pub(super) fn head(conn: &Connection, id: SessionId) -> Result<Head> {
    let sql = "SELECT key, last_seq FROM sessions WHERE id = ?";
    let head = |row: &Row<'_>| Ok(Head { key: row.get(0)?, last_seq: row.get(1)? });
    let head = conn.prepare_cached(sql)?.query_row([id], head).optional()?;
    head.ok_or(StoreError::Missing { what: WHAT })
}

pub(super) fn commit(conn: &Connection, (commit, boot): (&Commit, &str)) -> Result<()> {
    let head = head(conn, commit.session)?;
    if let Some(point) = commit.back_to {
        go_back(conn, &head, points::ended(conn, point, Some(head.key))?)?;
    }
    let last_seq = match &commit.events[..] {
        [] => head.last_seq,
        events => events::append(conn, &head, events)?,
    };
    match commit.change.status {
        Some(status) => enter(conn, &head, (status, last_seq))?,
        None if last_seq != head.last_seq => advance(conn, &head, last_seq)?,
        None => {}
    }
    if commit.change != SessionChange::none() {
        change(conn, &head, &commit.change)?;
    }
    let goes_back = matches!(commit.change.restore, Some(Some(_)));
    if commit.change.sandbox.is_some() && !goes_back {
        unsynced::used(conn, head.key, (boot, None))?;
    }
    match &commit.point {
        Some((point, keep)) => points::add(conn, point, *keep),
        None => Ok(()),
    }
}

/// Makes undone what was so at a point, and what happened behind it.
fn go_back(conn: &Connection, head: &Head, point: History) -> Result<()> {
    conn.prepare_cached("DELETE FROM undone WHERE session = ?")?.execute([head.key])?;
    let mut undone = point.undone;
    if point.seq < head.last_seq {
        undone.push((point.seq + 1, head.last_seq));
    }
    undo(conn, head.key, &undone)
}

pub(super) fn undo(conn: &Connection, session: i64, ranges: &[(u64, u64)]) -> Result<()> {
    let sql = "INSERT INTO undone (session, first, last) VALUES (?, ?, ?)
         ON CONFLICT DO UPDATE SET last = max(last, excluded.last)";
    let mut insert = conn.prepare_cached(sql)?;
    for (first, last) in ranges {
        insert.execute(params![session, first, last])?;
    }
    Ok(())
}

/// The most frequent change, apart from the others because it touches no index.
fn advance(conn: &Connection, head: &Head, last_seq: u64) -> Result<()> {
    let sql = "UPDATE sessions SET last_seq = ? WHERE key = ?";
    conn.prepare_cached(sql)?.execute(params![last_seq, head.key])?;
    Ok(())
}

/// The same with a status, which is in many indexes.
fn enter(conn: &Connection, head: &Head, (status, last_seq): (Status, u64)) -> Result<()> {
    let sql = "UPDATE sessions SET last_seq = ?, status = ? WHERE key = ?";
    conn.prepare_cached(sql)?.execute(params![last_seq, status, head.key])?;
    Ok(())
}

/// Does to the row, which has its status already, what [`SessionChange::apply`] does in memory.
///
/// Status and uids apart from the rest: an index is written when a column of it is set, also to what it is
/// already. They are in many, the others in next to none, and change with every turn.
fn change(conn: &Connection, head: &Head, change: &SessionChange) -> Result<()> {
    if let Some(slot) = change.slot {
        place(conn, head, slot)?;
    }
    if !is_only_apart(change) {
        change_rest(conn, head, change)?;
    }
    if matches!(change.restore, Some(Some(_))) || change.slot == Some(None) {
        unsynced::forget(conn, head.key)?;
    }
    let Some(settings) = &change.settings else { return Ok(()) };
    let sql = "UPDATE session_settings SET settings = ? WHERE session = ?";
    conn.prepare_cached(sql)?.execute(params![Json(settings), head.key])?;
    Ok(())
}

/// Whether all that changes is written apart from the rest.
fn is_only_apart(change: &SessionChange) -> bool {
    let SessionChange { status, slot, settings, .. } = change.clone();
    *change == SessionChange { status, slot, settings, ..SessionChange::none() }
}

/// Gives a session its place in the range of uids, or takes it away.
fn place(conn: &Connection, head: &Head, slot: Option<u32>) -> Result<()> {
    let sql = "UPDATE sessions SET slot = ? WHERE key = ?";
    let placed = conn.prepare_cached(sql)?.execute(params![slot, head.key]);
    placed.map_err(exists("a session with these uids"))?;
    Ok(())
}

fn change_rest(conn: &Connection, head: &Head, change: &SessionChange) -> Result<()> {
    let sql = "UPDATE sessions SET
             sandbox = coalesce(?2, sandbox),
             cli_session = coalesce(?3, cli_session),
             cli_version = coalesce(?4, cli_version),
             turn = iif(?5, ?6, turn),
             turn_user_seq = iif(?5, ?7, turn_user_seq),
             last_active_at = coalesce(?8, last_active_at),
             last_error = iif(?9, ?10, last_error),
             restore = iif(?11, ?12, restore),
             cold = coalesce(?13, cold),
             changed = coalesce(?14, changed),
             altered = iif(?14 > 0, ifnull(altered, last_seq), altered)
         WHERE key = ?1";
    let turn = change.turn.flatten();
    let row = params![
        head.key,
        change.sandbox,
        change.cli_session,
        change.cli_version,
        change.turn.is_some(),
        turn.map(|turn| turn.id),
        turn.map(|turn| turn.user_seq),
        change.last_active_at,
        change.last_error.is_some(),
        change.last_error.as_ref().and_then(Option::as_ref),
        change.restore.is_some(),
        change.restore.flatten(),
        change.cold,
        change.changed,
    ];
    conn.prepare_cached(sql)?.execute(row)?;
    Ok(())
}

pub(super) fn find(conn: &Connection, id: SessionId) -> Result<Option<Session>> {
    let sql = format!("{SELECT} WHERE id = ?");
    Ok(conn.prepare_cached(&sql)?.query_row([id], read).optional()?)
}

/// Sessions of a tenant, newest first, and how many there are without limit and offset.
pub(super) fn list(
    conn: &Connection,
    tenant: &Tenant,
    filter: &SessionFilter,
) -> Result<(Vec<Session>, u64)> {
    let mut conditions = "WHERE tenant = ?".to_owned();
    let mut values: Vec<&dyn ToSql> = vec![tenant];
    if let Some(agent) = &filter.agent {
        conditions += " AND agent = ?";
        values.push(agent);
    }
    if let Some(status) = &filter.status {
        conditions += " AND status = ?";
        values.push(status);
    }
    // Both numbers from one state of the database.
    let snapshot = conn.unchecked_transaction()?;
    let count = format!("SELECT ifnull(sum(sessions), 0) FROM session_counts {conditions}");
    let total = snapshot.prepare_cached(&count)?.query_row(&values[..], |row| row.get(0))?;
    let limit = filter.limit.map_or(-1, i64::from);
    values.extend([&limit as &dyn ToSql, &filter.offset]);
    let page = format!("{SELECT} {conditions} ORDER BY created_at DESC, key DESC LIMIT ? OFFSET ?");
    let page = snapshot
        .prepare_cached(&page)?
        .query_map(&values[..], read)?
        .collect::<rusqlite::Result<_>>()?;
    Ok((page, total))
}

/// The keys of sessions that are not ended or still have uids, some of them twice. They are found by indexes
/// that there are for others: one of their own would be written with every status.
pub(super) fn unended_keys() -> String {
    let left = Status::ALL.into_iter().filter(|status| *status != Status::Ended);
    let left: Vec<_> = left.map(|status| format!("'{}'", status.as_str())).collect();
    format!("SELECT key FROM sessions WHERE status IN ({}) UNION ALL {WITH_UIDS}", left.join(", "))
}

/// The keys of sessions that have uids.
const WITH_UIDS: &str = "SELECT key FROM sessions WHERE slot IS NOT NULL";

/// Every session that is not ended or still has uids, oldest first.
pub(super) fn unended(conn: &Connection) -> Result<Vec<Session>> {
    let sql = format!("{SELECT} WHERE key IN ({}) ORDER BY key", unended_keys());
    Ok(conn.prepare_cached(&sql)?.query_map([], read)?.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn unsaved(conn: &Connection) -> Result<Vec<Session>> {
    let sql = format!(
        "{SELECT} WHERE key IN ({WITH_UIDS}) AND status NOT IN ('ended', 'starting')
             AND turn IS NULL AND restore IS NULL
             AND (changed > 0 OR EXISTS (
                 SELECT 1 FROM events WHERE session = sessions.key AND kind <> 'lifecycle'
                     AND seq > (SELECT ifnull(max(seq), 0) FROM points WHERE session = sessions.key)))
         ORDER BY key"
    );
    Ok(conn.prepare_cached(&sql)?.query_map([], read)?.collect::<rusqlite::Result<_>>()?)
}

/// There are no more of them than uids, and they are looked for once in a while: an index by how long they
/// have been at rest would be written with every turn.
pub(super) fn resting(conn: &Connection, before: Timestamp, limit: u32) -> Result<Vec<SessionId>> {
    let sql = format!(
        "SELECT id FROM sessions WHERE key IN ({WITH_UIDS})
             AND (status IN ('paused', 'stopped', 'error') OR status = 'active' AND cold = 1)
             AND turn IS NULL AND changed = 0 AND last_active_at < ?1
             AND NOT EXISTS (SELECT 1 FROM unsynced
                 WHERE unsynced.session = sessions.key AND build IS NOT NULL)
             AND ifnull((SELECT at FROM events
                 WHERE events.session = sessions.key AND events.seq = last_seq), 0) < ?1
             AND EXISTS (SELECT 1 FROM points WHERE points.key = (
                 SELECT newest.key FROM points AS newest WHERE newest.session = sessions.key
                 ORDER BY newest.seq DESC, newest.key DESC LIMIT 1)
                 AND points.created_at < ?1)
         ORDER BY last_active_at LIMIT ?2"
    );
    let mut query = conn.prepare_cached(&sql)?;
    let ids = query.query_map(params![before, limit], |row| row.get(0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn count(conn: &Connection) -> Result<SessionCounts> {
    let counted = |row: &Row<'_>| Ok((row.get::<_, Status>(0)?, row.get::<_, u64>(1)?));
    Ok(conn.prepare_cached(COUNT)?.query_map([], counted)?.collect::<rusqlite::Result<_>>()?)
}

/// Copies events up to a point, and what was undone among them.
pub(super) fn copy_events(conn: &Connection, copying: &Copying) -> Result<u64> {
    let point = points::ended(conn, copying.point, None)?;
    let to = head(conn, copying.to)?;
    let up_to = point.seq.min(to.last_seq.saturating_add(copying.limit.into()));
    let copied = events::copy(conn, (point.session, &to), up_to)?;
    advance(conn, &to, to.last_seq + copied)?;
    undo(conn, to.key, &point.undone)?;
    Ok(to.last_seq + copied)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Session> {
    let Json(settings) = row.get(6)?;
    let turn = Option::zip(row.get(9)?, row.get(10)?);
    Ok(Session {
        id: row.get(0)?,
        tenant: row.get(1)?,
        agent: row.get(2)?,
        agent_version: row.get(3)?,
        status: row.get(4)?,
        sandbox: row.get(5)?,
        settings,
        cli_session: row.get(7)?,
        cli_version: row.get(8)?,
        turn: turn.map(|(id, user_seq)| RunningTurn { id, user_seq }),
        slot: row.get(11)?,
        last_seq: row.get(12)?,
        created_at: row.get(13)?,
        last_active_at: row.get(14)?,
        last_error: row.get(15)?,
        parent: row.get(16)?,
        restore: row.get(17)?,
        cold: row.get(18)?,
        changed: row.get(19)?,
        altered: row.get(20)?,
    })
}
