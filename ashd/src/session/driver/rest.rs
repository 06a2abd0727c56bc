//! Letting go of what is in memory for nobody, when nothing has happened for long.
//!
//! A driver without a sandbox that does nothing knows nothing that the store does not know: it ends,
//! and whoever asks for the session next begins another one. No command is lost in between. The
//! registry gives nobody a handle while it is looked whether anybody has one, and forgets the driver
//! only when nobody has, and no command waits.

use std::sync::Arc;
use std::time::Duration;

use super::Driver;
use crate::domain::{SessionChange, Status, Timestamp};
use crate::sandbox::link::Incoming;
use crate::session::machine::{State, Turn};

/// How long nothing must have happened.
pub(super) const IDLE: Duration = Duration::from_secs(5 * 60);

/// How long a log is kept that a sandbox has left, in milliseconds: somebody may want to know why.
const LOGGED: i64 = 24 * 60 * 60 * 1000;

impl Driver {
    /// Nothing has happened for long: lets go of the frames of a turn that is over, and of the driver
    /// when nobody needs it.
    pub(super) fn rest(&mut self) {
        self.journal.forget();
        if self.knows_nothing_else() {
            let registry = &self.shared.registry;
            self.over = registry.let_go(self.session.id, &self.journal, || self.is_alone());
        }
    }

    /// Whether nothing is under way whose end is still to be heard. Only then a timer is set for nothing
    /// else to happen: what a turn or a command says comes too often to set one each time.
    pub(super) fn is_quiet(&self) -> bool {
        let runs_nothing = self.state.turn == Turn::None && !self.execs.are_running();
        let makes_none = self.entering.is_none() && self.launching.is_none();
        runs_nothing && makes_none && !self.permit.is_waiting() && self.saving.is_none()
    }

    /// Keeps no room for what the sandbox may say, while no turn runs: it may be silent for long, and
    /// there may be a thousand.
    pub(super) fn keep_no_room(&mut self, batch: &mut Vec<Incoming>) {
        if self.state.turn == Turn::None {
            *batch = Vec::new();
            if let Some(link) = &mut self.link {
                link.receiver.rest();
            }
        }
    }

    /// Whether all that it knows is in the store, and nothing is about to be done.
    fn knows_nothing_else(&self) -> bool {
        self.is_at_rest() && self.is_log_old()
    }

    /// Whether the session has no sandbox, is as it is recorded, and nothing is about to be done.
    pub(super) fn is_at_rest(&self) -> bool {
        let limit = self.shared.options.queue_limit;
        let is_still = self.state == State::cold(self.session.status, limit)
            && self.waiting.is_empty()
            && self.link.is_none()
            && self.launching.is_none()
            && self.resuming.is_empty();
        let is_saved = self.saving.is_none() && self.wishes.is_empty() && self.settles_at.is_none();
        let is_unused = self.writes.is_empty() && !self.execs.are_waiting() && self.execs.is_idle();
        is_still && is_saved && is_unused && self.is_recorded()
    }

    /// Whether the row tells how the session is. One that is active and has lost its sandbox is at
    /// rest for nobody but its driver.
    fn is_recorded(&self) -> bool {
        let is_at_rest = self.session.cold || self.session.status != Status::Active;
        is_at_rest && self.session.turn.is_none() && self.carried == SessionChange::none()
    }

    fn is_log_old(&self) -> bool {
        self.logs.newest().is_none_or(|newest| Timestamp::now().0.saturating_sub(newest.0) > LOGGED)
    }

    /// Whether nobody but the registry can send commands or read the journal, and nothing was sent.
    fn is_alone(&self) -> bool {
        let is_unasked = self.commands.sender_strong_count() == 1 && self.commands.is_empty();
        is_unasked && Arc::strong_count(&self.journal) == 2
    }
}
