//! Places that turns run in: who waits for one, who goes first, and who needs none.

use super::*;
use crate::domain::{Tenant, WhenBusy};
use crate::session::gate::{Entered, Place};
use crate::session::stage::TURNS;

/// As many places for turns as there are, taken by a tenant.
fn all_places(stage: &Stage, tenant: &Tenant) -> Vec<Place> {
    let places = (0..TURNS).map(|_| match stage.shared.gates.turns.enter(tenant) {
        Entered::Place(place) => place,
        Entered::Waiting(_) => panic!("a place is taken"),
    });
    places.collect()
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
