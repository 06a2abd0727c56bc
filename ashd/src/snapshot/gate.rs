//! Who may be in a vault at a time: many who save and bring back, and one who collects.
//!
//! Whoever collects keeps nobody out while it is found out what goes, nor while it goes, and there may
//! always be somebody in the vault:
//!
//! 1. It is chosen what may go. Whoever comes to save from then on does not take that for stored.
//! 2. Who came to save before that is waited for. What they relied on is in points then, which can be
//!    asked for.
//! 3. What none of these needs goes. Whoever comes at that moment waits until it is noted, and for nothing
//!    that takes the longer the more there is.
//!
//! Whoever reads a point or brings it back says which. It is followed like those that are recorded, and
//! nobody is waited for. Only of those who may rely on anything, because they look points up or bring
//! packs, there has to be nobody for a moment.

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
    /// Everybody who is in the vault.
    users: usize,
    /// Those of them who may rely on anything.
    free: usize,
    /// Those who save, and came since it was last chosen what may go.
    late: usize,
    /// Those who save, and came before that.
    early: usize,
    /// Points that are read or brought back, and by how many.
    points: HashMap<Root, usize>,
    /// Those of them that were removed, and damaged, when it was noted what goes: nobody knows what of it
    /// they need.
    unfollowed: HashSet<Root>,
    /// How often somebody has entered who may rely on anything.
    entered: u64,
    /// How often it was chosen what may go.
    chosen: u64,
    /// How often the vault was closed.
    closed: u64,
    /// How often what is known of sessions' files was forgotten, and how many are at that now.
    forgotten: u64,
    forgetting: usize,
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
    /// It is found out what may go.
    Deciding,
    /// What may go does not count as stored, and who came before that is waited for.
    Chosen,
    /// It is noted what goes, and nobody is let in.
    Closed,
    /// What is needed is moved, and the rest removed.
    Removing,
}

/// What whoever is in a vault relies on.
#[derive(Clone, Copy, Debug)]
enum Relies {
    /// On whatever it finds, as points that it looks up, and packs that it brings.
    Anything,
    /// On what counts as stored. So often it had been chosen what may go when it came.
    Stored(u64),
    /// On one point.
    Point(Root),
}

/// What came into a vault since somebody began to find out what goes.
#[derive(Debug, Default)]
pub(super) struct Since {
    /// Scans that were written by those who may have relied on what may go, and for which roots.
    pub(super) scans: HashMap<SessionId, Option<Root>>,
    /// Whose scans were written by those who came later, and rely on nothing that may go.
    pub(super) sound: HashSet<SessionId>,
    /// Roots that these are for.
    pub(super) sound_roots: HashSet<Root>,
    /// Points that somebody reads, brings back or goes on from, recorded or not.
    pub(super) points: HashSet<Root>,
    /// Roots that those who came later took what is known of files from.
    pub(super) trusted: HashSet<Root>,
    /// Packs that came from elsewhere, or were found to be here already by somebody who needs them.
    pub(super) packs: HashSet<Uuid>,
}

/// Points of which everything stays.
type Kept = Arc<HashSet<Root>>;

/// The gate of a vault.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Arc<(Mutex<State>, Condvar)>);

/// Keeps what whoever has it relies on from being collected while it lives, but for what was to go
/// already.
#[derive(Debug)]
pub struct Pin {
    gate: Gate,
    relies: Relies,
    /// What stays of that which was there before, when the rest was to go already.
    kept: Option<Kept>,
    /// How often the vault had been closed, and what is known of files forgotten, when this came.
    closed: u64,
    forgotten: u64,
}

/// Whoever collects; there is one at a time.
#[derive(Debug)]
pub(super) struct Collector(Gate);

/// A moment at which nobody had to be waited for: how often somebody had entered who may rely on
/// anything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quiet(u64);

/// What is known of sessions' files is being forgotten, while this lives.
#[derive(Debug)]
pub(super) struct Forgetting<'a>(&'a Gate);

/// Keeps everybody out while it lives.
#[derive(Debug)]
pub(super) struct Closed<'a>(&'a Collector);

impl State {
    fn add(&mut self, relies: Relies) {
        self.users += 1;
        match relies {
            Relies::Anything => self.free += 1,
            Relies::Stored(chosen) if chosen == self.chosen => self.late += 1,
            Relies::Stored(_) => self.early += 1,
            Relies::Point(root) => {
                *self.points.entry(root).or_default() += 1;
                // It is to be followed, whatever becomes of it. Of one that was saved since it was chosen
                // what may go, nothing may.
                let is_open = matches!(self.stage, Stage::Deciding | Stage::Chosen);
                if is_open && !self.since.sound_roots.contains(&root) {
                    self.since.points.insert(root);
                }
            }
        }
    }

    fn remove(&mut self, relies: Relies) {
        self.users -= 1;
        match relies {
            Relies::Anything => self.free -= 1,
            Relies::Stored(chosen) if chosen == self.chosen => self.late -= 1,
            Relies::Stored(_) => self.early -= 1,
            Relies::Point(root) => {
                let count = self.points.entry(root).or_default();
                *count -= 1;
                if *count == 0 {
                    self.points.remove(&root);
                    self.unfollowed.remove(&root);
                }
            }
        }
    }
}

impl Since {
    fn add_unsound(&mut self, session: SessionId, root: Option<Root>) {
        self.sound.remove(&session);
        self.scans.insert(session, root);
    }

    fn add_sound(&mut self, session: SessionId, root: Option<Root>) {
        self.scans.remove(&session);
        self.sound.insert(session);
        self.sound_roots.extend(root);
    }
}

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

    /// Enters the vault, to rely on whatever is found there.
    pub(super) fn enter(&self) -> Pin {
        let mut state = self.opened();
        state.entered += 1;
        self.pin(&mut state, Relies::Anything)
    }

    /// Enters the vault to read what points have, and nothing else: of whoever did so nothing is left
    /// that could rely on anything.
    pub(super) fn enter_to_read(&self) -> Pin {
        self.pin(&mut self.opened(), Relies::Anything)
    }

    /// Enters the vault to read a point, or to bring it back.
    pub(super) fn enter_for(&self, root: Root) -> Pin {
        self.pin(&mut self.opened(), Relies::Point(root))
    }

    fn opened(&self) -> MutexGuard<'_, State> {
        let closed = |state: &mut State| state.stage == Stage::Closed;
        self.0.1.wait_while(self.state(), closed).unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters the vault to save, unless that is given up while it is waited for.
    pub(super) fn enter_unless(&self, cancel: &AtomicBool) -> Option<Pin> {
        let mut state = self.state();
        while state.stage == Stage::Closed {
            if cancel.load(Ordering::Relaxed) {
                return None;
            }
            let waited = self.0.1.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let relies = Relies::Stored(state.chosen);
        Some(self.pin(&mut state, relies))
    }

    /// Enters the vault when nothing is moved in it: packs are what they are, and where, until the pin is
    /// gone. Whoever moves something ends that soon.
    pub(super) fn enter_still(&self) -> Pin {
        let moves = |state: &mut State| matches!(state.stage, Stage::Closed | Stage::Removing);
        let mut state = self.state();
        state.waiting += 1;
        let mut state = self.0.1.wait_while(state, moves).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state.entered += 1;
        self.pin(&mut state, Relies::Anything)
    }

    fn pin(&self, state: &mut State, relies: Relies) -> Pin {
        state.add(relies);
        let (kept, closed, forgotten) = (state.kept.clone(), state.closed, state.forgotten);
        Pin { gate: self.clone(), relies, kept, closed, forgotten }
    }

    /// Says that what is known of sessions' files is being forgotten, until what this returns is gone: who is
    /// in the vault, or comes meanwhile and finds some of it, keeps none of it either.
    pub(super) fn forget(&self) -> Forgetting<'_> {
        self.change(|state| state.forgetting += 1);
        Forgetting(self)
    }

    /// Begins to collect, at a moment at which nobody is in the vault who may rely on anything, if there
    /// is one within `patience`. Nobody is kept waiting.
    pub(super) fn begin(&self, patience: Duration) -> Option<Collector> {
        let free = |state: &State| state.free + state.waiting == 0 && state.stage == Stage::None;
        let mut state = self.when(patience, free)?;
        let points = state.points.keys().copied().collect();
        state.stage = Stage::Deciding;
        state.since = Since { points, ..Since::default() };
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

    /// Says that what may go does not count as stored any more: whoever comes to save from now on does not
    /// rely on it.
    pub(super) fn chose(&self) {
        let mut state = self.0.state();
        let late = std::mem::take(&mut state.late);
        state.early += late;
        state.chosen += 1;
        state.stage = Stage::Chosen;
    }

    /// A moment at which nobody is in the vault who saves since before it was chosen what may go, or who
    /// may rely on anything, if there is one within `patience` and nobody waits until this is over. Nobody
    /// is kept waiting.
    pub(super) fn quiet(&self, patience: Duration) -> Option<Quiet> {
        let ready = |state: &State| state.free + state.early == 0 || state.waiting > 0;
        let state = self.0.when(patience, ready).filter(|state| state.waiting == 0)?;
        Some(Quiet(state.entered))
    }

    /// Points that somebody is at, or has been since this began.
    pub(super) fn points(&self) -> Vec<Root> {
        let state = self.0.state();
        let points = state.since.points.union(&state.since.trusted).copied();
        points.collect()
    }

    /// Closes the vault, if nobody has been in it since that moment who may rely on anything, and every
    /// point that somebody is at was followed: to all of it when it is saved from there, else as far as
    /// that can be.
    pub(super) fn close(
        &self,
        since: Quiet,
        (followed, damaged): (&HashSet<Root>, &HashSet<Root>),
    ) -> Option<Closed<'_>> {
        let mut state = self.0.state();
        let is_quiet = state.entered == since.0 && state.free + state.early + state.waiting == 0;
        let is_done = |root: &Root| followed.contains(root) || damaged.contains(root);
        let has_followed =
            state.since.points.iter().all(is_done) && state.since.trusted.is_subset(followed);
        if !is_quiet || !has_followed || state.stage != Stage::Chosen {
            return None;
        }
        state.stage = Stage::Closed;
        state.closed += 1;
        let State { points, unfollowed, .. } = &mut *state;
        unfollowed.extend(damaged.iter().filter(|root| points.contains_key(*root)));
        Some(Closed(self))
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
    /// From now on only this point is relied on. It was looked up since the pin is there.
    pub fn only(&mut self, root: Root) {
        let now = Relies::Point(root);
        let before = std::mem::replace(&mut self.relies, now);
        self.gate.change(|state| {
            state.add(now);
            state.remove(before);
        });
    }

    /// Whether what is known of a session's files, as one point has them or none, can be relied on. It was
    /// read since the pin is there.
    pub(super) fn trusts(&self, session: SessionId, root: Option<Root>) -> bool {
        let mut state = self.gate.state();
        if state.closed != self.closed {
            // It may be gone since it was read, and what it names with it.
            return false;
        }
        let is_waited_for = state.stage != Stage::Chosen || !self.is_late(&state);
        if is_waited_for || state.since.sound.contains(&session) {
            return true;
        }
        let Some(root) = root else { return false };
        if !state.since.sound_roots.contains(&root) {
            state.since.trusted.insert(root);
        }
        true
    }

    /// Says that a scan is for this root now. False when it is to be forgotten: what is known of sessions'
    /// files is, or has been since the pin is there; or what it names may be about to go.
    pub(super) fn wrote_scan(&self, session: SessionId, root: Option<Root>) -> bool {
        let mut state = self.gate.state();
        let stage = state.stage;
        if stage == Stage::Chosen && self.is_late(&state) {
            state.since.add_sound(session, root);
        } else if matches!(stage, Stage::Deciding | Stage::Chosen) {
            state.since.add_unsound(session, root);
        }
        let is_followed = root.is_none_or(|root| !state.unfollowed.contains(&root));
        is_followed && state.forgetting == 0 && state.forgotten == self.forgotten
    }

    /// Whether it came since something that had been stored was found to be lost, in this daemon's life: what
    /// is known of sessions' files is forgotten then.
    pub(super) fn came_behind_loss(&self) -> bool {
        self.forgotten > 0
    }

    /// Whether it came to save since it was last chosen what may go.
    fn is_late(&self, state: &State) -> bool {
        matches!(self.relies, Relies::Stored(chosen) if chosen == state.chosen)
    }

    /// Says that a pack is needed, by a point that nobody can follow yet.
    pub(super) fn needs_pack(&self, name: Uuid) {
        let mut state = self.gate.state();
        if matches!(state.stage, Stage::Deciding | Stage::Chosen) {
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
    /// What this relies on stays until both are gone. Nobody is waited for: it does already.
    fn clone(&self) -> Pin {
        self.gate.state().add(self.relies);
        let Pin { relies, closed, forgotten, .. } = *self;
        Pin { gate: self.gate.clone(), relies, kept: self.kept.clone(), closed, forgotten }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.gate.change(|state| state.remove(self.relies));
    }
}

impl Drop for Forgetting<'_> {
    fn drop(&mut self) {
        self.0.change(|state| {
            state.forgetting -= 1;
            state.forgotten += 1;
        });
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.0.change(|state| {
            if state.stage == Stage::Closed {
                state.stage = Stage::Chosen;
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
#[path = "gate_tests.rs"]
mod tests;
