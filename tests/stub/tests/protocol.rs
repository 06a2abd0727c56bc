//! The stub as a bridge sees it: over pipes.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use ash_modelapi::{Config, Server};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A running stub; killed when it is dropped.
struct Stub {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stub {
    fn start(home: &TempDir, arguments: &[&str]) -> Self {
        Self::start_with(home, arguments, ("ASH_STUB_MODE", ""))
    }

    fn start_in_mode(home: &TempDir, arguments: &[&str], mode: &str) -> Self {
        Self::start_with(home, arguments, ("ASH_STUB_MODE", mode))
    }

    fn start_with(home: &TempDir, arguments: &[&str], (name, value): (&str, &str)) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ash-stub-claude"))
            .args(["-p", "--input-format", "stream-json", "--output-format", "stream-json"])
            .args(["--verbose", "--include-partial-messages", "--replay-user-messages"])
            .args(arguments)
            .env_clear()
            .env("HOME", home.path())
            .env("PATH", "/usr/bin:/bin")
            .env(name, value)
            .current_dir(home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdin, stdout }
    }

    fn send(&mut self, line: &Value) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn raw(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        self.stdout.read_until(b'\n', &mut line).unwrap();
        line
    }

    fn line(&mut self) -> Value {
        let line = self.raw();
        serde_json::from_slice(&line)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&line)))
    }

    /// Reads up to and including the first line that matches.
    fn until(&mut self, matches: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut lines = vec![self.line()];
        while !matches(lines.last().unwrap()) {
            lines.push(self.line());
        }
        lines
    }

    fn prompt(&mut self, text: &str) {
        self.send(&json!({"type": "user", "message": {"role": "user", "content": text},
            "parent_tool_use_id": null, "session_id": "", "uuid": "our-uuid"}));
    }

    fn turn(&mut self, text: &str) -> Vec<Value> {
        self.prompt(text);
        self.until(|line| line["type"] == "result")
    }

    fn result(&mut self, text: &str) -> String {
        self.turn(text).pop().unwrap()["result"].as_str().unwrap().to_owned()
    }

    fn control(&mut self, request: &Value) -> Value {
        self.send(&json!({"type": "control_request", "request_id": "r", "request": request}));
        let lines = self.until(|line| line["type"] == "control_response");
        lines.last().unwrap()["response"].clone()
    }

    fn interrupt(&mut self) -> Value {
        let response = self.control(&json!({"subtype": "interrupt"}));
        assert_eq!(response, json!({"subtype": "success", "request_id": "r"}));
        self.until(|line| line["type"] == "result").pop().unwrap()
    }

    fn close(&mut self) -> (ExitStatus, String) {
        self.stdin = None;
        let mut errors = String::new();
        self.child.stderr.as_mut().unwrap().read_to_string(&mut errors).unwrap();
        (self.child.wait().unwrap(), errors)
    }
}

fn home() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The kinds of lines, deltas and other stream events told apart.
fn kinds(lines: &[Value]) -> Vec<String> {
    let kind = |line: &Value| match line["type"].as_str().unwrap() {
        "system" => line["subtype"].as_str().unwrap().to_owned(),
        "stream_event" => line["event"]["type"].as_str().unwrap().to_owned(),
        other => other.to_owned(),
    };
    lines.iter().map(kind).collect()
}

fn is_delta(line: &Value) -> bool {
    line["event"]["type"] == "content_block_delta"
}

#[test]
fn a_turn_has_the_lines_of_a_real_one() {
    let home = home();
    let mut stub = Stub::start(&home, &["--model=claude-x", "--session-id=s-1"]);
    let ready = stub.control(&json!({"subtype": "initialize", "hooks": null}));
    assert!(ready["response"]["pid"].is_u64(), "{ready}");
    let lines = stub.turn("[[say hello]]");
    assert_eq!(
        kinds(&lines),
        [
            "init",
            "status",
            "message_start",
            "user",
            "content_block_start",
            "content_block_delta",
            "assistant",
            "content_block_stop",
            "message_delta",
            "message_stop",
            "result"
        ]
    );
    assert_eq!((&lines[0]["model"], &lines[0]["session_id"]), (&"claude-x".into(), &"s-1".into()));
    assert_eq!((&lines[3]["isReplay"], &lines[3]["uuid"]), (&true.into(), &"our-uuid".into()));
    assert_eq!(lines[6]["message"]["content"][0]["text"], "hello");
    assert_eq!(lines[6]["message"]["id"], lines[2]["event"]["message"]["id"]);
    assert_eq!((&lines[10]["subtype"], &lines[10]["is_error"]), (&"success".into(), &false.into()));
    assert_eq!(lines[10]["result"], "hello");
    assert!(stub.close().0.success());
}

#[test]
fn control_requests() {
    let home = home();
    let mut stub = Stub::start(&home, &[]);
    assert_eq!(stub.control(&json!({"subtype": "set_model", "model": "m2"}))["subtype"], "success");
    let mode = json!({"subtype": "set_permission_mode", "mode": "plan"});
    assert_eq!(stub.control(&mode)["response"]["mode"], "plan");
    let bypass = json!({"subtype": "set_permission_mode", "mode": "bypassPermissions"});
    assert_eq!(stub.control(&bypass)["subtype"], "error");
    let servers = stub.control(&json!({"subtype": "mcp_status"}));
    assert_eq!(servers["response"], json!({"mcpServers": []}));
    let unknown = stub.control(&json!({"subtype": "no_such"}));
    assert_eq!(unknown["error"], "Unsupported control request subtype: no_such");
    let init = stub.turn("hi").remove(0);
    assert_eq!((&init["model"], &init["permissionMode"]), (&"m2".into(), &"plan".into()));
}

#[test]
fn an_interrupt_ends_the_turn_and_not_the_process() {
    let home = home();
    let mut stub = Stub::start(&home, &[]);
    stub.prompt("[[say part]][[hang]]");
    stub.until(is_delta);
    let result = stub.interrupt();
    assert_eq!(result["subtype"], "error_during_execution");
    assert_eq!(result["terminal_reason"], "aborted_streaming");
    assert_eq!(stub.result("[[history]]").lines().nth(1), Some("assistant: part"));
}

#[test]
fn an_interrupt_kills_a_command() {
    let home = home();
    let mut stub = Stub::start(&home, &[]);
    stub.prompt("[[exec sleep 1000 & sleep 1000]]");
    stub.until(|line| line["message"]["content"][0]["type"] == "tool_use");
    assert_eq!(stub.interrupt()["terminal_reason"], "aborted_tools");
    assert_eq!(stub.result("[[exec echo two]]"), "tool said: two");
}

#[test]
fn the_model_hears_a_prompt_when_it_is_asked() {
    let home = home();
    let socket = home.path().join("model.sock");
    let config = Config { unix: Some(socket.clone()), ..Config::default() };
    let model = Server::start(config).unwrap();
    let variable = ("ANTHROPIC_UNIX_SOCKET", socket.to_str().unwrap());
    let mut stub = Stub::start_with(&home, &[], variable);
    assert_eq!(stub.result("[[say one]]"), "one");
    assert!(model.requests().is_empty());
    assert_eq!(stub.result("[[model]][[say two]]"), "two");
    let requests = model.requests();
    assert_eq!(requests.len(), 1);
    let messages = requests[0].body["messages"].as_array().unwrap();
    assert_eq!(messages.last().unwrap()["content"], "[[model]][[say two]]");
    assert!(requests[0].is_message() && messages.len() == 3, "{messages:?}");
}

#[test]
fn prompts_that_wait_are_answered_as_one() {
    let home = home();
    let mut stub = Stub::start(&home, &[]);
    stub.prompt("[[hang]]");
    stub.until(|line| line["isReplay"] == true);
    stub.prompt("second");
    stub.prompt("third");
    stub.interrupt();
    let lines = stub.until(|line| line["type"] == "result");
    assert_eq!(lines.iter().filter(|line| line["isReplay"] == true).count(), 2);
    assert_eq!(lines.last().unwrap()["result"], "You said: second\nthird");
}

#[test]
fn a_session_can_be_resumed_and_forked_with_its_history() {
    let home = home();
    let mut stub = Stub::start(&home, &["--session-id=s-2"]);
    stub.turn("remember 7");
    stub.close();
    let mut stub = Stub::start(&home, &["--resume=s-2"]);
    let history = "user: remember 7\nassistant: You said: remember 7";
    assert_eq!(stub.result("[[history]]"), history);
    stub.close();
    let mut fork = Stub::start(&home, &["--resume=s-2", "--fork-session", "--session-id=s-3"]);
    assert!(fork.result("[[history]]").starts_with(history));
    assert_eq!(fork.turn("x")[0]["session_id"], "s-3");
}

#[test]
fn unknown_and_taken_sessions_are_refused() {
    let home = home();
    let mut stub = Stub::start(&home, &["--resume=nobody"]);
    let result = stub.line();
    assert_eq!(result["subtype"], "error_during_execution");
    assert_eq!(result["errors"][0], "No conversation found with session ID: nobody");
    assert_eq!(stub.close().0.code(), Some(1));

    let mut stub = Stub::start(&home, &["--session-id=s"]);
    stub.turn("x");
    stub.close();
    let (status, errors) = Stub::start(&home, &["--session-id=s"]).close();
    assert_eq!(status.code(), Some(1));
    assert_eq!(errors, "Error: Session ID s is already in use.\n");
}

#[test]
fn commands_and_environment_show() {
    let home = home();
    let mut stub = Stub::start(&home, &[]);
    let lines = stub.turn("[[exec echo out; echo err >&2; exit 3]]");
    let result = lines.iter().find(|line| line["tool_use_result"].is_object()).unwrap();
    assert_eq!(result["tool_use_result"]["stderr"], "err\n");
    assert_eq!(result["message"]["content"][0]["is_error"], true);
    assert_eq!(lines.last().unwrap()["num_turns"], 2);
    assert!(stub.result("[[env]]").contains("ASH_STUB_MODE="));
}

#[test]
fn a_permission_is_asked_for_and_its_answer_told() {
    let home = home();
    let mut stub = Stub::start(&home, &[]);
    stub.prompt(r#"[[ask Bash {"command":"ls"}]]"#);
    let asked = stub.until(|line| line["type"] == "control_request").pop().unwrap();
    assert_eq!(asked["request"]["input"]["command"], "ls");
    stub.send(&json!({"type": "control_response", "response": {"subtype": "success",
        "request_id": asked["request_id"], "response": {"behavior": "deny", "message": "no"}}}));
    let lines = stub.until(|line| line["type"] == "result");
    let said = lines.last().unwrap()["result"].as_str().unwrap();
    assert_eq!(said, r#"answer: {"behavior":"deny","message":"no"}"#);
}

#[test]
fn an_interrupt_takes_a_question_back() {
    let home = home();
    let mut stub = Stub::start(&home, &[]);
    stub.prompt(r#"[[ask Bash {"command":"ls"}]]"#);
    let asked = stub.until(|line| line["type"] == "control_request").pop().unwrap();
    stub.send(&json!({"type": "control_request", "request_id": "r",
        "request": {"subtype": "interrupt"}}));
    let lines = stub.until(|line| line["type"] == "result");
    let cancelled = lines.iter().find(|line| line["type"] == "control_cancel_request").unwrap();
    assert_eq!(cancelled["request_id"], asked["request_id"]);
}

#[test]
fn events_are_complete_lines_of_their_size() {
    let home = home();
    let mut stub = Stub::start(&home, &[]);
    stub.prompt("[[events 500 600]]");
    stub.until(|line| line["isReplay"] == true);
    let mut ids = std::collections::HashSet::new();
    for number in 0..500 {
        let line = stub.raw();
        assert!(line.len().abs_diff(600) < 10, "{}", line.len());
        let line: Value = serde_json::from_slice(&line).unwrap();
        let text = line["message"]["content"][0]["text"].as_str().unwrap();
        assert!(text.starts_with(&format!("{number} x")), "{text}");
        assert!(
            ids.insert(line["uuid"].to_string()) && ids.insert(line["message"]["id"].to_string())
        );
    }
    stub.until(|line| line["type"] == "result");
}

#[test]
fn stamps_are_times_that_grow() {
    let home = home();
    let mut stub = Stub::start(&home, &[]);
    let before = ash_modelapi::monotonic_ns();
    let lines = stub.turn("[[stamp]][[deltas 3 100]][[events 2 600]]");
    let text = |line: &Value| {
        let delta = line["event"]["delta"]["text"].as_str();
        delta.or(line["message"]["content"][0]["text"].as_str()).map(str::to_owned)
    };
    let stamps: Vec<u64> =
        lines.iter().filter_map(|line| text(line)?.split_once(' ')?.0.parse().ok()).collect();
    assert_eq!(stamps.len(), 6, "3 deltas, their block, 2 events");
    assert!(before < stamps[0] && stamps[..5].is_sorted());
}

#[test]
fn a_turn_can_start_by_itself() {
    let home = home();
    let mut stub = Stub::start(&home, &[]);
    stub.turn("[[selfturn it is done]]");
    let lines = stub.until(|line| line["type"] == "result");
    assert_eq!(kinds(&lines)[..2], ["task_notification", "init"]);
    assert_eq!(lines.last().unwrap()["result"], "it is done");
}

#[test]
fn a_task_in_the_background_ends_with_a_turn_by_itself() {
    let home = home();
    let mut stub = Stub::start(&home, &[]);
    let lines = stub.turn("[[background until [ -e go ]; do sleep 0.01; done; echo went]]");
    let task = |lines: &[Value], subtype: &str| {
        let line = lines.iter().find(|line| line["subtype"] == subtype).unwrap();
        line["task_id"].clone()
    };
    let begun = task(&lines, "task_started");
    assert!(begun.as_str().is_some_and(|id| id.len() < 64), "{begun}");
    std::fs::write(home.path().join("go"), "").unwrap();
    let lines = stub.until(|line| line["type"] == "result");
    assert_eq!(kinds(&lines)[..3], ["task_updated", "task_notification", "init"]);
    assert_eq!(
        (task(&lines, "task_updated"), task(&lines, "task_notification")),
        (begun.clone(), begun)
    );
    assert_eq!(lines.last().unwrap()["result"], "went");
}

#[test]
fn misbehaviour_within_a_turn() {
    let home = home();
    let after = |prompt: &str| {
        let mut stub = Stub::start(&home, &[]);
        stub.prompt(prompt);
        stub.until(|line| line["isReplay"] == true);
        stub
    };
    assert_eq!(after("[[garbage]]").raw(), b"this is no JSON {\n");
    assert!(String::from_utf8(after("[[binary]]").raw()).is_err());
    assert_eq!(after("[[huge 5000000]]").raw().len(), 5_000_001);
    let mut endless = [0; 1000];
    after("[[noline 1000]]").stdout.read_exact(&mut endless).unwrap();
    assert_eq!(endless, [b'x'; 1000]);
    assert_eq!(after("[[exit 3]]").close().0.code(), Some(3));
    assert_eq!(after("[[crash]]").close().0.signal(), Some(6));
    assert_eq!(after("[[stderr ouch]]").close().1, "ouch\n");
}

#[test]
fn malformed_input_ends_it() {
    let home = home();
    let mut stub = Stub::start(&home, &[]);
    stub.send(&json!({"type": "user"}));
    let (status, errors) = stub.close();
    assert_eq!(status.code(), Some(1));
    assert!(errors.starts_with("Error parsing streaming input line: {\"type\":\"user\"}"));
}

#[test]
fn misbehaviour_at_the_start() {
    let home = home();
    let start = |mode| Stub::start_in_mode(&home, &[], mode);
    assert_eq!(start("garbage-at-start").raw(), b"this is no JSON\n");
    assert_eq!(start("exit-at-start").close().0.code(), Some(1));
    assert_eq!(start("no-such-mode").close().0.code(), Some(1));
    let mut slow = start("slow-ready 1");
    assert_eq!(slow.control(&json!({"subtype": "initialize"}))["subtype"], "success");
    let mut never = start("never-ready");
    never.send(&json!({"type": "control_request", "request_id": "r",
        "request": {"subtype": "initialize"}}));
    assert!(never.close().0.success());
    assert_eq!(never.raw(), b"");
}

#[test]
fn the_mode_may_stand_in_a_file() {
    let home = home();
    std::fs::write(home.path().join("stub-mode"), "exit-at-start\n").unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_ash-stub-claude"))
        .env_remove("ASH_STUB_MODE")
        .current_dir(home.path())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn it_says_when_it_works_if_that_is_wanted() {
    let home = tempfile::tempdir().unwrap();
    let wanted = ("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS", "1");
    let mut stub = Stub::start_with(&home, &["--session-id=s"], wanted);
    stub.prompt("[[say hi]]");
    let is_state = |line: &Value| line["subtype"] == "session_state_changed";
    let lines = stub.until(|line| is_state(line) && line["state"] == "idle");
    assert!(is_state(&lines[0]) && lines[0]["state"] == "running", "{}", lines[0]);
    assert_eq!(lines[1]["subtype"], "init");
    assert_eq!(lines[lines.len() - 2]["type"], "result");
}
