//! For which sessions something is to be done in the object store, and in which order.

use std::collections::BTreeSet;

use crate::domain::SessionId;

/// Sessions that wait. One that fails is behind all others before it is tried again, so that none
/// holds up another.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    fresh: BTreeSet<SessionId>,
    /// Those that failed and are to be tried again, behind the fresh ones.
    again: BTreeSet<SessionId>,
    /// Those that failed since.
    later: BTreeSet<SessionId>,
    /// Those for which it cannot be done until something has changed here.
    stuck: BTreeSet<SessionId>,
    busy: Option<SessionId>,
}

impl Waiting {
    /// Something is to be done for a session. One that has failed is not tried sooner for it.
    pub(super) fn add(&mut self, session: SessionId) {
        if !self.again.contains(&session) && !self.later.contains(&session) {
            self.stuck.remove(&session);
            self.fresh.insert(session);
        }
    }

    /// The next one. It counts as waiting until it is [`done`](Waiting::done).
    pub(super) fn next(&mut self) -> Option<SessionId> {
        self.busy = self.fresh.pop_first().or_else(|| self.again.pop_first());
        self.busy
    }

    /// It was done for the one that was next.
    pub(super) fn done(&mut self) {
        self.busy = None;
    }

    /// It could not be done for the one that was next.
    pub(super) fn put_off(&mut self) {
        if let Some(session) = self.busy.take() {
            self.fresh.remove(&session);
            self.later.insert(session);
        }
    }

    /// It cannot be done for the one that was next, as things are here. It counts as waiting until something is
    /// to be done for it again.
    pub(super) fn give_up(&mut self) {
        let Some(session) = self.busy.take() else { return };
        if !self.fresh.contains(&session) {
            self.stuck.insert(session);
        }
    }

    /// Those that failed may be tried again, when those have been that failed before them.
    pub(super) fn try_again(&mut self) {
        if self.again.is_empty() {
            self.again = std::mem::take(&mut self.later);
        }
    }

    /// Whether one is to be tried again.
    pub(super) fn has_failed(&self) -> bool {
        !self.again.is_empty() || !self.later.is_empty()
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        let waiting = self.fresh.len() + self.again.len() + self.later.len() + self.stuck.len();
        waiting as u64 + u64::from(self.busy.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions() -> [SessionId; 5] {
        let mut all = std::array::from_fn(|_| SessionId::random());
        all.sort_unstable();
        all
    }

    /// Tries what waits until nothing does or three in a row have failed, and says what was tried.
    fn pass(waiting: &mut Waiting, fail: &[SessionId]) -> Vec<SessionId> {
        let (mut tried, mut in_a_row) = (vec![], 0);
        while in_a_row < 3 {
            let Some(next) = waiting.next() else { break };
            tried.push(next);
            if fail.contains(&next) {
                in_a_row += 1;
                waiting.put_off();
            } else {
                in_a_row = 0;
                waiting.done();
            }
        }
        tried
    }

    #[test]
    fn whoever_fails_waits_behind_all_others() {
        let (all, mut waiting) = (sessions(), Waiting::default());
        all.into_iter().for_each(|session| waiting.add(session));
        assert_eq!(waiting.count(), 5);
        assert_eq!(pass(&mut waiting, &all[..1]), all);
        assert_eq!((waiting.count(), waiting.has_failed()), (1, true));
        waiting.add(all[0]);
        waiting.add(all[4]);
        assert_eq!(
            pass(&mut waiting, &[]),
            [all[4]],
            "nobody has said that it is to be tried again"
        );
        waiting.try_again();
        waiting.add(all[4]);
        assert_eq!(pass(&mut waiting, &[]), [all[4], all[0]]);
        assert_eq!((waiting.count(), waiting.has_failed()), (0, false));
    }

    /// The object store does not have what it is to have.
    #[test]
    fn what_cannot_be_done_counts_and_is_tried_when_something_has_changed() {
        let (all, mut waiting) = (sessions(), Waiting::default());
        waiting.add(all[0]);
        assert_eq!(waiting.next(), Some(all[0]));
        waiting.give_up();
        assert_eq!((waiting.next(), waiting.count(), waiting.has_failed()), (None, 1, false));
        waiting.add(all[0]);
        assert_eq!((waiting.next(), waiting.count()), (Some(all[0]), 1));
        // It has changed meanwhile.
        waiting.add(all[0]);
        waiting.give_up();
        assert_eq!((waiting.next(), waiting.count()), (Some(all[0]), 1));
        waiting.done();
        assert_eq!(waiting.count(), 0);
    }

    #[test]
    fn everybody_is_tried_however_many_fail() {
        let (all, mut waiting) = (sessions(), Waiting::default());
        all.into_iter().for_each(|session| waiting.add(session));
        let mut tried = BTreeSet::new();
        for _ in 0..3 {
            tried.extend(pass(&mut waiting, &all[..4]));
            waiting.try_again();
        }
        assert_eq!(tried, BTreeSet::from(all));
    }
}
