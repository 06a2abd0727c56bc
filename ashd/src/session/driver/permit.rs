//! The place that the next turn is to run in: asked for, waited for beside everything else, given back.

use super::Driver;
use crate::domain::WhenBusy;
use crate::sandbox::admission::NoRoom;
use crate::session::admission::RETRY_AFTER_S;
use crate::session::gate::{Entered, Place, Ticket};
use crate::session::machine::{Effect, Event};
use crate::telemetry::metrics::labels::Want;

/// What the session has of the places that turns run in.
pub(super) enum Permit {
    /// Nothing.
    None,
    /// It waits for one.
    Waiting(Ticket),
    /// It has one.
    Held { _place: Place },
}

impl Permit {
    pub(super) fn held(place: Place) -> Permit {
        Permit::Held { _place: place }
    }

    /// What the gate knows it by while it waits; else 0.
    fn number(&self) -> u64 {
        match self {
            Permit::Waiting(ticket) => ticket.number(),
            Permit::None | Permit::Held { .. } => 0,
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self, Permit::Waiting(_))
    }

    /// Waits for the place that is waited for.
    pub(super) async fn granted(&mut self) -> Place {
        if let Permit::Waiting(ticket) = self
            && let Some(place) = ticket.granted().await
        {
            return place;
        }
        std::future::pending().await
    }
}

impl Driver {
    /// A turn that an earlier daemon has begun runs in its place, before anybody can ask for it.
    pub(super) fn keep_place(&mut self) {
        if self.session.turn.is_some() {
            self.permit = Permit::held(self.shared.gates.turns.take(&self.session.tenant));
        }
    }

    /// Asks for a place for the next turn: what is to be done when there is one at once. When there is
    /// none, a sender who does not want to wait is refused.
    pub(super) fn ask_for_place(&mut self) -> Vec<Effect> {
        match self.shared.gates.turns.enter(&self.session.tenant) {
            Entered::Place(place) => self.take_place(place),
            Entered::Waiting(ticket) => {
                self.settle_permit(Permit::Waiting(ticket));
                self.refuse_impatient()
            }
        }
    }

    /// The place that was waited for.
    pub(super) async fn granted(&mut self, place: Place) {
        let effects = self.take_place(place);
        // What fails of the turn that begins is told to whoever sent the message.
        let _ = self.perform(effects).await;
    }

    fn take_place(&mut self, place: Place) -> Vec<Effect> {
        self.settle_permit(Permit::held(place));
        self.state.step(Event::Granted).unwrap_or_default()
    }

    /// This is what there is of places from now on; what there was is given up.
    pub(super) fn settle_permit(&mut self, permit: Permit) {
        self.line.wait_under(permit.number());
        self.permit = permit;
    }

    /// Says to each message that waits where it stands.
    pub(super) fn tell_standings(&self) {
        for (turn, place) in self.state.queue.iter().zip(1..) {
            if let Some(waiting) = self.waiting.get(turn) {
                waiting.standing.stand(place);
            }
        }
    }

    fn refuse_impatient(&mut self) -> Vec<Effect> {
        let Some(turn) = self.state.queue.front().copied() else { return vec![] };
        let waiting = self.waiting.get(&turn);
        if waiting.is_none_or(|waiting| waiting.request.when_busy != WhenBusy::Reject) {
            return vec![];
        }
        if let Some(waiting) = self.waiting.remove(&turn) {
            let turns = self.shared.gates.turns.counts().max;
            let reason = format!("all {turns} turns that this machine runs at a time are running");
            let no_room = NoRoom { want: Want::Turns, reason, retry_after_s: RETRY_AFTER_S };
            waiting.refuse(self.shared.refuse(no_room));
        }
        self.state.step(Event::Withdraw(turn)).unwrap_or_default()
    }
}
