//! The JSON bodies of the bridge conversation.
//!
//! A conversation goes like this:
//!
//! ```text
//!  ashd                                  bridge
//!   │ Hello {versions, resend_from}        │
//!   ├─────────────────────────────────────►│
//!   │              Welcome {version, …}    │
//!   │◄─────────────────────────────────────┤   then every kept event ≥ resend_from, in order
//!   │ Start {program, args, env, …}        │
//!   ├─────────────────────────────────────►│
//!   │              Notice CliReady         │
//!   │◄─────────────────────────────────────┤
//!   │ Turn {id, content}                   │
//!   ├─────────────────────────────────────►│
//!   │   Notice TurnBegan, Line, Delta, …   │
//!   │◄─────────────────────────────────────┤   Ack n ─► after ashd's commit
//!   │              Notice TurnEnded        │
//!   │◄─────────────────────────────────────┤
//! ```
//!
//! In the middle of a turn `ashd` may want to know where the agent is, which it has stopped for that:
//!
//! ```text
//!   │ Drain n                              │
//!   ├─────────────────────────────────────►│   reads what the CLI has written, to its end
//!   │              Line, Delta, …          │
//!   │◄─────────────────────────────────────┤   Ack n ─► all the while
//!   │              Drained n               │
//!   │◄─────────────────────────────────────┤
//! ```
//!
//! At any time the bridge tells how many tasks the CLI runs beside its turns
//! ([`Kind::Tasks`](crate::frame::Kind::Tasks)), when that changes.
//!
//! Events ([`Kind::is_event`](crate::frame::Kind::is_event)) are numbered from 1 without gaps for
//! the life of the bridge. The bridge keeps events until they are acknowledged *and* the end of
//! their turn is, so that an `ashd` that was killed in mid-turn can rebuild the turn exactly. Above its
//! budget it drops acknowledged events first, then deltas that were not acknowledged (a gap in
//! the numbers tells), never complete lines: then it stops reading the CLI and says
//! [`Notice::Held`].

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What `ashd` says first.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Hello {
    /// The newest version that `ashd` speaks.
    pub version: u16,
    /// The oldest version that `ashd` understands.
    pub oldest: u16,
    /// Send again every kept event from this number on. 0 or 1: everything that is kept.
    pub resend_from: u64,
}

/// What the bridge answers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Welcome {
    /// The version that both speak from here on.
    pub version: u16,
    /// The sandbox id that the bridge was started for.
    pub sandbox: String,
    /// The state of the CLI.
    pub cli: CliState,
    /// The turn that is running or waiting to be written to the CLI, if any.
    pub turn: Option<String>,
    /// The tag that the CLI was started with, while there is one.
    #[serde(default)]
    pub tag: Option<String>,
    /// The number of the newest event so far, 0 if there was none.
    pub last_event: u64,
    /// The number of the newest event that is kept, and so the last that is sent again; 0 if none
    /// is.
    #[serde(default)]
    pub resend_to: u64,
    /// How many milliseconds commands may run on that were asked for before, of whose end nobody
    /// will be told; 0 when none runs.
    #[serde(default)]
    pub commands_ms: u64,
    /// How many tasks the CLI runs beside its turns, as far as it has said so; 0 when the bridge does
    /// not know of such ([`TASKS`](crate::TASKS)).
    #[serde(default)]
    pub tasks: u64,
}

/// Whether there is a CLI and what it does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CliState {
    /// Never started, or it exited.
    Absent,
    /// Started, has not answered `initialize` yet.
    Starting,
    /// Waits for a prompt.
    Idle,
    /// Runs a turn, ours or its own.
    Busy,
}

/// Starts the CLI. A CLI that is running is ended first (standard input closed, then killed).
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Start {
    /// Absolute path of the program inside the sandbox.
    pub program: String,
    /// Its arguments, without the program itself.
    pub args: Vec<String>,
    /// Its whole environment. The bridge adds `CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS=1`: it
    /// needs to know when the CLI is idle.
    pub env: Vec<(String, String)>,
    /// The fields of the `initialize` request besides its subtype, as a JSON object.
    pub initialize: Box<RawValue>,
    /// How to answer when the CLI asks for a permission.
    pub permissions: Permissions,
    /// Milliseconds until the CLI must have answered `initialize`.
    pub ready_timeout_ms: u64,
    /// Given back in [`Welcome`]: tells the next `ashd` how this CLI was started.
    #[serde(default)]
    pub tag: String,
}

/// How the bridge answers `can_use_tool`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Permissions {
    /// Allow everything (except questions to a person, which nobody is there to answer).
    Allow,
    /// Deny with a reason.
    Deny,
}

/// Runs a turn. Held back while the CLI is starting or busy with a turn of its own; refused with
/// [`Notice::TurnEnded`] when there is no CLI or another turn is in flight.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Turn {
    /// The turn's UUID; the CLI gets it as the message's `uuid`.
    pub id: String,
    /// The message's content: a JSON string or an array of content blocks.
    pub content: Box<RawValue>,
}

/// Something that happened to a turn or to the CLI.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "notice")]
pub enum Notice {
    /// The CLI answered `initialize`.
    CliReady {
        /// Milliseconds from start to answer.
        after_ms: u64,
    },
    /// The CLI could not be started, ended, or did not become ready in time (then it was killed).
    CliExited {
        /// One sentence.
        reason: String,
        /// Exit code, if it exited by itself.
        code: Option<i32>,
        /// Signal number, if a signal ended it.
        signal: Option<i32>,
        /// The last lines of its standard error, at most 4 KiB.
        stderr: String,
        /// Whether `ashd` had asked for it (a new [`Start`] or [`Shutdown`](crate::frame::Kind::Shutdown)).
        expected: bool,
    },
    /// The prompt of this turn was written to the CLI.
    TurnBegan {
        /// The turn's UUID.
        turn: String,
    },
    /// The turn is over: its `result` line was sent before this, unless the outcome says
    /// otherwise.
    TurnEnded {
        /// The turn's UUID.
        turn: String,
        /// How it ended.
        outcome: TurnOutcome,
    },
    /// The CLI began a turn by itself (a background task finished). When it did so in the very
    /// moment in which a prompt was written, this comes after that prompt's
    /// [`Notice::TurnBegan`]: then the lines up to [`Notice::SelfTurnEnded`] are not the prompt's.
    SelfTurnBegan,
    /// That turn ended with the `result` line sent before this, without one, or with the CLI.
    SelfTurnEnded,
    /// The CLI is held because this many bytes of complete lines wait for acknowledgement.
    Held {
        /// Bytes waiting.
        bytes: u64,
    },
    /// The CLI is read again after [`Notice::Held`].
    Released,
    /// A line of the CLI was thrown away.
    BadLine {
        /// One sentence: why (too long, not JSON, not UTF-8).
        reason: String,
        /// Its length in bytes.
        length: u64,
    },
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnOutcome {
    /// The CLI wrote its `result` line.
    Result,
    /// The CLI is gone; [`Notice::CliExited`] before this says why.
    CliExited,
    /// Refused: there was no CLI, or another turn was in flight. Nothing was written.
    Refused,
    /// Interrupted while it was held back. Nothing was written.
    Interrupted,
    /// The CLI went idle without a `result` line, or with one that was thrown away
    /// ([`Notice::BadLine`] before this says so).
    NoResult,
}

/// Answer to a control request or an interrupt.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ControlReply {
    /// The CLI's `response` object on success, if it gave one. For an interrupt always
    /// `{"interrupted": bool}`: whether a turn was running or held back.
    pub response: Option<Box<RawValue>>,
    /// Why it failed: the CLI's own words, "timed out" or "the CLI is gone".
    pub error: Option<String>,
}

/// Runs a command as the agent, beside the turn.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Exec {
    /// For `/bin/sh -c`, in the workspace.
    pub command: String,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// Milliseconds until it is killed, with its process group and what descends from it.
    pub timeout_ms: u64,
    /// Bytes of standard output and of standard error each that are passed on; the rest is read
    /// and thrown away.
    pub output_limit: u64,
}

/// How a command ended. Without code, signal and error that is not known: it was killed, and nobody
/// in the sandbox has told of its end in time.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ExecExit {
    /// Exit code, if it exited by itself.
    pub code: Option<i32>,
    /// Signal number, if a signal ended it.
    pub signal: Option<i32>,
    /// Whether its time ran out.
    pub timed_out: bool,
    /// Whether output was thrown away.
    pub truncated: bool,
    /// Why it could not be started, if it could not.
    pub error: Option<String>,
}
