//! Attachments.

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::values::exists;
use crate::domain::{Attachment, AttachmentId, SessionId};
use crate::store::{Result, StoreError};

const SELECT: &str = "SELECT attachments.id, sessions.id, tenant, message, name, media, size,
         attachments.created_at
     FROM attachments JOIN sessions ON session = sessions.key";

/// Adds one, unless the session has `most` already: then false.
pub(super) fn add(conn: &Connection, new: &Attachment, most: u32) -> Result<bool> {
    let sql = "SELECT sessions.key, count(attachments.key)
         FROM sessions LEFT JOIN attachments ON session = sessions.key
         WHERE sessions.id = ? GROUP BY sessions.key";
    let found = conn
        .prepare_cached(sql)?
        .query_row([new.session], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?)))
        .optional()?;
    let (session, there) = found.ok_or(StoreError::Missing { what: "the session" })?;
    if there >= most {
        return Ok(false);
    }
    let sql = "INSERT INTO attachments (session, id, message, name, media, size, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?)";
    let message = new.message.map(Uuid::into_bytes);
    let (name, media) = (new.name.as_str(), new.media.as_str());
    let row = params![session, new.id, message, name, media, new.size, new.created_at];
    conn.prepare_cached(sql)?.execute(row).map_err(exists("an attachment with this id"))?;
    Ok(true)
}

/// Those of a session, oldest first.
pub(super) fn of_session(conn: &Connection, id: SessionId) -> Result<Vec<Attachment>> {
    let sql = format!("{SELECT} WHERE sessions.id = ? ORDER BY attachments.key");
    Ok(conn.prepare_cached(&sql)?.query_map([id], read)?.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn all(conn: &Connection) -> Result<Vec<Attachment>> {
    Ok(conn.prepare_cached(SELECT)?.query_map([], read)?.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn find(conn: &Connection, id: AttachmentId) -> Result<Option<Attachment>> {
    let sql = format!("{SELECT} WHERE attachments.id = ?");
    Ok(conn.prepare_cached(&sql)?.query_row([id], read).optional()?)
}

pub(super) fn remove(conn: &Connection, id: AttachmentId) -> Result<bool> {
    Ok(conn.prepare_cached("DELETE FROM attachments WHERE id = ?")?.execute([id])? > 0)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Attachment> {
    Ok(Attachment {
        id: row.get(0)?,
        session: row.get(1)?,
        tenant: row.get(2)?,
        message: row.get::<_, Option<[u8; 16]>>(3)?.map(Uuid::from_bytes),
        name: row.get(4)?,
        media: row.get(5)?,
        size: row.get(6)?,
        created_at: row.get(7)?,
    })
}
