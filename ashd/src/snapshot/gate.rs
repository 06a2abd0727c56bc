//! Who may be in a vault at a time: many who save and bring back, or one who collects.
//!
//! To collect is to decide what goes, and then to move what lies between it and to remove it. Those who
//! save are kept out of the first only: what goes does not count as stored any more by then, so that
//! nothing they add relies on it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often whoever waits to enter looks whether that is given up.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct State {
    users: usize,
    stage: Stage,
}

/// What whoever collects is about.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Stage {
    /// Nobody collects.
    #[default]
    None,
    Deciding,
    Removing,
}

/// The gate of a vault.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Arc<(Mutex<State>, Condvar)>);

/// Keeps everything in the vault from being collected while it lives.
#[derive(Debug)]
pub struct Pin(Gate);

/// Keeps everybody else out while it lives, until those who save are let in.
#[derive(Debug)]
pub(super) struct Alone(Gate);

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody collects.
    pub(super) fn enter(&self) -> Pin {
        let state = self.state();
        let free = self.0.1.wait_while(state, |state| state.stage != Stage::None);
        free.unwrap_or_else(PoisonError::into_inner).users += 1;
        Pin(self.clone())
    }

    /// For those who only add: waits until nobody decides what goes, or until that is given up; `None`
    /// then.
    pub(super) fn enter_to_add(&self, cancel: &AtomicBool) -> Option<Pin> {
        let mut state = self.state();
        while state.stage == Stage::Deciding {
            if cancel.load(Ordering::Relaxed) {
                return None;
            }
            let waited = self.0.1.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.users += 1;
        Some(Pin(self.clone()))
    }

    /// Waits until nobody is in the vault, at most for `patience`. Nobody who comes meanwhile is
    /// kept waiting.
    pub(super) fn alone(&self, patience: Duration) -> Option<Alone> {
        let end = Instant::now() + patience;
        let mut state = self.state();
        while state.users > 0 || state.stage != Stage::None {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.0.1.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.stage = Stage::Deciding;
        Some(Alone(self.clone()))
    }
}

impl Alone {
    /// Lets those in who only add: it is decided what goes.
    pub(super) fn let_add(&self) {
        self.0.state().stage = Stage::Removing;
        self.0.0.1.notify_all();
    }
}

impl Clone for Pin {
    /// Nothing is collected before both are gone. Nobody is waited for: while there is a pin, nobody
    /// collects.
    fn clone(&self) -> Pin {
        self.0.state().users += 1;
        Pin(self.0.clone())
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.state().users -= 1;
        self.0.0.1.notify_all();
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.state().stage = Stage::None;
        self.0.0.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_collects_is_alone() {
        let gate = Gate::default();
        let (one, two) = (gate.enter(), gate.enter());
        assert!(gate.alone(Duration::ZERO).is_none());
        drop(one);
        assert!(gate.alone(Duration::from_millis(1)).is_none());
        drop(two);
        let alone = gate.alone(Duration::ZERO).unwrap();
        assert!(gate.alone(Duration::ZERO).is_none());
        let late = std::thread::spawn({
            let gate = gate.clone();
            move || drop(gate.enter())
        });
        drop(alone);
        late.join().unwrap();
        assert!(gate.alone(Duration::from_secs(10)).is_some());
    }

    #[test]
    fn whoever_gives_up_does_not_wait_for_who_collects() {
        let (gate, cancel) = (Gate::default(), AtomicBool::new(false));
        let alone = gate.alone(Duration::ZERO).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.enter_to_add(&cancel).is_none());
            cancel.store(true, Ordering::Relaxed);
            assert!(waiting.join().unwrap());
        });
        // Those who bring back have to wait until all is done, those who add need not.
        alone.let_add();
        let adding = gate.enter_to_add(&cancel).unwrap();
        let late = std::thread::spawn({
            let gate = gate.clone();
            move || drop(gate.enter())
        });
        assert_eq!(gate.state().users, 1);
        drop(adding);
        drop(alone);
        late.join().unwrap();
        // Whoever need not wait is let in.
        let pin = gate.enter_to_add(&cancel).unwrap();
        assert!(gate.alone(Duration::ZERO).is_none());
        drop(pin);
        assert!(gate.alone(Duration::ZERO).is_some());
    }
}
