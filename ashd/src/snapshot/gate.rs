//! Who may be in a vault at a time: many who save and bring back, and one who collects.
//!
//! Whoever collects keeps nobody out while it is found out what goes, nor while it goes. Between the two
//! there has to be a while in which nobody is in the vault and nobody comes: what is relied on is in points
//! then, and all of these are recorded and can be asked for. Whoever comes at its end waits until it is
//! noted what goes, and for nothing that takes the longer the more there is. Who comes later relies on
//! nothing that goes.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use crate::domain::{Root, SessionId};

/// How often whoever waits to enter looks whether that is given up.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct State {
    users: usize,
    /// How often somebody has entered.
    entered: u64,
    /// Who waits until nothing is moved any more.
    waiting: usize,
    stage: Stage,
    since: Since,
    kept: Option<Kept>,
}

/// What whoever collects is about.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Stage {
    /// Nobody collects.
    #[default]
    None,
    /// It is found out what goes.
    Deciding,
    /// Nobody is in the vault, and nobody is let in.
    Closed,
    /// What is needed is moved, and the rest removed.
    Removing,
}

/// What came into a vault since somebody began to find out what goes.
#[derive(Debug, Default)]
pub(super) struct Since {
    /// Scans that were written, and for which roots.
    pub(super) scans: HashMap<SessionId, Option<Root>>,
    /// Packs that came from elsewhere, or were found to be here already by somebody who needs them.
    pub(super) packs: HashSet<Uuid>,
}

/// Points of which everything stays.
type Kept = Arc<HashSet<Root>>;

/// The gate of a vault.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Arc<(Mutex<State>, Condvar)>);

/// Keeps everything in the vault from being collected while it lives, but for what was to go already.
#[derive(Debug)]
pub struct Pin {
    gate: Gate,
    /// What stays of that which was there before, when the rest was to go already.
    kept: Option<Kept>,
}

/// Whoever collects; there is one at a time.
#[derive(Debug)]
pub(super) struct Collector(Gate);

/// A moment at which nobody was in the vault: how often somebody had entered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quiet(u64);

/// Keeps everybody out while it lives.
#[derive(Debug)]
pub(super) struct Closed<'a>(&'a Collector);

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.0.1.notify_all();
    }

    /// The state once it is so, if that is within `patience`.
    fn when(
        &self,
        patience: Duration,
        is_so: impl Fn(&State) -> bool,
    ) -> Option<MutexGuard<'_, State>> {
        let waited = self.0.1.wait_timeout_while(self.state(), patience, |state| !is_so(state));
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        is_so(&state).then_some(state)
    }

    /// Enters the vault.
    pub(super) fn enter(&self) -> Pin {
        self.pin(&mut self.opened())
    }

    /// Enters the vault to read what a point has, and nothing else: of whoever did so nothing is left
    /// that could rely on anything.
    pub(super) fn enter_to_read(&self) -> Pin {
        let mut state = self.opened();
        state.users += 1;
        Pin { gate: self.clone(), kept: state.kept.clone() }
    }

    fn opened(&self) -> MutexGuard<'_, State> {
        let closed = |state: &mut State| state.stage == Stage::Closed;
        self.0.1.wait_while(self.state(), closed).unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters the vault, unless that is given up while it is waited for.
    pub(super) fn enter_unless(&self, cancel: &AtomicBool) -> Option<Pin> {
        let mut state = self.state();
        while state.stage == Stage::Closed {
            if cancel.load(Ordering::Relaxed) {
                return None;
            }
            let waited = self.0.1.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(self.pin(&mut state))
    }

    /// Enters the vault when nothing is moved in it: packs are what they are, and where, until the pin is
    /// gone. Whoever moves something ends that soon.
    pub(super) fn enter_still(&self) -> Pin {
        let moves = |state: &mut State| matches!(state.stage, Stage::Closed | Stage::Removing);
        let mut state = self.state();
        state.waiting += 1;
        let mut state = self.0.1.wait_while(state, moves).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        self.pin(&mut state)
    }

    fn pin(&self, state: &mut State) -> Pin {
        state.users += 1;
        state.entered += 1;
        Pin { gate: self.clone(), kept: state.kept.clone() }
    }

    /// Begins to collect, at a moment at which nobody is in the vault, if there is one within `patience`.
    /// Nobody is kept waiting.
    pub(super) fn begin(&self, patience: Duration) -> Option<Collector> {
        let free = |state: &State| state.users + state.waiting == 0 && state.stage == Stage::None;
        let mut state = self.when(patience, free)?;
        (state.stage, state.since) = (Stage::Deciding, Since::default());
        Some(Collector(self.clone()))
    }

    /// Closes the vault for good, when nobody is in it, if that is so within `patience`. Whoever collects
    /// ends that soon.
    pub(super) fn alone(&self, patience: Duration) -> Option<Collector> {
        self.change(|state| state.waiting += 1);
        let free = |state: &State| state.users == 0 && state.stage == Stage::None;
        let alone = self.when(patience, free).map(|mut state| {
            state.stage = Stage::Closed;
            Collector(self.clone())
        });
        self.change(|state| state.waiting -= 1);
        alone
    }
}

impl Collector {
    /// Whether somebody waits until this is over.
    pub(super) fn is_in_the_way(&self) -> bool {
        self.0.state().waiting > 0
    }

    /// A moment at which nobody is in the vault, if there is one within `patience` and nobody waits until
    /// this is over. Nobody is kept waiting.
    pub(super) fn quiet(&self, patience: Duration) -> Option<Quiet> {
        let ready = |state: &State| state.users == 0 || state.waiting > 0;
        let state = self.0.when(patience, ready).filter(|state| state.waiting == 0)?;
        Some(Quiet(state.entered))
    }

    /// Closes the vault, if nobody is in it, or has been since that moment but to read.
    pub(super) fn close(&self, since: Quiet) -> Option<Closed<'_>> {
        let mut state = self.0.state();
        let is_quiet = state.entered == since.0 && state.users + state.waiting == 0;
        is_quiet.then(|| state.stage = Stage::Closed).map(|()| Closed(self))
    }
}

impl Closed<'_> {
    /// What came since this collecting began.
    pub(super) fn since(&self) -> Since {
        std::mem::take(&mut self.0.0.state().since)
    }

    /// Lets everybody in again: what goes is noted, and these are the points of which all stays.
    pub(super) fn remove(self, kept: HashSet<Root>) {
        let mut state = self.0.0.state();
        (state.stage, state.kept) = (Stage::Removing, Some(Arc::new(kept)));
    }
}

impl Pin {
    /// Says that a scan is for this root now.
    pub(super) fn wrote_scan(&self, session: SessionId, root: Option<Root>) {
        let mut state = self.gate.state();
        if state.stage == Stage::Deciding {
            state.since.scans.insert(session, root);
        }
    }

    /// Says that a pack is needed, by a point that nobody can follow yet.
    pub(super) fn needs_pack(&self, name: Uuid) {
        let mut state = self.gate.state();
        if state.stage == Stage::Deciding {
            state.since.packs.insert(name);
        }
    }

    /// Whether everything of a point that was there before this stays. Of one that was removed something
    /// may be about to go.
    pub(super) fn keeps(&self, root: Root) -> bool {
        self.kept.as_ref().is_none_or(|kept| kept.contains(&root))
    }

    /// Whether it is of this vault.
    pub(super) fn is_of(&self, gate: &Gate) -> bool {
        Arc::ptr_eq(&self.gate.0, &gate.0)
    }
}

impl Clone for Pin {
    /// Nothing is collected before both are gone. Nobody is waited for: while there is a pin, the vault
    /// is not closed.
    fn clone(&self) -> Pin {
        self.gate.state().users += 1;
        Pin { gate: self.gate.clone(), kept: self.kept.clone() }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.gate.change(|state| state.users -= 1);
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.0.change(|state| {
            if state.stage == Stage::Closed {
                state.stage = Stage::Deciding;
            }
        });
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.0.change(|state| {
            (state.stage, state.since, state.kept) = (Stage::None, Since::default(), None);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    fn close(collector: &Collector) -> Closed<'_> {
        collector.close(collector.quiet(LONG).unwrap()).unwrap()
    }

    #[test]
    fn nobody_is_kept_out_but_at_the_moment_at_which_nobody_is_in() {
        let gate = Gate::default();
        let (one, two) = (gate.enter(), gate.enter());
        assert!(gate.begin(Duration::ZERO).is_none());
        drop(one);
        assert!(gate.begin(Duration::from_millis(1)).is_none());
        drop(two);
        let collector = gate.begin(Duration::ZERO).unwrap();
        assert!(gate.begin(Duration::ZERO).is_none(), "one at a time");
        let pin = gate.enter();
        assert!(collector.quiet(Duration::ZERO).is_none());
        drop(pin);
        let quiet = collector.quiet(Duration::ZERO).unwrap();
        drop(gate.enter());
        assert!(collector.close(quiet).is_none(), "somebody has been there");
        let closed = close(&collector);
        let late = thread::spawn({
            let gate = gate.clone();
            move || drop(gate.enter())
        });
        assert_eq!(gate.state().users, 0);
        drop(closed);
        late.join().unwrap();
        // It can be tried again, and nobody waits for what comes behind it.
        close(&collector).remove(HashSet::new());
        drop((gate.enter(), gate.enter_unless(&AtomicBool::new(false)).unwrap()));
        drop(collector);
        assert!(gate.begin(LONG).is_some());
    }

    #[test]
    fn whoever_gives_up_does_not_wait() {
        let (gate, cancel) = (Gate::default(), AtomicBool::new(false));
        let collector = gate.begin(Duration::ZERO).unwrap();
        let _closed = close(&collector);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.enter_unless(&cancel).is_none());
            cancel.store(true, Ordering::Relaxed);
            assert!(waiting.join().unwrap());
        });
    }

    #[test]
    fn whoever_collects_makes_way_for_those_who_want_nothing_moved() {
        let gate = Gate::default();
        let collector = gate.begin(Duration::ZERO).unwrap();
        drop(gate.enter_still());
        close(&collector).remove(HashSet::new());
        assert!(!collector.is_in_the_way());
        let still = thread::spawn({
            let gate = gate.clone();
            move || gate.enter_still()
        });
        while !collector.is_in_the_way() {
            thread::yield_now();
        }
        drop(collector);
        let pin = still.join().unwrap();
        assert!(gate.begin(Duration::ZERO).is_none());
        drop(pin);
        // So does whoever only finds out what goes, for those who want the vault for themselves.
        let collector = gate.begin(Duration::ZERO).unwrap();
        let alone = thread::spawn({
            let gate = gate.clone();
            move || gate.alone(LONG).is_some()
        });
        while !collector.is_in_the_way() {
            thread::yield_now();
        }
        assert!(collector.quiet(LONG).is_none());
        drop(collector);
        assert!(alone.join().unwrap());
        assert!(gate.begin(Duration::ZERO).is_some());
    }

    #[test]
    fn what_came_meanwhile_is_told_and_who_comes_later_learns_what_stays() {
        let (gate, session) = (Gate::default(), SessionId::random());
        let [kept, gone] = [1, 2].map(|n| Root([n; 32]));
        let before = gate.enter();
        before.wrote_scan(session, Some(gone));
        drop(before);
        let collector = gate.begin(Duration::ZERO).unwrap();
        let pin = gate.enter();
        pin.wrote_scan(session, Some(kept));
        pin.needs_pack(Uuid::nil());
        assert!(pin.keeps(gone), "nothing is settled while it is there");
        drop(pin);
        let closed = close(&collector);
        let since = closed.since();
        assert_eq!(since.scans, HashMap::from([(session, Some(kept))]));
        assert_eq!(since.packs, HashSet::from([Uuid::nil()]));
        closed.remove(HashSet::from([kept]));
        let pin = gate.enter();
        assert!(pin.keeps(kept) && !pin.keeps(gone) && !pin.clone().keeps(gone));
        drop(collector);
        assert!(gate.enter().keeps(gone));
    }
}
