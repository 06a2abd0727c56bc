//! The idle ladder: what becomes of sandboxes that nobody uses.
//!
//! ```text
//!  a turn, a command ──► waits ──freeze──► stands still ──reclaim──► in swap
//!          ▲               │                    │                       │
//!          │               └────────────────────┴──────────cool─────────┴──► saved, ended
//!          └─────────────────────────── the next message, from each of them
//! ```
//!
//! Drivers say when nobody uses their sandboxes any more, and whether the CLI runs a task in the background
//! all the same. Here it is looked now and then whether such a sandbox works on something by itself
//! ([`watch`]), and decided which step is due ([`decide`]). The step itself is taken by the driver, which
//! looks once more: it is the only one that changes its sandbox, and has whatever it needs go on first.
//!
//! What is left on the disk of sessions without a sandbox is none of this: see [`clearing`](super::clearing).

mod decide;
mod watch;

mod evict;

use std::collections::{BTreeSet, HashMap};
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout};

use self::decide::Candidate;
pub(super) use self::decide::{Rung, Step};
use self::watch::{Reading, Watch};
use super::driver::Command;
use super::owners::Owner;
use super::shared::Shared;
use crate::domain::{AgentName, SandboxId, Session, SessionId, Tenant};
use crate::sandbox::admission;
use crate::telemetry::metrics::labels::Eviction;

/// Sandboxes that take a step at the same time, of those that may take long and of the others.
const AT_ONCE: usize = 4;

/// How long a step may take, in which much may be saved, and one for which an agent only stops.
const PATIENCE: Duration = Duration::from_secs(300);
const BRIEF: Duration = Duration::from_secs(5);

/// When sandboxes that nobody uses take a step. What is absent is never done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// They stand still.
    pub freeze: Option<Duration>,
    /// Those that stand still give their memory back, where there is swap.
    pub reclaim: Option<Duration>,
    /// They are saved and ended.
    pub cool: Option<Duration>,
    /// Sessions that have none any more give their files and uids back.
    pub clear: Option<Duration>,
    /// The most that take each of the steps at one look.
    pub at_once: usize,
    /// Processors' worth of time; whoever uses more works on something.
    pub busy_cpus: f64,
    /// How long tasks of the CLI hold a sandbox in which nothing else happens.
    pub background: Duration,
}

/// A sandbox, as its driver tells of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) sandbox: SandboxId,
    /// Since when nobody uses it. None: somebody does.
    pub(super) idle_since: Option<Instant>,
    /// Whether the CLI runs tasks in the background.
    pub(super) has_tasks: bool,
    pub(super) rung: Rung,
}

impl Place {
    /// Since when it may take steps: nobody uses it, and no task holds it. None: it may not.
    fn free_since(&self, times: &Times) -> Option<Instant> {
        let since = self.idle_since?;
        match self.has_tasks {
            true => since.checked_add(times.background).filter(|end| *end <= Instant::now()),
            false => Some(since),
        }
    }
}

/// What became of sandboxes that nobody used.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rested {
    /// Agents that stand still now.
    pub frozen: u64,
    /// Those of them that have given their memory back.
    pub reclaimed: u64,
    /// How often an agent was stopped, since the start.
    pub freezes: u64,
    /// Bytes of memory that were given back, since the start.
    pub reclaimed_bytes: u64,
    /// Sandboxes that were saved and ended, since the start.
    pub cooled: u64,
    /// Of those: to make room for others.
    pub evictions: u64,
    /// Sessions at rest whose files were removed and whose uids were given back, since the start.
    pub cleared: u64,
    /// Bytes of these files.
    pub cleared_bytes: u64,
}

/// Of whose sandboxes one is to go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whose<'a> {
    Anybody,
    Tenant(&'a Tenant),
    Agent(&'a Owner),
}

/// The sandboxes that live, by their sessions, and what became of others.
#[derive(Default)]
pub(super) struct Ladder {
    known: Mutex<Known>,
    freezes: AtomicU64,
    reclaimed_bytes: AtomicU64,
    /// Sandboxes that were saved and ended, because nobody had used them for long and to make room.
    idled: AtomicU64,
    evictions: AtomicU64,
    cleared: AtomicU64,
    cleared_bytes: AtomicU64,
}

/// What drivers have told.
#[derive(Default)]
struct Known {
    places: HashMap<SessionId, (AgentName, Place)>,
    /// The sessions of each tenant that has any of them.
    tenants: HashMap<Tenant, BTreeSet<SessionId>>,
    /// How many of them stand still, and how many of those have given their memory back.
    still: u64,
    reclaimed: u64,
}

impl Known {
    fn put(&mut self, session: &Session, place: Place) {
        // Whose it is never changes.
        if let Some((_, known)) = self.places.get_mut(&session.id) {
            let before = std::mem::replace(known, place);
            return self.count(Some(before), Some(place));
        }
        self.places.insert(session.id, (session.agent.clone(), place));
        self.tenants.entry(session.tenant.clone()).or_default().insert(session.id);
        self.count(None, Some(place));
    }

    fn remove(&mut self, session: &Session) {
        let Some((_, before)) = self.places.remove(&session.id) else { return };
        self.count(Some(before), None);
        if let Some(of_tenant) = self.tenants.get_mut(&session.tenant) {
            of_tenant.remove(&session.id);
            if of_tenant.is_empty() {
                self.tenants.remove(&session.tenant);
            }
        }
    }

    /// Counts a sandbox as it is now, and no more as it was.
    fn count(&mut self, before: Option<Place>, now: Option<Place>) {
        let still = |place: Option<Place>| place.is_some_and(|it| it.rung != Rung::Awake);
        let given = |place: Option<Place>| place.is_some_and(|it| it.rung == Rung::Reclaimed);
        self.still = self.still + u64::from(still(now)) - u64::from(still(before));
        self.reclaimed = self.reclaimed + u64::from(given(now)) - u64::from(given(before));
    }

    /// Those of a tenant, or of one of its agents alone.
    fn of(&self, tenant: &Tenant, agent: Option<&AgentName>) -> Vec<(SessionId, Place)> {
        let sessions = self.tenants.get(tenant).into_iter().flatten();
        let places = sessions.filter_map(|session| Some((*session, self.places.get(session)?)));
        let is_one = |of: &AgentName| agent.is_none_or(|agent| agent == of);
        let places = places.filter(|(_, (of, _))| is_one(of));
        places.map(|(session, (_, place))| (session, *place)).collect()
    }
}

impl Ladder {
    /// Takes what a driver tells of its sandbox. None: it has none.
    pub(super) fn show(&self, session: &Session, place: Option<Place>) {
        match place {
            Some(place) => self.lock().put(session, place),
            None => self.lock().remove(session),
        }
    }

    /// What is known of a session's sandbox, if it has one.
    pub(super) fn place(&self, session: SessionId) -> Option<Place> {
        self.lock().places.get(&session).map(|(_, place)| *place)
    }

    /// An agent was stopped.
    pub(super) fn has_frozen(&self) {
        self.freezes.fetch_add(1, Ordering::Relaxed);
    }

    /// An agent has given back so many bytes.
    pub(super) fn has_reclaimed(&self, bytes: u64) {
        self.reclaimed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A sandbox was saved and ended. It counts for one reason at once: whoever reads never finds one that
    /// has ended for none, or for the other.
    pub(super) fn has_cooled(&self, why: Eviction) {
        let count = match why {
            Eviction::Idle => &self.idled,
            Eviction::Capacity => &self.evictions,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// The files of a session at rest were removed, so many bytes, and its uids were given back.
    pub(super) fn has_cleared(&self, bytes: u64) {
        self.cleared.fetch_add(1, Ordering::Relaxed);
        self.cleared_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What became of all of them.
    pub(super) fn rested(&self) -> Rested {
        let (frozen, reclaimed) = self.resting();
        let evictions = self.evictions.load(Ordering::Relaxed);
        Rested {
            frozen,
            reclaimed,
            freezes: self.freezes.load(Ordering::Relaxed),
            reclaimed_bytes: self.reclaimed_bytes.load(Ordering::Relaxed),
            cooled: self.idled.load(Ordering::Relaxed) + evictions,
            evictions,
            cleared: self.cleared.load(Ordering::Relaxed),
            cleared_bytes: self.cleared_bytes.load(Ordering::Relaxed),
        }
    }

    /// How many stand still, and how many of them have given their memory back.
    fn resting(&self) -> (u64, u64) {
        let known = self.lock();
        (known.still, known.reclaimed)
    }

    /// What is known of each.
    pub(super) fn places(&self) -> Vec<(SessionId, Place)> {
        self.lock().places.iter().map(|(session, (_, place))| (*session, *place)).collect()
    }

    /// What is known of each of theirs. Nobody else's are looked through.
    fn places_of(&self, whose: Whose<'_>) -> Vec<(SessionId, Place)> {
        match whose {
            Whose::Anybody => self.places(),
            Whose::Tenant(tenant) => self.lock().of(tenant, None),
            Whose::Agent((tenant, agent)) => self.lock().of(tenant, Some(agent)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has sandboxes take the steps that are due, as long as the daemon lives.
pub(super) async fn go_down_for_ever(shared: Arc<Shared>) {
    let mut descent = Descent::new();
    while !shared.is_shutting_down() {
        tokio::time::sleep(shared.live().times.pace()).await;
        shared.go_down(&mut descent).await;
    }
}

/// What is known from one look to the next.
struct Descent {
    watch: Watch,
    /// Those that take a step which may take long. Nobody else waits for that to stand still.
    slow: HashMap<SessionId, JoinHandle<()>>,
    /// Bounds how many of them do so at a time.
    at_once: Arc<Semaphore>,
}

impl Descent {
    fn new() -> Descent {
        let (watch, slow) = (Watch::default(), HashMap::new());
        Descent { watch, slow, at_once: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Shared {
    async fn go_down(self: &Arc<Self>, descent: &mut Descent) {
        let times = self.times();
        descent.slow.retain(|_, step| !step.is_finished());
        let slow = &descent.slow;
        let is_near = |(session, place): &(SessionId, Place)| {
            let since = place.free_since(&times).filter(|_| !slow.contains_key(session));
            since.is_some_and(|since| times.is_near(place.rung, since.elapsed()))
        };
        let near: HashMap<_, _> = self.ladder.places().into_iter().filter(is_near).collect();
        let places: Vec<_> = near.iter().map(|(session, place)| (*session, *place)).collect();
        let candidates = self.look(&mut descent.watch, &places, &times).await;
        let due = decide::due(&candidates, &times).into_iter();
        let (quick, slow): (Vec<_>, Vec<_>) = due.partition(|(_, step)| *step == Step::Freeze);
        // As many of each kind as may be, with those of the looks before.
        let more = (2 * times.at_once).saturating_sub(descent.slow.len());
        for (session, step) in slow.into_iter().take(more) {
            let (at_once, place) = (descent.at_once.clone(), near[&session]);
            let seen = descent.watch.of(place.sandbox);
            let taken = self.take_beside(at_once, (session, place, seen), step);
            descent.slow.insert(session, taken);
        }
        let quick = stream::iter(quick);
        let seen = |session: SessionId| near[&session].idle_since;
        let taken =
            quick.map(|(session, step)| self.take_step(session, step, seen(session), BRIEF));
        taken.buffer_unordered(AT_ONCE).for_each(|_| ready(())).await;
    }

    /// When sandboxes take a step, as it is configured and can be done now.
    pub(super) fn times(&self) -> Times {
        self.live().times.feasible(admission::has_swap())
    }

    /// Has a sandbox take a step that may take long beside everything else, if nothing has happened in it
    /// by the time it is its turn.
    fn take_beside(
        self: &Arc<Self>,
        at_once: Arc<Semaphore>,
        (session, place, mut seen): (SessionId, Place, Watch),
        step: Step,
    ) -> JoinHandle<()> {
        let (shared, looked) = (self.clone(), Instant::now());
        tokio::spawn(async move {
            let _one = at_once.acquire().await;
            // What an agent did in a long time does not tell what it does: it is left to the next look.
            let is_late = looked.elapsed() > shared.times().pace();
            let is_stale = is_late && place.rung == Rung::Awake;
            if !is_stale && shared.is_due(&mut seen, (session, place), step).await {
                shared.take_step(session, step, place.idle_since, PATIENCE).await;
            }
        })
    }

    /// Looks again at a sandbox that has waited for its turn to take a step: whether it is as it was, has not
    /// worked since it was seen, and the step is the one to take.
    async fn is_due(
        &self,
        seen: &mut Watch,
        (session, place): (SessionId, Place),
        step: Step,
    ) -> bool {
        if self.ladder.place(session) != Some(place) {
            return false;
        }
        let times = self.times();
        let candidates = self.look(seen, &[(session, place)], &times).await;
        decide::due(&candidates, &times) == [(session, step)]
    }

    /// Looks for how long nothing has happened in sandboxes. Of one that stands still it is known.
    async fn look(
        &self,
        watch: &mut Watch,
        places: &[(SessionId, Place)],
        times: &Times,
    ) -> Vec<Candidate> {
        let awake = places.iter().filter(|(_, place)| place.rung == Rung::Awake);
        let readings = self.read(awake.map(|(_, place)| place.sandbox).collect()).await;
        watch.keep(|sandbox| readings.contains_key(sandbox));
        let now = Instant::now();
        let mut idle = |place: &Place| {
            let since = place.free_since(times)?;
            if place.rung != Rung::Awake {
                return Some(now.saturating_duration_since(since));
            }
            let reading = *readings.get(&place.sandbox)?;
            watch.idle((place.sandbox, since), reading, now, times.busy_cpus)
        };
        let candidate = |(session, place): &(SessionId, Place)| Candidate {
            session: *session,
            rung: place.rung,
            idle: idle(place),
        };
        places.iter().map(candidate).collect()
    }

    /// What is seen of sandboxes; nothing when it is not known which of them ask the model.
    async fn read(&self, sandboxes: Vec<SandboxId>) -> HashMap<SandboxId, Reading> {
        if sandboxes.is_empty() {
            return HashMap::new();
        }
        let Some(asking) = self.sandboxes.asking().await else { return HashMap::new() };
        let all = self.sandboxes.clone();
        let read = move || {
            let reading = |id: SandboxId| {
                let is_asking = asking.contains(&id);
                (id, Reading { cpu_us: all.cpu_us(id), is_asking })
            };
            sandboxes.into_iter().map(reading).collect()
        };
        spawn_blocking(read).await.unwrap_or_default()
    }

    /// Has a sandbox take a step that nobody had used since then when it was seen; whether it did. It does
    /// not when somebody uses it by then, or has, something fails, or it takes too long.
    async fn take_step(
        &self,
        session: SessionId,
        step: Step,
        seen: Option<Instant>,
        most: Duration,
    ) -> bool {
        let Some(handle) = self.registry.handle(session) else { return false };
        let (reply, taken) = oneshot::channel();
        let asked = async {
            handle.commands.send(Command::Rest { step, seen, reply }).await.ok()?;
            taken.await.ok()
        };
        timeout(most, asked).await.ok().flatten().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::domain::Session;
    use crate::session::stage::Stage;

    /// A session whose sandbox stands still, and what its driver is asked.
    fn resting(stage: &Stage, number: u128) -> (SessionId, Place, mpsc::Receiver<Command>) {
        let session = Session::example(number);
        let (sandbox, idle_since) = (session.sandbox, Some(Instant::now()));
        let place = Place { sandbox, idle_since, has_tasks: false, rung: Rung::Frozen };
        (session.id, place, stage.shows(&session, place))
    }

    #[tokio::test]
    async fn one_that_takes_long_holds_up_nobody() {
        let stage = Stage::set().await;
        let times = Times { cool: Some(Duration::ZERO), at_once: 1, ..Times::default() };
        stage.shared.live.write().unwrap().times = times;
        let mut descent = Descent::new();
        let (_, place, mut first) = resting(&stage, 1);
        stage.shared.go_down(&mut descent).await;
        let Some(Command::Rest { step: Step::Cool, seen, reply: _reply }) = first.recv().await
        else {
            panic!("it is not asked to end")
        };
        assert_eq!(seen, place.idle_since);
        let (.., mut second) = resting(&stage, 2);
        stage.shared.go_down(&mut descent).await;
        assert!(matches!(second.recv().await, Some(Command::Rest { step: Step::Cool, .. })));
        assert!(first.try_recv().is_err(), "it is asked twice");
    }

    #[tokio::test]
    async fn what_tasks_hold_takes_no_step_until_they_have_held_it_for_long() {
        let stage = Stage::set().await;
        let (_, seen, mut asked) = resting(&stage, 1);
        stage.shared.ladder.show(&Session::example(1), Some(Place { has_tasks: true, ..seen }));
        let mut descent = Descent::new();
        let mut look = async |background| {
            let cool = Some(Duration::ZERO);
            let times = Times { cool, at_once: 1, background, ..Times::default() };
            stage.shared.live.write().unwrap().times = times;
            stage.shared.go_down(&mut descent).await;
            descent.slow.len()
        };
        assert_eq!(look(Duration::from_secs(3600)).await, 0);
        assert_eq!(look(Duration::MAX).await, 0);
        assert_eq!(look(Duration::ZERO).await, 1);
        assert!(matches!(asked.recv().await, Some(Command::Rest { step: Step::Cool, .. })));
    }

    #[tokio::test]
    async fn one_that_was_used_while_it_waited_for_its_turn_is_left() {
        let (stage, at_once) = (Stage::set().await, Arc::new(Semaphore::new(1)));
        let (session, seen, mut asked) = resting(&stage, 1);
        let turn = at_once.clone().acquire_owned().await.unwrap();
        let seen_of_it = (session, seen, Watch::default());
        let taken = stage.shared.take_beside(at_once.clone(), seen_of_it, Step::Cool);
        let used = Place { rung: Rung::Awake, ..seen };
        stage.shared.ladder.show(&Session::example(1), Some(used));
        drop(turn);
        taken.await.unwrap();
        assert!(asked.try_recv().is_err());
    }

    #[tokio::test]
    async fn one_that_worked_while_it_waited_for_its_turn_is_left() {
        let (stage, at_once) = (Stage::set().await, Arc::new(Semaphore::new(1)));
        tokio::time::pause();
        let (cool, s) = (Some(Duration::from_secs(1)), Duration::from_secs(1));
        let times = Times { cool, at_once: 1, busy_cpus: 0.02, ..Times::default() };
        stage.shared.live.write().unwrap().times = times;
        let (session, seen, mut asked) = resting(&stage, 1);
        let sandbox = seen.sandbox;
        let place = Place { rung: Rung::Awake, idle_since: Some(Instant::now() - 10 * s), ..seen };
        stage.shared.ladder.show(&Session::example(1), Some(place));
        for (is_asking, used_s, waited, goes) in [
            (true, 0, Duration::ZERO, false),
            (false, 9, Duration::ZERO, false),
            // It may have worked for a part of that.
            (false, 0, times.pace() * 2, false),
            (false, 0, times.pace(), true),
        ] {
            stage.shared.sandboxes.say_asking(Some([].into()));
            stage.used(sandbox, Duration::ZERO);
            let mut watch = Watch::default();
            stage.shared.look(&mut watch, &[(session, place)], &times).await;
            let turn = at_once.clone().acquire_owned().await.unwrap();
            let seen_of_it = (session, place, watch.of(sandbox));
            let taken = stage.shared.take_beside(at_once.clone(), seen_of_it, Step::Cool);
            if is_asking {
                stage.shared.sandboxes.say_asking(Some([sandbox].into()));
            }
            stage.used(sandbox, used_s * s);
            tokio::time::advance(waited).await;
            drop(turn);
            if goes {
                let command = asked.recv().await;
                assert!(matches!(command, Some(Command::Rest { step: Step::Cool, .. })));
            }
            taken.await.unwrap();
            assert!(asked.try_recv().is_err(), "{is_asking} {used_s} {waited:?}");
        }
    }

    #[test]
    fn sandboxes_are_known_by_whose_they_are() {
        let (ladder, tenants) = (Ladder::default(), ["ours", "theirs"]);
        let [ours, theirs]: [Tenant; 2] = tenants.map(|tenant| tenant.parse().unwrap());
        let session = |number, tenant: &Tenant, agent: &str| {
            let (tenant, agent) = (tenant.clone(), agent.parse().unwrap());
            Session { tenant, agent, ..Session::example(number) }
        };
        let all = [session(1, &ours, "a"), session(2, &ours, "b"), session(3, &theirs, "a")];
        let rung = Rung::Awake;
        for session in &all {
            let place =
                Place { sandbox: session.sandbox, idle_since: None, has_tasks: false, rung };
            ladder.show(session, Some(place));
            ladder.show(session, Some(Place { rung: Rung::Frozen, ..place }));
        }
        let known = |whose| {
            let places = ladder.places_of(whose);
            assert!(places.iter().all(|(_, place)| place.rung == Rung::Frozen), "the newest");
            places.into_iter().map(|(session, _)| session).collect::<BTreeSet<_>>()
        };
        let ids = |which: &[usize]| which.iter().map(|at| all[*at].id).collect::<BTreeSet<_>>();
        let a_of_ours = (ours.clone(), "a".parse().unwrap());
        assert_eq!(known(Whose::Anybody), ids(&[0, 1, 2]));
        assert_eq!(known(Whose::Tenant(&ours)), ids(&[0, 1]));
        assert_eq!(known(Whose::Agent(&a_of_ours)), ids(&[0]));
        ladder.show(&all[0], None);
        assert_eq!(known(Whose::Tenant(&ours)), ids(&[1]));
        assert_eq!(known(Whose::Agent(&a_of_ours)), ids(&[]));
        ladder.show(&all[1], None);
        assert_eq!(known(Whose::Tenant(&ours)), ids(&[]));
        assert_eq!(ladder.lock().tenants.len(), 1, "who has none is not remembered");
    }

    #[test]
    fn those_that_stand_still_are_counted_as_they_come_and_go() {
        let (ladder, one, other) = (Ladder::default(), Session::example(1), Session::example(2));
        let show = |session: &Session, rung: Option<Rung>| {
            let (sandbox, idle_since, has_tasks) = (session.sandbox, None, false);
            ladder.show(session, rung.map(|rung| Place { sandbox, idle_since, has_tasks, rung }));
            let rested = ladder.rested();
            (rested.frozen, rested.reclaimed)
        };
        for (rung, counted) in [
            (None, (0, 0)),
            (Some(Rung::Awake), (0, 0)),
            (Some(Rung::Frozen), (1, 0)),
            (Some(Rung::Frozen), (1, 0)),
            (Some(Rung::Reclaimed), (1, 1)),
            (Some(Rung::Awake), (0, 0)),
            (Some(Rung::Kept), (1, 0)),
        ] {
            assert_eq!(show(&one, rung), counted, "{rung:?}");
        }
        assert_eq!(show(&other, Some(Rung::Reclaimed)), (2, 1));
        assert_eq!(show(&one, None), (1, 1));
        assert_eq!(show(&one, None), (1, 1), "it is gone already");
        assert_eq!(show(&other, None), (0, 0));
    }
}
