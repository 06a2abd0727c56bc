//! Commands beside the turn.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ash_wire::words::{Exec, ExecExit};
use bytes::Bytes;

use super::{Driver, Reply};
use crate::domain::{Changed, ExecRequest};
use crate::session::api::{ExecOutput, Refusal};
use crate::session::cli;
use crate::session::exec::{self, ExecPiece, ExecSink, ExecStream, OUTPUT_LIMIT};
use crate::session::machine::{Event, Sandbox};

/// The commands that run, and those that wait for a sandbox.
#[derive(Default)]
pub(super) struct Execs {
    running: HashMap<u64, ExecSink>,
    waiting: Vec<(ExecRequest, Reply<ExecStream>)>,
    /// Until when commands may run that a daemon before this one has begun, if any may.
    unheard_until: Option<Instant>,
}

impl Execs {
    pub(super) fn stdout(&mut self, id: u64, bytes: Bytes) {
        if let Some(sink) = self.running.get_mut(&id) {
            sink.output(ExecPiece::Stdout(bytes));
        }
    }

    pub(super) fn stderr(&mut self, id: u64, bytes: Bytes) {
        if let Some(sink) = self.running.get_mut(&id) {
            sink.output(ExecPiece::Stderr(bytes));
        }
    }

    /// Forgets those that wait for a sandbox and whose senders have hung up.
    pub(super) fn forget_abandoned(&mut self) {
        self.waiting.retain(|(_, reply)| !reply.is_closed());
    }

    /// Whether commands wait for a sandbox.
    pub(super) fn are_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether commands run that this daemon has begun.
    pub(super) fn are_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Commands that a daemon before this one has begun may run for so many milliseconds, says the
    /// bridge. It tells of their end only whoever began them.
    pub(super) fn begun_before(&mut self, ms: u64) {
        let left = Duration::from_millis(ms).min(ExecRequest::LONGEST);
        self.unheard_until = (ms > 0).then(|| Instant::now() + left);
    }

    /// Takes those for ended whose time is over.
    pub(super) fn forget_ended(&mut self) {
        if self.unheard_until.is_some_and(|until| until <= Instant::now()) {
            self.unheard_until = None;
        }
    }

    /// Whether a command may run right now.
    pub(super) fn may_run(&self) -> bool {
        let may_go_on = self.unheard_until.is_some_and(|until| until > Instant::now());
        !self.running.is_empty() || may_go_on
    }

    /// Whether no command runs.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.unheard_until.is_none()
    }

    /// What the running commands do is not heard any more, for this reason.
    pub(super) fn lost(&mut self, why: &Refusal) {
        self.unheard_until = None;
        for (_, sink) in self.running.drain() {
            sink.end(Err(why.clone()));
        }
    }

    /// There will be no sandbox.
    pub(super) fn refuse_waiting(&mut self, why: &Refusal) {
        for (_, reply) in self.waiting.drain(..) {
            let _ = reply.send(Err(why.clone()));
        }
    }
}

impl Driver {
    /// Runs a command, in a sandbox that is made for it if there is none.
    pub(super) async fn exec(&mut self, request: ExecRequest, reply: Reply<ExecStream>) {
        if let Err(refusal) = self.step(Event::Wake).await {
            return drop(reply.send(Err(refusal)));
        }
        match self.state.sandbox {
            Sandbox::Up => self.run_exec(&request, reply).await,
            Sandbox::Launching | Sandbox::None => self.execs.waiting.push((request, reply)),
        }
    }

    pub(super) async fn run_waiting_execs(&mut self) {
        for (request, reply) in std::mem::take(&mut self.execs.waiting) {
            self.run_exec(&request, reply).await;
        }
    }

    async fn run_exec(&mut self, request: &ExecRequest, reply: Reply<ExecStream>) {
        if reply.is_closed() {
            // Whoever hung up meanwhile may have asked again.
            return;
        }
        if let Err(refusal) = self.note_change(Changed::Maybe).await {
            return drop(reply.send(Err(refusal)));
        }
        self.thaw();
        let Some(link) = &self.link else { return };
        let exec = Exec {
            command: request.command.clone(),
            env: cli::environment(&self.session),
            timeout_ms: request.timeout_ms,
            output_limit: OUTPUT_LIMIT,
        };
        let id = link.sender.next_id();
        let (sink, stream, dropped) = exec::channel();
        let sender = link.sender.clone();
        tokio::spawn(async move {
            // A command that has ended by itself is not there any more to be killed.
            let _ = dropped.await;
            let _ = sender.exec_kill(id);
        });
        match link.sender.exec(id, &exec) {
            Ok(()) => drop(self.execs.running.insert(id, sink)),
            Err(error) => sink.end(Err(Refusal::Sandbox(error.to_string()))),
        }
        let _ = reply.send(Ok(stream));
    }

    /// A command has ended.
    pub(super) fn exec_ended(&mut self, id: u64, exit: ExecExit) {
        self.changes.all += 1;
        self.settle_soon();
        let sink = self.execs.running.remove(&id);
        self.note_end();
        if let Some(sink) = sink {
            sink.end(output(exit));
        }
    }
}

/// How a command ended, the way shells tell it: 128 and the signal's number.
fn output(exit: ExecExit) -> Result<ExecOutput, Refusal> {
    if let Some(error) = exit.error {
        return Err(Refusal::Sandbox(format!("The command could not be started: {error}")));
    }
    let exit_code = match (exit.code, exit.signal) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => return Err(Refusal::Sandbox("The command's end is not known".to_owned())),
    };
    Ok(ExecOutput {
        exit_code,
        stdout: Bytes::new(),
        stderr: Bytes::new(),
        timed_out: exit.timed_out,
        truncated: exit.truncated,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_before_run_until_their_time_is_over_or_the_sandbox_is_gone() {
        let mut execs = Execs::default();
        execs.begun_before(0);
        assert!(execs.is_idle());
        execs.begun_before(u64::MAX);
        execs.forget_ended();
        assert!(!execs.is_idle());
        execs.lost(&Refusal::ShuttingDown);
        assert!(execs.is_idle());
        execs.begun_before(1);
        let end = Instant::now() + Duration::from_millis(1);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        assert!(!execs.is_idle(), "what they did last is still to be told");
        execs.forget_ended();
        assert!(execs.is_idle());
    }
}
