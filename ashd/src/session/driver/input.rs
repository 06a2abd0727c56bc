//! What comes to a driver next.

use std::future::pending;

use tokio::time::{sleep, sleep_until};

use super::rest::IDLE;
use super::saving::{Saved, Saving};
use super::turns::Waiting;
use super::{BATCH, Command, Driver};
use crate::sandbox::link::{Incoming, LinkError};
use crate::session::admission::Entry;
use crate::session::api::Refusal;
use crate::session::gate::Place;
use crate::session::keeping::Life;
use crate::session::service::joined;

/// What the driver waits for.
pub(super) enum Input {
    Command(Option<Command>),
    /// A sandbox may be made, or none.
    Entered(Result<Entry, Refusal>),
    Launched(Result<Life, Refusal>),
    /// The sandbox that is being made takes long.
    Slow,
    /// A place for the next turn.
    Granted(Place),
    /// Whoever sent the next message, which waits for a sandbox or a place, has hung up.
    HungUp,
    Said(Result<Option<usize>, LinkError>),
    Saved(Saved),
    Settled,
    /// Whether the agent, which stands still, has given its memory back.
    GaveBack(bool),
    /// Nothing, for long.
    Idle,
}

impl Driver {
    /// Waits for what comes first. Nothing is lost of what comes later.
    pub(super) async fn input(&mut self, batch: &mut Vec<Incoming>) -> Input {
        let idle = ended(self.is_quiet().then(|| sleep(IDLE)));
        let waits = self.permit.is_waiting() || self.entering.is_some();
        let next = self.state.queue.front().filter(|_| waits);
        let next = next.and_then(|turn| self.waiting.get_mut(turn));
        let said = self.link.as_mut().map(|link| link.receiver.recv_batch(batch, BATCH));
        tokio::select! {
            command = self.commands.recv() => Input::Command(command),
            entry = ended(self.entering.as_mut()) => Input::Entered(entry),
            launched = ended(self.launching.as_mut()) => Input::Launched(joined(launched)),
            () = ended(self.slow_at.map(sleep_until)) => Input::Slow,
            place = self.permit.granted() => Input::Granted(place),
            () = ended(next.map(Waiting::left)) => Input::HungUp,
            said = ended(said) => Input::Said(said),
            saved = ended(self.saving.as_mut().map(Saving::next)) => Input::Saved(saved),
            () = ended(self.settles_at.map(sleep_until)) => Input::Settled,
            // One that does not say has not.
            given = ended(self.idle.giving()) => Input::GaveBack(given.unwrap_or(false)),
            () = idle => Input::Idle,
        }
    }
}

/// Waits for the end of what is under way. Where nothing is, none comes.
async fn ended<F: Future>(under_way: Option<F>) -> F::Output {
    match under_way {
        Some(under_way) => under_way.await,
        None => pending().await,
    }
}
