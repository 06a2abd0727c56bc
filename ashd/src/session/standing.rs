//! Where a message stands that waits for its turn, or for the sandbox that it is to run in.
//!
//! It is asked by many and often, of messages that wait for long: nobody is looked through for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::gate::Gate;
use crate::domain::Tenant;

/// Where a session stands that waits for a place: for its sandbox to be made, or for its next turn. It never
/// waits for both.
pub(super) struct Line {
    tenant: Tenant,
    launches: Spot,
    turns: Spot,
}

/// Where it stands at one gate.
struct Spot {
    gate: Arc<Gate>,
    /// The number of its ticket; 0 while it has none.
    number: AtomicU64,
}

/// Has a line know of a ticket while it lives.
pub(super) struct InLine<'a>(&'a Spot);

/// Where one of a session's messages stands.
#[derive(Clone)]
pub(super) struct Standing {
    line: Arc<Line>,
    /// Among the session's messages that wait, from 1; 0 for one that does not.
    place: Arc<AtomicU64>,
}

impl Spot {
    fn at(gate: Arc<Gate>) -> Spot {
        Spot { gate, number: AtomicU64::new(0) }
    }

    fn wait_under(&self, number: u64) {
        self.number.store(number, Ordering::Relaxed);
    }

    fn before(&self, tenant: &Tenant) -> u64 {
        match self.number.load(Ordering::Relaxed) {
            0 => 0,
            number => self.gate.before(tenant, number),
        }
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.wait_under(0);
    }
}

impl Line {
    /// Of a tenant's session, at the gate of launches and at that of turns.
    pub(super) fn new((launches, turns): (Arc<Gate>, Arc<Gate>), tenant: Tenant) -> Arc<Line> {
        Arc::new(Line { tenant, launches: Spot::at(launches), turns: Spot::at(turns) })
    }

    /// It waits for a turn under the number of this ticket; 0 when it waits no longer.
    pub(super) fn wait_under(&self, number: u64) {
        self.turns.wait_under(number);
    }

    /// It waits for its sandbox under the number of this ticket, until that is dropped which is returned.
    pub(super) fn wait_for_launch(&self, number: u64) -> InLine<'_> {
        self.launches.wait_under(number);
        InLine(&self.launches)
    }

    /// Where a message stands that does not wait yet.
    pub(super) fn standing(self: &Arc<Self>) -> Standing {
        Standing { line: self.clone(), place: Arc::default() }
    }

    /// How many of the tenant's sessions go before this one.
    fn before(&self) -> u64 {
        self.launches.before(&self.tenant) + self.turns.before(&self.tenant)
    }
}

impl Standing {
    /// It is so many-th of those of its session that wait; 0 when it waits no longer.
    pub(super) fn stand(&self, place: u64) {
        self.place.store(place, Ordering::Relaxed);
    }

    /// Where it stands among those of its tenant that are known to go first, from 1; `None` for one that
    /// does not wait.
    pub(super) fn position(&self) -> Option<u64> {
        match self.place.load(Ordering::Relaxed) {
            0 => None,
            place => Some(self.line.before() + place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::gate::Entered;

    #[test]
    fn who_goes_first_is_of_the_session_and_of_the_tenant() {
        let (gate, tenant) = (Gate::new(1), Tenant::default());
        let running = gate.enter(&tenant);
        let (before, other) = (gate.enter(&tenant), gate.enter(&"other".parse().unwrap()));
        let Entered::Waiting(ticket) = gate.enter(&tenant) else { panic!("there is a place") };
        let line = Line::new((Gate::new(1), gate), tenant);
        let (first, second) = (line.standing(), line.standing());
        assert_eq!(first.position(), None);
        first.stand(1);
        second.stand(2);
        assert_eq!([&first, &second].map(Standing::position), [Some(1), Some(2)]);
        line.wait_under(ticket.number());
        assert_eq!([&first, &second].map(Standing::position), [Some(2), Some(3)]);
        drop((before, other));
        assert_eq!([&first, &second].map(Standing::position), [Some(1), Some(2)]);
        drop(running);
        assert_eq!(first.position(), Some(1), "the place is on its way");
        first.stand(0);
        assert_eq!(first.position(), None);
    }

    #[test]
    fn who_waits_for_a_sandbox_stands_among_those_who_do() {
        let (gate, tenant) = (Gate::new(1), Tenant::default());
        let (_made, before) = (gate.enter(&tenant), gate.enter(&tenant));
        let Entered::Waiting(ticket) = gate.enter(&tenant) else { panic!("there is a place") };
        let line = Line::new((gate, Gate::new(1)), tenant);
        let standing = line.standing();
        standing.stand(1);
        let waiting = line.wait_for_launch(ticket.number());
        assert_eq!(standing.position(), Some(2));
        drop(before);
        assert_eq!(standing.position(), Some(1));
        drop((waiting, ticket));
        assert_eq!(standing.position(), Some(1), "it is made, and its turn is to come");
    }
}
