//! How connections to the database are opened.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};

use crate::store::{Result, StoreError};

/// How long to wait for another program that has the database locked: a backup, say.
const BUSY: Duration = Duration::from_secs(10);

/// Statements that stay prepared, for each connection; all that there are.
const STATEMENTS: usize = 64;

/// What a connection is for.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Role {
    /// Changes rows, checkpoints.
    Write,
    /// Only reads.
    Read,
}

/// Makes the file if there is none. Nobody but its owner can open it, nor the files that SQLite
/// keeps beside it: SQLite gives those the mode of the database.
pub(super) fn prepare_file(path: &Path) -> Result<()> {
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
        _ => StoreError::Database(e.to_string()),
    };
    make(path).map_err(failed)?;
    for suffix in ["", "-wal", "-shm"] {
        close_to_others(&beside(path, suffix)).map_err(failed)?;
    }
    Ok(())
}

fn make(path: &Path) -> io::Result<()> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(_) => File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all(),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

fn close_to_others(path: &Path) -> io::Result<()> {
    match fs::set_permissions(path, Permissions::from_mode(0o600)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// How long a scrub may keep writers waiting for readers.
const SCRUB: Duration = Duration::from_millis(200);

/// Copies what is in the write-ahead log into the database and empties it; false when a reader was
/// in the way.
pub(super) fn scrub(path: &Path) -> Result<bool> {
    let conn = connect(path, Role::Write)?;
    conn.busy_timeout(SCRUB)?;
    let checkpoint = |mode: &str| {
        let busy = |row: &rusqlite::Row<'_>| row.get::<_, bool>(0);
        conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], busy)
    };
    // Most of it beside the commits, which wait for the rest: it does not matter whether somebody is in
    // the way of this.
    checkpoint("PASSIVE")?;
    Ok(!checkpoint("TRUNCATE")?)
}

/// Copies the database into a file that must not be there yet. All of it is of one moment: that at
/// which the copying begins, whatever is written meanwhile.
pub(super) fn copy(conn: &Connection, file: &Path) -> Result<()> {
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
        _ => StoreError::Database(e.to_string()),
    };
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let made = made.map_err(failed)?;
    let mut copy = Connection::open(file)?;
    // Flushed once, at the end.
    copy.pragma_update(None, "synchronous", "OFF")?;
    Backup::new(conn, &mut copy)?.step(-1)?;
    copy.close().map_err(|(_, error)| error)?;
    made.sync_all().map_err(failed)
}

/// Reads all of the database; what is wrong with it, if anything is.
pub(super) fn check(conn: &Connection) -> Result<Option<String>> {
    let found: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Ok(Some(found));
    }
    let mut broken = conn.prepare("PRAGMA foreign_key_check")?;
    let table = broken.query_map([], |row| row.get::<_, String>(0))?.next().transpose()?;
    Ok(table.map(|table| format!("a row of {table} belongs to nothing")))
}

/// A connection to a file that is there, for reading.
pub(super) fn look(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.pragma_update(None, "query_only", true)?;
    Ok(conn)
}

/// A connection to the file.
pub(super) fn connect(path: &Path, role: Role) -> Result<Connection> {
    // Each connection is used by one thread at a time.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    // FULL: a commit returns after the log is on the disk. Checkpoints have a thread of their own.
    // Purged rows are overwritten.
    conn.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA foreign_keys = ON;
         PRAGMA secure_delete = ON;
         PRAGMA temp_store = MEMORY;",
    )?;
    conn.pragma_update(None, "query_only", role == Role::Read)?;
    Ok(conn)
}
