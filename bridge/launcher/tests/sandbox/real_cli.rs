//! The real Claude Code CLI, where `CLAUDE_CODE_EXECUTABLE` names one. It has no network; its
//! model is a stand-in behind the sandbox's own socket.

use ash_wire::frame::Kind;
use ash_wire::plan::Mount;
use ash_wire::words::{Notice, Permissions, Start, TurnOutcome};
use serde_json::value::RawValue;

use crate::api;
use crate::machine::{AGENT_UID, Machine, Sandbox, real_cli};
use crate::peer::Peer;

fn sandbox(machine: &Machine) -> (Sandbox, Peer) {
    let broker = machine.dir.path().join("broker/one");
    std::fs::create_dir(&broker).unwrap();
    api::serve(&broker.join("api.sock"), AGENT_UID);
    let mut request = machine.request();
    let source = broker.to_str().unwrap().to_owned();
    let at = request.plan.mounts.iter().position(|m| matches!(m, Mount::Dir { .. })).unwrap();
    let target = "/run/api".to_owned();
    request.plan.mounts.insert(at + 1, Mount::ReadOnly { source, target, optional: false });
    let sandbox = machine.make(request);
    let peer = sandbox.connect();
    (sandbox, peer)
}

fn start() -> Start {
    let args = "-p --input-format stream-json --output-format stream-json --verbose \
        --include-partial-messages --permission-prompt-tool stdio --replay-user-messages \
        --dangerously-skip-permissions --model claude-sonnet-4-5-20250929";
    let env = [
        ("HOME", "/home/agent"),
        ("PATH", "/usr/bin:/bin"),
        ("IS_SANDBOX", "1"),
        ("ANTHROPIC_API_KEY", "placeholder"),
        ("ANTHROPIC_BASE_URL", "http://api.local"),
        ("ANTHROPIC_UNIX_SOCKET", "/run/api/api.sock"),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ("CLAUDE_CODE_MAX_RETRIES", "1"),
        ("DISABLE_AUTOUPDATER", "1"),
    ];
    Start {
        program: "/opt/claude".to_owned(),
        args: args.split_whitespace().map(str::to_owned).collect(),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        initialize: RawValue::from_string(r#"{"hooks":null}"#.to_owned()).unwrap(),
        permissions: Permissions::Allow,
        ready_timeout_ms: 60_000,
        tag: String::new(),
    }
}

/// A machine, if there is a CLI to run on it.
fn machine() -> Option<Machine> {
    if real_cli().is_none() {
        println!("SKIP: CLAUDE_CODE_EXECUTABLE names no CLI");
        return None;
    }
    Machine::new()
}

/// Results and turns, in order.
fn story(peer: &Peer) -> Vec<String> {
    let one = |frame: &crate::peer::Frame| match frame.kind {
        Kind::Line => {
            let line: serde_json::Value = serde_json::from_slice(&frame.body).unwrap();
            (line["type"] == "result")
                .then(|| line["result"].as_str().unwrap_or("error").to_owned())
        }
        Kind::Notice => match frame.notice()? {
            Notice::TurnBegan { turn } => Some(format!("began {}", &turn[35..])),
            Notice::TurnEnded { turn, .. } => Some(format!("ended {}", &turn[35..])),
            Notice::SelfTurnBegan => Some("own began".to_owned()),
            Notice::SelfTurnEnded => Some("own ended".to_owned()),
            _ => None,
        },
        _ => None,
    };
    peer.seen.iter().filter_map(one).collect()
}

fn id(number: u8) -> String {
    format!("11111111-1111-4111-8111-11111111111{number}")
}

#[test]
fn turns_of_all_sorts_end_with_their_own_result() {
    let Some(machine) = machine() else { return };
    let (_sandbox, mut peer) = sandbox(&machine);
    peer.start(&start());
    for (number, text) in [(1, "hi"), (2, "FAIL400"), (3, "/cost"), (4, "/clear"), (5, "hi again")]
    {
        peer.turn(&id(number), text);
        assert_eq!(peer.wait_turn_end(&id(number)), TurnOutcome::Result, "{text}");
    }
    let story = story(&peer);
    assert_eq!(story.len(), 15, "{story:?}");
    for (number, turn) in story.chunks(3).enumerate() {
        assert_eq!(turn[0], format!("began {}", number + 1));
        assert_eq!(turn[2], format!("ended {}", number + 1));
    }
    assert_eq!(story[13], "hello...");
}

#[test]
fn a_turn_of_its_own_keeps_the_next_prompt_waiting() {
    let Some(machine) = machine() else { return };
    let (_sandbox, mut peer) = sandbox(&machine);
    peer.start(&start());
    peer.turn(&id(1), "BACKGROUND");
    peer.wait_turn_end(&id(1));
    peer.wait_notice(|notice| matches!(notice, Notice::SelfTurnBegan).then_some(()));
    peer.turn(&id(2), "hi");
    assert_eq!(peer.wait_turn_end(&id(2)), TurnOutcome::Result);
    assert_eq!(
        story(&peer),
        [
            "began 1",
            "hello...",
            "ended 1",
            "own began",
            "the task is done...",
            "own ended",
            "began 2",
            "hello...",
            "ended 2"
        ]
    );
}

#[test]
fn interrupts_at_any_time_stop_the_turn_and_nothing_else() {
    let Some(machine) = machine() else { return };
    let (_sandbox, mut peer) = sandbox(&machine);
    peer.start(&start());
    for number in 1..6 {
        peer.turn(&id(number), "SLOW");
        let sign = ["", "turn_began", "turn_began", "running", "text_delta", "text_delta"];
        peer.wait(|frame| frame.text().contains(sign[usize::from(number)]).then_some(()));
        peer.signal(Kind::Interrupt, number.into());
        assert_eq!(peer.wait_turn_end(&id(number)), TurnOutcome::Result);
    }
    peer.turn(&id(6), "hi");
    assert_eq!(peer.wait_turn_end(&id(6)), TurnOutcome::Result);
    let story = story(&peer);
    let errors = story.iter().filter(|what| *what == "error").count();
    assert_eq!((errors, story.len()), (5, 18), "{story:?}");
}

#[test]
fn tools_run_as_the_agent() {
    let Some(machine) = machine() else { return };
    let (sandbox, mut peer) = sandbox(&machine);
    peer.start(&start());
    peer.turn(&id(1), "BACKGROUND");
    peer.wait_turn_end(&id(1));
    assert!(!sandbox.processes("agent").is_empty());
    peer.signal(Kind::Shutdown, 0);
    sandbox.gone();
}
