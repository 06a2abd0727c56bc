//! The newest lines of a session's log, in memory: the CLI's standard error and what the daemon
//! has to say about the sandbox.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::api::LogLine;
use crate::domain::Timestamp;

/// The most lines kept.
const LINES: usize = 2_000;

/// The most bytes of a line.
const LINE: usize = 8 * 1024;

/// A session's log.
#[derive(Default)]
pub(super) struct Logs {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    lines: VecDeque<LogLine>,
}

impl Logs {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line of the CLI's standard error.
    pub(super) fn stderr(&self, line: &[u8]) {
        let line = &line[..line.len().min(LINE)];
        self.add("stderr", &String::from_utf8_lossy(line));
    }

    /// Adds a line of the daemon's.
    pub(super) fn system(&self, line: &str) {
        self.add("system", line);
    }

    /// Adds a line, cut to the limit: also what the daemon says may quote a sandbox.
    fn add(&self, level: &'static str, line: &str) {
        let text = line[..line.floor_char_boundary(LINE)].to_owned();
        let mut inner = self.lock();
        let index = inner.next;
        inner.next += 1;
        if inner.lines.len() == LINES {
            inner.lines.pop_front();
        }
        inner.lines.push_back(LogLine { index, level, text, ts: Timestamp::now() });
    }

    /// Lines with an index above `after`.
    pub(super) fn after(&self, after: i64) -> Vec<LogLine> {
        let wanted = |line: &&LogLine| i64::try_from(line.index).is_ok_and(|index| index > after);
        self.lock().lines.iter().filter(wanted).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept() {
        let logs = Logs::default();
        for _ in 0..LINES + 5 {
            logs.stderr(&vec![b'x'; LINE + 1]);
        }
        let all = logs.after(-1);
        assert_eq!((all.len(), all[0].index), (LINES, 5));
        assert_eq!(all[0].text.len(), LINE);
        assert_eq!(logs.after(LINES as i64 + 3).len(), 1);
    }
}
