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
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    /// One who comes to save.
    fn save(gate: &Gate) -> Pin {
        gate.enter_unless(&AtomicBool::new(false)).unwrap()
    }

    fn close(collector: &Collector) -> Closed<'_> {
        collector.chose();
        close_since(collector, collector.quiet(LONG).unwrap()).unwrap()
    }

    /// Closes the vault when all points have been followed to all of them.
    fn close_since(collector: &Collector, quiet: Quiet) -> Option<Closed<'_>> {
        let followed = collector.points().into_iter().collect();
        collector.close(quiet, (&followed, &HashSet::new()))
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
        let quiet = collector.quiet(Duration::ZERO).unwrap();
        assert!(close_since(&collector, quiet).is_none(), "nothing is chosen");
        collector.chose();
        let pin = gate.enter();
        assert!(collector.quiet(Duration::ZERO).is_none());
        drop(pin);
        let quiet = collector.quiet(Duration::ZERO).unwrap();
        drop(gate.enter());
        assert!(close_since(&collector, quiet).is_none(), "somebody has been there");
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
        drop((gate.enter(), save(&gate)));
        drop(collector);
        assert!(gate.begin(LONG).is_some());
    }

    #[test]
    fn of_those_who_save_only_who_came_before_it_was_chosen_what_may_go_is_waited_for() {
        let gate = Gate::default();
        let early = save(&gate);
        let collector = gate.begin(Duration::ZERO).unwrap();
        let other = save(&gate);
        collector.chose();
        let late = save(&gate);
        drop(other);
        assert!(collector.quiet(Duration::ZERO).is_none());
        let rest = early.clone();
        drop(early);
        assert!(collector.quiet(Duration::ZERO).is_none(), "some of it is still there");
        drop(rest);
        let quiet = collector.quiet(Duration::ZERO).unwrap();
        let later = save(&gate);
        close_since(&collector, quiet).unwrap().remove(HashSet::new());
        drop(collector);
        // They came before it is chosen the next time.
        let collector = gate.begin(Duration::ZERO).unwrap();
        collector.chose();
        drop(late.clone());
        for pin in [late, later] {
            assert!(collector.quiet(Duration::ZERO).is_none());
            drop(pin);
        }
        assert!(collector.quiet(Duration::ZERO).is_some());
        let state = gate.state();
        assert_eq!((state.users, state.early, state.late), (0, 0, 0));
    }

    #[test]
    fn points_that_somebody_is_at_are_followed_and_nobody_is_waited_for() {
        let gate = Gate::default();
        let [read, was_read, looked_up] = [1, 2, 3].map(|n| Root([n; 32]));
        let reading = (gate.enter_for(read), gate.enter_for(read));
        let collector = gate.begin(Duration::ZERO).unwrap();
        let mut pin = gate.enter();
        collector.chose();
        drop(gate.enter_for(was_read));
        assert!(collector.quiet(Duration::ZERO).is_none());
        pin.only(looked_up);
        let quiet = collector.quiet(Duration::ZERO).unwrap();
        let points: HashSet<Root> = collector.points().into_iter().collect();
        assert_eq!(points, HashSet::from([read, was_read, looked_up]));
        let (two, one) = (HashSet::from([read, looked_up]), HashSet::from([was_read]));
        assert!(collector.close(quiet, (&two, &HashSet::new())).is_none());
        // One that is damaged keeps nothing else.
        let closed = collector.close(quiet, (&two, &one)).unwrap();
        assert_eq!(closed.since().points, points);
        closed.remove(two);
        drop((reading, pin.clone(), pin, collector));
        let state = gate.state();
        assert!(state.users == 0 && state.points.is_empty());
    }

    #[test]
    fn what_is_known_of_files_is_relied_on_when_nothing_goes_that_it_names() {
        let gate = Gate::default();
        let [one, two, three] = [(); 3].map(|()| SessionId::random());
        let root = Root([1; 32]);
        let collector = gate.begin(Duration::ZERO).unwrap();
        let early = save(&gate);
        collector.chose();
        let late = save(&gate);
        // Of one who is waited for nothing goes.
        assert!(early.trusts(one, None) && !late.trusts(one, None));
        assert!(early.trusts(two, Some(root)) && collector.points().is_empty());
        // What a point has stays when that is followed.
        assert!(late.trusts(two, Some(root)));
        assert_eq!(collector.points(), [root]);
        let root_only = HashSet::from([root]);
        assert!(early.wrote_scan(one, None) && early.wrote_scan(three, None));
        // Who came later relies on nothing that may go, and so does who relies on that.
        assert!(late.wrote_scan(one, Some(Root([2; 32]))) && late.trusts(one, None));
        drop(gate.enter_for(Root([2; 32])));
        assert_eq!(collector.points(), [root]);
        drop(early);
        let quiet = collector.quiet(LONG).unwrap();
        // Nobody can tell what one needs that is damaged.
        assert!(collector.close(quiet, (&HashSet::new(), &root_only)).is_none());
        let closed = collector.close(quiet, (&root_only, &HashSet::new())).unwrap();
        assert!(!late.trusts(one, None), "it may have been forgotten by now");
        let since = closed.since();
        assert_eq!(since.scans, HashMap::from([(three, None)]));
        assert_eq!(since.sound, HashSet::from([one]));
        closed.remove(HashSet::new());
        assert!(save(&gate).trusts(three, None));
    }

    #[test]
    fn what_is_brought_back_takes_the_place_of_what_a_save_knew() {
        let (gate, session) = (Gate::default(), SessionId::random());
        let [saved, returned] = [1, 2].map(|n| Root([n; 32]));
        let collector = gate.begin(Duration::ZERO).unwrap();
        collector.chose();
        let late = save(&gate);
        assert!(late.wrote_scan(session, Some(saved)));
        assert!(gate.enter_for(returned).wrote_scan(session, Some(returned)));
        // It is of another point now, which has to be followed to all of it.
        assert!(late.trusts(session, Some(returned)));
        let (all, none) = (HashSet::from([returned]), HashSet::new());
        let quiet = collector.quiet(LONG).unwrap();
        assert!(collector.close(quiet, (&none, &all)).is_none());
        let since = collector.close(quiet, (&all, &none)).unwrap().since();
        assert_eq!(since.scans, HashMap::from([(session, Some(returned))]));
        assert!(since.sound.is_empty());
    }

    /// A fork reads little of its point: it can have a damaged one.
    #[test]
    fn nothing_is_noted_of_a_damaged_point_that_was_removed() {
        let (gate, session) = (Gate::default(), SessionId::random());
        let [damaged, other] = [1, 2].map(|n| Root([n; 32]));
        let (pin, gone) = (gate.enter_for(damaged), gate.enter_for(other));
        let collector = gate.begin(Duration::ZERO).unwrap();
        drop(gone);
        collector.chose();
        assert!(pin.wrote_scan(session, Some(damaged)), "it is told who notes what goes");
        let quiet = collector.quiet(Duration::ZERO).unwrap();
        let both = HashSet::from([damaged, other]);
        let closed = collector.close(quiet, (&HashSet::new(), &both)).unwrap();
        assert!(!pin.wrote_scan(session, Some(damaged)));
        closed.remove(HashSet::new());
        drop(collector);
        let rest = pin.clone();
        drop(pin);
        assert!(!rest.wrote_scan(session, Some(damaged)));
        assert!(rest.wrote_scan(session, Some(other)) && rest.wrote_scan(session, None));
        drop(rest);
        // What is brought back from then on was looked for in the store.
        assert!(gate.enter_for(damaged).wrote_scan(session, Some(damaged)));
        assert!(gate.state().unfollowed.is_empty());
    }

    #[test]
    fn who_is_there_keeps_nothing_that_is_forgotten() {
        let (gate, session) = (Gate::default(), SessionId::random());
        let pin = save(&gate);
        assert!(pin.wrote_scan(session, None));
        let forgetting = gate.forget();
        // It may have found some of it, whether it ends before all is forgotten or behind that.
        let meanwhile = save(&gate);
        assert!(!pin.wrote_scan(session, None) && !meanwhile.wrote_scan(session, None));
        drop(forgetting);
        assert!(!pin.wrote_scan(session, None) && !pin.clone().wrote_scan(session, None));
        assert!(!meanwhile.wrote_scan(session, None));
        assert!(save(&gate).wrote_scan(session, None));
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
