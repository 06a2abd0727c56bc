//! Drivers that nobody needs any more.

use super::*;
use crate::domain::{Scope, Tenant};
use crate::session::api::Caller;
use crate::session::driver::rest::IDLE;

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
