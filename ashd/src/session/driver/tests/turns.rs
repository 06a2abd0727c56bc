//! What a CLI is given to do, and how it is interrupted.

use ash_wire::words::{CliState, Notice};
use serde_json::value::RawValue;

use super::commit::take_events;
use super::*;
use crate::domain::turn::{OutputFormat, OutputKind};
use crate::session::api::FrameClass;
use crate::session::journal::Ahead;

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

/// What a bridge says, with the numbers that it gives to it.
async fn told(driver: &mut Driver, all: &[&str]) {
    for (number, what) in (1..).zip(all) {
        let notice = |notice| Incoming::Notice { number, notice };
        let exited = |expected| Notice::CliExited {
            reason: "killed by signal 9".to_owned(),
            code: None,
            signal: Some(9),
            stderr: String::new(),
            expected,
        };
        let said = match *what {
            "begins" => notice(Notice::SelfTurnBegan),
            "ends" => notice(Notice::SelfTurnEnded),
            "the CLI dies" => notice(exited(false)),
            "the CLI is replaced" => notice(exited(true)),
            line => Incoming::Line { number, line: line.to_owned().into() },
        };
        hear(driver, said).await;
    }
}

/// Its answer would have no end else, and nobody has sent a message that could be told.
#[tokio::test]
async fn what_the_cli_does_by_itself_fails_truthfully() {
    const RESULT: &str = r#"{"type":"result","origin":"task"}"#;
    let died = "The agent's CLI ended: killed by signal 9";
    let lost = "The sandbox was lost while it worked by itself";
    for (all, is_lost, expected) in [
        (&["begins", "the CLI dies", "ends"][..], false, Some(died)),
        (&["begins"], true, Some(lost)),
        (&["begins", "the CLI dies"], true, Some(died)),
        (&["begins", RESULT, "ends", "the CLI dies"], true, None),
        (&["begins", RESULT], true, None),
        (&["begins", "the CLI is replaced", "ends"], true, None),
        (&["the CLI dies"], true, None),
    ] {
        let (stage, mut driver, _bridge) = idle(Status::Active).await;
        told(&mut driver, all).await;
        if is_lost {
            driver.lost("it was killed").await;
        }
        let range =
            EventRange { after: 0, limit: 100, kinds: vec![EventKind::Error], undone: false };
        let errors = stage.shared.store.events(driver.session.id, range).await.unwrap();
        let texts: Vec<_> =
            errors.iter().map(|event| String::from_utf8_lossy(&event.body)).collect();
        assert_eq!(texts.len(), usize::from(expected.is_some()), "{all:?}: {texts:?}");
        assert!(errors.iter().all(|event| event.turn.is_none()));
        assert!(expected.is_none_or(|text| texts[0].contains(text)), "{all:?}: {texts:?}");
        assert_eq!(driver.session.last_error.as_deref(), expected);
    }
}

/// It died before it acknowledged that.
#[tokio::test]
async fn what_a_daemon_before_this_one_has_said_of_that_is_not_said_again() {
    let (stage, mut driver, _bridge) = idle(Status::Active).await;
    let all = ["begins", "the CLI dies", "ends"];
    told(&mut driver, &all[..2]).await;
    let (store, id) = (&stage.shared.store, driver.session.id);
    let session = store.session(id).await.unwrap().unwrap();
    let newest = store.newest(id, session.sandbox.epoch(), None).await.unwrap();
    let committed = newest.and_then(|event| event.origin).unwrap().number;
    let (mut next, _) = Driver::new(stage.shared.clone(), session);
    next.state = State::live(Status::Active, Turn::None, 4);
    next.replay = Replay { active: true, committed, until: 3, ..Replay::default() };
    told(&mut next, &all).await;
    next.lost("it was killed").await;
    assert_eq!(history(&next).await, [EventKind::Error]);
}

/// Somebody was about to stop the session, which cannot be stopped.
#[tokio::test]
async fn what_could_not_be_stored_of_that_is_stored_when_its_sandbox_ends() {
    let (stage, mut driver, _bridge) = idle(Status::Paused).await;
    let journal = driver.journal.clone();
    journal.join();
    take_events(&stage, false);
    driver.leaving.store(true, Ordering::Relaxed);
    told(&mut driver, &["begins", "the CLI dies"]).await;
    let Ahead::Frames(shown, _) = journal.read(journal.start()) else { panic!("nothing is shown") };
    assert!(shown.iter().all(|frame| frame.class == FrameClass::Whole), "{shown:?}");
    take_events(&stage, true);
    assert!(matches!(stop(&mut driver).await, Err(Refusal::WrongStatus { .. })));
    driver.end_unheard().await;
    assert_eq!(history(&driver).await, [EventKind::Error]);
}
