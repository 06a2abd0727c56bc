//! A driver that has time only when it is given some, with a database, and a bridge that says what a test
//! has it say.

mod back;
mod clear;
mod commit;
mod end;
mod idle;
mod life;
mod permit;
mod rest;
mod times;
mod turns;

use ash_wire::frame::{self, Kind};
use bytes::Bytes;
use rusqlite::Connection;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::*;
use crate::domain::session::RunningTurn;
use crate::domain::{EventKind, Message, TurnOptions};
use crate::sandbox::link::Incoming;
use crate::session::cli::Conversation;
use crate::session::keeping::Found;
use crate::session::owners::Counted;
use crate::session::stage::{Stage, linked};
use crate::store::EventRange;

/// A driver of a session with a sandbox, which has time only when it is given some, and the far end
/// of its link.
async fn idle(status: Status) -> (Stage, Driver, UnixStream) {
    let stage = Stage::set().await;
    let session = Session { status, ..Session::example(1) };
    stage.add(&session).await;
    let (mut driver, _) = Driver::new(stage.shared.clone(), session);
    driver.state = State::live(status, Turn::None, 4);
    let (running, bridge) = linked().await;
    driver.link = Some(running);
    let key = StartKey::of(&TurnOptions::default());
    driver.cli = Some(RunningCli { key, controls: None, cost: 0.0 });
    (stage, driver, bridge)
}

/// Like [`idle`], of a session that answers a message.
async fn answering(status: Status) -> (Stage, Driver, UnixStream) {
    let (stage, mut driver, bridge) = idle(status).await;
    let id = TurnId::random();
    let body = Bytes::from_static(br#"{"content":"x"}"#);
    let user = driver.event(EventKind::User, Some(id), body);
    let turn = Some(Some(RunningTurn { id, user_seq: user.seq }));
    let change = SessionChange { turn, ..SessionChange::none() };
    driver.commit(change, vec![user]).await.unwrap();
    driver.state.turn = Turn::Ours(id);
    (stage, driver, bridge)
}

/// Does something to the database that the daemon knows nothing of.
fn meddle(stage: &Stage, sql: &str) {
    let database = stage.shared.places.data_dir.join("ash.db");
    Connection::open(database).unwrap().execute_batch(sql).unwrap();
}

async fn history(driver: &Driver) -> Vec<EventKind> {
    let range = EventRange { after: 0, limit: 100, kinds: vec![], undone: true };
    let events = driver.shared.store.events(driver.session.id, range).await.unwrap();
    events.iter().map(|event| event.kind).collect()
}

fn life(running: Running) -> Life {
    let (found, conversation) = (Found::Place, Conversation::New);
    Life { running, found, built: None, conversation, counted: Counted::any() }
}

/// Takes what comes to a driver next, which is no command.
async fn next_input(driver: &mut Driver) -> Input {
    let (_commands, none) = mpsc::channel(1);
    driver.commands = none;
    driver.input(&mut vec![]).await
}

async fn stop(driver: &mut Driver) -> Result<Arc<SessionView>, Refusal> {
    let (reply, stopped) = oneshot::channel();
    driver.command(Command::Stop { reply }).await;
    stopped.await.unwrap()
}

/// Sends a message, and returns where its sender waits for the stream.
async fn send(driver: &mut Driver) -> oneshot::Receiver<Result<Subscription, Refusal>> {
    let request = Message::read(br#"{"content":"next"}"#).unwrap().request;
    let (reply, answer) = oneshot::channel();
    driver.send(request, Reading::default(), reply).await;
    answer
}

/// A line of the CLI that history keeps.
fn line(number: u64) -> Incoming {
    let line = br#"{"type":"assistant","message":{"id":"m","content":[]}}"#;
    Incoming::Line { number, line: Bytes::from_static(line) }
}

async fn hear(driver: &mut Driver, said: Incoming) {
    driver.said(Ok(Some(1)), &mut vec![said]).await;
}

/// What the bridge was sent till the driver was gone.
async fn sent(driver: Driver, mut bridge: UnixStream) -> Vec<Kind> {
    drop(driver);
    let (mut bytes, mut kinds, mut at) = (vec![], vec![], 0);
    bridge.read_to_end(&mut bytes).await.unwrap();
    while let Some((header, end)) = frame::first(&bytes[at..]).unwrap() {
        kinds.push(header.kind);
        at += end;
    }
    kinds
}
