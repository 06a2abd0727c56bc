//! What is under way: rows and files do not agree meanwhile, and that is no difference.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Things of one kind that are under way, each as often as it has been begun.
pub(super) struct UnderWay<T>(Arc<Register<T>>);

struct Register<T> {
    all: Mutex<Vec<T>>,
    fewer: Notify,
}

/// Counts a thing as under way while it lives.
pub(super) struct Begun<T: PartialEq>(Arc<Register<T>>, T);

impl<T> Default for UnderWay<T> {
    fn default() -> UnderWay<T> {
        UnderWay(Arc::new(Register { all: Mutex::default(), fewer: Notify::new() }))
    }
}

impl<T: Clone + Ord> UnderWay<T> {
    /// This is under way from now on.
    pub(super) fn begin(&self, thing: T) -> Begun<T> {
        self.0.lock().push(thing.clone());
        Begun(self.0.clone(), thing)
    }

    /// As [`begin`](Self::begin), if those that are under way let it: none begins or ends while they are
    /// looked at.
    pub(super) fn begin_if(&self, thing: T, may: impl FnOnce(&[T]) -> bool) -> Option<Begun<T>> {
        let mut all = self.0.lock();
        if !may(all.as_slice()) {
            return None;
        }
        all.push(thing.clone());
        drop(all);
        Some(Begun(self.0.clone(), thing))
    }

    /// What is under way.
    pub(super) fn all(&self) -> BTreeSet<T> {
        self.0.lock().iter().cloned().collect()
    }

    /// Whether something of this sort is under way.
    pub(super) fn has(&self, is_one: impl Fn(&T) -> bool) -> bool {
        self.0.lock().iter().any(is_one)
    }

    /// Waits until nothing of this sort is under way; false if nothing was.
    pub(super) async fn wait_for(&self, is_one: impl Fn(&T) -> bool) -> bool {
        let mut waited = false;
        loop {
            let fewer = self.0.fewer.notified();
            if !self.has(&is_one) {
                return waited;
            }
            fewer.await;
            waited = true;
        }
    }
}

impl<T> Register<T> {
    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: PartialEq> Begun<T> {
    /// What is under way.
    pub(super) fn thing(&self) -> &T {
        &self.1
    }
}

impl<T: PartialEq> Drop for Begun<T> {
    fn drop(&mut self) {
        let mut all = self.0.lock();
        if let Some(place) = all.iter().position(|thing| *thing == self.1) {
            all.swap_remove(place);
        }
        drop(all);
        self.0.fewer.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_thing_is_under_way_until_everybody_is_through_with_it() {
        let changed = UnderWay::default();
        let (one, other) = (changed.begin("it"), changed.begin("it"));
        assert_eq!(one.thing(), &"it");
        drop(other);
        assert_eq!(changed.all(), BTreeSet::from(["it"]));
        assert!(changed.has(|thing| *thing == "it") && !changed.has(|thing| *thing == "other"));
        drop(one);
        assert_eq!(changed.all(), BTreeSet::new());
    }

    #[test]
    fn those_that_are_under_way_decide_whether_one_more_begins() {
        let few = UnderWay::default();
        let begin = |thing| few.begin_if(thing, |all| all.len() < 2);
        let (one, other) = (begin("one"), begin("other"));
        assert!(one.is_some() && other.is_some() && begin("third").is_none());
        drop(one);
        assert!(begin("third").is_some());
        assert_eq!(few.all(), BTreeSet::from(["other"]));
    }

    #[test]
    fn who_waits_for_a_thing_waits_for_all_of_it_and_nothing_else() {
        let made = UnderWay::default();
        assert_eq!(made.wait_for(|_| true).now_or_never(), Some(false));
        let (one, other, third) =
            (made.begin((1, 'a')), made.begin((1, 'b')), made.begin((2, 'c')));
        let mut waiting = pin!(made.wait_for(|thing| thing.0 == 1));
        drop(one);
        assert_eq!(waiting.as_mut().now_or_never(), None);
        drop(other);
        assert_eq!(waiting.as_mut().now_or_never(), Some(true));
        drop(third);
    }
}
