//! Places that are taken, waited for, and given back by being dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::api::Places;
use super::fair::Fair;
use crate::domain::Tenant;

/// Places that tenants share [fairly](super::fair).
pub(super) struct Gate {
    inner: Mutex<Inner>,
}

struct Inner {
    fair: Fair<oneshot::Sender<Place>>,
    is_closed: bool,
}

/// A place, which somebody else can have when this is dropped.
pub(super) struct Place {
    gate: Arc<Gate>,
    /// Whose it is; none for what nobody waits for.
    tenant: Option<Tenant>,
}

/// Somebody who waits for a place, until this is dropped.
pub(super) struct Ticket {
    gate: Arc<Gate>,
    tenant: Tenant,
    number: u64,
    /// `None` when nothing comes any more.
    granted: Option<oneshot::Receiver<Place>>,
}

/// What comes of asking for a place.
pub(super) enum Entered {
    /// One is free.
    Place(Place),
    /// It has to be waited for.
    Waiting(Ticket),
}

impl Gate {
    /// So many places, one at least.
    pub(super) fn new(places: usize) -> Arc<Gate> {
        let inner = Inner { fair: Fair::new(places.max(1)), is_closed: false };
        Arc::new(Gate { inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many places there are, are taken, and are waited for.
    pub(super) fn counts(&self) -> Places {
        let (max, taken, waiting) = self.lock().fair.counts();
        Places { max: max as u64, taken: taken as u64, waiting: waiting as u64 }
    }

    /// Asks for a place for a tenant.
    pub(super) fn enter(self: &Arc<Self>, tenant: &Tenant) -> Entered {
        let mut inner = self.lock();
        if !inner.is_closed && inner.fair.try_take(tenant) {
            return Entered::Place(self.place(tenant.clone()));
        }
        let (sender, granted) = oneshot::channel();
        let number = match inner.is_closed {
            true => 0,
            false => inner.fair.wait(tenant, sender),
        };
        let (gate, tenant) = (self.clone(), tenant.clone());
        Entered::Waiting(Ticket { gate, tenant, number, granted: Some(granted) })
    }

    /// Takes a place whether or not one is free: for what runs already.
    pub(super) fn take(self: &Arc<Self>, tenant: &Tenant) -> Place {
        self.lock().fair.take(tenant);
        self.place(tenant.clone())
    }

    /// Takes a place for what nobody waits for; `None` when somebody might have to wait because of it.
    pub(super) fn enter_aside(self: &Arc<Self>) -> Option<Place> {
        let mut inner = self.lock();
        let is_free = !inner.is_closed && inner.fair.try_take_aside();
        is_free.then(|| Place { gate: self.clone(), tenant: None })
    }

    /// How many of a tenant go before the ticket with this number; 0 for one that does not wait.
    pub(super) fn before(&self, tenant: &Tenant, number: u64) -> u64 {
        self.lock().fair.before(tenant, number).unwrap_or(0) as u64
    }

    /// There are so many places from now on, one at least. Whoever has one too many keeps it.
    pub(super) fn resize(self: &Arc<Self>, places: usize) {
        self.lock().fair.resize(places.max(1));
        self.grant();
    }

    /// No place is given any more: whoever waits is told.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.is_closed = true;
        let waiting = inner.fair.clear();
        drop(inner);
        drop(waiting);
    }

    fn place(self: &Arc<Self>, tenant: Tenant) -> Place {
        Place { gate: self.clone(), tenant: Some(tenant) }
    }

    /// Gives free places to who is next.
    fn grant(self: &Arc<Self>) {
        while let Some((tenant, waiter)) = self.next() {
            // Beside the lock: where nobody waits any more it is dropped here, which gives it back.
            let _ = waiter.send(self.place(tenant));
        }
    }

    fn next(&self) -> Option<(Tenant, oneshot::Sender<Place>)> {
        self.lock().fair.grant()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.gate.lock();
        match &self.tenant {
            Some(tenant) => inner.fair.give_back(tenant),
            None => inner.fair.give_back_aside(),
        }
        drop(inner);
        self.gate.grant();
    }
}

impl Ticket {
    /// What the gate knows it by.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Waits for the place; `None` when none is given any more, and to whoever has been given it.
    ///
    /// Cancel safe.
    pub(super) async fn granted(&mut self) -> Option<Place> {
        let granted = self.granted.as_mut()?.await.ok();
        self.granted = None;
        granted
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // A place that was given meanwhile is in the receiver, and goes with it.
        let left = self.gate.lock().fair.leave(&self.tenant, self.number);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    fn tenant(name: usize) -> Tenant {
        format!("t{name}").parse().unwrap()
    }

    fn place(gate: &Arc<Gate>, name: usize) -> Option<Place> {
        match gate.enter(&tenant(name)) {
            Entered::Place(place) => Some(place),
            Entered::Waiting(_) => None,
        }
    }

    fn ticket(gate: &Arc<Gate>, name: usize) -> Option<Ticket> {
        match gate.enter(&tenant(name)) {
            Entered::Place(_) => None,
            Entered::Waiting(ticket) => Some(ticket),
        }
    }

    /// The place that somebody was given who waits, if it was.
    fn given(ticket: &mut Ticket) -> Option<Place> {
        ticket.granted().now_or_never().flatten()
    }

    #[test]
    fn a_place_goes_from_hand_to_hand() {
        let gate = Gate::new(1);
        let first = place(&gate, 0).unwrap();
        let (mut second, mut third) = (ticket(&gate, 0).unwrap(), ticket(&gate, 0).unwrap());
        assert!(given(&mut second).is_none());
        drop(first);
        assert!(given(&mut third).is_none());
        let second = given(&mut second).unwrap();
        assert!(given(&mut third).is_none() && place(&gate, 1).is_none());
        drop(second);
        drop(given(&mut third).unwrap());
        assert!(place(&gate, 1).is_some());
    }

    #[test]
    fn who_leaves_is_passed_over_with_or_without_the_place() {
        let gate = Gate::new(1);
        let first = place(&gate, 0).unwrap();
        let (left, mut next) = (ticket(&gate, 0).unwrap(), ticket(&gate, 0).unwrap());
        let given_in_vain = ticket(&gate, 1).unwrap();
        drop(left);
        drop(first);
        // The other tenant has it, and does not look.
        assert!(given(&mut next).is_none());
        drop(given_in_vain);
        assert!(given(&mut next).is_some());
    }

    #[test]
    fn what_runs_already_has_its_place_and_others_wait_for_it() {
        let gate = Gate::new(1);
        let (one, other) = (gate.take(&tenant(0)), gate.take(&tenant(0)));
        let mut waiting = ticket(&gate, 1).unwrap();
        drop(one);
        assert!(given(&mut waiting).is_none());
        drop(other);
        assert!(given(&mut waiting).is_some());
    }

    #[test]
    fn what_nobody_waits_for_keeps_nobody_waiting() {
        let gate = Gate::new(2);
        let aside = gate.enter_aside().unwrap();
        assert!(gate.enter_aside().is_none(), "one is left for whoever comes");
        let _first = place(&gate, 0).unwrap();
        let mut waiting = ticket(&gate, 0).unwrap();
        assert!(gate.enter_aside().is_none());
        drop(aside);
        assert!(given(&mut waiting).is_some() && gate.enter_aside().is_none());
        gate.close();
        gate.resize(9);
        assert!(gate.enter_aside().is_none());
    }

    #[test]
    fn more_places_are_given_at_once() {
        let gate = Gate::new(0);
        let _one = place(&gate, 0).expect("there is one at least");
        let (mut a, mut b) = (ticket(&gate, 1).unwrap(), ticket(&gate, 2).unwrap());
        gate.resize(3);
        assert!(given(&mut a).is_some() && given(&mut b).is_some());
    }

    #[test]
    fn a_closed_gate_lets_nobody_in_and_nobody_wait() {
        let gate = Gate::new(1);
        let first = place(&gate, 0).unwrap();
        let mut before = ticket(&gate, 0).unwrap();
        gate.close();
        drop(first);
        let mut behind = ticket(&gate, 0).unwrap();
        for ticket in [&mut before, &mut behind] {
            assert!(matches!(ticket.granted().now_or_never(), Some(None)));
            assert!(matches!(ticket.granted().now_or_never(), Some(None)), "also when asked again");
        }
    }

    #[tokio::test]
    async fn whoever_waits_is_woken() {
        let gate = Gate::new(1);
        let first = place(&gate, 0).unwrap();
        let waiting: Vec<_> = (0..100).map(|name| ticket(&gate, name).unwrap()).collect();
        let tasks: Vec<_> = waiting
            .into_iter()
            .map(|mut ticket| tokio::spawn(async move { ticket.granted().await.is_some() }))
            .collect();
        assert_eq!(gate.counts(), Places { max: 1, taken: 1, waiting: 100 });
        drop(first);
        for task in tasks {
            assert!(task.await.unwrap());
        }
        assert_eq!(gate.counts(), Places { max: 1, taken: 0, waiting: 0 });
    }

    proptest! {
        /// However places are taken, waited for, given up and given back, none is lost.
        #[test]
        fn no_place_is_lost(steps in prop::collection::vec((0..5u8, 0..64usize), 0..200)) {
            let gate = Gate::new(3);
            let (mut places, mut tickets) = (vec![], vec![]);
            for (what, which) in steps {
                match what {
                    0 | 1 => match gate.enter(&tenant(which % 3)) {
                        Entered::Place(place) => places.push(place),
                        Entered::Waiting(ticket) => tickets.push(ticket),
                    },
                    2 if !tickets.is_empty() => drop(tickets.remove(which % tickets.len())),
                    3 if !places.is_empty() => drop(places.remove(which % places.len())),
                    4 if !tickets.is_empty() => {
                        let at = which % tickets.len();
                        if let Some(place) = given(&mut tickets[at]) {
                            tickets.remove(at);
                            places.push(place);
                        }
                    }
                    _ => {}
                }
                prop_assert!(places.len() <= 3);
            }
            drop((places, tickets));
            let all: Vec<_> = (0..3).map(|name| place(&gate, name)).collect();
            prop_assert!(all.iter().all(Option::is_some));
            prop_assert!(place(&gate, 0).is_none());
        }
    }
}
