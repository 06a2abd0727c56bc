//! The newest lines of a session's log, in memory: the CLI's standard error and what the daemon
//! has to say about the sandbox. The same goes to the journal, at a pace that leaves room there for
//! other sessions.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::api::LogLine;
use crate::domain::{AgentName, Session, SessionId, Tenant, Timestamp, TurnId};
use crate::telemetry::{Pace, message};

/// The most lines kept, and the most bytes of them: a log is kept for a day, for many sessions.
const LINES: usize = 2_000;
const BYTES: usize = 1024 * 1024;

/// Whose line it is.
const STDERR: &str = "stderr";
const SYSTEM: &str = "system";

/// The most bytes of a line.
const LINE: usize = 8 * 1024;

/// A session's log.
pub(super) struct Logs {
    who: Who,
    inner: Mutex<Inner>,
}

/// Whose log it is.
struct Who {
    session: SessionId,
    agent: AgentName,
    tenant: Tenant,
}

#[derive(Default)]
struct Inner {
    next: u64,
    lines: VecDeque<LogLine>,
    /// Those of the lines.
    bytes: usize,
    /// The turn that is running.
    turn: Option<TurnId>,
    /// That of the CLI. What the daemon has to say is not pushed out by it.
    stderr: Pace,
    system: Pace,
}

impl Logs {
    pub(super) fn new(session: &Session) -> Logs {
        let (agent, tenant) = (session.agent.clone(), session.tenant.clone());
        let turn = session.turn.map(|turn| turn.id);
        let inner = Mutex::new(Inner { turn, ..Inner::default() });
        Logs { who: Who { session: session.id, agent, tenant }, inner }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on lines belong to this turn, or to none. What was left out of the journal in the one
    /// before is said.
    pub(super) fn in_turn(&self, turn: Option<TurnId>) {
        let mut inner = self.lock();
        if std::mem::replace(&mut inner.turn, turn) != turn {
            self.who.left_out(inner.owed());
        }
    }

    /// Adds a line of the CLI's standard error.
    pub(super) fn stderr(&self, line: &[u8]) {
        let line = &line[..line.len().min(LINE)];
        self.add(STDERR, &String::from_utf8_lossy(line));
    }

    /// Adds a line of the daemon's.
    pub(super) fn system(&self, line: &str) {
        self.add(SYSTEM, line);
    }

    /// Adds a line, cut to the limit: also what the daemon says may quote a sandbox.
    fn add(&self, level: &'static str, line: &str) {
        let text = line[..line.floor_char_boundary(LINE)].to_owned();
        let mut inner = self.lock();
        let pace = if level == SYSTEM { &mut inner.system } else { &mut inner.stderr };
        if let Some(left_out) = pace.step(Instant::now(), text.len()) {
            self.who.left_out(left_out);
            self.who.journal((level, inner.turn), &text);
        }
        let index = inner.next;
        inner.next += 1;
        inner.bytes += text.len();
        inner.lines.push_back(LogLine { index, level, text, ts: Timestamp::now() });
        inner.drop_oldest();
    }

    /// When the newest line was written.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.lock().lines.back().map(|line| line.ts)
    }

    /// Lines with an index above `after`.
    pub(super) fn after(&self, after: i64) -> Vec<LogLine> {
        let wanted = |line: &&LogLine| i64::try_from(line.index).is_ok_and(|index| index > after);
        self.lock().lines.iter().filter(wanted).cloned().collect()
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        let owed = self.lock().owed();
        self.who.left_out(owed);
    }
}

impl Inner {
    fn owed(&mut self) -> u64 {
        self.stderr.owed() + self.system.owed()
    }

    fn drop_oldest(&mut self) {
        while self.lines.len() > LINES || self.bytes > BYTES {
            let Some(line) = self.lines.pop_front() else { return };
            self.bytes -= line.text.len();
        }
    }
}

impl Who {
    fn left_out(&self, lines: u64) {
        if lines > 0 {
            let Who { session, agent, tenant } = self;
            tracing::warn!(
                message_id = message::LINES_LEFT_OUT, ash_session = %session, ash_agent = %agent,
                ash_tenant = %tenant, lines, "lines of a session's log were left out"
            );
        }
    }

    fn journal(&self, (level, turn): (&str, Option<TurnId>), text: &str) {
        let Who { session, agent, tenant } = self;
        // Control characters could make a line look like another's on a terminal.
        let text = text.replace(char::is_control, "\u{fffd}");
        tracing::info!(
            message_id = message::SANDBOX_SAID, ash_session = %session, ash_agent = %agent,
            ash_tenant = %tenant, ash_turn = turn.map(|turn| turn.to_string()), stream = level, "{text}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs() -> Logs {
        let who = Who {
            session: SessionId::random(),
            agent: "hello".parse().unwrap(),
            tenant: Tenant::default(),
        };
        Logs { who, inner: Mutex::default() }
    }

    #[test]
    fn a_cli_that_floods_silences_itself_only_and_is_counted() {
        let logs = logs();
        for _ in 0..1_000 {
            logs.stderr(b"x");
        }
        let left_out = |logs: &Logs| {
            let inner = logs.lock();
            (format!("{:?}", inner.stderr), format!("{:?}", inner.system))
        };
        let (stderr, system) = left_out(&logs);
        assert!(stderr.contains("left_out: 800"), "{stderr}");
        logs.system("the CLI ended");
        assert!(left_out(&logs).1.contains("lines: 1, ") && system.contains("lines: 0, "));
        logs.in_turn(Some(TurnId::random()));
        assert!(left_out(&logs).0.contains("left_out: 0"), "it was said when the turn changed");
    }

    #[test]
    fn the_newest_lines_are_kept() {
        let logs = logs();
        for _ in 0..LINES + 5 {
            logs.stderr(b"x");
        }
        let all = logs.after(-1);
        assert_eq!((all.len(), all[0].index), (LINES, 5));
        assert_eq!(logs.after(LINES as i64 + 3).len(), 1);
        for _ in 0..LINES {
            logs.stderr(&vec![b'y'; LINE + 1]);
        }
        let all = logs.after(-1);
        assert!(all.iter().all(|line| line.text.len() == LINE));
        assert_eq!(all.len(), BYTES / LINE);
    }
}
