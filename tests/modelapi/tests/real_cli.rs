//! The real Claude Code CLI talks to the stand-in and finds nothing amiss.
//!
//! Needs `CLAUDE_CODE_EXECUTABLE` and bubblewrap: the CLI runs without any network, the unix
//! socket is its only way out.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use ash_modelapi::{Config, Server};
use serde_json::{Value, json};
use tempfile::TempDir;

const CANARY: &str = "placeholder-canary";

/// How long the CLI may take for anything.
const PATIENCE: Duration = Duration::from_mins(2);

#[test]
fn the_real_cli_is_content() {
    let Some(executable) = env::var_os("CLAUDE_CODE_EXECUTABLE") else {
        return println!("SKIP: CLAUDE_CODE_EXECUTABLE does not name a Claude Code CLI");
    };
    if Command::new("bwrap").arg("--version").output().is_err() {
        return println!("SKIP: there is no bwrap to keep the CLI from the network");
    }
    let dir = tempfile::tempdir().unwrap();
    for folder in ["api", "home", "workspace"] {
        std::fs::create_dir(dir.path().join(folder)).unwrap();
    }
    let unix = Some(dir.path().join("api/api.sock"));
    let server = Server::start(Config { unix, ..Config::default() }).unwrap();
    let mut cli = Cli::start(Path::new(&executable), &dir);

    streams_text_and_thinking(&mut cli);
    runs_a_tool(&mut cli, &dir);
    retries_and_falls_back(&mut cli);
    is_interrupted(&mut cli, &server);
    forgets_a_prompt_that_failed(&mut cli);
    sends_its_key_and_session(&server);
}

fn streams_text_and_thinking(cli: &mut Cli) {
    let lines = cli.turn("[[count 20 1ms]]");
    assert_eq!(lines.iter().filter(|line| is_delta(line)).count(), 20);
    let numbers = (1..=20).map(|n| format!("{n} ")).collect::<String>();
    assert_eq!(lines.last().unwrap()["result"], numbers.as_str());

    let lines = cli.turn("[[think deeply]][[say done]][[unicode]]");
    assert!(lines.iter().any(|line| line["message"]["content"][0]["thinking"] == "deeply"));
    assert!(result(&lines).starts_with("done\nnext\u{85}line\u{2028}"));
}

fn runs_a_tool(cli: &mut Cli, dir: &TempDir) {
    let lines = cli.turn(r#"[[tool Bash {"command":"echo hi > f && cat f"}]]"#);
    assert_eq!(result(&lines), "tool said: hi");
    assert_eq!(std::fs::read(dir.path().join("workspace/f")).unwrap(), b"hi\n");

    let history = cli.turn("[[history]]");
    assert!(result(&history).contains("user: [[think deeply]]"), "{}", result(&history));
    assert!(result(&history).contains("assistant: tool said: hi"), "{}", result(&history));
}

fn retries_and_falls_back(cli: &mut Cli) {
    let lines = cli.turn("[[status 529 retry-after=1 times=1]][[say at last]]");
    assert!(lines.iter().any(|line| line["error_status"] == 529 && line["attempt"] == 1));
    assert_eq!(result(&lines), "at last");

    let lines = cli.turn("[[cut after=3]][[count 8]]");
    assert_eq!(lines.iter().filter(|line| is_delta(line)).count(), 3);
    assert_eq!(result(&lines), "1 2 3 4 5 6 7 8 ");

    let lines = cli.turn("[[sse-error overloaded_error after=2]][[count 4]]");
    assert_eq!(result(&lines), "1 2 3 4 ");
}

fn is_interrupted(cli: &mut Cli, server: &Server) {
    cli.prompt("[[say part]][[hold gate]]");
    server.block_on(server.wait_held("gate")).unwrap();
    cli.send(&json!({"type": "control_request", "request_id": "stop",
        "request": {"subtype": "interrupt"}}));
    let lines = cli.rest_of_turn();
    assert_eq!(lines.last().unwrap()["terminal_reason"], "aborted_streaming");
    assert_eq!(result(&cli.turn("[[say alive]]")), "alive");
}

fn forgets_a_prompt_that_failed(cli: &mut Cli) {
    let lines = cli.turn("[[status 400]] first");
    assert_eq!(lines.last().unwrap()["api_error_status"], 400);
    assert!(result(&cli.turn("second")).starts_with("You said: “second”."));
}

fn sends_its_key_and_session(server: &Server) {
    let requests = server.requests();
    let messages = requests.iter().filter(|request| request.is_message());
    assert!(messages.clone().count() > 10);
    for request in messages {
        assert_eq!(request.headers["x-api-key"], CANARY);
        assert!(request.headers.contains_key("x-claude-code-session-id"));
    }
}

fn is_delta(line: &Value) -> bool {
    line["event"]["delta"]["type"] == "text_delta"
}

fn result(lines: &[Value]) -> String {
    lines.last().unwrap()["result"].as_str().unwrap_or_default().to_owned()
}

/// The CLI in its sandbox; killed when it is dropped.
struct Cli {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<Value>,
}

impl Drop for Cli {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Cli {
    fn start(executable: &Path, dir: &TempDir) -> Self {
        let mut child = sandbox(executable, dir.path())
            .args(["/claude", "-p", "--verbose", "--include-partial-messages"])
            .args(["--input-format", "stream-json", "--output-format", "stream-json"])
            .args(["--model", "claude-opus-4-5", "--permission-mode", "bypassPermissions"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { child, stdin, lines }
    }

    fn send(&mut self, line: &Value) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    fn prompt(&mut self, text: &str) {
        self.send(&json!({"type": "user", "message": {"role": "user", "content": text},
            "parent_tool_use_id": null, "session_id": ""}));
    }

    fn rest_of_turn(&mut self) -> Vec<Value> {
        let mut lines = vec![self.lines.recv_timeout(PATIENCE).unwrap()];
        while lines.last().unwrap()["type"] != "result" {
            lines.push(self.lines.recv_timeout(PATIENCE).unwrap());
        }
        lines
    }

    fn turn(&mut self, text: &str) -> Vec<Value> {
        self.prompt(text);
        self.rest_of_turn()
    }
}

/// A root without network and with nothing of the host but its programs.
fn sandbox(executable: &Path, dir: &Path) -> Command {
    let mut bwrap = Command::new("bwrap");
    bwrap
        .args(["--unshare-all", "--die-with-parent", "--new-session", "--clearenv"])
        .args(["--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc"])
        .args(["--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"])
        .args(["--symlink", "usr/lib64", "/lib64"])
        .args(["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]);
    bwrap.arg("--ro-bind").arg(executable).arg("/claude");
    for (bind, folder) in [("--bind", "home"), ("--bind", "workspace"), ("--ro-bind", "api")] {
        bwrap.arg(bind).arg(dir.join(folder)).arg(format!("/{folder}"));
    }
    bwrap.args(["--chdir", "/workspace"]);
    for (name, value) in [
        ("HOME", "/home"),
        ("PATH", "/usr/bin:/bin"),
        ("IS_SANDBOX", "1"),
        ("ANTHROPIC_API_KEY", CANARY),
        ("ANTHROPIC_BASE_URL", "http://api.local"),
        ("ANTHROPIC_UNIX_SOCKET", "/api/api.sock"),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ("DISABLE_AUTOUPDATER", "1"),
    ] {
        bwrap.args(["--setenv", name, value]);
    }
    bwrap
}
