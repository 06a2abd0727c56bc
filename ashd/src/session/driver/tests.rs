mod idle;

use std::time::Duration;

use ash_wire::frame::{self, Kind};
use ash_wire::words::{CliState, TurnOutcome};
use bytes::Bytes;
use rusqlite::Connection;
use serde_json::value::RawValue;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::rest::IDLE;
use super::times::end_of;
use super::*;
use crate::domain::session::RunningTurn;
use crate::domain::turn::{OutputFormat, OutputKind};
use crate::domain::{EventKind, Message, SandboxId, Scope, Tenant, TurnOptions, WhenBusy};
use crate::sandbox::link::Incoming;
use crate::session::admission::Entry;
use crate::session::api::Caller;
use crate::session::cli::Conversation;
use crate::session::gate::{Entered, Place};
use crate::session::keeping::{Found, beside};
use crate::session::stage::{LAUNCHES, Stage, TURNS, linked};
use crate::store::{EventRange, StoreError};
use crate::telemetry::metrics::labels::{Resumed, TurnEnd, Word};

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

/// How long it is looked whether somebody waits.
const A_WHILE: Duration = Duration::from_millis(100);

/// Does something to the database that the daemon knows nothing of.
fn meddle(stage: &Stage, sql: &str) {
    let database = stage.shared.places.data_dir.join("ash.db");
    Connection::open(database).unwrap().execute_batch(sql).unwrap();
}

/// Has the database take no events, as if there were no room for them, or take them again.
fn take_events(stage: &Stage, takes: bool) {
    let sql = match takes {
        true => "DROP TRIGGER full",
        false => {
            "CREATE TRIGGER full BEFORE INSERT ON events
             BEGIN SELECT RAISE(ABORT, 'there is no room'); END"
        }
    };
    meddle(stage, sql);
}

async fn history(driver: &Driver) -> Vec<EventKind> {
    let range = EventRange { after: 0, limit: 100, kinds: vec![], undone: true };
    let events = driver.shared.store.events(driver.session.id, range).await.unwrap();
    events.iter().map(|event| event.kind).collect()
}

fn life(running: Running) -> Life {
    let (found, conversation) = (Found::Place, Conversation::New);
    Life { running, found, conversation, _entry: Entry::any() }
}

/// As many places for turns as there are, taken by a tenant.
fn all_places(stage: &Stage, tenant: &Tenant) -> Vec<Place> {
    let places = (0..TURNS).map(|_| match stage.shared.gates.turns.enter(tenant) {
        Entered::Place(place) => place,
        Entered::Waiting(_) => panic!("a place is taken"),
    });
    places.collect()
}

/// Takes what comes to a driver next, which is no command.
async fn next_input(driver: &mut Driver) -> Input {
    let (_commands, none) = mpsc::channel(1);
    driver.commands = none;
    driver.input(&mut vec![]).await
}

/// As many sandboxes as may be made at a time are being made.
async fn all_launches(stage: &Stage) -> Vec<Entry> {
    let mut making = vec![];
    for _ in 0..LAUNCHES {
        making.push(enter(stage).await.unwrap());
    }
    making
}

/// A sandbox for somebody else.
async fn enter(stage: &Stage) -> Result<Entry, Refusal> {
    let owner = (Tenant::default(), "other".parse().unwrap());
    stage.shared.enter(owner, SandboxId::random()).await
}

/// A driver of an active session without a sandbox.
async fn cold() -> (Stage, Driver) {
    let (stage, session) = (Stage::set().await, Session::example(1));
    stage.add(&session).await;
    let (driver, _) = Driver::new(stage.shared.clone(), session);
    (stage, driver)
}

/// A message whose sender wants this, when it has to wait.
async fn send_as(
    driver: &mut Driver,
    when_busy: WhenBusy,
) -> oneshot::Receiver<Result<Subscription, Refusal>> {
    let request = Message::read(br#"{"content":"next"}"#).unwrap().request;
    let (reply, answer) = oneshot::channel();
    driver.send(TurnRequest { when_busy, ..request }, Reading::default(), reply).await;
    answer
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

#[tokio::test]
async fn an_end_that_could_not_be_stored_is_stored_before_the_next_status() {
    let (stage, mut driver, _bridge) = answering(Status::Active).await;
    take_events(&stage, false);
    // Whoever stops a session does not wait until there is room.
    driver.leaving.store(true, Ordering::Relaxed);
    assert!(matches!(stop(&mut driver).await, Err(Refusal::Store(_))));
    assert!(driver.session.turn.is_some() && driver.link.is_none());
    take_events(&stage, true);
    stop(&mut driver).await.unwrap();
    assert_eq!(driver.session.turn, None);
    assert_eq!(history(&driver).await, [EventKind::User, EventKind::Error, EventKind::Lifecycle]);
}

#[tokio::test]
async fn and_before_the_next_sandbox() {
    let (_stage, mut driver, _bridge) = answering(Status::Stopped).await;
    driver.state = State::cold(Status::Stopped, 4);
    driver.state.step(Event::Resume).unwrap();
    let (running, _bridge) = linked().await;
    driver.launched(Ok(life(running))).await;
    assert_eq!((driver.session.turn, driver.session.status), (None, Status::Active));
    assert_eq!(history(&driver).await, [EventKind::User, EventKind::Error, EventKind::Lifecycle]);
}

#[tokio::test]
async fn and_before_the_next_message() {
    let (_stage, mut driver, _bridge) = answering(Status::Active).await;
    driver.state.turn = Turn::None;
    send(&mut driver).await.await.unwrap().unwrap();
    assert!(matches!(driver.state.turn, Turn::Ours(id) if driver.session.turn.unwrap().id == id));
    assert_eq!(history(&driver).await, [EventKind::User, EventKind::Error, EventKind::User]);
}

#[tokio::test]
async fn a_turn_is_measured_from_its_beginning_to_its_end() {
    let (stage, mut driver, _bridge) = idle(Status::Active).await;
    let metrics = stage.shared.metrics();
    send(&mut driver).await.await.unwrap().unwrap();
    assert_eq!(metrics.queue_wait.get_sample_count(), 1);
    assert_eq!(metrics.first_event.get_sample_count(), 0);
    hear(&mut driver, line(1)).await;
    hear(&mut driver, line(2)).await;
    assert_eq!(metrics.first_event.get_sample_count(), 1);
    let result = br#"{"type":"result","is_error":true,"total_cost_usd":0.5}"#;
    let result = Incoming::Line { number: 3, line: Bytes::from_static(result) };
    hear(&mut driver, result).await;
    assert_eq!(driver.session.turn, None);
    hear(&mut driver, line(4)).await;
    let ended = |end| metrics.turns.of(end).get_sample_count();
    assert_eq!((ended(TurnEnd::Error), ended(TurnEnd::Result), metrics.cost.get()), (1, 0, 0.5));
    assert_eq!(metrics.first_event.get_sample_count(), 1);
}

#[tokio::test]
async fn and_one_that_has_no_result_by_how_it_ended() {
    let (stage, mut driver, _bridge) = idle(Status::Active).await;
    send(&mut driver).await.await.unwrap().unwrap();
    stop(&mut driver).await.unwrap();
    let metrics = stage.shared.metrics();
    assert_eq!(metrics.turns.of(TurnEnd::Stopped).get_sample_count(), 1);
    assert_eq!(metrics.lost.get(), 0, "it was told to end");
    assert_eq!(end_of(TurnOutcome::Interrupted), TurnEnd::Interrupted);
    assert_eq!(end_of(TurnOutcome::NoResult), TurnEnd::Failed);
}

#[tokio::test]
async fn a_cost_that_cannot_be_is_not_counted() {
    let (stage, mut driver, _bridge) = answering(Status::Active).await;
    for (number, total) in [(1, "1e300"), (2, "0.5"), (3, "-1e300"), (4, "1e300"), (5, "0.25")] {
        let result = format!(r#"{{"type":"result","is_error":false,"total_cost_usd":{total}}}"#);
        hear(&mut driver, Incoming::Line { number, line: result.into() }).await;
    }
    assert_eq!(stage.shared.metrics().cost.get(), 0.75);
}

#[tokio::test]
async fn a_resume_is_measured_when_it_succeeds() {
    let (stage, mut driver, _bridge) = idle(Status::Paused).await;
    let (reply, answer) = oneshot::channel();
    driver.command(Command::Resume { reply }).await;
    answer.await.unwrap().unwrap();
    stop(&mut driver).await.unwrap();
    let (reply, waits) = oneshot::channel();
    driver.command(Command::Resume { reply }).await;
    driver.launched(Err(Refusal::Sandbox("there is no room".to_owned()))).await;
    assert!(waits.await.unwrap().is_err());
    driver.state.step(Event::Resume).unwrap();
    driver.times.resume_began();
    let (running, _bridge) = linked().await;
    driver.launched(Ok(life(running))).await;
    assert_eq!(driver.session.status, Status::Active);
    let times = &stage.shared.metrics().resume_times;
    let measured = Resumed::ALL.iter().map(|how| times.of(*how).get_sample_count());
    assert_eq!(measured.collect::<Vec<_>>(), [1, 1, 0, 0]);
}

#[tokio::test]
async fn nothing_is_acknowledged_behind_what_could_not_be_stored() {
    let (stage, mut driver, bridge) = answering(Status::Active).await;
    let numbering = format!("{:?}", driver.numbering);
    take_events(&stage, false);
    stage.shared.shutting_down.store(true, Ordering::Relaxed);
    hear(&mut driver, line(1)).await;
    assert_eq!(format!("{:?}", driver.numbering), numbering);
    // There is room again, and the sandbox is about to be left to the next daemon.
    take_events(&stage, true);
    hear(&mut driver, line(2)).await;
    driver.end_unheard().await;
    assert_eq!(history(&driver).await, [EventKind::User]);
    assert!(!sent(driver, bridge).await.contains(&Kind::Ack));
}

#[tokio::test]
async fn a_sandbox_of_which_something_is_lost_does_not_go_on() {
    // A session that is paused answers to the end, and cannot be stopped.
    let (stage, mut driver, _bridge) = answering(Status::Paused).await;
    take_events(&stage, false);
    driver.leaving.store(true, Ordering::Relaxed);
    hear(&mut driver, line(1)).await;
    driver.end_unheard().await;
    assert!(driver.link.is_some(), "whoever is about to end it is waited for");
    take_events(&stage, true);
    assert!(matches!(stop(&mut driver).await, Err(Refusal::WrongStatus { .. })));
    driver.end_unheard().await;
    assert!(driver.link.is_none() && driver.session.turn.is_none());
    assert_eq!(history(&driver).await, [EventKind::User, EventKind::Error]);
}

#[tokio::test]
async fn who_waits_for_another_turn_has_a_stream_once_the_sandbox_is_up() {
    let (_stage, mut driver, _bridge) = idle(Status::Active).await;
    driver.state = State::cold(Status::Active, 4);
    driver.state.step(Event::Wake).unwrap();
    let (mut first, mut second) = (send(&mut driver).await, send(&mut driver).await);
    assert!(first.try_recv().is_err() && second.try_recv().is_err());
    let (running, _bridge) = linked().await;
    driver.launched(Ok(life(running))).await;
    assert!(matches!(first.try_recv(), Ok(Ok(_))));
    assert!(matches!(second.try_recv(), Ok(Ok(_))));
    assert_eq!(history(&driver).await, [EventKind::User]);
}

#[tokio::test]
async fn a_command_whose_sender_is_gone_is_not_run() {
    for is_there in [true, false] {
        let (_stage, mut driver, bridge) = idle(Status::Active).await;
        let (reply, answer) = oneshot::channel();
        let answer = is_there.then_some(answer);
        let request = ExecRequest::new("true", None).unwrap();
        driver.command(Command::Exec { request, reply }).await;
        assert_eq!(sent(driver, bridge).await.contains(&Kind::Exec), is_there);
        drop(answer);
    }
}

#[tokio::test]
async fn no_turn_is_given_to_a_cli_that_was_started_for_another() {
    let (stage, mut driver, bridge) = idle(Status::Active).await;
    let home = stage.shared.places.session(driver.session.id).join("home");
    std::fs::create_dir_all(home).unwrap();
    // Escaped twice, in the arguments and in what the bridge keeps of them: more than it takes.
    let quotes = serde_json::Value::from("\"".repeat(9 << 20));
    let schema = [("x".to_owned(), quotes)].into_iter().collect();
    let output_format = Some(OutputFormat { kind: OutputKind::JsonSchema, schema });
    let options = TurnOptions { output_format, ..TurnOptions::default() };
    let content = RawValue::from_string("\"x\"".to_owned()).unwrap();
    assert!(!driver.give_turn(TurnId::random(), &content, &options).await);
    assert!(driver.cli.is_none());
    assert!(!sent(driver, bridge).await.contains(&Kind::Turn));
}

#[tokio::test]
async fn a_session_that_cannot_be_read_has_not_ended() {
    let stage = Stage::set().await;
    let session = Session::example(1);
    stage.add(&session).await;
    meddle(&stage, "ALTER TABLE session_settings RENAME TO hidden");
    let handle = Driver::spawn(stage.shared.clone(), session, Begin::Cold);
    let (reply, mut answer) = oneshot::channel();
    assert!(handle.commands.send(Command::Interrupt { reply }).await.is_ok());
    assert!(tokio::time::timeout(A_WHILE, &mut answer).await.is_err());
    meddle(&stage, "ALTER TABLE hidden RENAME TO session_settings");
    assert!(matches!(answer.await, Ok(Ok(false))));
}

#[tokio::test]
async fn a_turn_has_begun_for_its_readers_before_its_message_is_stored() {
    let (stage, mut driver, _bridge) = idle(Status::Active).await;
    let journal = driver.journal.clone();
    let database = Connection::open(stage.shared.places.data_dir.join("ash.db")).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut sending = Box::pin(send(&mut driver));
    assert!(tokio::time::timeout(A_WHILE, &mut sending).await.is_err());
    assert!(!journal.is_idle());
    database.execute_batch("COMMIT").unwrap();
    sending.await.await.unwrap().unwrap();
}

#[tokio::test]
async fn one_whose_message_cannot_be_stored_is_over() {
    let (stage, mut driver, _bridge) = idle(Status::Active).await;
    take_events(&stage, false);
    assert!(matches!(send(&mut driver).await.await.unwrap(), Err(Refusal::Store(_))));
    assert!(driver.journal.is_idle());
}

#[tokio::test]
async fn a_session_s_log_names_no_file_of_this_machine() {
    let (_stage, mut driver, _bridge) = idle(Status::Active).await;
    let failed = StoreError::Database("cannot open /var/lib/ash/ash.db".to_owned());
    driver.launched(Err(failed.into())).await;
    let said = driver.logs.after(-1);
    assert!(said.len() == 1 && !said[0].text.contains("/var"), "{said:?}");
}

#[tokio::test]
async fn what_waits_goes_on_waiting_when_a_pause_cannot_be_stored() {
    let (stage, mut driver, _bridge) = answering(Status::Active).await;
    let mut waiting = send(&mut driver).await.await.unwrap().unwrap();
    take_events(&stage, false);
    assert!(matches!(driver.pause().await, Err(Refusal::Store(_))));
    assert_eq!((driver.state.status, driver.state.queue.len()), (Status::Active, 1));
    assert!(tokio::time::timeout(A_WHILE, waiting.next()).await.is_err());
    take_events(&stage, true);
    driver.pause().await.unwrap();
    let told = waiting.next().await.unwrap();
    assert!(String::from_utf8_lossy(&told[0].bytes).contains("paused"), "{told:?}");
    assert_eq!((driver.state.status, driver.state.queue.len()), (Status::Paused, 0));
}

#[tokio::test]
async fn who_stops_is_told_of_no_failure_that_was_made_up_for() {
    let (stage, mut driver, _bridge) = answering(Status::Active).await;
    meddle(
        &stage,
        "CREATE TRIGGER full BEFORE INSERT ON events
         WHEN instr(CAST(NEW.body AS TEXT), 'was stopped while') > 0
         BEGIN SELECT RAISE(ABORT, 'there is no room'); END",
    );
    driver.leaving.store(true, Ordering::Relaxed);
    stop(&mut driver).await.unwrap();
    assert_eq!((driver.session.turn, driver.session.status), (None, Status::Stopped));
    assert_eq!(history(&driver).await, [EventKind::User, EventKind::Error, EventKind::Lifecycle]);
}

#[tokio::test]
async fn a_session_has_gone_back_also_when_it_cannot_be_noted_that_all_is_done() {
    let stage = Stage::set().await;
    let restore = Some(PointId(uuid::Uuid::from_u128(1)));
    let session = Session { restore, ..Session::example(1) };
    stage.add_with_files(&session).await;
    let place = stage.shared.places.session(session.id);
    let built = place.with_file_name(beside(session.id));
    std::fs::create_dir(&built).unwrap();
    std::fs::write(built.join("back"), "").unwrap();
    let (mut driver, _) = Driver::new(stage.shared.clone(), session);
    meddle(
        &stage,
        "CREATE TRIGGER full BEFORE UPDATE ON sessions
         BEGIN SELECT RAISE(ABORT, 'there is no room'); END",
    );
    driver.arrive().await.unwrap();
    assert!(place.join("back").exists());
    // Whoever needs the files next has them built once more.
    assert_eq!(driver.session.restore, restore);
}

#[tokio::test]
async fn what_was_shown_of_a_turn_is_shown_again_once_it_can_be_read() {
    let (stage, mut driver, _bridge) = answering(Status::Active).await;
    let seq = driver.session.turn.unwrap().user_seq;
    driver.replay = Replay { active: true, known: [(1, seq)].into(), ..Replay::default() };
    let journal = driver.journal.clone();
    journal.join();
    meddle(&stage, "ALTER TABLE events RENAME TO hidden");
    let mut catching_up = Box::pin(driver.caught_up());
    assert!(tokio::time::timeout(A_WHILE, &mut catching_up).await.is_err());
    meddle(&stage, "ALTER TABLE hidden RENAME TO events");
    catching_up.await;
    assert_ne!(journal.start(), journal.end(), "there are frames");
}

/// Asks for what runs to be interrupted; whether anything does.
async fn interrupt(driver: &mut Driver) -> bool {
    let (reply, interrupted) = oneshot::channel();
    driver.command(Command::Interrupt { reply }).await;
    interrupted.await.unwrap().unwrap()
}

#[tokio::test]
async fn a_turn_of_the_cli_that_was_not_heard_of_yet_can_be_interrupted() {
    for active in [true, false] {
        let (_stage, mut driver, bridge) = idle(Status::Active).await;
        driver.replay = Replay { active, until: 1, ..Replay::default() };
        driver.link.as_mut().unwrap().welcome.cli = CliState::Busy;
        assert_eq!(interrupt(&mut driver).await, active);
        assert_eq!(sent(driver, bridge).await.contains(&Kind::Interrupt), active);
    }
}

#[tokio::test]
async fn and_by_a_message_that_goes_first() {
    let (_stage, mut driver, bridge) = idle(Status::Active).await;
    driver.replay = Replay { active: true, until: 1, ..Replay::default() };
    let message = br#"{"content":"next","whenBusy":"interrupt"}"#;
    let (reply, _answer) = oneshot::channel();
    let request = Message::read(message).unwrap().request;
    driver.send(request, Reading::default(), reply).await;
    let said = sent(driver, bridge).await;
    let at = |kind| said.iter().position(|said| *said == kind).unwrap();
    assert!(at(Kind::Interrupt) < at(Kind::Turn), "{said:?}");
}

#[tokio::test]
async fn a_turn_that_the_bridge_is_still_to_be_given_can_be_interrupted() {
    for interrupted in [true, false] {
        let (_stage, mut driver, bridge) = answering(Status::Active).await;
        let unseen = driver.session.turn;
        driver.replay = Replay { active: true, until: 1, unseen, ..Replay::default() };
        assert!(!interrupted || interrupt(&mut driver).await);
        hear(&mut driver, line(1)).await;
        let said = sent(driver, bridge).await;
        let at = said.iter().position(|said| *said == Kind::Turn).unwrap();
        assert_eq!(said[at..].contains(&Kind::Interrupt), interrupted, "{said:?}");
    }
}

/// A driver of a session that was stopped, as the registry has it.
async fn stopped() -> (Stage, Driver, Handle) {
    let stage = Stage::set().await;
    let session = Session { status: Status::Stopped, ..Session::example(1) };
    stage.add(&session).await;
    let (driver, handle) = Driver::new(stage.shared.clone(), session.clone());
    let handle = stage.shared.registry.handle_or(&session, || handle);
    (stage, driver, handle)
}

#[tokio::test]
async fn a_driver_that_nobody_needs_is_let_go_and_followed_by_another() {
    let (stage, mut driver, handle) = stopped().await;
    let id = driver.session.id;
    driver.rest();
    assert!(!driver.over, "whoever has a handle may use it");
    drop(handle);
    driver.rest();
    assert!(driver.over && stage.shared.registry.handle(id).is_none());
    let caller = Caller { tenant: Tenant::default(), scope: Scope::Run };
    assert!(!stage.service.interrupt(&caller, id).await.unwrap());
    // It is not the one of that which came behind it.
    driver.rest();
    assert!(!driver.over && stage.shared.registry.handle(id).is_some());
}

#[tokio::test]
async fn one_that_was_asked_for_something_or_is_followed_is_not() {
    let (stage, mut driver, handle) = stopped().await;
    let journal = handle.journal.clone();
    let (reply, _answer) = oneshot::channel();
    assert!(handle.commands.send(Command::Interrupt { reply }).await.is_ok());
    drop(handle);
    driver.rest();
    assert!(!driver.over);
    let command = driver.commands.recv().await.unwrap();
    driver.command(command).await;
    driver.rest();
    assert!(!driver.over, "somebody follows");
    drop(journal);
    driver.rest();
    assert!(driver.over && stage.shared.registry.views().is_empty());
}

#[tokio::test]
async fn nor_is_one_that_knows_more_than_the_store() {
    let knowing: [fn(&mut Driver); 6] = [
        |_| {},
        |driver| (driver.session.status, driver.state.status) = (Status::Active, Status::Active),
        |driver| driver.state.resuming = true,
        |driver| driver.settles_at = Some(tokio::time::Instant::now()),
        |driver| driver.carried.cold = Some(false),
        |driver| driver.logs.system("why it was stopped"),
    ];
    // All but the first.
    for (each, knows) in knowing.into_iter().enumerate() {
        let (_stage, mut driver, _) = stopped().await;
        knows(&mut driver);
        driver.rest();
        assert_eq!(driver.over, each == 0);
    }
}

#[tokio::test]
async fn what_runs_is_heard_without_a_timer_for_nothing_to_happen() {
    let (_stage, mut driver, _handle) = stopped().await;
    tokio::time::pause();
    let mut batch = vec![];
    for (turn, is_idle) in [(Turn::None, true), (Turn::Own, false), (Turn::None, true)] {
        driver.state.turn = turn;
        let input = tokio::time::timeout(2 * IDLE, driver.input(&mut batch)).await;
        assert_eq!(matches!(input, Ok(Input::Idle)), is_idle);
        assert_eq!(input.is_err(), !is_idle);
    }
    // What is being made or saved is waited for, too.
    driver.launching = Some(tokio::spawn(std::future::pending()));
    assert!(!driver.is_quiet());
}

#[tokio::test]
async fn a_turn_begins_when_another_one_s_place_is_free() {
    let (stage, mut driver, _bridge) = idle(Status::Active).await;
    let mut places = all_places(&stage, &driver.session.tenant);
    let mut waiting = send(&mut driver).await.await.unwrap().unwrap();
    assert!(history(&driver).await.is_empty());
    drop(places.pop());
    let Input::Granted(place) = next_input(&mut driver).await else { panic!("no place came") };
    driver.granted(place).await;
    assert!(waiting.next().await.is_some());
    assert_eq!(history(&driver).await, [EventKind::User]);
    // The place is the turn's until it is over, however it ends.
    assert!(matches!(stage.shared.gates.turns.enter(&Tenant::default()), Entered::Waiting(_)));
    driver.lost("it is gone").await;
    assert!(matches!(stage.shared.gates.turns.enter(&Tenant::default()), Entered::Place(_)));
}

#[tokio::test]
async fn a_tenant_s_only_message_goes_before_another_one_s_many() {
    let (stage, mut driver, _bridge) = idle(Status::Active).await;
    let many: Tenant = "many".parse().unwrap();
    let mut places = all_places(&stage, &many);
    let others: Vec<_> = (0..50).map(|_| stage.shared.gates.turns.enter(&many)).collect();
    let _stream = send(&mut driver).await;
    drop(places.pop());
    assert!(matches!(next_input(&mut driver).await, Input::Granted(_)));
    drop(others);
}

#[tokio::test]
async fn a_message_that_waits_knows_where_it_stands() {
    let (stage, mut driver, _bridge) = idle(Status::Active).await;
    let tenant = driver.session.tenant.clone();
    let mut places = all_places(&stage, &tenant);
    let before = stage.shared.gates.turns.enter(&tenant);
    let first = send(&mut driver).await.await.unwrap().unwrap();
    let second = send(&mut driver).await.await.unwrap().unwrap();
    let urgent = send_as(&mut driver, WhenBusy::Interrupt).await.await.unwrap().unwrap();
    let positions = |of: [&Subscription; 3]| of.map(Subscription::position);
    assert_eq!(positions([&urgent, &first, &second]), [Some(2), Some(3), Some(4)]);
    drop(before);
    assert_eq!(positions([&urgent, &first, &second]), [Some(1), Some(2), Some(3)]);
    drop(first);
    driver.withdraw_abandoned().await;
    drop(places.pop());
    let Input::Granted(place) = next_input(&mut driver).await else { panic!("no place came") };
    driver.granted(place).await;
    assert_eq!([&urgent, &second].map(Subscription::position), [None, Some(1)]);
}

#[tokio::test]
async fn who_hangs_up_while_a_place_is_waited_for_makes_room() {
    for is_released in [true, false] {
        let (stage, mut driver, _bridge) = idle(Status::Active).await;
        let places = all_places(&stage, &driver.session.tenant);
        let gone = send(&mut driver).await;
        if is_released {
            drop(gone.await.unwrap().unwrap());
        } else {
            drop(gone);
        }
        assert!(matches!(next_input(&mut driver).await, Input::HungUp));
        driver.withdraw_abandoned().await;
        assert!(driver.waiting.is_empty() && matches!(driver.permit, Permit::None));
        drop(places);
        drop(all_places(&stage, &Tenant::default()));
        assert!(history(&driver).await.is_empty());
    }
}

#[tokio::test]
async fn who_stops_a_session_that_waits_waits_for_no_place() {
    let (stage, mut driver, _bridge) = idle(Status::Active).await;
    let places = all_places(&stage, &driver.session.tenant);
    let mut waiting = send(&mut driver).await.await.unwrap().unwrap();
    stop(&mut driver).await.unwrap();
    let told = waiting.next().await.unwrap();
    assert!(String::from_utf8_lossy(&told[0].bytes).contains("stopped"), "{told:?}");
    assert!(matches!(driver.permit, Permit::None));
    drop(places);
    drop(all_places(&stage, &Tenant::default()));
}

#[tokio::test]
async fn who_does_not_want_to_wait_is_refused_when_there_is_no_place() {
    let (stage, mut driver, _bridge) = idle(Status::Active).await;
    let places = all_places(&stage, &driver.session.tenant);
    let refused = send_as(&mut driver, WhenBusy::Reject).await.await.unwrap();
    assert!(matches!(refused, Err(Refusal::Capacity { retry_after_s: 1.., .. })));
    assert!(driver.state.queue.is_empty() && matches!(driver.permit, Permit::None));
    drop(places);
    send_as(&mut driver, WhenBusy::Reject).await.await.unwrap().unwrap();
    assert_eq!(history(&driver).await, [EventKind::User]);
}

#[tokio::test]
async fn a_turn_that_runs_already_waits_for_no_place() {
    let (stage, mut driver, _bridge) = answering(Status::Active).await;
    let places = all_places(&stage, &Tenant::default());
    let running = driver.link.take().unwrap();
    driver.keep_place();
    driver.begin_life(Begin::Adopted(running, Replay::default())).await;
    assert!(matches!(driver.permit, Permit::Held { .. }));
    drop(places);
    // It counts.
    let _rest: Vec<_> =
        (1..TURNS).map(|_| stage.shared.gates.turns.take(&Tenant::default())).collect();
    assert!(matches!(stage.shared.gates.turns.enter(&Tenant::default()), Entered::Waiting(_)));
}

#[tokio::test]
async fn a_sandbox_is_made_when_it_may_be() {
    let (stage, mut driver) = cold().await;
    let mut making = all_launches(&stage).await;
    let _waiting = send(&mut driver).await;
    assert!(driver.entering.is_some() && driver.launching.is_none());
    drop(making.pop());
    let Input::Entered(entered) = next_input(&mut driver).await else { panic!("nothing came") };
    driver.entered(entered).await;
    assert!(driver.entering.is_none() && driver.launching.is_some());
}

#[tokio::test]
async fn none_is_made_for_whoever_has_hung_up() {
    for is_granted in [true, false] {
        let (stage, mut driver) = cold().await;
        let making = all_launches(&stage).await;
        drop(send(&mut driver).await);
        let input = next_input(&mut driver).await;
        assert!(matches!(input, Input::HungUp));
        match is_granted {
            // It was asked for, and may be made before that was heard.
            true => {
                drop(making);
                driver.entered(enter(&stage).await).await;
            }
            false => driver.hung_up().await,
        }
        assert!(driver.entering.is_none() && driver.launching.is_none());
        assert_eq!(driver.state, State::cold(Status::Active, 4));
    }
}

#[tokio::test]
async fn nor_for_a_command_whose_sender_has() {
    let (stage, mut driver) = cold().await;
    let (reply, answer) = oneshot::channel();
    let request = ExecRequest::new("true", None).unwrap();
    driver.command(Command::Exec { request, reply }).await;
    assert!(driver.entering.is_some());
    drop(answer);
    driver.entered(enter(&stage).await).await;
    assert!(driver.launching.is_none() && !driver.execs.are_waiting());
    assert_eq!(driver.state, State::cold(Status::Active, 4));
}

#[tokio::test]
async fn who_stops_a_session_does_not_wait_for_a_sandbox_that_is_asked_for() {
    let (stage, mut driver) = cold().await;
    let _making = all_launches(&stage).await;
    let waiting = send(&mut driver).await;
    stop(&mut driver).await.unwrap();
    assert!(driver.entering.is_none());
    assert!(matches!(waiting.await.unwrap(), Err(Refusal::NotActive(Status::Stopped))));
}

#[tokio::test]
async fn a_message_whose_sandbox_may_not_be_made_is_refused_with_the_reason() {
    let (stage, mut driver) = cold().await;
    let _making = all_launches(&stage).await;
    let waiting = send(&mut driver).await;
    tokio::time::pause();
    let Input::Entered(entered) = next_input(&mut driver).await else { panic!("nothing came") };
    tokio::time::resume();
    driver.entered(entered).await;
    let refused = waiting.await.unwrap();
    assert!(matches!(refused, Err(Refusal::Capacity { retry_after_s: 1.., .. })));
    assert_eq!(driver.state, State::cold(Status::Active, 4));
}
