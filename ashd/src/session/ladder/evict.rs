//! Room for another sandbox, when as many live as may: of all, of a tenant, or of an agent.
//!
//! The one goes that nobody has used for longest, of those that it has to be one of, in the same way as one
//! that nobody has used for long enough: saved, and for good only when nothing began meanwhile. Its session
//! has another one with its next message.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::decide::{self, Candidate, Rung};
use super::watch::Watch;
use super::{Place, Step, Times, Whose};
use crate::domain::SessionId;
use crate::session::shared::Shared;

/// The pause between two looks at what may go.
const PAUSE: Duration = Duration::from_millis(100);

/// Sandboxes that are looked at at a time. Those that were used last are not among them while others rest.
const LOOKED_AT: usize = 64;

/// How long one that is asked to go is waited for alone. It may hear that late, or have much to save.
const ALONE: Duration = Duration::from_secs(1);

impl Shared {
    /// Has a sandbox of theirs go that nobody uses. False when there is none, or none that can go in time.
    pub(in crate::session) async fn evict(&self, whose: Whose<'_>, end: Instant) -> bool {
        let Some(session) = self.have_one_go(whose, end).await else { return false };
        tracing::info!(ash_session = %session, "an idle sandbox made room for another");
        true
    }

    /// Has one go; which.
    async fn have_one_go(&self, whose: Whose<'_>, end: Instant) -> Option<SessionId> {
        let times = self.live().times;
        let (mut watch, mut asked) = (Watch::default(), Asked::default());
        let mut worked = HashMap::new();
        loop {
            let resting = longest(self.ladder.places_of(whose), &worked, &times);
            if resting.is_empty() || Instant::now() >= end {
                // Who has gone just now is none of them any more.
                return asked.gone(None, Instant::now()).await;
            }
            let candidates = self.look(&mut watch, &resting, &times).await;
            let looked = Instant::now();
            note_work(&mut worked, &candidates, looked);
            let seen: HashMap<_, _> = resting.into_iter().collect();
            for session in decide::leaving(&candidates) {
                if asked.who.contains(&session) {
                    continue;
                }
                asked.ask(session, self.give_way((session, seen[&session]), end).boxed());
                let until = end.min(Instant::now() + ALONE);
                if let Some(gone) = asked.gone(Some(session), until).await {
                    return Some(gone);
                }
                if looked.elapsed() >= PAUSE {
                    // The others may work on something by now.
                    break;
                }
            }
            let next = end.min(Instant::now() + PAUSE);
            if let Some(gone) = asked.gone(None, next).await {
                return Some(gone);
            }
            sleep_until(next).await;
        }
    }

    /// Has this one go, as it was seen; whether it has by then.
    async fn give_way(
        &self,
        (session, seen): (SessionId, Place),
        end: Instant,
    ) -> (SessionId, bool) {
        let left = end.saturating_duration_since(Instant::now());
        (session, self.take_step(session, Step::GiveWay, seen.idle_since, left).await)
    }
}

/// Those that were asked to go, and have not said whether they do. They stay when this is dropped.
#[derive(Default)]
struct Asked<'a> {
    who: BTreeSet<SessionId>,
    answers: FuturesUnordered<BoxFuture<'a, (SessionId, bool)>>,
}

impl<'a> Asked<'a> {
    fn ask(&mut self, session: SessionId, answer: BoxFuture<'a, (SessionId, bool)>) {
        self.who.insert(session);
        self.answers.push(answer);
    }

    /// Waits until one has gone, which it returns, or this one says that it does not, or all have said so, or
    /// till then.
    async fn gone(&mut self, this: Option<SessionId>, until: Instant) -> Option<SessionId> {
        while let Ok(Some((session, has_gone))) = timeout_at(until, self.answers.next()).await {
            self.who.remove(&session);
            if has_gone {
                return Some(session);
            }
            if this == Some(session) {
                break;
            }
        }
        None
    }
}

/// Notes when those that work were looked at; of whoever does not any more there is nothing to note.
fn note_work(worked: &mut HashMap<SessionId, Instant>, looked_at: &[Candidate], now: Instant) {
    for one in looked_at {
        if one.works() {
            worked.insert(one.session, now);
        } else if one.idle.is_some() {
            worked.remove(&one.session);
        }
    }
}

/// Those that nobody uses, who stand still first, and of each sort those first that wait longest; so many
/// of them as are looked at. Whoever has worked when it was looked at comes behind the others, and is looked
/// at again when it is its turn: nobody who only computes hides those that may go.
fn longest(
    places: Vec<(SessionId, Place)>,
    worked: &HashMap<SessionId, Instant>,
    times: &Times,
) -> Vec<(SessionId, Place)> {
    let is_resting = |(_, place): &(SessionId, Place)| place.free_since(times).is_some();
    let mut resting: Vec<_> = places.into_iter().filter(is_resting).collect();
    resting.sort_by_key(|(session, place)| {
        (place.rung == Rung::Awake, worked.get(session).copied(), place.idle_since)
    });
    resting.truncate(LOOKED_AT);
    resting
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};
    use tokio::time::timeout;

    use super::*;
    use crate::domain::{SandboxId, Session};
    use crate::session::api::Refusal;
    use crate::session::driver::Command;
    use crate::session::owners::{AT_ONCE, Counted};
    use crate::session::shared::Taken;
    use crate::session::stage::Stage;

    /// Room for some sandbox.
    async fn room(stage: &Stage) -> Result<Taken, Refusal> {
        stage.shared.room(SandboxId::random()).await
    }

    #[tokio::test]
    async fn room_is_taken_once_and_comes_back() {
        let stage = Stage::set().await;
        let mut taken = vec![];
        for _ in 0..stage.shared.options.max_sandboxes {
            taken.push(room(&stage).await.ok().unwrap());
        }
        assert!(matches!(room(&stage).await, Err(Refusal::Capacity { .. })));
        taken.pop();
        assert!(room(&stage).await.is_ok());
    }

    #[tokio::test]
    async fn a_sandbox_that_is_made_has_room_all_the_time_and_once() {
        let (stage, sandbox) = (Stage::set().await, SandboxId::random());
        let taken = stage.shared.room(sandbox).await.ok().unwrap();
        let mut others = vec![];
        for _ in 2..stage.shared.options.max_sandboxes {
            others.push(room(&stage).await.ok().unwrap());
        }
        stage.shared.sandboxes.begin(sandbox);
        others.push(room(&stage).await.expect("it counts twice"));
        drop(taken);
        assert!(room(&stage).await.is_err(), "it does not count");
    }

    #[tokio::test]
    async fn room_that_comes_by_itself_is_taken() {
        let stage = Stage::set().await;
        tokio::time::pause();
        let mut taken = vec![];
        for _ in 0..stage.shared.options.max_sandboxes {
            taken.push(room(&stage).await.ok().unwrap());
        }
        // One that nobody uses, and that cannot go: it is waited for.
        let (sandbox, idle_since) = (SandboxId::random(), Some(Instant::now()));
        let place = Place { sandbox, idle_since, has_tasks: false, rung: Rung::Frozen };
        stage.shared.ladder.show(&Session::example(1), Some(place));
        let mut room = Box::pin(room(&stage));
        assert!(timeout(3 * PAUSE, &mut room).await.is_err());
        taken.pop();
        assert!(room.await.is_ok());
    }

    #[tokio::test]
    async fn what_is_used_is_not_waited_for() {
        let stage = Stage::set().await;
        let (sandbox, rung) = (SandboxId::random(), Rung::Awake);
        let used = Place { sandbox, idle_since: None, has_tasks: false, rung };
        stage.shared.ladder.show(&Session::example(1), Some(used));
        // Nor what a task holds.
        stage.shared.live.write().unwrap().times.background = Duration::from_secs(3600);
        let idle_since = Some(Instant::now());
        let held = Place { sandbox: SandboxId::random(), idle_since, has_tasks: true, rung };
        stage.shared.ladder.show(&Session::example(2), Some(held));
        let begun = Instant::now();
        assert!(!stage.shared.evict(Whose::Anybody, begun + 100 * PAUSE).await);
        assert!(begun.elapsed() < 50 * PAUSE);
    }

    /// A session whose sandbox nobody has used for so long, and what its driver is asked.
    fn waiting(stage: &Stage, number: u128, seconds: u64) -> (SandboxId, mpsc::Receiver<Command>) {
        let session = Session::example(number);
        let sandbox = SandboxId::random();
        let idle_since = Some(Instant::now() - Duration::from_secs(seconds));
        let place = Place { sandbox, idle_since, has_tasks: false, rung: Rung::Awake };
        let asked = stage.shows(&session, place);
        stage.used(sandbox, Duration::ZERO);
        (sandbox, asked)
    }

    #[tokio::test]
    async fn who_took_long_to_stay_was_looked_at_long_ago() {
        let stage = Stage::set().await;
        stage.shared.sandboxes.say_asking(Some([].into()));
        tokio::time::pause();
        let ((_, mut first), (other, mut second)) =
            (waiting(&stage, 1, 20), waiting(&stage, 2, 10));
        let (shared, end) = (stage.shared.clone(), Instant::now() + 100 * PAUSE);
        let evicted = tokio::spawn(async move { shared.evict(Whose::Anybody, end).await });
        let Some(Command::Rest { reply, .. }) = first.recv().await else {
            panic!("it is not asked")
        };
        stage.used(other, Duration::from_secs(9));
        tokio::time::advance(2 * PAUSE).await;
        reply.send(false).unwrap();
        // It is asked again, and not the one that works.
        let Some(Command::Rest { reply, .. }) = first.recv().await else {
            panic!("it is not asked")
        };
        assert!(second.try_recv().is_err());
        reply.send(true).unwrap();
        assert!(evicted.await.unwrap());
    }

    #[tokio::test]
    async fn those_that_work_do_not_hide_one_that_may_go() {
        let stage = Stage::set().await;
        tokio::time::pause();
        let working: Vec<_> = (2..).take(LOOKED_AT).map(|it| waiting(&stage, it, 20)).collect();
        let asking = working.iter().map(|(sandbox, _)| *sandbox).collect();
        stage.shared.sandboxes.say_asking(Some(asking));
        let (_, mut asked) = waiting(&stage, 1, 10);
        let (shared, end) = (stage.shared.clone(), Instant::now() + 50 * PAUSE);
        let evicted = tokio::spawn(async move { shared.evict(Whose::Anybody, end).await });
        let Ok(Some(Command::Rest { reply, .. })) = timeout(100 * PAUSE, asked.recv()).await else {
            panic!("it is not asked")
        };
        reply.send(true).unwrap();
        assert!(evicted.await.unwrap());
    }

    /// A session whose sandbox stands still.
    struct Resting {
        session: Session,
        counted: Counted,
        /// What its driver is asked.
        asked: mpsc::Receiver<Command>,
    }

    impl Resting {
        /// One of this tenant, whose sandbox nobody has used for so many seconds.
        fn begin(stage: &Stage, (number, tenant): (u128, &str), seconds: u64) -> Resting {
            let tenant = tenant.parse().unwrap();
            Resting::of(stage, Session { tenant, ..Session::example(number) }, seconds)
        }

        fn of(stage: &Stage, session: Session, seconds: u64) -> Resting {
            let idle_since = Instant::now().checked_sub(Duration::from_secs(seconds));
            let place = Place {
                sandbox: session.sandbox,
                idle_since,
                has_tasks: false,
                rung: Rung::Frozen,
            };
            let asked = stage.shows(&session, place);
            let owner = (session.tenant.clone(), session.agent.clone());
            let counted = stage.shared.gates.owners.count(&owner);
            Resting { session, counted, asked }
        }

        /// Where it is to say whether it has ended, when it is told to.
        async fn told(&mut self) -> oneshot::Sender<bool> {
            match timeout(100 * PAUSE, self.asked.recv()).await {
                Ok(Some(Command::Rest { reply, .. })) => reply,
                _ => panic!("it is not asked to end"),
            }
        }

        /// Does as it is told, which is to end.
        async fn goes(mut self, stage: &Stage) {
            let asked = timeout(100 * PAUSE, self.asked.recv()).await;
            let Ok(Some(Command::Rest { step: Step::GiveWay, seen, reply })) = asked else {
                panic!("it is not asked to end")
            };
            let place = stage.shared.ladder.place(self.session.id);
            assert_eq!(seen, place.and_then(|place| place.idle_since));
            drop(self.counted);
            stage.shared.ladder.show(&self.session, None);
            assert_eq!(reply.send(true), Ok(()));
        }
    }

    #[tokio::test]
    async fn one_that_does_not_answer_soon_holds_up_nobody_and_counts_all_the_same() {
        let stage = Stage::set().await;
        tokio::time::pause();
        for (number, goes) in [(1, 0), (3, 1)] {
            let mut first = Resting::begin(&stage, (number, "ours"), 9);
            let mut second = Resting::begin(&stage, (number + 1, "ours"), 5);
            let (shared, end) = (stage.shared.clone(), Instant::now() + 50 * PAUSE);
            let evicted = tokio::spawn(async move { shared.evict(Whose::Anybody, end).await });
            let (one, other) = (first.told().await, second.told().await);
            assert!(first.asked.try_recv().is_err(), "it is asked twice");
            let mut replies = vec![one, other];
            replies.remove(goes).send(true).unwrap();
            assert!(evicted.await.unwrap());
            assert!(replies[0].is_closed(), "it is to go as well");
            for session in [first.session, second.session] {
                stage.shared.ladder.show(&session, None);
            }
        }
    }

    #[tokio::test]
    async fn who_has_as_many_as_it_may_gives_its_own_up_and_nobody_else_s() {
        let stage = Stage::set().await;
        stage.shared.live.write().unwrap().admission.max_per_tenant = 2;
        let mut theirs = Resting::begin(&stage, (1, "theirs"), 9);
        let mut fresh = Resting::begin(&stage, (2, "ours"), 1);
        let old = Resting::begin(&stage, (3, "ours"), 5);
        let owner = ("ours".parse().unwrap(), old.session.agent.clone());
        let (counted, ()) = tokio::join!(stage.shared.count(&owner), old.goes(&stage));
        assert!(counted.is_ok());
        assert_eq!(stage.shared.gates.owners.of(&owner).tenant, 2);
        assert!(theirs.asked.try_recv().is_err() && fresh.asked.try_recv().is_err());
    }

    #[tokio::test]
    async fn only_so_many_of_a_tenant_have_one_go_at_a_time() {
        let stage = Stage::set().await;
        stage.shared.live.write().unwrap().admission.max_per_tenant = 1;
        let mut ours = Resting::begin(&stage, (1, "ours"), 5);
        let owner = ("ours".parse().unwrap(), ours.session.agent.clone());
        let mut waiting: Vec<_> =
            (0..=AT_ONCE).map(|_| Box::pin(stage.shared.count(&owner))).collect();
        for counting in &mut waiting {
            assert!(counting.as_mut().now_or_never().is_none());
        }
        let mut asked = || std::iter::from_fn(|| ours.asked.try_recv().ok()).count();
        assert_eq!(asked(), AT_ONCE);
        drop(waiting.remove(0));
        let mut last = waiting.pop().unwrap();
        assert!(last.as_mut().now_or_never().is_none());
        assert_eq!(asked(), 1);
        // Nobody else waits for that.
        let theirs = Resting::begin(&stage, (2, "theirs"), 5);
        let turn = stage.shared.gates.owners.turn(&theirs.session.tenant).now_or_never();
        assert!(turn.flatten().is_some());
    }

    /// Both have as many as they may.
    #[tokio::test]
    async fn where_one_of_an_agent_s_goes_none_of_its_tenant_s_others_does() {
        let stage = Stage::set().await;
        stage.shared.live.write().unwrap().admission.max_per_tenant = 2;
        stage.shared.live.write().unwrap().admission.max_per_agent = 1;
        let agent = "other".parse().unwrap();
        let mut other = Resting::of(&stage, Session { agent, ..Session::example(1) }, 9);
        let own = Resting::of(&stage, Session::example(2), 5);
        let owner = (own.session.tenant.clone(), own.session.agent.clone());
        let (counted, ()) = tokio::join!(stage.shared.count(&owner), own.goes(&stage));
        assert!(counted.is_ok() && other.asked.try_recv().is_err());
    }

    #[tokio::test]
    async fn when_none_of_its_own_can_go_it_is_refused() {
        let stage = Stage::set().await;
        stage.shared.live.write().unwrap().admission.max_per_agent = 1;
        let mut theirs = Resting::begin(&stage, (1, "theirs"), 9);
        let mut ours = Resting::begin(&stage, (2, "ours"), 5);
        let owner = ("ours".parse().unwrap(), ours.session.agent.clone());
        let place = stage.shared.ladder.place(ours.session.id).unwrap();
        stage.shared.ladder.show(&ours.session, Some(Place { idle_since: None, ..place }));
        // At once: who sends a message is told so by a status, and has no stream.
        let refused = stage.shared.count(&owner).now_or_never();
        assert!(matches!(refused, Some(Err(Refusal::Capacity { retry_after_s: 1.., .. }))));
        assert!(theirs.asked.try_recv().is_err() && ours.asked.try_recv().is_err());
    }

    #[test]
    fn those_that_stand_still_are_looked_at_first() {
        let now = Instant::now();
        let place = |rung, ago: Option<u64>| {
            let idle_since = ago.map(|ago| now - Duration::from_secs(ago));
            let sandbox = SandboxId::random();
            (SessionId::random(), Place { sandbox, idle_since, has_tasks: false, rung })
        };
        let (fresh, old) = (place(Rung::Awake, Some(1)), place(Rung::Awake, Some(9)));
        let (still, used) = (place(Rung::Reclaimed, Some(5)), place(Rung::Awake, None));
        let mut worked = HashMap::new();
        let looked_at = |worked: &HashMap<SessionId, Instant>, places| {
            longest(places, worked, &Times::default())
        };
        let all = vec![fresh, used, old, still];
        assert_eq!(looked_at(&worked, all.clone()), [still, old, fresh]);
        let many = (0..2 * LOOKED_AT).map(|_| place(Rung::Awake, Some(1))).collect();
        assert_eq!(looked_at(&worked, many).len(), LOOKED_AT);
        // Those that have worked come last, and of them that one first which was looked at first.
        let candidate = |(session, place): (SessionId, Place), idle: Option<u64>| Candidate {
            session,
            rung: place.rung,
            idle: idle.map(Duration::from_secs),
        };
        note_work(&mut worked, &[candidate(old, Some(0)), candidate(fresh, None)], now);
        assert_eq!(looked_at(&worked, all.clone()), [still, fresh, old]);
        let later = now + PAUSE;
        note_work(&mut worked, &[candidate(fresh, Some(0)), candidate(old, None)], later);
        assert_eq!(looked_at(&worked, all.clone()), [still, old, fresh]);
        note_work(&mut worked, &[candidate(fresh, Some(1))], later);
        assert_eq!(looked_at(&worked, all), [still, fresh, old]);
    }
}
