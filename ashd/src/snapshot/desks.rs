//! How many vaults are looked through and moved at a time.
//!
//! That takes memory and the disk, however many tenants there are. Whoever waits until others have saved
//! has no place meanwhile: no tenant waits for the saves of another one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// So many at a time.
const DESKS: usize = 2;

/// How often whoever waits for a place looks whether that is given up.
const LOOK: Duration = Duration::from_millis(20);

/// The places.
#[derive(Debug)]
pub(super) struct Desks {
    free: Mutex<usize>,
    left: Condvar,
}

/// Somebody who collects, and has one of the places or waits for others.
#[derive(Debug)]
pub(super) struct Worker<'a> {
    desks: &'a Desks,
    works: AtomicBool,
}

impl Default for Desks {
    fn default() -> Desks {
        Desks { free: Mutex::new(DESKS), left: Condvar::new() }
    }
}

impl Desks {
    /// Somebody who has no place yet.
    pub(super) fn worker(&self) -> Worker<'_> {
        Worker { desks: self, works: AtomicBool::new(false) }
    }

    fn free(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker<'_> {
    /// Takes a place; waits for one unless that is given up, and says whether it has one then.
    pub(super) fn work(&self, is_given_up: impl Fn() -> bool) -> bool {
        let mut free = self.desks.free();
        while !self.works() && *free == 0 {
            if is_given_up() {
                return false;
            }
            let waited = self.desks.left.wait_timeout(free, LOOK);
            free = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if !self.works.swap(true, Ordering::Relaxed) {
            *free -= 1;
        }
        true
    }

    /// Whether it has a place.
    pub(super) fn works(&self) -> bool {
        self.works.load(Ordering::Relaxed)
    }

    /// Gives its place to others.
    pub(super) fn rest(&self) {
        let mut free = self.desks.free();
        if self.works.swap(false, Ordering::Relaxed) {
            *free += 1;
            self.desks.left.notify_one();
        }
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        self.rest();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn whoever_rests_or_is_gone_leaves_its_place() {
        let desks = Desks::default();
        let mut workers: Vec<_> = (0..DESKS).map(|_| desks.worker()).collect();
        assert!(workers.iter().all(|worker| worker.work(|| true) && worker.work(|| true)));
        let next = desks.worker();
        assert!(!next.work(|| true) && !next.works());
        thread::scope(|scope| {
            let works = scope.spawn(|| next.work(|| false));
            workers[0].rest();
            assert!(works.join().unwrap());
        });
        assert!(!workers[0].work(|| true));
        workers.pop();
        assert!(workers[0].work(|| true));
        drop((workers, next));
        assert_eq!(*desks.free(), DESKS);
    }
}
