//! The wire protocol, against the stand-in for the CLI.

use ash_wire::frame::Kind;
use ash_wire::words::{CliState, Exec, Notice, Permissions, Start, Turn, TurnOutcome};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::machine::{LONG, Machine, wait_until};
use crate::peer::{Frame, Peer, exec, stand_in};

/// What happened to turns, one word each, in order.
fn story(peer: &Peer) -> Vec<String> {
    let word = |notice: Notice| match notice {
        Notice::TurnBegan { turn } => Some(format!("began {turn}")),
        Notice::TurnEnded { turn, outcome } => Some(format!("ended {turn} {outcome:?}")),
        Notice::CliExited { .. } => Some("exited".to_owned()),
        _ => None,
    };
    peer.notices().into_iter().filter_map(word).collect()
}

fn numbers(peer: &Peer) -> Vec<u64> {
    peer.seen.iter().filter(|frame| frame.kind.is_event()).map(|frame| frame.number).collect()
}

#[test]
fn a_turn_there_and_back() {
    let Some(machine) = Machine::new() else { return };
    let (sandbox, mut peer) = machine.sandbox();
    assert_eq!(peer.welcome.sandbox, sandbox.plan.sandbox);
    assert_eq!(peer.welcome.cli, CliState::Absent);
    peer.start(&stand_in("plain"));
    peer.turn("t1", "hello");
    assert_eq!(peer.wait_turn_end("t1"), TurnOutcome::Result);
    // Numbered from 1 without gaps; the replay is no line, the answer and the result are.
    assert!(numbers(&peer).into_iter().eq(1..=peer.seen.last().unwrap().number));
    let kinds: Vec<String> = peer
        .texts(Kind::Line)
        .iter()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(kinds, ["assistant", "result"]);
    assert!(peer.texts(Kind::Delta).iter().any(|line| line.contains("isReplay")));
    assert_eq!(story(&peer), ["began t1", "ended t1 Result"]);
}

#[test]
fn line_breaks_in_what_ashd_gives_do_not_break_lines() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    let raw = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
    peer.start(&Start { initialize: raw("{\n\"hooks\":\nnull}"), ..stand_in("plain") });
    let content = raw("[\n\"one\\ntwo\"\r\n]");
    peer.send(Kind::Turn, 0, &Turn { id: "t1".to_owned(), content });
    assert_eq!(peer.wait_turn_end("t1"), TurnOutcome::Result);
    assert!(peer.texts(Kind::Line)[0].contains(r#"["one\ntwo"]"#));
}

#[test]
fn a_turn_before_the_cli_is_ready_is_its_first() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    peer.send(Kind::Start, 0, &stand_in("plain"));
    peer.turn("t1", "hello");
    peer.turn("t2", "too early");
    assert_eq!(peer.wait_turn_end("t1"), TurnOutcome::Result);
    assert_eq!(story(&peer), ["began t1", "ended t2 Refused", "ended t1 Result"]);
}

#[test]
fn a_cli_that_cannot_start_or_does_not_get_ready_is_reported() {
    let Some(machine) = Machine::new() else { return };
    for (start, wanted) in [
        (stand_in("broken"), "exited with status 7"),
        (Start { ready_timeout_ms: 300, ..stand_in("mute") }, "did not become ready in time"),
        (Start { program: "/nonexistent".to_owned(), ..stand_in("plain") }, "No such file"),
    ] {
        let (_sandbox, mut peer) = machine.sandbox();
        peer.send(Kind::Start, 0, &start);
        let Notice::CliExited { reason, stderr, expected: false, .. } = peer.wait_exit() else {
            panic!()
        };
        assert!(reason.contains(wanted), "{reason}");
        assert_eq!(stderr.contains("cannot work like this"), wanted.contains('7'), "{stderr}");
        peer.turn("t1", "hello");
        assert_eq!(peer.wait_turn_end("t1"), TurnOutcome::Refused);
    }
}

#[test]
fn last_words_come_with_the_end() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    peer.start(&stand_in("plain"));
    peer.turn("t1", "die");
    assert_eq!(peer.wait_turn_end("t1"), TurnOutcome::CliExited);
    let Notice::CliExited { code, stderr, .. } = peer.wait_exit() else { panic!() };
    assert_eq!((code, stderr.as_str()), (Some(3), "last words\n"));
    assert_eq!(story(&peer), ["began t1", "exited", "ended t1 CliExited"]);
}

#[test]
fn interrupts() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    let interrupted = |peer: &mut Peer, id| {
        peer.signal(Kind::Interrupt, id);
        let reply = peer.wait_reply(id);
        assert_eq!(reply.error, None);
        reply.response.unwrap().get().to_owned()
    };
    peer.start(&stand_in("plain"));
    assert_eq!(interrupted(&mut peer, 1), r#"{"interrupted":false}"#);
    peer.turn("t1", "block");
    peer.wait(|frame| frame.text().contains("waiting").then_some(()));
    assert_eq!(interrupted(&mut peer, 2), r#"{"interrupted":true}"#);
    assert_eq!(peer.wait_turn_end("t1"), TurnOutcome::Result);
}

#[test]
fn a_cli_that_does_not_obey_an_interrupt_is_killed() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    peer.start(&stand_in("plain"));
    peer.turn("t1", "stubborn");
    peer.wait(|frame| frame.text().contains("waiting").then_some(()));
    peer.signal(Kind::Interrupt, 1);
    assert_eq!(peer.wait_turn_end("t1"), TurnOutcome::CliExited);
    let Notice::CliExited { reason, signal, .. } = peer.wait_exit() else { panic!() };
    assert_eq!(signal, Some(9));
    assert!(reason.contains("after an interrupt"), "{reason}");
}

#[test]
fn permissions_are_answered_by_policy() {
    let Some(machine) = Machine::new() else { return };
    for (permissions, tool, wanted) in [
        (
            Permissions::Allow,
            "Bash",
            r#"\"behavior\": \"allow\", \"updatedInput\": {\"command\": \"ls\"}"#,
        ),
        (Permissions::Allow, "AskUserQuestion", "nobody is there to ask"),
        (Permissions::Deny, "Bash", "permission to use Bash was denied"),
    ] {
        let (_sandbox, mut peer) = machine.sandbox();
        peer.start(&Start { permissions, ..stand_in("plain") });
        peer.turn("t1", &format!("tool {tool}"));
        peer.wait_turn_end("t1");
        let lines = peer.texts(Kind::Line).join("\n");
        assert!(lines.contains(wanted), "{lines}");
        assert!(!lines.contains("control_request"));
    }
}

#[test]
fn control_requests_pass_and_their_answers_come_back() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    let request = |subtype: &str| serde_json::json!({"subtype": subtype, "model": "m\n"});
    peer.send(Kind::Control, 1, &request("set_model"));
    assert_eq!(peer.wait_reply(1).error.as_deref(), Some("the CLI is gone"));
    peer.start(&stand_in("plain"));
    peer.send(Kind::Control, 2, &request("set_model"));
    let response = peer.wait_reply(2).response.unwrap();
    assert!(response.get().contains(r#""model": "m\n""#), "{response}");
    peer.send(Kind::Control, 3, &request("interrupt"));
    assert!(peer.wait_reply(3).error.unwrap().contains("frames of their own"));
    peer.send(Kind::Control, 4, &request("unheard"));
    peer.send(Kind::Start, 0, &stand_in("plain"));
    assert_eq!(peer.wait_reply(4).error.as_deref(), Some("the CLI is gone"));
}

#[test]
fn a_new_start_replaces_the_cli_even_one_that_does_not_listen() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    for mode in ["plain", "deaf"] {
        peer.start(&stand_in(mode));
        peer.send(Kind::Start, 0, &stand_in("plain"));
        let turn = format!("after {mode}");
        peer.turn(&turn, "hello");
        assert_eq!(peer.wait_turn_end(&turn), TurnOutcome::Result);
    }
    let expected = peer
        .notices()
        .into_iter()
        .filter(|notice| matches!(notice, Notice::CliExited { expected: true, .. }));
    assert_eq!(expected.count(), 3);
}

#[test]
fn an_ashd_that_comes_back_in_mid_turn_gets_the_turn_from_its_beginning() {
    let Some(machine) = Machine::new() else { return };
    let (sandbox, mut peer) = machine.sandbox();
    peer.start(&stand_in("plain"));
    peer.turn("t0", "before");
    peer.wait_turn_end("t0");
    let before = peer.seen.last().unwrap().number;
    peer.turn("t1", "wait");
    let waiting = peer.wait(|frame| frame.text().contains("waiting").then_some(frame.number));
    peer.signal(Kind::Ack, waiting);
    let first: Vec<_> =
        peer.seen.iter().filter(|f| f.kind.is_event() && f.number > before).cloned().collect();
    // Killed without a word: the connection is simply replaced.
    let mut again = sandbox.connect();
    assert_eq!(again.welcome.turn.as_deref(), Some("t1"));
    assert_eq!(again.welcome.cli, CliState::Busy);
    again.wait(|frame| (frame.number == waiting).then_some(()));
    let resent = |peer: &Peer| {
        peer.seen
            .iter()
            .map(|f| (f.number, f.body.clone()))
            .filter(|(n, _)| *n > before)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        resent(&again),
        first.iter().map(|f| (f.number, f.body.clone())).collect::<Vec<_>>()
    );
    std::fs::write(sandbox.workspace.join("go"), "").unwrap();
    assert_eq!(again.wait_turn_end("t1"), TurnOutcome::Result);
    // Until its end is acknowledged the turn is kept from its beginning; then it is gone.
    let last = again.seen.last().unwrap().number;
    again.signal(Kind::Ack, last - 1);
    assert_eq!(again.run("true").exit.code, Some(0));
    let mut third = sandbox.connect_from(1);
    assert!(third.wait(|frame| frame.kind.is_event().then_some(frame.number)) <= waiting);
    third.signal(Kind::Ack, last);
    assert_eq!(third.run("true").exit.code, Some(0));
    let kept = sandbox.connect_from(1).welcome.resend_to;
    assert!(kept == 0 || kept > last, "{kept} of {last}");
}

#[test]
fn an_ashd_that_reads_slowly_misses_nothing() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    peer.start(&stand_in("plain"));
    // Much more than sockets hold, less than the log.
    peer.turn("t1", "lines 2000 10000");
    assert_eq!(peer.wait_turn_end("t1"), TurnOutcome::Result);
    assert!(numbers(&peer).into_iter().eq(1..=peer.seen.last().unwrap().number));
    assert_eq!(peer.texts(Kind::Line).len(), 2002);
}

/// How many lines of standard error a frame tells of, and how many of these were lost.
fn complaints(frame: &Frame) -> (u64, u64) {
    let text = frame.text();
    match text.strip_prefix("(lines lost here: ").and_then(|rest| rest.strip_suffix(')')) {
        _ if frame.kind != Kind::Stderr => (0, 0),
        Some(lost) => (lost.parse().unwrap(), lost.parse().unwrap()),
        None => (1, 0),
    }
}

#[test]
fn lines_of_standard_error_are_heard_or_counted() {
    let Some(machine) = Machine::new() else { return };
    let (sandbox, mut peer) = machine.sandbox();
    peer.start(&stand_in("plain"));
    // Much more than is kept for whoever does not read, and nothing of it is read here before.
    peer.turn("t1", "complain 20000 said");
    let said = sandbox.workspace.join("said");
    wait_until("all of it was written", || said.exists().then_some(()));
    assert_eq!(peer.wait_turn_end("t1"), TurnOutcome::Result);
    // What was lost at the end is told in front of the next.
    peer.turn("t2", "complain 1");
    let (mut told, mut lost) =
        peer.seen.iter().map(complaints).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
    while told < 20_001 {
        let one = complaints(&peer.next().unwrap());
        (told, lost) = (told + one.0, lost + one.1);
    }
    assert!(told == 20_001 && lost > 0, "{told}, {lost}");
}

#[test]
fn whoever_asks_for_everything_has_it_before_the_answer() {
    let Some(machine) = Machine::new() else { return };
    let (sandbox, mut peer) = machine.sandbox();
    peer.start(&stand_in("plain"));
    // Much more than sockets hold, and nothing of it is read here before.
    peer.turn("t1", "lines 2000 10000 said wait");
    let said = sandbox.workspace.join("said");
    wait_until("all of it was written", || said.exists().then_some(()));
    sandbox.freeze_agent(true);
    peer.signal(Kind::Drain, 7);
    let answered = peer.wait(|frame| (frame.kind == Kind::Drained).then_some(frame.number));
    assert_eq!(answered, 7);
    let padded = |line: &&String| line.contains(r#""pad""#);
    assert_eq!(peer.texts(Kind::Line).iter().filter(padded).count(), 2000);
    sandbox.freeze_agent(false);
    std::fs::write(sandbox.workspace.join("go"), "").unwrap();
    assert_eq!(peer.wait_turn_end("t1"), TurnOutcome::Result);
}

#[test]
fn a_log_that_is_full_of_lines_holds_the_cli_and_lets_go() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    peer.start(&stand_in("plain"));
    peer.turn("t1", "lines 100 1000000");
    let held = peer.wait_notice(|notice| match notice {
        Notice::Held { bytes } => Some(bytes),
        _ => None,
    });
    assert!(held > 64 << 20 && held < 70 << 20, "{held}");
    peer.signal(Kind::Ack, peer.seen.last().unwrap().number);
    peer.wait_notice(|notice| matches!(notice, Notice::Released).then_some(()));
    assert_eq!(peer.wait_turn_end("t1"), TurnOutcome::Result);
    assert_eq!(peer.texts(Kind::Line).len(), 102);
}

#[test]
fn what_an_agent_said_outlives_it() {
    let Some(machine) = Machine::new() else { return };
    let (sandbox, mut peer) = machine.sandbox();
    peer.start(&stand_in("plain"));
    peer.turn("t1", "hello");
    assert_eq!(peer.wait_turn_end("t1"), TurnOutcome::Result);
    drop(peer);
    sandbox.end_agent();
    let mut next = sandbox.connect_from(1);
    next.wait_exit();
    assert_eq!(next.texts(Kind::Line).len(), 2);
    next.signal(Kind::Ack, next.seen.last().unwrap().number);
    while next.next().is_some() {}
    assert!(sandbox.gone().contains("the spawner"));
}

#[test]
fn nonsense_from_the_cli_is_thrown_away_and_told() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    peer.start(&stand_in("plain"));
    peer.turn("t1", "raw");
    assert_eq!(peer.wait_turn_end("t1"), TurnOutcome::Result);
    let bad: Vec<_> = peer
        .notices()
        .into_iter()
        .filter_map(|notice| match notice {
            Notice::BadLine { length, .. } => Some(length),
            _ => None,
        })
        .collect();
    assert_eq!(bad, [8, 2, 33 << 20]);
}

#[test]
fn nonsense_from_ashd_ends_the_connection_only() {
    let Some(machine) = Machine::new() else { return };
    let (sandbox, mut peer) = machine.sandbox();
    peer.signal(Kind::Welcome, 0);
    assert!(peer.next().is_none());
    let mut peer = sandbox.connect();
    peer.signal(Kind::Start, 0);
    assert!(peer.next().is_none());
    use std::io::{Read as _, Write as _};
    let mut raw = sandbox.stream();
    raw.write_all(&[0xff; 64]).unwrap();
    assert_eq!(raw.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(sandbox.connect().run("echo alive").stdout, "alive\n");
}

#[test]
fn commands() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    let ran = peer.run("echo out; echo err >&2; cat; pwd; exit 3");
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n/workspace\n", "err\n"));
    assert_eq!((ran.exit.code, ran.exit.truncated, ran.exit.timed_out), (Some(3), false, false));
    let ran = peer.run_with(&Exec { output_limit: 10, ..exec("seq 100000; seq 100000 >&2") });
    assert_eq!((ran.stdout.len(), ran.stderr.len(), ran.exit.truncated), (10, 10, true));
    let ran = peer.run_with(&Exec { timeout_ms: 200, ..exec("sleep 60 & sleep 60") });
    assert_eq!((ran.exit.signal, ran.exit.timed_out), (Some(9), true));
    // Larger than any socket or pipe.
    let ran = peer.run_with(&Exec { output_limit: 1 << 30, ..exec("head -c 20000000 /dev/zero") });
    assert_eq!((ran.stdout.len(), ran.exit.truncated), (20_000_000, false));
    // A command that leaves something behind ends all the same.
    let started = std::time::Instant::now();
    assert_eq!(peer.run("sleep 600 & echo left").stdout, "left\n");
    assert!(started.elapsed() < LONG);
    let huge =
        Exec { env: vec![("BIG".to_owned(), "x".repeat(120_000)); 8], ..exec("echo ${#BIG}") };
    assert_eq!(peer.run_with(&huge).stdout, "120000\n");
}

/// Nobody hears of its end, but whoever comes next knows that it runs.
#[test]
fn a_command_outlives_who_asked_for_it() {
    let Some(machine) = Machine::new() else { return };
    let (sandbox, mut peer) = machine.sandbox();
    assert_eq!(peer.welcome.commands_ms, 0);
    let wait = "echo on; until [ -e go ]; do sleep 0.01; done; touch late";
    peer.send(Kind::Exec, 7, &exec(wait));
    peer.wait(|frame| (frame.kind == Kind::ExecStdout).then_some(()));
    let left = sandbox.connect().welcome.commands_ms;
    assert!((1..=60_000).contains(&left), "{left}");
    std::fs::write(sandbox.workspace.join("go"), "").unwrap();
    wait_until("it is over", || (sandbox.connect().welcome.commands_ms == 0).then_some(()));
    assert!(sandbox.workspace.join("late").exists());
}

#[test]
fn a_command_can_be_killed() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    peer.send(Kind::Exec, 7, &exec("echo on; sleep 60"));
    peer.wait(|frame| (frame.kind == Kind::ExecStdout).then_some(()));
    peer.signal(Kind::ExecKill, 7);
    let exit = peer.wait(|frame| (frame.kind == Kind::ExecExit).then(|| frame.text()));
    assert!(exit.contains(r#""signal":9"#), "{exit}");
}

#[test]
fn what_a_command_waits_for_is_killed_with_it() {
    let Some(machine) = Machine::new() else { return };
    let (sandbox, mut peer) = machine.sandbox();
    // The CLI's shells are in sessions of their own.
    peer.send(Kind::Exec, 7, &exec("setsid sh -c 'echo on; exec sleep 300' & wait"));
    peer.wait(|frame| (frame.kind == Kind::ExecStdout).then_some(()));
    peer.signal(Kind::ExecKill, 7);
    peer.wait(|frame| (frame.kind == Kind::ExecExit).then_some(()));
    wait_until("only the spawner is left", || {
        (sandbox.processes("agent").len() == 1).then_some(())
    });
}

#[test]
fn a_command_that_has_left_its_process_group_can_be_killed() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    let leave = "import os, time
os.setpgid(0, os.getpgid(os.getppid()))
print('left', flush=True)
time.sleep(20)";
    peer.send(Kind::Exec, 7, &exec(&format!("exec python3 -c \"{leave}\"")));
    peer.wait(|frame| (frame.kind == Kind::ExecStdout).then_some(()));
    peer.signal(Kind::ExecKill, 7);
    let exit = peer.wait(|frame| (frame.kind == Kind::ExecExit).then(|| frame.text()));
    assert!(exit.contains(r#""signal":9"#), "{exit}");
}
