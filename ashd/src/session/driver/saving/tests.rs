use super::*;
use crate::domain::session::RunningTurn;
use crate::domain::{PointId, TurnId};
use crate::session::stage::Stage;

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
    driver.wish(Wish { name: Some(name.parse().unwrap()), reply }).await;
    point
}

/// Has no time until the cut under way is over, and then hears all that it had to say.
async fn miss(driver: &mut Driver) {
    while !driver.saving.as_ref().unwrap().task.is_finished() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
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
    assert!(matches!(point.await.unwrap(), Err(Refusal::Busy)));
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
