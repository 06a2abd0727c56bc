//! Places of which there are too few, and who gets the next one. Pure: no clock, no I/O, no locks.
//!
//! A place goes to the tenant that has the fewest; among those that have as few, to the one that got
//! its last one longest ago; within the tenant, to whoever came first. So a tenant's only message is
//! the next one, however many another tenant has sent, and nobody waits for ever: each of the others
//! gets at most one place before a tenant that has none.

use std::collections::{BTreeMap, VecDeque};

use crate::domain::Tenant;

/// Places, and those who wait for one. `W` is what is needed to tell somebody who waits.
pub(super) struct Fair<W> {
    /// How many there are.
    limit: usize,
    taken: usize,
    waiting: usize,
    /// How often one has been taken.
    served: u64,
    /// The last number that somebody who waits was given.
    number: u64,
    tenants: BTreeMap<Tenant, Line<W>>,
}

/// What a tenant has, and who waits there.
struct Line<W> {
    taken: usize,
    /// How often places had been taken when this tenant took its last one; 0 before the first.
    served: u64,
    /// First come, first; numbers grow.
    waiting: VecDeque<(u64, W)>,
}

impl<W> Line<W> {
    fn new() -> Line<W> {
        Line { taken: 0, served: 0, waiting: VecDeque::new() }
    }

    /// The lowest is next; `None` when nobody waits.
    fn rank(&self) -> Option<(usize, u64, u64)> {
        let (number, _) = self.waiting.front()?;
        Some((self.taken, self.served, *number))
    }

    /// How many in the line come before the one with this number.
    fn before(&self, number: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&number, |(number, _)| *number).ok()
    }
}

impl<W> Fair<W> {
    /// So many places, which nobody has.
    pub(super) fn new(limit: usize) -> Fair<W> {
        let tenants = BTreeMap::new();
        Fair { limit, taken: 0, waiting: 0, served: 0, number: 0, tenants }
    }

    /// How many places there are, are taken, and are waited for.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        (self.limit, self.taken, self.waiting)
    }

    /// Takes a place if one is free; false when it has to be waited for.
    pub(super) fn try_take(&mut self, tenant: &Tenant) -> bool {
        let is_free = self.taken < self.limit && self.waiting == 0;
        if is_free {
            self.take(tenant);
        }
        is_free
    }

    /// Takes a place whether or not one is free: for what runs already.
    pub(super) fn take(&mut self, tenant: &Tenant) {
        self.taken += 1;
        self.served += 1;
        let served = self.served;
        let line = self.line(tenant);
        line.taken += 1;
        line.served = served;
    }

    /// Takes a place for what nobody waits for, if that leaves one for whoever comes next; where there is
    /// but one, if it is free. It is no tenant's, and keeps none from getting its next.
    pub(super) fn try_take_aside(&mut self) -> bool {
        let most = self.limit.saturating_sub(1).max(1);
        let is_free = self.waiting == 0 && self.taken < most;
        self.taken += usize::from(is_free);
        is_free
    }

    /// Gives a place back that is no tenant's.
    pub(super) fn give_back_aside(&mut self) {
        self.taken = self.taken.saturating_sub(1);
    }

    /// Gives a place back.
    pub(super) fn give_back(&mut self, tenant: &Tenant) {
        self.taken = self.taken.saturating_sub(1);
        let Some(line) = self.tenants.get_mut(tenant) else { return };
        line.taken = line.taken.saturating_sub(1);
        if line.taken == 0 && self.waiting == 0 {
            self.tenants.remove(tenant);
        }
    }

    /// Waits behind the others of a tenant, under the number that is returned.
    pub(super) fn wait(&mut self, tenant: &Tenant, waiter: W) -> u64 {
        self.waiting += 1;
        self.number += 1;
        let number = self.number;
        self.line(tenant).waiting.push_back((number, waiter));
        number
    }

    /// Waits no longer; `None` for one who did not, because a place was granted, say.
    pub(super) fn leave(&mut self, tenant: &Tenant, number: u64) -> Option<W> {
        let line = self.tenants.get_mut(tenant)?;
        let at = line.before(number)?;
        let (_, waiter) = line.waiting.remove(at)?;
        self.left();
        Some(waiter)
    }

    /// Has whoever is next take a place, if there is one.
    pub(super) fn grant(&mut self) -> Option<(Tenant, W)> {
        if self.taken >= self.limit {
            return None;
        }
        let waiting = self.tenants.iter().filter_map(|(tenant, line)| Some((line.rank()?, tenant)));
        let tenant = waiting.min()?.1.clone();
        let (_, waiter) = self.line(&tenant).waiting.pop_front()?;
        self.take(&tenant);
        self.left();
        Some((tenant, waiter))
    }

    /// How many of a tenant go before the one with this number; `None` for one that does not wait.
    pub(super) fn before(&self, tenant: &Tenant, number: u64) -> Option<usize> {
        self.tenants.get(tenant)?.before(number)
    }

    /// There are so many places from now on. Whoever has one too many keeps it.
    pub(super) fn resize(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Nobody waits any longer: those who did.
    pub(super) fn clear(&mut self) -> Vec<W> {
        let lines = self.tenants.values_mut();
        let waiters = lines.flat_map(|line| line.waiting.drain(..)).map(|(_, waiter)| waiter);
        let waiters = waiters.collect();
        self.waiting = 0;
        waiters
    }

    fn line(&mut self, tenant: &Tenant) -> &mut Line<W> {
        self.tenants.entry(tenant.clone()).or_insert_with(Line::new)
    }

    /// One waits less. While nobody does, it does not matter who got a place when.
    fn left(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 {
            self.tenants.retain(|_, line| line.taken > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many tenants there are.
    const TENANTS: usize = 4;

    fn tenant(which: usize) -> Tenant {
        format!("t{}", which % TENANTS).parse().unwrap()
    }

    /// All who are next, as long as there are places.
    fn granted(fair: &mut Fair<usize>) -> Vec<usize> {
        std::iter::from_fn(|| fair.grant()).map(|(_, waiter)| waiter).collect()
    }

    #[test]
    fn a_tenant_with_one_message_is_next_to_one_with_fifty() {
        for places in 1..4 {
            let (many, one) = (tenant(0), tenant(1));
            let mut fair = Fair::new(places);
            (0..places).for_each(|_| assert!(fair.try_take(&many)));
            assert!(!fair.try_take(&many));
            for waiter in 0..50 {
                fair.wait(&many, waiter);
            }
            fair.wait(&one, 99);
            assert_eq!(granted(&mut fair), [0; 0]);
            fair.give_back(&many);
            assert_eq!(granted(&mut fair), [99], "with {places} places");
            fair.give_back(&one);
            assert_eq!(granted(&mut fair), [0]);
        }
    }

    #[test]
    fn tenants_that_have_as_much_take_turns() {
        let mut fair = Fair::new(1);
        fair.take(&tenant(0));
        for waiter in 0..9 {
            // Three of each, those of a tenant behind one another.
            fair.wait(&tenant(waiter / 3), waiter);
        }
        let mut order = vec![];
        let mut last = tenant(0);
        while order.len() < 9 {
            fair.give_back(&last);
            let (tenant, waiter) = fair.grant().unwrap();
            order.push(waiter);
            last = tenant;
        }
        assert_eq!(order, [3, 6, 0, 4, 7, 1, 5, 8, 2]);
        fair.give_back(&last);
        assert!(fair.tenants.is_empty() && fair.taken == 0 && fair.waiting == 0);
    }

    #[test]
    fn fewer_places_take_nobody_s_away() {
        let mut fair = Fair::new(2);
        assert!(fair.try_take(&tenant(0)) && fair.try_take(&tenant(0)));
        fair.resize(1);
        fair.wait(&tenant(1), 1);
        fair.give_back(&tenant(0));
        assert_eq!(granted(&mut fair), [0; 0]);
        fair.resize(2);
        assert_eq!(granted(&mut fair), [1]);
        fair.wait(&tenant(1), 2);
        assert_eq!(fair.clear(), [2]);
        assert!(!fair.try_take(&tenant(1)), "there is no place");
    }

    #[test]
    fn what_nobody_waits_for_leaves_a_place_for_whoever_comes() {
        for (places, aside) in [(1, 1), (2, 1), (4, 3)] {
            let mut fair = Fair::new(places);
            assert_eq!((0..9).filter(|_| fair.try_take_aside()).count(), aside, "of {places}");
            assert_eq!(fair.try_take(&tenant(0)), places > 1);
            fair.wait(&tenant(1), 1);
            fair.give_back_aside();
            assert_eq!(granted(&mut fair), [1]);
            fair.wait(&tenant(0), 2);
            fair.resize(9);
            assert!(!fair.try_take_aside(), "somebody waits");
        }
    }

    /// What is known of the places from outside.
    #[derive(Default)]
    struct Model {
        /// Who has one.
        taken: Vec<usize>,
        /// Who waits, in the order in which they came: tenant, number, waiter.
        waiting: Vec<(usize, u64, usize)>,
        /// How many others got a place since a tenant has none and waits.
        passed: [usize; TENANTS],
    }

    impl Model {
        fn has(&self, tenant: usize) -> usize {
            self.taken.iter().filter(|of| **of == tenant).count()
        }

        /// Checks who was granted a place.
        fn grant(&mut self, waiter: usize) -> Result<(), TestCaseError> {
            let at = self.waiting.iter().position(|(.., known)| *known == waiter);
            prop_assert!(at.is_some(), "who has left, or has a place, gets none");
            let (tenant, number, _) = self.waiting.remove(at.unwrap());
            let mut others = self.waiting.iter();
            prop_assert!(others.all(|(of, other, _)| *of != tenant || *other > number), "in order");
            let mut others = self.waiting.iter();
            prop_assert!(others.all(|(of, ..)| self.has(*of) >= self.has(tenant)), "the fewest");
            self.taken.push(tenant);
            for of in 0..TENANTS {
                self.passed[of] = if self.has_none(of) { self.passed[of] + 1 } else { 0 };
                prop_assert!(self.passed[of] < TENANTS, "tenant {of} starves");
            }
            Ok(())
        }

        /// Whether a tenant waits and has nothing.
        fn has_none(&self, tenant: usize) -> bool {
            self.has(tenant) == 0 && self.waiting.iter().any(|(waits, ..)| *waits == tenant)
        }

        fn settle(&mut self, fair: &mut Fair<usize>, limit: usize) -> Result<(), TestCaseError> {
            // Also who left, or got one without waiting, begins anew.
            for of in 0..TENANTS {
                self.passed[of] *= usize::from(self.has_none(of));
            }
            while let Some((_, waiter)) = fair.grant() {
                prop_assert!(self.taken.len() < limit, "more than there are");
                self.grant(waiter)?;
            }
            prop_assert!(self.waiting.is_empty() || self.taken.len() >= limit, "one is idle");
            if self.waiting.is_empty() {
                self.passed = [0; TENANTS];
            }
            prop_assert_eq!(fair.counts(), (limit, self.taken.len(), self.waiting.len()));
            for (tenant_of, number, _) in &self.waiting {
                let before = self.waiting.iter();
                let before = before.filter(|(of, other, _)| of == tenant_of && other < number);
                let found = fair.before(&tenant(*tenant_of), *number);
                prop_assert_eq!(found, Some(before.count()));
            }
            let idle = fair.tenants.values().filter(|line| line.taken == 0);
            prop_assert!(!self.waiting.is_empty() || idle.count() == 0, "nobody is remembered");
            Ok(())
        }
    }

    proptest! {
        /// Never more than there are, unless for what ran already; none is idle while somebody waits;
        /// in order within a tenant; the tenant with the fewest first, and nobody starves; who leaves
        /// is gone.
        #[test]
        fn places_are_shared(steps in prop::collection::vec((0..6u8, 0..64usize), 0..300)) {
            let (mut fair, mut model, mut limit) = (Fair::new(2), Model::default(), 2);
            for (waiter, (what, which)) in steps.into_iter().enumerate() {
                let of = which % TENANTS;
                match what {
                    0 | 1 if fair.try_take(&tenant(of)) => {
                        prop_assert!(model.taken.len() < limit && model.waiting.is_empty());
                        model.taken.push(of);
                    }
                    0 | 1 => {
                        let number = fair.wait(&tenant(of), waiter);
                        model.waiting.push((of, number, waiter));
                    }
                    2 if !model.waiting.is_empty() => {
                        let (of, number, waiter) =
                            model.waiting.remove(which % model.waiting.len());
                        prop_assert_eq!(fair.leave(&tenant(of), number), Some(waiter));
                        prop_assert_eq!(fair.leave(&tenant(of), number), None);
                    }
                    3 | 4 if !model.taken.is_empty() => {
                        let of = model.taken.remove(which % model.taken.len());
                        fair.give_back(&tenant(of));
                    }
                    5 if which < 8 => {
                        limit = 1 + which % 4;
                        fair.resize(limit);
                    }
                    5 if which < 16 => {
                        fair.take(&tenant(of));
                        model.taken.push(of);
                    }
                    _ => {}
                }
                model.settle(&mut fair, limit)?;
            }
        }
    }
}
