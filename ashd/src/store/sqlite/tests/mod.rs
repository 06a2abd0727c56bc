//! The store against a model, against crashes and against full disks.

mod crash;
mod full;
mod migrating;
mod model;
mod opening;
mod purging;
mod resting;
mod retention;
mod unsynced;
mod writing;

use std::path::Path;
use std::result::Result;

use uuid::Uuid;

use super::*;
use crate::domain::event::Origin;
use crate::domain::*;
use crate::store::*;

/// Runs a test's async part.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(future)
}

fn open(dir: &Path) -> Sqlite {
    Sqlite::open(&dir.join("ash.db"), Options::default()).unwrap()
}

fn uuid(n: u8) -> Uuid {
    Uuid::from_bytes([n; 16])
}

fn session(n: u8) -> Session {
    Session::example(uuid(n).as_u128())
}

fn event(seq: u64) -> NewEvent {
    NewEvent {
        seq,
        kind: EventKind::Assistant,
        turn: Some(TurnId(uuid(1))),
        origin: Some(Origin { epoch: 1, number: seq }),
        replaces: false,
        body: format!("{{\"n\":{seq}}}").into(),
        at: Timestamp(seq as i64),
    }
}

fn id(n: u8) -> SessionId {
    SessionId(uuid(n))
}

/// A point of a session, saved at a time.
fn point(n: u8, session: u8, seq: u64, at: i64) -> Point {
    let (id, session, root) = (PointId(uuid(n)), id(session), Root([n; 32]));
    let (written, created_at) = (100, Timestamp(at));
    Point { id, session, root, written, created_at, ..Point::example(seq) }
}

/// A commit of events only.
fn append(n: u8, events: Vec<NewEvent>) -> Commit {
    Commit::of(SessionId(uuid(n)), Default::default(), events)
}

fn everything() -> EventRange {
    EventRange { after: 0, limit: u32::MAX, kinds: Vec::new(), undone: true }
}

/// The numbers of a session's events.
async fn numbers(store: &Sqlite, n: u8) -> Vec<u64> {
    let events = store.events(SessionId(uuid(n)), everything()).await.unwrap();
    events.iter().map(|event| event.seq).collect()
}
