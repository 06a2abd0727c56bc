//! How long the parts of a turn take, and a session's way back to a sandbox. Of what a daemon before this
//! one has begun it is not known, and nothing is measured.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ash_wire::words::TurnOutcome;

use super::Driver;
use crate::session::api::Frame;
use crate::session::cli::Conversation;
use crate::session::keeping::Found;
use crate::telemetry::metrics::labels::{ColdSource, Resumed, TurnEnd};
use crate::telemetry::metrics::{Metrics, since};

/// What is under way, and since when.
pub(super) struct Times {
    metrics: Arc<Metrics>,
    first_call: Arc<FirstCall>,
    turn: Option<Instant>,
    /// Whether the CLI has been heard of in the turn.
    is_heard: bool,
    /// Whether somebody has asked for the turn to be interrupted.
    is_interrupted: bool,
    resume: Option<Instant>,
    /// Since when a sandbox is being made for a message or a command.
    wake: Option<Instant>,
}

impl Times {
    pub(super) fn new(metrics: Arc<Metrics>, first_call: Arc<FirstCall>) -> Times {
        let (turn, resume, wake) = (None, None, None);
        Times { metrics, first_call, turn, is_heard: false, is_interrupted: false, resume, wake }
    }

    /// A turn has begun at this time, with a message that had come at that one.
    pub(super) fn turn_began(&mut self, begun: Instant, came: Instant) {
        let waited = begun.saturating_duration_since(came);
        self.metrics.queue_wait.observe(waited.as_secs_f64());
        self.first_call.begin(begun);
        (self.turn, self.is_heard, self.is_interrupted) = (Some(begun), false, false);
    }

    /// What runs is to be interrupted: the turn, or what the CLI does by itself.
    pub(super) fn interrupted(&mut self) {
        self.is_interrupted = self.turn.is_some();
    }

    fn turn_heard(&mut self) {
        if let Some(begun) = self.turn
            && !std::mem::replace(&mut self.is_heard, true)
        {
            since(&self.metrics.first_event, begun);
        }
    }

    fn turn_ended(&mut self, end: TurnEnd) {
        if let Some(begun) = self.turn.take() {
            // The CLI's result of a turn that was interrupted says that it is an error.
            let end = match end {
                TurnEnd::Error if self.is_interrupted => TurnEnd::Interrupted,
                end => end,
            };
            since(self.metrics.turns.of(end), begun);
            self.first_call.end(Instant::now());
        }
    }

    /// The session is being resumed. Who asks meanwhile waits for the same.
    pub(super) fn resume_began(&mut self) {
        self.resume.get_or_insert_with(Instant::now);
    }

    /// The session is active again, or is not going to be. So many are in each histogram as were resumed.
    pub(super) fn resume_ended(&mut self, how: Option<Resumed>) {
        if let (Some(begun), Some(how)) = (self.resume.take(), how) {
            since(self.metrics.resume_times.of(how), begun);
        }
    }

    /// A sandbox is to be made: for a message or a command, or because the session is resumed. What became
    /// of the one before does not matter any more: what fails is not measured.
    pub(super) fn launch_began(&mut self, is_resumed: bool) {
        self.wake = (!is_resumed).then(Instant::now);
    }

    /// The session has the sandbox; its files were there.
    pub(super) fn launch_ended(&mut self, source: ColdSource) {
        if let Some(begun) = self.wake.take() {
            since(self.metrics.wakes.of(source), begun);
        }
    }
}

impl Driver {
    /// Shows to readers what the CLI has said.
    pub(super) fn show(&mut self, frames: Vec<Frame>) {
        if !frames.is_empty() {
            self.times.turn_heard();
        }
        self.journal.append(frames);
    }

    /// The turn is over, for its readers as well.
    pub(super) fn end_turn(&mut self, end: TurnEnd) {
        self.journal.end_turn();
        self.times.turn_ended(end);
    }
}

/// How a turn ended that has no result.
pub(super) fn end_of(outcome: TurnOutcome) -> TurnEnd {
    match outcome {
        TurnOutcome::Interrupted => TurnEnd::Interrupted,
        TurnOutcome::Refused
        | TurnOutcome::CliExited
        | TurnOutcome::Result
        | TurnOutcome::NoResult => TurnEnd::Failed,
    }
}

/// Where the files of a session were that has a new sandbox.
pub(super) fn source_of(found: Found, conversation: Conversation) -> ColdSource {
    match (conversation, found) {
        (Conversation::Lost, _) => ColdSource::Fresh,
        (_, Found::Objects) => ColdSource::Cloud,
        (_, Found::Place | Found::Store) => ColdSource::Local,
    }
}

/// How a session was resumed whose files were there.
pub(super) fn resumed(source: ColdSource) -> Resumed {
    match source {
        ColdSource::Local => Resumed::Local,
        ColdSource::Cloud => Resumed::Cloud,
        ColdSource::Fresh => Resumed::Fresh,
    }
}

/// From when to when a turn runs whose first call of the model has not been heard of. The broker tells of a
/// call when it is over, to nobody in particular.
#[derive(Debug, Default)]
pub(in crate::session) struct FirstCall(Mutex<Option<(Instant, Option<Instant>)>>);

impl FirstCall {
    fn begin(&self, at: Instant) {
        *self.lock() = Some((at, None));
    }

    fn end(&self, at: Instant) {
        if let Some((_, end)) = &mut *self.lock() {
            *end = Some(at);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, Option<Instant>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long after the beginning of the turn a call of the model began, if it is the first that is heard
    /// of.
    pub(in crate::session) fn heard_of(&self, call: Instant) -> Option<Duration> {
        let mut turn = self.lock();
        let (begun, ended) = (*turn)?;
        if call < begun || ended.is_some_and(|ended| call > ended) {
            return None;
        }
        *turn = None;
        Some(call - begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_call_of_a_turn_counts_and_none_of_others() {
        let (first, start) = (FirstCall::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(first.heard_of(at(0)), None);
        first.begin(at(10));
        assert_eq!(first.heard_of(at(9)), None);
        assert_eq!(first.heard_of(at(12)), Some(Duration::from_millis(2)));
        assert_eq!(first.heard_of(at(12)), None);
        first.end(at(20));
        assert_eq!(first.heard_of(at(15)), None);
        // One that is heard of behind the end of its turn, and one that a command made.
        first.begin(at(30));
        first.end(at(40));
        assert_eq!(first.heard_of(at(41)), None);
        assert_eq!(first.heard_of(at(40)), Some(Duration::from_millis(10)));
    }

    #[test]
    fn a_turn_is_heard_of_once_and_ends_once() {
        let metrics = Arc::new(Metrics::new());
        let mut times = Times::new(metrics.clone(), Arc::default());
        let count = || {
            let failed = metrics.turns.of(TurnEnd::Failed).get_sample_count();
            let (waits, events) = (&metrics.queue_wait, &metrics.first_event);
            (waits.get_sample_count(), events.get_sample_count(), failed)
        };
        // A daemon before this one began it.
        times.turn_heard();
        times.turn_ended(TurnEnd::Failed);
        assert_eq!(count(), (0, 0, 0));
        let came = Instant::now();
        times.turn_began(came + Duration::from_secs(3), came);
        assert_eq!((count(), metrics.queue_wait.get_sample_sum()), ((1, 0, 0), 3.0));
        times.turn_heard();
        times.turn_heard();
        times.turn_ended(TurnEnd::Failed);
        times.turn_ended(TurnEnd::Failed);
        assert_eq!(count(), (1, 1, 1));
    }

    #[test]
    fn only_the_turn_that_was_interrupted_is_none_that_failed() {
        let metrics = Arc::new(Metrics::new());
        let mut times = Times::new(metrics.clone(), Arc::default());
        let mut ends = |interrupts: [bool; 2]| {
            if interrupts[0] {
                times.interrupted();
            }
            times.turn_began(Instant::now(), Instant::now());
            if interrupts[1] {
                times.interrupted();
            }
            times.turn_ended(TurnEnd::Error);
            let count = |end| metrics.turns.of(end).get_sample_count();
            [count(TurnEnd::Error), count(TurnEnd::Interrupted)]
        };
        // What the CLI did by itself before it is another matter.
        assert_eq!(ends([true, false]), [1, 0]);
        assert_eq!(ends([false, true]), [1, 1]);
        assert_eq!(ends([false, false]), [2, 1]);
    }

    #[test]
    fn a_resume_that_fails_is_not_measured() {
        let metrics = Arc::new(Metrics::new());
        let mut times = Times::new(metrics.clone(), Arc::default());
        times.resume_began();
        times.resume_ended(None);
        times.resume_ended(Some(Resumed::Warm));
        assert_eq!(metrics.resume_times.of(Resumed::Warm).get_sample_count(), 0);
        times.resume_began();
        times.resume_began();
        times.resume_ended(Some(resumed(source_of(Found::Objects, Conversation::Resumed))));
        assert_eq!(metrics.resume_times.of(Resumed::Cloud).get_sample_count(), 1);
    }

    #[test]
    fn nor_is_a_launch_that_fails_or_that_somebody_resumes() {
        let metrics = Arc::new(Metrics::new());
        let mut times = Times::new(metrics.clone(), Arc::default());
        let count = || metrics.wakes.of(ColdSource::Local).get_sample_count();
        // It came to nothing.
        times.launch_began(false);
        times.launch_began(true);
        times.launch_ended(ColdSource::Local);
        assert_eq!(count(), 0);
        times.launch_began(false);
        times.launch_ended(ColdSource::Local);
        times.launch_ended(ColdSource::Local);
        assert_eq!(count(), 1);
    }
}
