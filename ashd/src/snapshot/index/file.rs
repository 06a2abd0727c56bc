//! The database of an index: one file, and what SQLite keeps beside it.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::SnapshotError;

/// Its name in a vault.
pub(in crate::snapshot) const INDEX: &str = "index.db";

/// How the names end of its files that say anything.
const FILES: [&str; 2] = ["", "-wal"];

/// A connection to an index, which is made when there is none. Nothing is read of what it knows.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open(path)?;
    conn.set_prepared_statement_cache_capacity(16);
    // A transaction that is lost with the power is made again from the packs.
    conn.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = NORMAL;
         CREATE TABLE IF NOT EXISTS packs (
             key   INTEGER PRIMARY KEY,
             name  BLOB NOT NULL UNIQUE,
             bytes INTEGER NOT NULL
         ) STRICT;
         CREATE TABLE IF NOT EXISTS chunks (
             id         BLOB PRIMARY KEY,
             pack       INTEGER NOT NULL,
             offset     INTEGER NOT NULL,
             stored     INTEGER NOT NULL,
             length     INTEGER NOT NULL,
             compressed INTEGER NOT NULL,
             writer     INTEGER
         ) WITHOUT ROWID, STRICT;
         CREATE TABLE IF NOT EXISTS writers (
             key     INTEGER PRIMARY KEY AUTOINCREMENT,
             session BLOB NOT NULL UNIQUE
         ) STRICT;",
    )?;
    // One that was made before it was noted who has stored what.
    let sql = "SELECT count(*) FROM pragma_table_info('chunks') WHERE name = 'writer'";
    if conn.query_row(sql, [], |row| row.get::<_, i64>(0))? == 0 {
        conn.execute_batch("ALTER TABLE chunks ADD COLUMN writer INTEGER")?;
    }
    Ok(conn)
}

/// What is wrong with the index at `path`; `None`: nothing. All of it is read, and nobody is kept from
/// using it meanwhile.
pub(in crate::snapshot) fn damage_of(path: &Path) -> Result<Option<String>, SnapshotError> {
    if !path.try_exists()? && path.parent().is_some_and(Path::is_dir) {
        return Ok(Some("it is not there".to_owned()));
    }
    match quick_check(path).map_err(SnapshotError::from) {
        Ok(said) => Ok((said != "ok").then_some(said)),
        Err(SnapshotError::Index(how)) => Ok(Some(how)),
        Err(error) => Err(error),
    }
}

/// By a connection of its own.
fn quick_check(path: &Path) -> rusqlite::Result<String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.pragma_update(None, "query_only", true)?;
    conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
}

/// Copies an index that nobody has open, as it is. There may be none.
pub(in crate::snapshot) fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    for suffix in FILES {
        match std::fs::copy(beside(from, suffix), beside(to, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes an index that nobody has open.
pub(in crate::snapshot) fn remove(path: &Path) -> Result<(), SnapshotError> {
    for suffix in FILES.into_iter().chain(["-shm"]) {
        match std::fs::remove_file(beside(path, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
