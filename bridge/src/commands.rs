//! Commands that run beside the turn.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use ash_wire::frame::Kind;
use ash_wire::words::{Exec, ExecExit};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::spawner::{Ending, Program};
use crate::turn::Millis;

/// The most commands at a time.
pub const MAX_COMMANDS: usize = 64;

/// One of a command's output streams.
#[derive(Debug)]
pub struct Output {
    /// Our end; `None` once it is at its end.
    pub from: Option<OwnedFd>,
    /// Bytes that are still passed on.
    left: u64,
}

/// A command.
#[derive(Debug)]
pub struct Command {
    /// `ashd`'s number for it.
    pub number: u64,
    /// The connection that asked for it.
    pub link: u64,
    /// When it is killed; from then on, when its end must have been reported.
    pub until: Millis,
    /// Standard output.
    pub stdout: Output,
    /// Standard error.
    pub stderr: Output,
    /// How it ended.
    pub ended: Option<Result<Ending, String>>,
    timed_out: bool,
    given_up: bool,
    truncated: bool,
}

/// All commands, by the spawner's number.
pub type Commands = BTreeMap<u64, Command>;

impl Command {
    /// A command, and the standard output and error that it gets.
    ///
    /// # Errors
    /// When pipes cannot be made.
    pub fn new(
        number: u64,
        link: u64,
        exec: &Exec,
        now: Millis,
    ) -> io::Result<(Command, [OwnedFd; 2])> {
        let (stdout, its_stdout) = pipe()?;
        let (stderr, its_stderr) = pipe()?;
        let command = Command {
            number,
            link,
            until: now.saturating_add(exec.timeout_ms),
            stdout: Output { from: Some(stdout), left: exec.output_limit },
            stderr: Output { from: Some(stderr), left: exec.output_limit },
            ended: None,
            timed_out: false,
            given_up: false,
            truncated: false,
        };
        Ok((command, [its_stdout, its_stderr]))
    }

    /// Whether it has ended, or its end is waited for no more.
    pub fn is_over(&self) -> bool {
        self.ended.is_some() || self.given_up
    }

    /// Its time ran out. Returns whether it is to be killed: then its end must be reported by
    /// `report_by`, and is not waited for any longer.
    pub fn time_out(&mut self, report_by: Millis) -> bool {
        self.given_up = std::mem::replace(&mut self.timed_out, true);
        self.until = report_by;
        !self.given_up
    }

    /// The stream that frames of this kind come from.
    pub fn output(&mut self, kind: Kind) -> &mut Output {
        if kind == Kind::ExecStdout { &mut self.stdout } else { &mut self.stderr }
    }

    /// How much of `bytes` is passed on.
    pub fn pass<'a>(&mut self, kind: Kind, bytes: &'a [u8]) -> &'a [u8] {
        let left = self.output(kind).left;
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        self.output(kind).left -= count as u64;
        self.truncated |= count < bytes.len();
        &bytes[..count]
    }

    /// What `ashd` is told at the end.
    pub fn exit(self) -> ExecExit {
        let (how, error) = match self.ended {
            Some(Ok(how)) => (Some(how), None),
            Some(Err(error)) => (None, Some(error)),
            None => (None, None),
        };
        ExecExit {
            code: how.and_then(|how| how.code),
            signal: how.and_then(|how| how.signal),
            timed_out: self.timed_out,
            truncated: self.truncated,
            error,
        }
    }
}

/// What the spawner starts for `exec`.
pub fn program(exec: Exec) -> Program {
    let args = vec!["-c".to_owned(), exec.command];
    Program { program: "/bin/sh".to_owned(), args, env: exec.env }
}

/// Our end does not block, the command's does.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, its) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, its))
}
