//! How the domain's words look in columns, and how SQLite's errors look outside.

use std::str::FromStr;

use rusqlite::ErrorCode;
use rusqlite::ffi;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::domain::{
    AgentId, AgentName, AttachmentId, Changed, EventKind, FileName, MediaType, PointId, PointName,
    Root, SandboxId, Scope, SessionId, Status, Tenant, Timestamp, TurnId,
};
use crate::store::StoreError;

/// Identifiers are blobs of 16 bytes.
macro_rules! uuid_column {
    ($($name:ident),*) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.0.as_bytes().as_slice().into())
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                <[u8; 16]>::column_result(value).map(|bytes| $name(Uuid::from_bytes(bytes)))
            }
        }
    )*};
}
uuid_column!(SessionId, AgentId, TurnId, SandboxId, PointId, AttachmentId);

/// Words are text.
macro_rules! word_column {
    ($($name:ident),*) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.as_str().into())
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                $name::from_str(value.as_str()?).map_err(FromSqlError::other)
            }
        }
    )*};
}
word_column!(AgentName, Tenant, Status, Scope, PointName, FileName, MediaType);

impl ToSql for Root {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.as_slice().into())
    }
}

impl FromSql for Root {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        <[u8; 32]>::column_result(value).map(Root)
    }
}

/// In their order.
const CHANGED: [Changed; 3] = [Changed::No, Changed::Maybe, Changed::Kept];

impl ToSql for Changed {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok((*self as u8).into())
    }
}

impl FromSql for Changed {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = usize::try_from(value.as_i64()?).ok();
        number.and_then(|number| CHANGED.get(number).copied()).ok_or(FromSqlError::InvalidType)
    }
}

impl ToSql for EventKind {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for EventKind {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let word = value.as_str()?;
        let known = EventKind::ALL.into_iter().find(|kind| kind.as_str() == word);
        known.ok_or(FromSqlError::InvalidType)
    }
}

impl ToSql for Timestamp {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.into())
    }
}

impl FromSql for Timestamp {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(Timestamp)
    }
}

/// A value kept as a JSON document.
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> ToSql for Json<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let text = serde_json::to_string(&self.0);
        text.map(ToSqlOutput::from).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))
    }
}

impl<T: DeserializeOwned> FromSql for Json<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        serde_json::from_str(value.as_str()?).map(Json).map_err(FromSqlError::other)
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        if let rusqlite::Error::SqliteFailure(cause, _) = &error
            && (cause.code == ErrorCode::DiskFull || is_failed_write(cause.extended_code))
        {
            return StoreError::Full;
        }
        StoreError::Database(error.to_string())
    }
}

/// A quota or a file size limit shows as one of these, not as a full disk.
fn is_failed_write(code: i32) -> bool {
    let writes = [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_SHMSIZE, ffi::SQLITE_IOERR_TRUNCATE];
    writes.contains(&code)
}

/// Says that `what` exists when a unique index refused it.
pub(super) fn exists(what: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |error| match error.sqlite_error().map(|cause| cause.extended_code) {
        Some(ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY) => {
            StoreError::Exists { what }
        }
        _ => error.into(),
    }
}
