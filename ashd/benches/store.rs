//! How many durable events a second the store takes, and how long a commit lasts.
//!
//! `cargo bench -p ashd --bench store [directory]`: the directory must be on a real disk. Beside
//! each figure stands what the disk itself does at that moment with as many bytes: a plain append
//! and a flush.

#![expect(clippy::print_stdout, reason = "the figures are what this program is for")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ashd::domain::event::Origin;
use ashd::domain::{
    Changed, EventKind, NewEvent, SandboxId, Session, SessionChange, SessionId, Settings, Status,
    Tenant, Timestamp, TurnId,
};
use ashd::store::sqlite::{Options, Sqlite};
use ashd::store::{Commit, Store, StoreError};

const RUN: Duration = Duration::from_secs(4);
const BODY: usize = 300;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let parent = parent.map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    println!("sessions  batch   events/s  commits/s   p50 us   p99 us  disk p50  disk p99");
    for (sessions, batch) in [(1, 1), (1, 10), (1, 64), (1, 256), (20, 1), (20, 10), (20, 64)] {
        let dir = tempfile::tempdir_in(&parent)?;
        let disk = flushes(&dir.path().join("plain"), BODY * batch as usize)?;
        let store = Arc::new(Sqlite::open(&dir.path().join("ash.db"), Options::default())?);
        let waits = runtime.block_on(scenario(&store, sessions, batch))?;
        println!("{} {:9} {:9}", waits, disk[disk.len() / 2], disk[disk.len() * 99 / 100]);
        runtime.block_on(store.close());
    }
    Ok(())
}

/// Microseconds of appends of so many bytes with a flush each, sorted.
fn flushes(path: &Path, bytes: usize) -> std::io::Result<Vec<u128>> {
    let (mut file, data) = (File::create(path)?, vec![b'x'; bytes]);
    let mut waits = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < RUN / 4 {
        let asked = Instant::now();
        file.write_all(&data)?;
        file.sync_data()?;
        waits.push(asked.elapsed().as_micros());
    }
    waits.sort_unstable();
    Ok(waits)
}

/// So many sessions, each of which commits its next batch as soon as the one before is on disk.
async fn scenario(store: &Arc<Sqlite>, sessions: usize, batch: u64) -> Result<String, StoreError> {
    let before = store.commits();
    let begun = Instant::now();
    let drivers: Vec<_> =
        (0..sessions).map(|_| tokio::spawn(drive(Arc::clone(store), batch))).collect();
    let mut waits = Vec::new();
    for driver in drivers {
        waits.extend(driver.await.map_err(|e| StoreError::Database(e.to_string()))??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    waits.sort_unstable();
    let at = |share: usize| waits[(waits.len() - 1) * share / 100].as_micros();
    Ok(format!(
        "{sessions:8} {batch:6} {:10.0} {:10.0} {:8} {:8}",
        waits.len() as f64 * batch as f64 / seconds,
        (store.commits() - before) as f64 / seconds,
        at(50),
        at(99),
    ))
}

async fn drive(store: Arc<Sqlite>, batch: u64) -> Result<Vec<Duration>, StoreError> {
    let session = session();
    let (id, turn) = (session.id, TurnId::random());
    store.create_session(session, Vec::new()).await?;
    let (mut waits, mut seq) = (Vec::new(), 0);
    let begun = Instant::now();
    while begun.elapsed() < RUN {
        let events = (1..=batch).map(|n| event(seq + n, turn)).collect();
        let asked = Instant::now();
        store.commit(Commit::of(id, SessionChange::none(), events)).await?;
        waits.push(asked.elapsed());
        seq += batch;
    }
    Ok(waits)
}

fn event(seq: u64, turn: TurnId) -> NewEvent {
    NewEvent {
        seq,
        kind: EventKind::Assistant,
        turn: Some(turn),
        origin: Some(Origin { epoch: 1, number: seq }),
        replaces: false,
        body: vec![b'x'; BODY].into(),
        at: Timestamp::now(),
    }
}

fn session() -> Session {
    Session {
        id: SessionId::random(),
        tenant: Tenant::default(),
        agent: "bench".parse().expect("a plain name"),
        agent_version: 1,
        status: Status::Active,
        sandbox: SandboxId::random(),
        settings: Settings::default(),
        cli_session: String::new(),
        cli_version: None,
        parent: None,
        restore: None,
        cold: false,
        changed: Changed::No,
        altered: None,
        last_error: None,
        turn: None,
        slot: None,
        last_seq: 0,
        created_at: Timestamp::now(),
        last_active_at: Timestamp::now(),
    }
}
