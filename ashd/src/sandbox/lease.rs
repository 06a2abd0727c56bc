//! User ids: a range that nothing else on the machine uses, cut into slots.
//!
//! | uid | whose |
//! |---|---|
//! | base | the broker, when `ashd` starts it |
//! | base + 1 | nobody: the broker's neighbour stays empty |
//! | base + 2 + 2 n | the bridge of slot n |
//! | base + 3 + 2 n | the agent of slot n |
//!
//! A session holds a slot for as long as files of it are on the disk, so that the files of one
//! session never belong to the uid of another. When something is left of a slot that nobody has, it is
//! held.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::fault;

/// The first uid of the range unless configured; the range below belongs to systemd's containers.
pub const DEFAULT_BASE: u32 = 1_879_048_192;

/// Uids in front of the first slot.
const RESERVED: u32 = 2;

/// How many uids so many slots need.
pub fn uid_count(slots: u32) -> u32 {
    slots.saturating_mul(2).saturating_add(RESERVED)
}

/// How many slots so many uids are enough for.
pub fn slots_in(uids: u32) -> u32 {
    uids.saturating_sub(RESERVED) / 2
}

/// The two users of a sandbox; their groups have the same numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Uids {
    /// Of the bridge.
    pub bridge: u32,
    /// Of everything of the agent, and of its files.
    pub agent: u32,
}

/// There is no slot left.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("all {0} user id slots are taken; end sessions or raise the number of slots")]
pub struct NoSlot(pub u32);

/// Who has which slot.
#[derive(Debug)]
pub struct Slots {
    base: u32,
    count: u32,
    taken: Mutex<Taken>,
}

/// The slots that somebody has.
#[derive(Debug)]
struct Taken {
    slots: BTreeSet<u32>,
    /// Those of them that do not come back.
    held: BTreeSet<u32>,
    /// Below it none is free: it is not looked there again.
    full_below: u32,
}

impl Slots {
    /// `count` slots from `base` on, those in `used` taken. Slots beyond the range, from a time
    /// when it was larger, stay taken until they are given back.
    pub fn new(base: u32, count: u32, used: impl IntoIterator<Item = u32>) -> Self {
        let fitting = (u32::MAX - base).saturating_sub(RESERVED) / 2;
        let slots = used.into_iter().collect();
        let taken = Taken { slots, held: BTreeSet::new(), full_below: 0 };
        Slots { base, count: count.min(fitting), taken: Mutex::new(taken) }
    }

    /// Takes the lowest free slot.
    pub fn take(&self) -> Result<u32, NoSlot> {
        let mut taken = self.lock();
        let mut slots = taken.full_below..self.count;
        let free = slots.find(|slot| !taken.slots.contains(slot));
        taken.full_below = free.map_or(self.count, |free| free + 1);
        let free = free.ok_or(NoSlot(self.count))?;
        taken.slots.insert(free);
        fault::point("lease.taken");
        Ok(free)
    }

    /// Gives a slot back. Giving back a free one changes nothing; one that is held stays taken.
    pub fn give_back(&self, slot: u32) {
        fault::point("lease.returned");
        let mut taken = self.lock();
        if taken.held.contains(&slot) {
            return;
        }
        taken.slots.remove(&slot);
        taken.full_below = taken.full_below.min(slot);
    }

    /// Takes a slot, whoever has it, for as long as this lives: there is something of its users that
    /// nobody answers for, which the next one to have it would own. False if it was held before.
    pub fn hold(&self, slot: u32) -> bool {
        let mut taken = self.lock();
        taken.slots.insert(slot);
        taken.held.insert(slot)
    }

    /// How many slots nobody has, and how many there are.
    pub fn free(&self) -> (u32, u32) {
        let taken = self.lock().slots.range(..self.count).count();
        (self.count.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX)), self.count)
    }

    /// The slots that are held.
    pub fn held(&self) -> BTreeSet<u32> {
        self.lock().held.clone()
    }

    /// The slots that are taken, also those that are held.
    pub fn used(&self) -> BTreeSet<u32> {
        self.lock().slots.clone()
    }

    /// The users of a slot.
    pub fn uids(&self, slot: u32) -> Uids {
        let bridge = self.base + RESERVED + 2 * slot;
        Uids { bridge, agent: bridge + 1 }
    }

    /// The slot that a user is of; `None` when nobody can get it.
    pub fn slot_of(&self, uid: u32) -> Option<u32> {
        let slot = uid.checked_sub(self.base)?.checked_sub(RESERVED)? / 2;
        (slot < self.count).then_some(slot)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_taken_once_and_come_back() {
        let slots = Slots::new(DEFAULT_BASE, 3, [1]);
        assert_eq!((slots.take(), slots.take(), slots.take()), (Ok(0), Ok(2), Err(NoSlot(3))));
        slots.give_back(1);
        slots.give_back(1);
        assert_eq!((slots.take(), slots.take()), (Ok(1), Err(NoSlot(3))));
    }

    #[test]
    fn the_lowest_is_taken_whatever_came_back_before() {
        let slots = Slots::new(DEFAULT_BASE, 4, []);
        let all: Vec<_> = std::iter::from_fn(|| slots.take().ok()).collect();
        assert_eq!(all, [0, 1, 2, 3]);
        // One of a time when the range was larger.
        slots.give_back(9);
        assert_eq!(slots.take(), Err(NoSlot(4)));
        slots.give_back(2);
        slots.give_back(1);
        assert_eq!((slots.take(), slots.take(), slots.take()), (Ok(1), Ok(2), Err(NoSlot(4))));
        assert_eq!(slots.free(), (0, 4));
        slots.give_back(0);
        assert_eq!(slots.free(), (1, 4));
        assert_eq!(slots.take(), Ok(0));
        assert_eq!(slots.used(), BTreeSet::from([0, 1, 2, 3]));
    }

    #[test]
    fn one_that_is_held_does_not_come_back() {
        let slots = Slots::new(DEFAULT_BASE, 4, [0]);
        assert_eq!([slots.hold(1), slots.hold(1), slots.hold(0)], [true, false, true]);
        assert_eq!(slots.take(), Ok(2));
        (0..3).for_each(|slot| slots.give_back(slot));
        assert_eq!((slots.take(), slots.take(), slots.take()), (Ok(2), Ok(3), Err(NoSlot(4))));
        assert_eq!(slots.held(), BTreeSet::from([0, 1]));
    }

    #[test]
    fn a_user_has_the_slot_that_it_is_of() {
        let slots = Slots::new(DEFAULT_BASE, 3, []);
        for slot in 0..3 {
            let Uids { bridge, agent } = slots.uids(slot);
            assert_eq!([bridge, agent].map(|uid| slots.slot_of(uid)), [Some(slot); 2]);
        }
        let others = [0, DEFAULT_BASE - 1, DEFAULT_BASE, DEFAULT_BASE + 1, DEFAULT_BASE + 8];
        assert_eq!(others.map(|uid| slots.slot_of(uid)), [None; 5]);
        assert_eq!(Slots::new(u32::MAX, 3, []).slot_of(u32::MAX), None);
    }

    #[test]
    fn no_two_uids_are_the_same() {
        let slots = Slots::new(DEFAULT_BASE, 1000, []);
        let mut seen = BTreeSet::from([DEFAULT_BASE]);
        for slot in 0..1000 {
            let uids = slots.uids(slot);
            assert!(seen.insert(uids.bridge) && seen.insert(uids.agent));
        }
    }

    #[test]
    fn slots_fit_into_their_uids() {
        assert_eq!([4, 5, 6, 131_072].map(slots_in), [1, 1, 2, 65_535]);
        for uids in 4..100 {
            assert!(uid_count(slots_in(uids)) <= uids, "{uids}");
        }
    }

    #[test]
    fn the_range_ends_before_the_numbers_do() {
        let slots = Slots::new(u32::MAX - 8, u32::MAX, []);
        let taken: Vec<_> = std::iter::from_fn(|| slots.take().ok()).collect();
        assert_eq!(taken, [0, 1, 2]);
        assert!(slots.uids(2).agent < u32::MAX);
    }
}
