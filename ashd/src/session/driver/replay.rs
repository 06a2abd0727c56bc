//! After an adoption: what the bridge sends again, and what of it is on disk already.
//!
//! A daemon that was killed may have committed more than it acknowledged, and less than it was
//! sent. The bridge sends everything again that it keeps: the running turn from its beginning, and
//! what was not acknowledged. What is on disk is shown under the numbers it has there; the rest is
//! taken as if it came for the first time.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use ash_wire::words::CliState;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Driver;
use super::commit::RETRY;
use super::lines::Pending;
use crate::domain::session::RunningTurn;
use crate::domain::{Event as Durable, SessionId, TurnOptions};
use crate::session::api::Refusal;
use crate::session::machine::{Event, Turn};
use crate::store::StoreError;

/// What an earlier daemon committed of what the bridge sends again.
#[derive(Default)]
pub(in crate::session) struct Replay {
    /// Whether something may still be sent again.
    pub(in crate::session) active: bool,
    /// Lines up to this number are on disk.
    pub(in crate::session) committed: u64,
    /// Those of the running turn: their numbers there, and here.
    pub(in crate::session) known: BTreeMap<u64, u64>,
    /// The last number that is sent again; 0 if nothing is.
    pub(in crate::session) until: u64,
    /// The running turn, if the bridge does not have it: it ended there, or was never seen.
    pub(in crate::session) unseen: Option<RunningTurn>,
    /// US dollars that the CLI had named last.
    pub(in crate::session) cost: f64,
    /// Whether the bridge has begun the running turn, as far as it was heard.
    pub(in crate::session) in_turn: bool,
    /// Whether somebody wants what runs interrupted: also a turn that the bridge does not have yet.
    pub(in crate::session) interrupts: bool,
}

/// Reads something of a session from the store. While that fails, waits and tries again, unless nobody
/// is to wait any longer.
pub(super) async fn read_stubbornly<T, R: Future<Output = Result<T, StoreError>>>(
    (session, what): (SessionId, &str),
    read: impl Fn() -> R,
    gives_up: impl Fn() -> bool,
) -> Result<T, StoreError> {
    let mut fails = false;
    loop {
        match read().await {
            Err(error) if !gives_up() => {
                if !std::mem::replace(&mut fails, true) {
                    tracing::error!(ash_session = %session, %error, "{what} cannot be read");
                }
                tokio::time::sleep(RETRY).await;
            }
            read => return read,
        }
    }
}

impl Driver {
    /// Whether the CLI may run a turn of its own that was not heard of yet.
    pub(super) fn may_run_unheard(&self) -> bool {
        self.replay.active && self.state.turn == Turn::None
    }

    /// Interrupts what runs; false if nothing does.
    pub(super) async fn interrupt_any(&mut self) -> Result<bool, Refusal> {
        if !self.may_run_unheard() {
            self.step(Event::Interrupt).await?;
            return Ok(self.state.turn != Turn::None);
        }
        // Where nothing runs, it does no harm.
        self.interrupt();
        Ok(self.link.as_ref().is_some_and(|link| link.welcome.cli == CliState::Busy))
    }

    /// One of the session's events, if there is such a one. While it cannot be read, waits and tries
    /// again, unless the sandbox is about to be ended or left to the next daemon: readers would miss
    /// what it shows.
    pub(super) async fn stored(&mut self, seq: u64) -> Result<Option<Durable>, StoreError> {
        let (shared, leaving) = (self.shared.clone(), self.leaving.clone());
        let id = self.session.id;
        let gives_up = || shared.is_shutting_down() || leaving.load(Ordering::Relaxed);
        read_stubbornly((id, "history"), || shared.event(id, seq), gives_up).await
    }

    /// Shows what is on disk of the running turn and was not sent again, up to this number: the
    /// bridge may have had to drop it.
    pub(super) async fn show_known(&mut self, up_to: u64, pending: &mut Pending) {
        while let Some(first) = self.replay.known.first_entry().filter(|e| *e.key() < up_to) {
            let seq = first.remove();
            self.replay.in_turn = true;
            if let Ok(Some(event)) = self.stored(seq).await {
                pending.frames.extend(self.encoder.event(&event, &mut self.numbering));
            }
        }
    }

    /// Once everything that was sent again has been heard: a turn that the bridge has never seen
    /// is given to it now.
    pub(super) async fn caught_up(&mut self) {
        if !self.replay.active || self.last_number < self.replay.until {
            return;
        }
        let mut pending = Pending::default();
        self.show_known(u64::MAX, &mut pending).await;
        self.journal.append(pending.frames);
        self.replay.active = false;
        let Some(running) = self.replay.unseen.take() else { return };
        // It may have ended in what was sent again.
        if self.session.turn != Some(running) {
            return;
        }
        let Ok(user) = self.stored(running.user_seq).await else {
            // Whoever ends the sandbox says what becomes of it, or the next daemon gives it.
            (self.replay.active, self.replay.unseen) = (true, Some(running));
            return;
        };
        let given = match user.and_then(|user| UserMessage::of(&user.body)) {
            Some(message) => self.give_turn(running.id, &message.content, &message.options).await,
            None => false,
        };
        if given && self.replay.interrupts {
            self.interrupt();
        }
        if !given {
            self.not_given(running.id).await;
            let _ = self.step(Event::TurnEnded(running.id)).await;
        }
    }
}

/// What a user message's event holds.
#[derive(Deserialize)]
struct UserMessage {
    content: Box<RawValue>,
    #[serde(default)]
    options: TurnOptions,
}

impl UserMessage {
    fn of(body: &[u8]) -> Option<UserMessage> {
        serde_json::from_slice(body).ok()
    }
}
