//! A database that takes nothing for a time, or gives nothing: what is said is so, and nothing is lost.

use std::time::Duration;

use super::*;
use crate::session::keeping::beside;

/// How long it is looked whether somebody waits.
const A_WHILE: Duration = Duration::from_millis(100);

/// Has the database take no events, as if there were no room for them, or take them again.
pub(super) fn take_events(stage: &Stage, takes: bool) {
    let sql = match takes {
        true => "DROP TRIGGER full",
        false => {
            "CREATE TRIGGER full BEFORE INSERT ON events
             BEGIN SELECT RAISE(ABORT, 'there is no room'); END"
        }
    };
    meddle(stage, sql);
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
