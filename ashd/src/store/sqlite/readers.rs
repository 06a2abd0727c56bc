//! Connections that only read, and the way to borrow one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::store::{Result, StoreError};

/// A small pool. A read sees everything that was acknowledged before it.
pub(super) struct Readers {
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
    size: u32,
}

impl Readers {
    /// A pool of these connections.
    pub(super) fn new(connections: Vec<Connection>) -> Self {
        let permits = Arc::new(Semaphore::new(connections.len()));
        let size = connections.len() as u32;
        Readers { permits, idle: Arc::new(Mutex::new(connections)), size }
    }

    /// Runs `work` on a free connection, off the async threads.
    pub(super) async fn read<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let lease = self.lease().await?;
        let read = tokio::task::spawn_blocking(move || work(lease.conn()?));
        read.await.unwrap_or_else(|e| Err(StoreError::Database(format!("a read broke off: {e}"))))
    }

    async fn lease(&self) -> Result<Lease> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| StoreError::Closed)?;
        let conn = lock(&self.idle).pop();
        Ok(Lease { conn, idle: Arc::clone(&self.idle), _permit: permit })
    }

    /// Waits for reads that are under way, refuses others, closes the connections. What takes longer
    /// than this is left to the end of the process: it changes nothing.
    pub(super) async fn close(&self, patience: Duration) {
        let all = timeout(patience, self.permits.acquire_many(self.size)).await;
        self.permits.close();
        lock(&self.idle).clear();
        drop(all);
    }
}

/// Connections are pushed and popped under this lock: nothing that could be left half done.
fn lock(idle: &Mutex<Vec<Connection>>) -> MutexGuard<'_, Vec<Connection>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A borrowed connection; goes back when dropped, before its permit does.
struct Lease {
    conn: Option<Connection>,
    idle: Arc<Mutex<Vec<Connection>>>,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    fn conn(&self) -> Result<&Connection> {
        self.conn.as_ref().ok_or(StoreError::Closed)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.idle).extend(self.conn.take());
    }
}
