//! The store in a SQLite database.
//!
//! One connection writes, many operations to a transaction (`writer`); a few others read
//! (`readers`); one more keeps the write-ahead log short (`checkpoint`).

mod open;
mod schema;
mod values;

mod checkpoint;
mod readers;
mod writer;

mod known;

mod agents;
mod attachments;
mod copies;
mod events;
mod keys;
mod points;
mod purges;
mod retention;
mod sessions;
mod tenants;
mod unsynced;
mod usage;

mod calls;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::checkpoint::Checkpointer;
use self::known::KnownAgents;
use self::open::{Role, connect};
use self::readers::Readers;
use self::writer::Writer;
use super::Result;
use crate::telemetry::metrics::Metrics;

/// How to work with the database.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections for reading.
    pub readers: usize,
    /// At most this many operations in one transaction.
    pub group: usize,
    /// Names the time since the machine was started.
    pub boot: String,
    /// Where it is told how long commits take.
    pub metrics: Arc<Metrics>,
}

impl Default for Options {
    fn default() -> Self {
        Options { readers: 4, group: 256, boot: String::new(), metrics: Arc::default() }
    }
}

/// A database file, open. Dropping it waits until what was accepted is on disk.
pub struct Sqlite {
    path: PathBuf,
    readers: Readers,
    writer: Arc<Writer>,
    agents: Arc<KnownAgents>,
    boot: Arc<str>,
}

impl Sqlite {
    /// The newest schema that this program knows.
    pub const SCHEMA: u32 = schema::KNOWN;

    /// The schema of a database that is there, which is not brought up to date.
    ///
    /// # Errors
    /// When it is damaged, none of ours, or made by a newer program.
    pub fn schema_of(path: &Path) -> Result<u32> {
        schema::check(&open::look(path)?)
    }

    /// Opens the database, makes it if there is none (mode 0600), and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Newer`](super::StoreError::Newer) when a newer program made it,
    /// [`StoreError::Database`](super::StoreError::Database) when it is none of ours or damaged.
    pub fn open(path: &Path, options: Options) -> Result<Sqlite> {
        open::prepare_file(path)?;
        let mut conn = connect(path, Role::Write)?;
        schema::migrate(&mut conn)?;
        let readers = (0..options.readers.max(1)).map(|_| connect(path, Role::Read));
        let readers = Readers::new(readers.collect::<Result<_>>()?);
        let checkpointer = Checkpointer::start(connect(path, Role::Write)?)?;
        let Options { group, metrics, .. } = options;
        let writer = Arc::new(Writer::start(conn, checkpointer, group, metrics)?);
        let (path, agents, boot) = (path.to_owned(), Arc::default(), options.boot.into());
        Ok(Sqlite { path, readers, writer, agents, boot })
    }

    /// Carries out what may change agents: nothing is known of them behind it.
    async fn write_agents<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let agents = self.agents.clone();
        self.writer.write_then(work, move || agents.forget()).await
    }

    /// Writes something about each of these; when there are none, which is as usual, nothing.
    async fn write_each<T: Send + 'static>(
        &self,
        all: Vec<T>,
        write: impl FnOnce(&rusqlite::Connection, &[T]) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        match all.is_empty() {
            true => Ok(()),
            false => self.writer.write(move |conn| write(conn, &all)).await,
        }
    }

    /// Transactions since the database was opened; operations share them.
    pub fn commits(&self) -> u64 {
        self.writer.commits()
    }
}
