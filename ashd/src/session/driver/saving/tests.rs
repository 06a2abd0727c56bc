use super::*;
use crate::domain::session::RunningTurn;
use crate::domain::{EventKind, PointId, TurnId, Which};
use crate::session::driver::Begin;
use crate::session::going_on;
use crate::session::machine::{Event, State};
use crate::session::stage::{Stage, linked};
use crate::store::Commit;

/// A driver of a session with files, which has time only when it is given some.
async fn busy() -> (Stage, Driver) {
    let stage = Stage::set().await;
    let session = Session::example(1);
    stage.add_with_files(&session).await;
    let (driver, _) = Driver::new(stage.shared.clone(), session);
    (stage, driver)
}

/// Asks for a point of this name.
async fn wish(driver: &mut Driver, name: &str) -> oneshot::Receiver<Result<Point, Refusal>> {
    let (reply, point) = oneshot::channel();
    driver.wish(Wish::new(Some(name.parse().unwrap()), reply)).await;
    point
}

/// Has no time until the cut under way is over, and then hears all that it had to say.
async fn miss(driver: &mut Driver) {
    let cut = &driver.saving.as_ref().unwrap().task;
    let over = async {
        while !cut.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), over).await.expect("the cut does not end");
    loop {
        let said = driver.saving.as_mut().unwrap().next().await;
        let is_over = matches!(said, Saved::Done(_));
        driver.saved(said).await;
        if is_over {
            return;
        }
    }
}

/// How often the cut under way was begun before; `None` when there is none.
fn missed(driver: &Driver) -> Option<u32> {
    driver.saving.as_ref().map(|saving| saving.missed)
}

async fn points(driver: &Driver) -> Vec<PointId> {
    let points = driver.shared.store.points(driver.session.id).await.unwrap();
    points.iter().map(|point| point.id).collect()
}

#[tokio::test]
async fn a_session_that_ends_is_not_saved_before_it_has() {
    for (event, is_saved) in [(Event::Stop, true), (Event::End, false)] {
        let (_stage, mut driver) = busy().await;
        let (running, _bridge) = linked().await;
        driver.state = State::live(Status::Active, Turn::None, 4);
        driver.link = Some(running);
        driver.step(event).await.unwrap();
        assert_eq!(driver.saving.is_some(), is_saved, "{:?}", driver.session.status);
        driver.abandon_saving().await;
    }
}

#[tokio::test]
async fn a_cut_whose_moment_was_missed_is_begun_anew() {
    let (_stage, mut driver) = busy().await;
    let point = wish(&mut driver, "kept").await;
    for times in 1..=TRIES {
        miss(&mut driver).await;
        assert_eq!(missed(&driver), Some(times));
    }
    // Now there is time, and whoever has waited all along gets it.
    driver.finish_saving().await;
    let point = point.await.unwrap().unwrap();
    assert_eq!(point.name, Some("kept".parse().unwrap()));
    assert_eq!(points(&driver).await, [point.id]);
}

#[tokio::test]
async fn one_whose_moment_is_always_missed_is_given_up() {
    let (_stage, mut driver) = busy().await;
    let point = wish(&mut driver, "kept").await;
    for _ in 0..=TRIES {
        assert!(driver.saving.is_some());
        miss(&mut driver).await;
    }
    assert_eq!(missed(&driver), None);
    assert!(matches!(point.await.unwrap(), Err(Refusal::Overtaken(_))));
    assert_eq!(points(&driver).await, []);
}

#[tokio::test]
async fn one_that_nobody_asked_for_is_begun_anew_for_the_same_reasons() {
    let (_stage, mut driver) = busy().await;
    driver.save_changes();
    driver.save();
    miss(&mut driver).await;
    let saving = driver.saving.as_ref().unwrap();
    assert!(saving.missed == 1 && saving.again && saving.of_changes);
    driver.finish_saving().await;
    assert_eq!(points(&driver).await.len(), 1);
}

/// At the end of the turn there is another, unless it would be too late by then.
#[tokio::test]
async fn in_mid_turn_only_what_cannot_wait_is_begun_anew() {
    for (changed, times) in [(Changed::Maybe, None), (Changed::Kept, Some(1))] {
        let (_stage, mut driver) = busy().await;
        let id = TurnId::random();
        driver.state.turn = Turn::Ours(id);
        driver.session.turn = Some(RunningTurn { id, user_seq: 1 });
        driver.session.changed = changed;
        driver.save();
        miss(&mut driver).await;
        assert_eq!(missed(&driver), times, "{changed:?}");
    }
}

#[tokio::test]
async fn one_that_was_given_up_on_purpose_has_missed_nothing() {
    let (_stage, mut driver) = busy().await;
    driver.save();
    driver.put_off_capture();
    miss(&mut driver).await;
    assert_eq!(missed(&driver), None);
    // Whoever asked for it gets the next one.
    let point = wish(&mut driver, "kept").await;
    driver.put_off_capture();
    miss(&mut driver).await;
    assert_eq!(missed(&driver), Some(0));
    driver.finish_saving().await;
    assert_eq!(points(&driver).await, [point.await.unwrap().unwrap().id]);
}

/// Files may be on their way back then: what is saved is saved behind that.
#[tokio::test]
async fn while_a_sandbox_is_made_none_is_begun_anew() {
    let (_stage, mut driver) = busy().await;
    driver.save();
    driver.launching = Some(tokio::spawn(std::future::pending()));
    miss(&mut driver).await;
    assert_eq!(missed(&driver), None);
    assert_eq!(points(&driver).await, []);
}

#[tokio::test]
async fn who_asked_for_one_gets_it_when_the_sandbox_is_made() {
    let (_stage, mut driver) = busy().await;
    let mut point = wish(&mut driver, "kept").await;
    for times in 1..=TRIES {
        driver.launching = Some(tokio::spawn(std::future::pending()));
        miss(&mut driver).await;
        assert!(missed(&driver).is_none() && point.try_recv().is_err());
        driver.launched(Err(Refusal::ShuttingDown)).await;
        assert_eq!(missed(&driver), Some(times));
    }
    driver.finish_saving().await;
    assert_eq!(points(&driver).await, [point.await.unwrap().unwrap().id]);
}

#[tokio::test]
async fn but_not_when_it_is_missed_again_and_again() {
    let (_stage, mut driver) = busy().await;
    let point = wish(&mut driver, "kept").await;
    for _ in 0..=TRIES {
        driver.launching = Some(tokio::spawn(std::future::pending()));
        miss(&mut driver).await;
        driver.launched(Err(Refusal::ShuttingDown)).await;
    }
    assert!(matches!(point.await.unwrap(), Err(Refusal::Overtaken(_))));
    assert_eq!((missed(&driver), points(&driver).await), (None, vec![]));
}

/// The driver of the next daemon, which knows nothing but what is stored, when a message comes.
async fn after_restart(stage: &Stage, driver: Driver) -> Driver {
    let id = driver.session.id;
    drop(driver);
    let session = stage.shared.store.session(id).await.unwrap().unwrap();
    let (mut next, _) = Driver::new(stage.shared.clone(), session);
    next.begin_life(Begin::Cold).await;
    next.capture_before_turn().await;
    next
}

/// Has something in history.
async fn happen(driver: &mut Driver, kind: EventKind) {
    let event = driver.event(kind, None, r#"{"action":"created"}"#.into());
    driver.commit(SessionChange::none(), vec![event]).await.unwrap();
}

/// A turn that is saved behind its end.
async fn turn(driver: &mut Driver) {
    happen(driver, EventKind::User).await;
    happen(driver, EventKind::Result).await;
    driver.save();
    driver.finish_saving().await;
}

/// Puts a file there, as somebody from outside does.
async fn put(driver: &mut Driver, content: &str) {
    driver.note_change(Changed::Kept).await.unwrap();
    write(driver, content);
}

fn write(driver: &Driver, content: &str) {
    let workspace = driver.shared.places.session(driver.session.id).join("workspace");
    std::fs::write(workspace.join("put"), content).unwrap();
}

/// Saves what was put there.
async fn settle(driver: &mut Driver) -> PointId {
    driver.save_changes();
    driver.finish_saving().await;
    assert_eq!(driver.session.changed, Changed::No);
    points(driver).await[0]
}

#[tokio::test]
async fn what_a_daemon_has_saved_and_not_told_is_told_by_the_next() {
    let (stage, mut driver) = busy().await;
    happen(&mut driver, EventKind::Lifecycle).await;
    put(&mut driver, "first").await;
    let first = settle(&mut driver).await;
    // Before the first message.
    let mut driver = after_restart(&stage, driver).await;
    assert_eq!(driver.changes_to_tell(), Some(Some(first)));

    turn(&mut driver).await;
    let mut driver = after_restart(&stage, driver).await;
    assert_eq!(driver.changes_to_tell(), None, "since the turn nothing was changed");

    put(&mut driver, "and more").await;
    let second = settle(&mut driver).await;
    let mut driver = after_restart(&stage, driver).await;
    assert_eq!(driver.changes_to_tell(), Some(Some(second)));
    // It holds until it is told, however often somebody starts.
    happen(&mut driver, EventKind::Lifecycle).await;
    let driver = after_restart(&stage, driver).await;
    assert_eq!(driver.changes_to_tell(), Some(Some(second)));
}

#[tokio::test]
async fn what_a_daemon_has_not_saved_is_told_by_the_next() {
    let (stage, mut driver) = busy().await;
    turn(&mut driver).await;
    let before = points(&driver).await[0];
    put(&mut driver, "in no point").await;
    let driver = after_restart(&stage, driver).await;
    // It may not have had the time.
    let newest = points(&driver).await[0];
    assert_eq!(driver.changes_to_tell(), Some((newest != before).then_some(newest)));
}

#[tokio::test]
async fn what_history_says_is_not_said_again() {
    let (stage, mut driver) = busy().await;
    turn(&mut driver).await;
    let store = stage.shared.store.clone();
    let older = store.point(driver.session.id, Which::Newest).await.unwrap().unwrap();
    put(&mut driver, "undone").await;
    settle(&mut driver).await;
    // As when it goes back, but for the files.
    let told = going_on::restored(&older).to_string();
    let event = driver.event(EventKind::Lifecycle, None, told.into());
    let again = older.again(driver.session.id, event.seq);
    let commit = Commit::of(driver.session.id, SessionChange::none(), vec![event]);
    driver.commit_as(Commit { point: Some((again, 10)), ..commit }).await.unwrap();
    let driver = after_restart(&stage, driver).await;
    assert_eq!(driver.changes_to_tell(), None);
}

/// Nobody hears what they do.
#[tokio::test]
async fn what_commands_of_before_do_right_before_a_message_is_told() {
    let (_stage, mut driver) = busy().await;
    put(&mut driver, "first").await;
    driver.execs.begun_before(60_000);
    driver.save_changes();
    driver.finish_saving().await;
    assert_eq!(driver.session.changed, Changed::Maybe);
    let before = points(&driver).await[0];
    write(&driver, "and more");
    driver.capture_before_turn().await;
    // It may not have had the time.
    let newest = points(&driver).await[0];
    assert_eq!(driver.changes_to_tell(), Some((newest != before).then_some(newest)));
}

#[test]
fn of_the_store_only_that_it_fails_is_said_to_a_session() {
    let store = SnapshotError::Store("unable to open database file: /var/lib/x".to_owned());
    assert_eq!(record::why(&store), "the snapshot store cannot be used");
    assert_eq!(record::why(&SnapshotError::Restless), "the files keep changing");
}
