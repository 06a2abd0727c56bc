//! What can go wrong with snapshots.

use std::io;

use rusqlite::{ErrorCode, ffi};

use crate::tree::TreeError;

/// Why something could not be saved or brought back. Paths are as seen from the session; the texts
/// are fit for API users.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// No room left on the device.
    #[error("the disk that holds the snapshots is full; free some space")]
    Full,
    /// It was told to stop.
    #[error("it was given up")]
    Cancelled,
    /// Something that was saved is not there any more, or is not what was saved.
    #[error("{what} is damaged: {how}")]
    Damaged {
        /// Which file or directory, or which part of the store.
        what: String,
        /// What is wrong with it.
        how: &'static str,
    },
    /// The agent does not stand still.
    #[error("the files keep changing")]
    Restless,
    /// There are more files than a point can have; the most.
    #[error("there are more than {0} files, directories and links; remove some of them")]
    TooMany(u64),
    /// What would have to be noted of files is more than a point can have; the most MiB.
    #[error(
        "paths, links and attributes of the files are more than {0} MiB; \
         remove some of them, or give them shorter names"
    )]
    TooLong(u64),
    /// Somebody has a lease on one of the agent's files.
    #[error("{0} is held by a program that has a lease on it; try again in a minute")]
    Held(String),
    /// The agent's files cannot be read or written.
    #[error("{path}: {error}")]
    Files {
        /// Which one.
        path: String,
        /// How.
        error: io::Error,
    },
    /// The store's own files cannot be read or written.
    #[error("the snapshot store cannot be used: {0}")]
    Store(String),
    /// The index of the store is not what was written, or cannot be read. It can be made anew.
    #[error("the index of the snapshot store is damaged: {0}")]
    Index(String),
}

impl SnapshotError {
    /// An error of the system at a place in an agent's files.
    pub(super) fn at(path: &[u8], error: io::Error) -> SnapshotError {
        match error.kind() {
            _ if is_full(&error) => SnapshotError::Full,
            io::ErrorKind::WouldBlock => SnapshotError::Held(shown(path)),
            _ => SnapshotError::Files { path: shown(path), error },
        }
    }

    /// Damage of what lies at a place in an agent's files.
    pub(super) fn damaged(path: &[u8], how: &'static str) -> SnapshotError {
        SnapshotError::Damaged { what: shown(path), how }
    }
}

/// A path for error texts: no control characters, nothing that is not text, not too long.
pub(super) fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let plain = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    plain.take(256).collect()
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Of the store's own files.
impl From<io::Error> for SnapshotError {
    fn from(error: io::Error) -> SnapshotError {
        match is_full(&error) {
            true => SnapshotError::Full,
            false => SnapshotError::Store(error.to_string()),
        }
    }
}

impl From<rusqlite::Error> for SnapshotError {
    fn from(error: rusqlite::Error) -> SnapshotError {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => SnapshotError::Full,
            _ if is_damage(&error) => SnapshotError::Index(error.to_string()),
            _ => SnapshotError::Store(error.to_string()),
        }
    }
}

/// Whether it says that a database is not what was written: that it makes no sense, that the disk does not
/// give it back, that it lacks what is always asked of it, or that something in it is not of the sort that
/// it has to be.
fn is_damage(error: &rusqlite::Error) -> bool {
    let known = [
        ffi::SQLITE_ERROR,
        ffi::SQLITE_IOERR_READ,
        ffi::SQLITE_IOERR_SHORT_READ,
        ffi::SQLITE_IOERR_CORRUPTFS,
    ];
    match error {
        rusqlite::Error::SqliteFailure(cause, _) => {
            matches!(cause.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                || known.contains(&cause.extended_code)
        }
        rusqlite::Error::SqlInputError { .. }
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..) => true,
        _ => false,
    }
}

impl From<TreeError> for SnapshotError {
    fn from(error: TreeError) -> SnapshotError {
        match error {
            TreeError::Io { error, path } => SnapshotError::at(path.as_bytes(), error),
            error => SnapshotError::Store(error.to_string()),
        }
    }
}
