//! The Claude Code CLI as a process: its streams, what it was asked, how it ended.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use ash_wire::words::{Notice, Permissions, Start, Turn};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::lines::{Item, Lines};
use crate::spawner::{Ending, Program};
use crate::speech::MAX_LINE;
use crate::turn::Millis;

/// How long a CLI may go on after its standard input was closed.
pub const GRACE: Millis = 2_000;

/// How long the spawner may take to report the end of a CLI or a command that was killed. It is
/// the agent's uid, and may have been stopped by it.
pub const REPORT: Millis = 30_000;

/// The longest line of standard error that is passed on whole, in bytes.
const MAX_STDERR_LINE: usize = 8 * 1024;

/// How much of standard error is kept for [`Notice::CliExited`], in bytes.
const TAIL: usize = 4 * 1024;

/// Bytes of answers to its questions that a CLI may leave unread before it is not heard any more.
const MAX_UNREAD_ANSWERS: usize = 4 * 1024 * 1024;

/// Who asked the CLI something, and until when the answer is waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Asked {
    /// The id of our control request.
    pub id: u64,
    /// Who wants the answer.
    pub by: Asker,
    /// When it is too late.
    pub until: Millis,
}

/// Who wants an answer of the CLI.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asker {
    /// We: it is the answer to `initialize`.
    Start,
    /// Nobody: an interrupt that was said again.
    Nobody,
    /// `ashd`, with an interrupt, on this connection under this number.
    Interrupt(u64, u64),
    /// `ashd`, on this connection under this number.
    Control(u64, u64),
}

/// A CLI that was started and not yet reported as gone.
#[derive(Debug)]
pub struct Cli {
    /// The spawner's number for it.
    pub id: u64,
    /// Its standard streams, our ends; `None` once closed.
    pub stdin: Option<OwnedFd>,
    /// See [`Cli::stdin`].
    pub stdout: Option<OwnedFd>,
    /// See [`Cli::stdin`].
    pub stderr: Option<OwnedFd>,
    /// Lines of its standard output.
    pub lines: Lines,
    /// Lines of its standard error.
    pub stderr_lines: Lines,
    /// How many of these were thrown away since one was last passed on: nobody was there, or who was
    /// there did not keep up.
    pub stderr_lost: u64,
    /// Questions that wait for an answer.
    pub asked: Vec<Asked>,
    /// How its questions are answered.
    pub permissions: Permissions,
    /// What the next `ashd` is told of how it was started.
    pub tag: String,
    /// When it was started.
    pub since: Millis,
    /// When it is killed, if it was asked to end.
    pub end_by: Option<Millis>,
    /// Its end was asked for.
    pub expected: bool,
    /// Why we killed it, and when the spawner must have reported its end.
    pub killed: Option<(&'static str, Millis)>,
    /// How it ended, or why it did not start. What it wrote may still be unread.
    pub ended: Option<Result<Ending, String>>,
    queue: VecDeque<u8>,
    unread_answers: usize,
    last_id: u64,
    tail: VecDeque<u8>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ToCli<'a> {
    ControlRequest {
        request_id: String,
        request: &'a RawValue,
    },
    User {
        message: Message<'a>,
        parent_tool_use_id: Option<&'a str>,
        session_id: &'a str,
        uuid: &'a str,
    },
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'a str,
    content: &'a RawValue,
}

impl Cli {
    /// A CLI, and the ends of its streams that it gets. They are sockets, not pipes: a tool could
    /// open `/proc/<cli>/fd/1` of a pipe and write lines of its own into it; of a socket it cannot.
    ///
    /// # Errors
    /// When sockets cannot be made.
    pub fn new(id: u64, permissions: Permissions, now: Millis) -> io::Result<(Cli, [OwnedFd; 3])> {
        let (stdin, its_stdin) = stream()?;
        let (stdout, its_stdout) = stream()?;
        let (stderr, its_stderr) = stream()?;
        let cli = Cli {
            id,
            stdin: Some(stdin),
            stdout: Some(stdout),
            stderr: Some(stderr),
            lines: Lines::new(MAX_LINE),
            stderr_lines: Lines::new(MAX_STDERR_LINE),
            stderr_lost: 0,
            asked: Vec::new(),
            permissions,
            tag: String::new(),
            since: now,
            end_by: None,
            expected: false,
            killed: None,
            ended: None,
            queue: VecDeque::new(),
            unread_answers: 0,
            last_id: 0,
            tail: VecDeque::new(),
        };
        Ok((cli, [its_stdin, its_stdout, its_stderr]))
    }

    /// Whether bytes wait to be written.
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether it may be heard: one that asks and asks and never reads the answers may not.
    pub fn may_speak(&self) -> bool {
        self.unread_answers < MAX_UNREAD_ANSWERS
    }

    /// Puts a control request to it.
    pub fn ask(&mut self, request: &RawValue, by: Asker, until: Millis) {
        self.last_id += 1;
        self.asked.push(Asked { id: self.last_id, by, until });
        let request_id = format!("ash-{}", self.last_id);
        self.say(&ToCli::ControlRequest { request_id, request });
    }

    /// Finds who asked what the CLI now answers.
    pub fn asked(&mut self, request_id: &str) -> Option<Asked> {
        let id = request_id.strip_prefix("ash-")?.parse::<u64>().ok()?;
        let place = self.asked.iter().position(|asked| asked.id == id)?;
        Some(self.asked.swap_remove(place))
    }

    /// Puts a prompt to it.
    pub fn prompt(&mut self, turn: &Turn) {
        let message = Message { role: "user", content: &turn.content };
        self.say(&ToCli::User {
            message,
            parent_tool_use_id: None,
            session_id: "",
            uuid: &turn.id,
        });
    }

    /// Gives it the answer to a question of its own.
    pub fn answer(&mut self, line: &[u8]) {
        self.unread_answers += line.len();
        self.queue.extend(line);
    }

    /// Writes what it takes.
    pub fn write(&mut self) {
        while let Some(stdin) = &self.stdin {
            let (chunk, _) = self.queue.as_slices();
            if chunk.is_empty() {
                self.unread_answers = 0;
                self.queue.shrink_to(0);
                return;
            }
            match rustix::io::write(stdin, chunk) {
                Ok(count) => drop(self.queue.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.close_stdin(),
            }
        }
    }

    /// Tells it that nothing more comes; what was not written never will be.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
        self.queue = VecDeque::new();
    }

    /// Keeps the end of what it says on standard error.
    pub fn remember(&mut self, stderr: &[u8]) {
        self.tail.extend(&stderr[stderr.len().saturating_sub(TAIL)..]);
        let over = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..over);
    }

    /// The notice of its end.
    pub fn obituary(&mut self) -> Notice {
        let (reason, how) = match self.ended.take() {
            Some(Err(error)) => (format!("the CLI could not be started: {error}"), None),
            Some(Ok(how)) => (describe(how), Some(how)),
            None => ("the CLI was ended".to_owned(), None),
        };
        Notice::CliExited {
            reason: self.killed.map_or(reason, |(why, _)| why.to_owned()),
            code: how.and_then(|how| how.code),
            signal: how.and_then(|how| how.signal),
            stderr: String::from_utf8_lossy(self.tail.make_contiguous()).into_owned(),
            expected: self.expected,
        }
    }

    /// One line. A line break between the parts of what `ashd` gave is white space to JSON, and
    /// half a message to the CLI, which would exit.
    fn say(&mut self, message: &ToCli<'_>) {
        let line = serde_json::to_vec(message).unwrap_or_default();
        self.queue.extend(line.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
        self.queue.push_back(b'\n');
    }
}

fn describe(how: Ending) -> String {
    match (how.code, how.signal) {
        (Some(code), _) => format!("the CLI exited with status {code}"),
        (_, Some(signal)) => format!("signal {signal} ended the CLI"),
        _ => "the CLI ended".to_owned(),
    }
}

/// What the spawner starts for `start`.
pub fn program(start: &Start) -> Program {
    let mut env = start.env.clone();
    env.push(("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS".to_owned(), "1".to_owned()));
    Program { program: start.program.clone(), args: start.args.clone(), env }
}

/// A line of standard error as it is passed on.
pub fn stderr_line(item: &Item<'_>) -> Vec<u8> {
    match item {
        Item::Line(line) => line.to_vec(),
        Item::TooLong(length) => format!("(a line of {length} bytes)").into_bytes(),
    }
}

/// Our end does not block, the CLI's does.
fn stream() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, its) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, its))
}
