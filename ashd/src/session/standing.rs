//! Where a message stands that waits for its turn.
//!
//! It is asked by many and often, of messages that wait for long: nobody is looked through for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::gate::Gate;
use crate::domain::Tenant;

/// Where a session stands that waits for a place for its next turn.
pub(super) struct Line {
    gate: Arc<Gate>,
    tenant: Tenant,
    /// The number of its ticket; 0 while it has none.
    number: AtomicU64,
}

/// Where one of a session's messages stands.
#[derive(Clone)]
pub(super) struct Standing {
    line: Arc<Line>,
    /// Among the session's messages that wait, from 1; 0 for one that does not.
    place: Arc<AtomicU64>,
}

impl Line {
    pub(super) fn new(gate: Arc<Gate>, tenant: Tenant) -> Arc<Line> {
        Arc::new(Line { gate, tenant, number: AtomicU64::new(0) })
    }

    /// It waits under the number of this ticket; 0 when it waits no longer.
    pub(super) fn wait_under(&self, number: u64) {
        self.number.store(number, Ordering::Relaxed);
    }

    /// Where a message stands that does not wait yet.
    pub(super) fn standing(self: &Arc<Self>) -> Standing {
        Standing { line: self.clone(), place: Arc::default() }
    }

    /// How many of the tenant's sessions go before this one.
    fn before(&self) -> u64 {
        match self.number.load(Ordering::Relaxed) {
            0 => 0,
            number => self.gate.before(&self.tenant, number),
        }
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
        let line = Line::new(gate, tenant);
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
}
