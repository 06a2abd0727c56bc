//! How much somebody may make the daemon write to the journal: what one causes must not push out the
//! words of all others.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::message;

/// The most lines and bytes in [`SPAN`].
const LINES: u32 = 200;
const BYTES: usize = 64 * 1024;
const SPAN: Duration = Duration::from_secs(30);

/// What one has made the daemon write lately.
#[derive(Debug, Default)]
pub struct Pace {
    since: Option<Instant>,
    lines: u32,
    bytes: usize,
    left_out: u64,
}

impl Pace {
    /// None yet.
    pub const NONE: Pace = Pace { since: None, lines: 0, bytes: 0, left_out: 0 };

    /// Whether a line of this length may go to the journal now; if so, how many before it did not.
    pub fn step(&mut self, now: Instant, bytes: usize) -> Option<u64> {
        if self.since.is_none_or(|since| now >= since + SPAN) {
            *self = Pace { since: Some(now), left_out: self.left_out, ..Pace::NONE };
        }
        if self.lines == LINES || self.bytes + bytes > BYTES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        self.bytes += bytes;
        Some(self.owed())
    }

    /// How many lines did not go to the journal, for somebody who says so now.
    pub fn owed(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

/// A pace that all share whom something is said of.
#[derive(Debug)]
pub struct SharedPace(Mutex<Pace>);

impl SharedPace {
    /// None yet.
    #[expect(clippy::new_without_default, reason = "it is for statics")]
    pub const fn new() -> SharedPace {
        SharedPace(Mutex::new(Pace::NONE))
    }

    /// As [`Pace::step`], now.
    pub fn step(&self, bytes: usize) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).step(Instant::now(), bytes)
    }
}

/// Says that somebody was refused, and with which words.
pub fn refused(who: impl Display, text: &str) {
    static PACE: SharedPace = SharedPace::new();
    if let Some(left_out) = PACE.step(text.len()) {
        tracing::info!(message_id = message::REFUSED, %who, left_out, "refused: {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_does_not_fill_the_journal() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for _ in 0..LINES {
            assert_eq!(pace.step(start, 1), Some(0));
        }
        assert_eq!((pace.step(start, 1), pace.step(start, 1)), (None, None));
        assert_eq!(pace.step(start + SPAN, 1), Some(2));
        assert_eq!(pace.step(start + SPAN, BYTES), None);
        assert_eq!(pace.step(start + 2 * SPAN, BYTES), Some(1));
        assert_eq!((pace.step(start + 2 * SPAN, 1), pace.owed(), pace.owed()), (None, 1, 0));
    }
}
