//! Moves pages from the write-ahead log into the database, beside the commits.
//!
//! Left to itself SQLite does this within a commit, which then takes milliseconds. Here a second
//! connection does it while commits go on. While they never pause it cannot catch up with them, so
//! the writer copies the few pages that are left itself when the log is long: the log then starts
//! again from its beginning.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;

use crate::store::{Result, StoreError};

/// Pages in the log that nobody copied yet, from which the second connection is woken.
const WAKE: u64 = 1_000;

/// Pages in the log from which the writer copies what is left, if it is little: 16 MiB.
const HELP: u64 = 4_096;

/// Pages in the log from which it does so in any case, before the disk fills: 64 MiB.
const LIMIT: u64 = 16_384;

/// The second connection and its thread.
pub(super) struct Checkpointer {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread.
    pub(super) fn start(conn: Connection) -> Result<Self> {
        // One place: a wake-up that finds it taken has been given already.
        let (wake, woken) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("store-checkpoint".into())
            .spawn(move || run(&conn, &woken))
            .map_err(|e| StoreError::Database(format!("cannot start a thread: {e}")))?;
        Ok(Checkpointer { wake: Some(wake), thread: Some(thread) })
    }

    /// Called by the writer between its transactions.
    pub(super) fn tend(&self, writer: &Connection) {
        let Some(log) = observe(writer, "NOOP") else { return };
        let little = log.left() < WAKE;
        if log.pages >= LIMIT || log.pages >= HELP && little {
            observe(writer, "PASSIVE");
        } else if !little && let Some(wake) = &self.wake {
            let _ = wake.try_send(());
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.wake.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(conn: &Connection, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        observe(conn, "PASSIVE");
    }
}

/// The write-ahead log.
struct Log {
    /// Pages in it.
    pages: u64,
    /// Of those, already in the database.
    copied: u64,
}

impl Log {
    fn left(&self) -> u64 {
        self.pages.saturating_sub(self.copied)
    }
}

/// Runs a checkpoint that waits for nobody. A failure is of no consequence: the pages stay in the
/// log, commits go on, and the next one tries again.
fn observe(conn: &Connection, mode: &str) -> Option<Log> {
    let row = |row: &rusqlite::Row<'_>| Ok(Log { pages: row.get(1)?, copied: row.get(2)? });
    conn.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})")).ok()?.query_row([], row).ok()
}
