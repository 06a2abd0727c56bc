//! Events.

use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, params};

use super::sessions::Head;
use super::values::exists;
use crate::domain::event::Origin;
use crate::domain::{Event, EventKind, NewEvent, SessionId};
use crate::store::{EventRange, Result, StoreError};

const SELECT: &str = "SELECT seq, kind, turn, epoch, number, replaces, at, body FROM events
     WHERE session = (SELECT key FROM sessions WHERE id = ?1)";

/// A condition for events that are not undone.
pub(super) const DONE: &str = "AND NOT EXISTS (SELECT 1 FROM undone
     WHERE undone.session = events.session AND seq BETWEEN first AND last)";

/// Bytes of bodies after which a page ends: a line of the CLI may have 32 MiB.
const PAGE_BYTES: usize = 8 * 1024 * 1024;

const INSERT: &str = "INSERT INTO events
     (session, seq, kind, turn, epoch, number, replaces, at, body)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// Appends events behind the session's newest; the number of the last is returned.
pub(super) fn append(conn: &Connection, head: &Head, events: &[NewEvent]) -> Result<u64> {
    let mut insert = conn.prepare_cached(INSERT)?;
    let mut last = head.last_seq;
    for event in events {
        if last.checked_add(1) != Some(event.seq) {
            return Err(StoreError::Gap { last, found: event.seq });
        }
        put(&mut insert, head.key, event)?;
        last = event.seq;
    }
    Ok(last)
}

fn put(insert: &mut CachedStatement<'_>, session: i64, event: &NewEvent) -> Result<()> {
    let (epoch, number) = event.origin.map(|o| (o.epoch, o.number)).unzip();
    let row = params![
        session,
        event.seq,
        event.kind,
        event.turn,
        epoch,
        number,
        event.replaces,
        event.at,
        &event.body[..],
    ];
    insert.execute(row).map_err(exists("the event"))?;
    Ok(())
}

/// Events of a session in order: as many as asked for, or fewer when they are large.
pub(super) fn range(conn: &Connection, id: SessionId, range: &EventRange) -> Result<Vec<Event>> {
    let kinds = only(&range.kinds);
    let done = if range.undone { "" } else { DONE };
    let sql = format!("{SELECT} AND seq > ?2 {kinds} {done} ORDER BY seq LIMIT ?3");
    let mut query = conn.prepare_cached(&sql)?;
    // No event has a number beyond what SQLite can hold.
    let after = i64::try_from(range.after).unwrap_or(i64::MAX);
    let mut rows = query.query(params![id, after, range.limit])?;
    let (mut events, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()?
        && bytes < PAGE_BYTES
    {
        let event = read(row)?;
        bytes += event.body.len();
        events.push(event);
    }
    Ok(events)
}

/// Copies what follows on a session's newest event from another one, up to a number, and says how
/// many events it was. The sandbox they came from is none of the new session's.
pub(super) fn copy(conn: &Connection, (from, to): (i64, &Head), up_to: u64) -> Result<u64> {
    let sql = "INSERT INTO events (session, seq, kind, turn, replaces, at, body)
         SELECT ?2, seq, kind, turn, replaces, at, body FROM events
         WHERE session = ?1 AND seq > ?3 AND seq <= ?4 ORDER BY seq";
    let copied = conn.prepare_cached(sql)?.execute(params![from, to.key, to.last_seq, up_to])?;
    Ok(copied as u64)
}

/// The newest event that came from this sandbox: of this kind, if one is given.
pub(super) fn newest(
    conn: &Connection,
    id: SessionId,
    epoch: u64,
    kind: Option<EventKind>,
) -> Result<Option<Event>> {
    let kinds = only(kind.as_slice());
    let sql = format!("{SELECT} AND epoch = ?2 {kinds} ORDER BY number DESC LIMIT 1");
    let mut query = conn.prepare_cached(&sql)?;
    Ok(query.query_row(params![id, epoch], read).optional()?)
}

/// A condition for these kinds. The order is always the same, so that few statements are cached.
fn only(kinds: &[EventKind]) -> String {
    let words: Vec<_> = EventKind::ALL
        .into_iter()
        .filter(|kind| kinds.contains(kind))
        .map(|kind| format!("'{}'", kind.as_str()))
        .collect();
    if words.is_empty() { String::new() } else { format!("AND kind IN ({})", words.join(", ")) }
}

/// What the events behind `after` that came from this sandbox are called: there and here.
pub(super) fn origins(
    conn: &Connection,
    id: SessionId,
    epoch: u64,
    after: u64,
) -> Result<Vec<(u64, u64)>> {
    let sql = "SELECT number, seq FROM events
        WHERE session = (SELECT key FROM sessions WHERE id = ?1) AND seq > ?2 AND epoch = ?3
        ORDER BY seq";
    let mut query = conn.prepare_cached(sql)?;
    let rows = query.query_map(params![id, after, epoch], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Event> {
    let (epoch, number): (Option<u64>, Option<u64>) = (row.get(3)?, row.get(4)?);
    Ok(Event {
        seq: row.get(0)?,
        kind: row.get(1)?,
        turn: row.get(2)?,
        origin: epoch.zip(number).map(|(epoch, number)| Origin { epoch, number }),
        replaces: row.get(5)?,
        at: row.get(6)?,
        body: row.get::<_, Vec<u8>>(7)?.into(),
    })
}
