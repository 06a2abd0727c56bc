//! Answers as they come, whatever happens to the daemon in between.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::timeout;

use crate::bus::{Bus, PATIENCE, Ran};
use crate::fake::{ID, serve};

async fn sent(bus: &Bus, message: &str) -> Ran {
    bus.run(&["session", "send", ID, message]).await
}

#[tokio::test]
async fn only_the_answer_is_on_standard_output() {
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    let ran = sent(&bus, "say \"hello\"").await;
    assert_eq!((ran.code, &*ran.out, &*ran.err), (0, "Hello\n", ""));
    let (content, options) = daemon.seen.lock().unwrap().sent.pop().unwrap();
    assert_eq!(content, r#""say \"hello\"""#);
    assert_eq!(options, r#"{"includePartialMessages":true,"whenBusy":"queue"}"#);
}

#[tokio::test]
async fn frames_are_json_lines_on_demand() {
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    let ran = bus.run(&["session", "send", ID, "hello", "--json"]).await;
    let frames: Vec<Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = frames.iter().map(|frame| frame["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["session_start", "text_delta", "text_delta", "message", "done"]);
    assert_eq!(frames[4]["id"], "9.0");
}

#[tokio::test]
async fn an_error_event_is_a_failure() {
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    let ran = sent(&bus, "fail").await;
    ran.check_failed(1, "the model is gone");
}

#[tokio::test]
async fn a_stream_that_is_cut_goes_on_behind_the_last_event() {
    for message in ["cut", "restart"] {
        let bus = Bus::start();
        let (daemon, _connection) = serve(&bus).await;
        let ran = sent(&bus, message).await;
        assert_eq!((ran.code, &*ran.out, &*ran.err), (0, "Hello\n", ""), "{message}");
        let seen = daemon.seen.lock().unwrap();
        assert_eq!(seen.sent.len(), 1, "the message is not sent again");
        assert_eq!(seen.followed[0].after.as_deref(), Some("7.1"));
        assert_eq!(seen.followed[0].until_done, Some(true));
    }
}

#[tokio::test]
async fn a_message_that_may_be_lost_is_not_claimed_to_be_there() {
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    let ran = sent(&bus, "lost").await;
    assert_eq!((ran.code, &*ran.out), (1, ""));
    assert!(ran.err.contains("before it said that it has the message"), "{}", ran.err);
    assert!(daemon.seen.lock().unwrap().followed.is_empty());
}

#[tokio::test]
async fn ctrl_c_interrupts_the_turn_and_waits_for_its_end() {
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    let mut command = tokio::process::Command::from(bus.ashctl(&["session", "send", ID, "wait"]));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().unwrap();
    timeout(PATIENCE, daemon.waiting.notified()).await.unwrap();
    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let output = timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    let ran = Ran::from(output);
    assert_eq!((ran.code, &*ran.out, &*ran.err), (130, "Help\n", "ashctl: interrupted\n"));
    assert_eq!(daemon.seen.lock().unwrap().called, ["interrupt"]);
}
