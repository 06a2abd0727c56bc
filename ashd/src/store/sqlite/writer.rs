//! The one connection that writes, on a thread of its own, many operations to a transaction.
//!
//! A commit costs one flush of the disk however much is in it. So the thread takes whatever is
//! waiting (up to a bound), runs each operation in a savepoint, so that one that fails leaves the
//! others alone, commits, and only then answers them all. One that is alone needs no savepoint.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::checkpoint::Checkpointer;
use crate::fault;
use crate::store::{Result, StoreError};
use crate::telemetry::metrics::{self, Metrics};

/// Operations that may wait; whoever comes later waits to wait.
const QUEUE: usize = 1024;

/// The way to the writing thread.
pub(super) struct Writer {
    queue: Mutex<Option<mpsc::Sender<Box<dyn Operation>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    noted: Noted,
}

/// What the thread notes of its transactions, for everybody to see.
#[derive(Clone)]
struct Noted {
    /// Those that were committed.
    commits: Arc<AtomicU64>,
    /// How long they take.
    metrics: Arc<Metrics>,
}

impl Writer {
    /// Starts the thread. At most `group` operations go into one transaction.
    pub(super) fn start(
        conn: Connection,
        checkpointer: Checkpointer,
        group: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self> {
        let (queue, operations) = mpsc::channel(QUEUE);
        let noted = Noted { commits: Arc::default(), metrics };
        let body = Body { conn, checkpointer, operations, group, noted: noted.clone() };
        let thread = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || body.run())
            .map_err(|e| StoreError::Database(format!("cannot start a thread: {e}")))?;
        Ok(Writer { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)), noted })
    }

    /// Carries `work` out and returns when it is on disk. It is carried out even if the caller
    /// does not wait for the answer.
    pub(super) async fn write<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.write_then(work, || ()).await
    }

    /// As [`write`](Self::write). `then` is done behind the end of the transaction, whatever has come of it,
    /// before anybody is told, and even if nobody waits.
    pub(super) async fn write_then<T, W, N>(&self, work: W, then: N) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T> + Send + 'static,
        N: FnOnce() + Send + 'static,
    {
        let queue = lock(&self.queue).clone().ok_or(StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let pending = Pending { work: Some(work), outcome: None, then, reply };
        queue.send(Box::new(pending)).await.map_err(|_| StoreError::Closed)?;
        drop(queue);
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Transactions that were committed since the start, also those that changed nothing.
    pub(super) fn commits(&self) -> u64 {
        self.noted.commits.load(Ordering::Relaxed)
    }

    /// Refuses what comes from now on, and waits until the thread has done the rest.
    pub(super) fn close(&self) {
        lock(&self.queue).take();
        if let Some(thread) = lock(&self.thread).take() {
            // A thread that panicked has lost its operations, and their callers know.
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

/// Nothing is left half done under these locks, so a panic elsewhere does no harm.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the thread owns.
struct Body {
    conn: Connection,
    checkpointer: Checkpointer,
    operations: mpsc::Receiver<Box<dyn Operation>>,
    group: usize,
    noted: Noted,
}

impl Body {
    fn run(mut self) {
        while let Some(first) = self.operations.blocking_recv() {
            let mut group = vec![first];
            while group.len() < self.group
                && let Ok(next) = self.operations.try_recv()
            {
                group.push(next);
            }
            let fate = self.transact(&mut group);
            for operation in group {
                operation.answer(&fate);
            }
            self.checkpointer.tend(&self.conn);
        }
    }

    /// One transaction. An error means that nothing of it was kept.
    fn transact(&self, group: &mut [Box<dyn Operation>]) -> Result<()> {
        let (begun, operations) = (Instant::now(), group.len());
        let kept = self.attempt(group);
        if kept.is_ok() {
            metrics::since(&self.noted.metrics.commits, begun);
            self.noted.metrics.commit_operations.observe(operations as f64);
        }
        if kept.is_err() && !self.conn.is_autocommit() {
            self.execute("ROLLBACK")?;
        }
        kept
    }

    fn attempt(&self, group: &mut [Box<dyn Operation>]) -> Result<()> {
        self.execute("BEGIN IMMEDIATE")?;
        match group {
            // What it did goes with the transaction when it fails. SQLite keeps no copies of pages for that.
            [alone] => alone.run(&self.conn)?,
            many => {
                for operation in many {
                    self.step(operation.as_mut())?;
                }
            }
        }
        fault::fail("store.commit.before").map_err(|e| StoreError::Database(e.to_string()))?;
        self.execute("COMMIT")?;
        fault::point("store.commit.after");
        self.noted.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// One operation. An error means that the whole transaction is lost: SQLite itself gives it up
    /// when the disk is full.
    fn step(&self, operation: &mut dyn Operation) -> Result<()> {
        self.execute("SAVEPOINT operation")?;
        if let Err(error) = operation.run(&self.conn) {
            if self.conn.is_autocommit() {
                return Err(error);
            }
            self.execute("ROLLBACK TO operation")?;
        }
        self.execute("RELEASE operation")
    }

    fn execute(&self, sql: &str) -> Result<()> {
        self.conn.prepare_cached(sql)?.execute([])?;
        Ok(())
    }
}

/// An operation whose caller waits.
trait Operation: Send {
    /// Carries it out, once. What it did is undone when it fails.
    fn run(&mut self, conn: &Connection) -> Result<()>;
    /// Tells the caller, once the fate of the transaction is known.
    fn answer(self: Box<Self>, fate: &Result<()>);
}

struct Pending<T, W, N> {
    work: Option<W>,
    outcome: Option<Result<T>>,
    then: N,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, W, N> Operation for Pending<T, W, N>
where
    T: Send,
    W: FnOnce(&Connection) -> Result<T> + Send,
    N: FnOnce() + Send,
{
    fn run(&mut self, conn: &Connection) -> Result<()> {
        let work = self.work.take().ok_or(StoreError::Closed)?;
        let outcome = work(conn);
        let kept = outcome.as_ref().map(|_| ()).map_err(Clone::clone);
        self.outcome = Some(outcome);
        kept
    }

    fn answer(self: Box<Self>, fate: &Result<()>) {
        let Pending { outcome, then, reply, .. } = *self;
        then();
        let answer = match (fate, outcome) {
            (_, Some(Err(own))) => Err(own),
            (Err(lost), _) => Err(lost.clone()),
            (Ok(()), Some(outcome)) => outcome,
            (Ok(()), None) => Err(StoreError::Closed),
        };
        // The caller may have gone; what was asked is done all the same.
        let _ = reply.send(answer);
    }
}
