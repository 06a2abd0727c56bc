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
//! session never belong to the uid of another.

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
    /// Below it none is free: it is not looked there again.
    full_below: u32,
}

impl Slots {
    /// `count` slots from `base` on, those in `used` taken. Slots beyond the range, from a time
    /// when it was larger, stay taken until they are given back.
    pub fn new(base: u32, count: u32, used: impl IntoIterator<Item = u32>) -> Self {
        let fitting = (u32::MAX - base).saturating_sub(RESERVED) / 2;
        let taken = Taken { slots: used.into_iter().collect(), full_below: 0 };
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

    /// Gives a slot back. Giving back a free one changes nothing.
    pub fn give_back(&self, slot: u32) {
        fault::point("lease.returned");
        let mut taken = self.lock();
        taken.slots.remove(&slot);
        taken.full_below = taken.full_below.min(slot);
    }

    /// The slots that are taken.
    pub fn used(&self) -> BTreeSet<u32> {
        self.lock().slots.clone()
    }

    /// The users of a slot.
    pub fn uids(&self, slot: u32) -> Uids {
        let bridge = self.base + RESERVED + 2 * slot;
        Uids { bridge, agent: bridge + 1 }
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
        slots.give_back(0);
        assert_eq!(slots.take(), Ok(0));
        assert_eq!(slots.used(), BTreeSet::from([0, 1, 2, 3]));
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
