//! What a CLI is given to do, and how it is interrupted.

use ash_wire::words::CliState;
use serde_json::value::RawValue;

use super::*;
use crate::domain::turn::{OutputFormat, OutputKind};

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
