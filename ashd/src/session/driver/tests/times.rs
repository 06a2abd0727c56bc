//! What is measured of turns and resumes.

use ash_wire::words::TurnOutcome;

use super::*;
use crate::session::driver::times::end_of;
use crate::telemetry::metrics::labels::{Resumed, TurnEnd, Word};

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

/// Users do so all the time, and it is nothing to be woken for.
#[tokio::test]
async fn one_that_was_interrupted_is_no_error() {
    for (by_message, is_error, expected) in [
        (false, true, TurnEnd::Interrupted),
        (true, true, TurnEnd::Interrupted),
        (false, false, TurnEnd::Result),
    ] {
        let (stage, mut driver, _bridge) = idle(Status::Active).await;
        send(&mut driver).await.await.unwrap().unwrap();
        if by_message {
            let message = br#"{"content":"next","whenBusy":"interrupt"}"#;
            let request = Message::read(message).unwrap().request;
            driver.send(request, Reading::default(), oneshot::channel().0).await;
        } else {
            let (reply, _answer) = oneshot::channel();
            driver.command(Command::Interrupt { reply }).await;
        }
        let result = format!(r#"{{"type":"result","is_error":{is_error}}}"#);
        hear(&mut driver, Incoming::Line { number: 1, line: result.into() }).await;
        let turns = &stage.shared.metrics().turns;
        let measured = TurnEnd::ALL.iter().filter(|end| turns.of(**end).get_sample_count() > 0);
        assert_eq!(measured.collect::<Vec<_>>(), [&expected]);
    }
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
async fn a_resume_is_measured_and_counted_when_it_succeeds() {
    let (stage, mut driver, _bridge) = idle(Status::Paused).await;
    let hits = async || {
        let health = stage.service.health().await;
        let (cloud, fresh) = (health.resume_cloud_hits, health.resume_fresh_hits);
        [health.resume_warm_hits, health.resume_cold_hits, cloud, fresh]
    };
    let (reply, answer) = oneshot::channel();
    driver.command(Command::Resume { reply }).await;
    answer.await.unwrap().unwrap();
    stop(&mut driver).await.unwrap();
    let (reply, waits) = oneshot::channel();
    driver.command(Command::Resume { reply }).await;
    driver.launched(Err(Refusal::Sandbox("there is no room".to_owned()))).await;
    assert!(waits.await.unwrap().is_err());
    assert_eq!(hits().await, [1, 0, 0, 0]);
    driver.state.step(Event::Resume).unwrap();
    driver.times.resume_began();
    let (running, _bridge) = linked().await;
    driver.launched(Ok(life(running))).await;
    assert_eq!(driver.session.status, Status::Active);
    let times = &stage.shared.metrics().resume_times;
    let measured = Resumed::ALL.iter().map(|how| times.of(*how).get_sample_count());
    assert_eq!(measured.collect::<Vec<_>>(), [1, 1, 0, 0]);
    assert_eq!(hits().await, [1, 1, 0, 0]);
}
