//! What there is of everything that sessions take, to be compared with what there was without any.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::Result;
use ash_journey::leftovers::Snapshot;
use ash_journey::{Ash, process};
use rusqlite::{Connection, OpenFlags};

use crate::killed::told;

/// Bytes that the daemon may have in memory beyond what it had at first: what the allocator and the
/// database's connections keep for the next time, however long it lives.
const ALLOWANCE: u64 = 32 << 20;

/// Files of databases that the daemon may have open. Each of its connections opens the log when it first
/// needs it, and there are few.
const DATABASES: usize = 40;

/// What there is at a moment.
pub(super) struct Counts {
    /// Processes, control groups, mounts, sockets, files.
    places: Snapshot,
    /// Of the database, by table. With a session's row goes the lease of its user ids.
    rows: BTreeMap<String, i64>,
    /// What is kept of sessions' files. The index of it is a cache.
    kept: BTreeSet<PathBuf>,
    /// What the daemon has open, by kind.
    open: BTreeMap<String, usize>,
    /// What only the daemon has in memory, in bytes.
    pub(super) memory: u64,
}

/// Processes that the daemon has besides sandboxes.
const HELPERS: usize = 2;

impl Counts {
    pub(super) fn look(ash: &Ash) -> Result<Counts> {
        let (pid, data) = (ash.pid()?, ash.data_dir());
        let mut kept = BTreeSet::new();
        find(&data.join("snapshots"), &mut kept)?;
        Ok(Counts {
            places: ash.places().look()?,
            rows: rows(&data.join("ash.db"))?,
            kept,
            open: process::descriptors(pid),
            memory: process::memory(pid),
        })
    }

    /// Whether nothing is left of any session that has come since, and nothing is still to be collected.
    pub(super) fn is_quiet(&self, before: &Counts) -> bool {
        let is_session = |line: &str| line.starts_with("+ process ") || line.contains("/sessions/");
        let is_content = |path: &PathBuf| path.extension().is_some_and(|it| it == "pack");
        !told(&self.places, &before.places).lines().any(is_session)
            && self.rows.get("sessions") == Some(&0)
            && !self.kept.iter().any(|path| is_content(path) || path.ends_with("purged"))
    }

    /// What is not as it was before, a line each; empty when all is. Of what is open, of memory and of
    /// launcher and broker there may be less.
    pub(super) fn difference(&self, before: &Counts) -> String {
        let mut all = told(&self.places, &before.places);
        for (table, rows) in &self.rows {
            let known = before.rows.get(table).copied().unwrap_or(0);
            if *rows != known {
                all += &format!("{rows} rows of {table} instead of {known}\n");
            }
        }
        for path in self.kept.symmetric_difference(&before.kept) {
            all += &format!("kept then or now: {}\n", path.display());
        }
        let (databases, others): (Vec<_>, Vec<_>) =
            self.open.iter().partition(|(kind, _)| kind.contains(".db"));
        for (kind, count) in others {
            let known = before.open.get(kind).copied().unwrap_or(0);
            // A launcher and a broker that a daemon before has left are nobody's children; the next ones are.
            let most = if kind.contains("pidfd") { known.max(HELPERS) } else { known };
            if *count > most {
                all += &format!("{count} of {kind} are open instead of {known}\n");
            }
        }
        let databases: usize = databases.into_iter().map(|(_, count)| count).sum();
        if databases > DATABASES {
            all += &format!("{databases} files of databases are open\n");
        }
        if self.memory > before.memory + ALLOWANCE {
            all += &format!("{} bytes of memory instead of {}\n", self.memory, before.memory);
        }
        all
    }
}

fn rows(database: &Path) -> Result<BTreeMap<String, i64>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(database, flags)?;
    let mut listing = database.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'",
    )?;
    let mut rows = BTreeMap::new();
    for table in listing.query_map([], |row| row.get::<_, String>(0))? {
        let table = table?;
        let count = format!("SELECT count(*) FROM {table}");
        rows.insert(table, database.query_row(&count, [], |row| row.get(0))?);
    }
    Ok(rows)
}

/// Everything beneath a directory, but for indexes.
fn find(dir: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find(&entry.path(), found)?;
        }
        if !entry.file_name().to_string_lossy().starts_with("index.db") {
            found.insert(entry.path());
        }
    }
    Ok(())
}
