mod claims;

use std::collections::BTreeMap;
use std::time::Duration;

use ash_wire::frame::{self, HEADER, Header};
use ash_wire::words::ControlReply;
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::shelves::{End, PAUSE, Shelf};
use super::*;
use crate::domain::{AgentConfig, PermissionMode, Scope, SessionId, Timestamp};
use crate::sandbox::pressure::Pressure;
use crate::session::api::{Caller, NewSession};
use crate::session::cli::Controls;
use crate::session::owners::{AT_ONCE, Counted};
use crate::session::stage::{Stage, linked};
use crate::store::SessionFilter;
use crate::telemetry::metrics::labels::{Exhausted, Word as _};

const SECOND: Duration = Duration::from_secs(1);

fn kind(agent: &str) -> Kind {
    Kind { tenant: Tenant::default(), agent: agent.parse().unwrap() }
}

/// An agent of another tenant.
fn of(tenant: &str, agent: &str) -> Kind {
    Kind { tenant: tenant.parse().unwrap(), ..kind(agent) }
}

fn stamp(version: u32) -> Stamp {
    Stamp {
        agent: AgentId(uuid::Uuid::nil()),
        version,
        settings: Settings { model: Some("usual".to_owned()), ..Settings::default() },
        conditions: Conditions {
            limits: Limits::default(),
            runtime: "/claude".into(),
            key_epoch: 0,
        },
        day: Day::default(),
    }
}

/// Of the first version, with other conditions.
fn stamp_under(change: impl FnOnce(&mut Conditions)) -> Stamp {
    let mut stamp = stamp(1);
    change(&mut stamp.conditions);
    stamp
}

/// A pool with a shelf for an agent, and so many spares of these versions on it.
fn pool(agent: &str, versions: &[u32]) -> Pool {
    let pool = Pool::default();
    fill(&pool, agent, versions);
    pool
}

fn fill(pool: &Pool, agent: &str, versions: &[u32]) {
    for version in versions {
        pool.set_up(&kind(agent), &stamp(*version), 10);
        assert!(pool.put(&kind(agent), Spare::of_nobody(stamp(*version))).is_none());
    }
}

fn asked(pool: &Pool, settings: &Settings) -> (bool, usize) {
    let (taken, old) = pool.take_one(&kind("a"), &stamp(1), settings);
    (taken.is_some(), old.len())
}

#[tokio::test]
async fn a_session_that_wants_nothing_but_a_model_gets_a_spare() {
    let pool = pool("a", &[1, 1, 1]);
    let usual = stamp(1).settings;
    assert_eq!(asked(&pool, &usual), (true, 0));
    let named = Settings { model: Some("another".to_owned()), ..usual.clone() };
    assert_eq!(asked(&pool, &named), (true, 0));
    for own in [
        Settings { system_prompt: Some("mine".to_owned()), ..usual.clone() },
        Settings { extra_env: [("A".to_owned(), "b".to_owned())].into(), ..usual.clone() },
        Settings { allowed_tools: vec!["Bash".to_owned()], ..usual.clone() },
    ] {
        assert_eq!(asked(&pool, &own), (false, 0), "{own:?}");
    }
    assert_eq!(pool.ready(), 1);
    assert_eq!(asked(&pool, &usual), (true, 0));
    assert_eq!(asked(&pool, &usual), (false, 0));
    assert_eq!(pool.ready(), 0);
}

#[tokio::test]
async fn who_cannot_be_served_wants_no_more_of_them() {
    let pool = pool("a", &[1]);
    pool.set_up(&kind("a"), &stamp(1), 1);
    let usual = stamp(1).settings;
    let own = Settings { system_prompt: Some("mine".to_owned()), ..usual.clone() };
    let ask_often = |settings: &Settings| {
        let served = (0..600).filter(|_| asked(&pool, settings).0).count();
        (served, pool.begin_one(&kind("a"), &stamp(1)).is_some())
    };
    assert_eq!(ask_often(&own), (0, false), "the one that is there is as many as are wanted");
    assert_eq!(ask_often(&usual), (1, true));
    // The one that was taken is being made anew, and they come faster than it can be.
    assert!(pool.begin_one(&kind("a"), &stamp(1)).is_some());
}

#[tokio::test]
async fn what_was_made_with_anything_else_serves_nobody() {
    let usual = stamp(1);
    for other in [
        Stamp { agent: AgentId::random(), ..usual.clone() },
        Stamp { version: 2, ..usual.clone() },
        stamp_under(|conditions| conditions.limits.memory = 1),
        stamp_under(|conditions| conditions.runtime = "/newer".into()),
        stamp_under(|conditions| conditions.key_epoch = 1),
        Stamp { day: Day::today(), ..usual.clone() },
        Stamp { settings: Settings::default(), ..usual.clone() },
    ] {
        let pool = pool("a", &[1]);
        let (taken, old) = pool.take_one(&kind("a"), &other, &other.settings);
        assert!(taken.is_none() && old.len() == 1, "{other:?}");
        assert_eq!(pool.ready(), 0);
    }
}

#[tokio::test]
async fn spares_are_of_one_tenant_and_one_agent() {
    let pool = pool("a", &[1]);
    let other = Kind { tenant: "other".parse().unwrap(), ..kind("a") };
    for kind in [kind("b"), other] {
        let (taken, old) = pool.take_one(&kind, &stamp(1), &stamp(1).settings);
        assert!(taken.is_none() && old.is_empty());
    }
    assert_eq!(pool.ready(), 1);
}

#[tokio::test]
async fn one_that_comes_too_late_is_given_back() {
    let pool = pool("a", &[1]);
    let late = || Spare::of_nobody(stamp(1));
    assert!(pool.put(&kind("b"), late()).is_some());
    pool.set_up(&kind("a"), &stamp(2), 10);
    assert!(pool.put(&kind("a"), late()).is_some());
    let lost = Spare::of_nobody(stamp(2));
    lost.lose();
    assert!(pool.put(&kind("a"), lost).is_none());
    assert_eq!(pool.ready(), 0);
    pool.close();
    assert!(pool.put(&kind("a"), Spare::of_nobody(stamp(2))).is_some());
}

#[tokio::test]
async fn what_is_old_or_too_much_comes_off_the_shelf() {
    let pool = pool("a", &[1, 1, 1]);
    assert_eq!(pool.set_up(&kind("a"), &stamp(1), 3).len(), 0);
    assert_eq!(pool.set_up(&kind("a"), &stamp(1), 2).len(), 1);
    assert_eq!(pool.set_up(&kind("a"), &stamp(2), 2).len(), 2);
    assert_eq!(pool.ready(), 0);
}

#[tokio::test]
async fn the_fullest_shelf_gives_one_away() {
    let pool = pool("a", &[1]);
    fill(&pool, "b", &[1, 1]);
    let left = |agent| pool.shelves()[&kind(agent)].spares.len();
    assert!(pool.spare_one().is_some());
    assert_eq!((left("a"), left("b"), pool.ready()), (1, 1, 2));
    assert_eq!(pool.clear(|kind| kind.agent.as_str() == "b").len(), 1);
    assert!(pool.spare_one().is_some() && pool.spare_one().is_none());
    assert_eq!(pool.ready(), 0);
}

#[tokio::test]
async fn their_uids_are_for_whoever_needs_some() {
    let stage = Stage::set().await;
    let shared = &stage.shared;
    let slots: Vec<u32> = std::iter::from_fn(|| shared.take_slot().ok()).collect();
    shared.pool.set_up(&kind("a"), &stamp(1), 10);
    for slot in &slots[..2] {
        let spare = Spare::with_slot(shared, *slot, stamp(1));
        assert!(shared.pool.put(&kind("a"), spare).is_none());
    }
    let taken = shared.take_any_slot().await.unwrap();
    assert!(slots[..2].contains(&taken) && shared.pool.ready() == 1);
    // There is one left for two.
    let (one, other) = tokio::join!(shared.take_any_slot(), shared.take_any_slot());
    assert!(one.is_ok() && matches!(other, Err(NoRoom { want: Want::Uids, .. })));
    assert_eq!(shared.metrics().refused.of(Want::Uids).get(), 0, "somebody else's may do");
    assert_eq!((shared.pool.ready(), shared.slots.used().len()), (0, slots.len()));
}

#[tokio::test]
async fn as_many_are_made_as_are_missing() {
    let pool = pool("a", &[1]);
    pool.set_up(&kind("a"), &stamp(1), 3);
    let begun = (0..5).filter(|_| pool.begin_one(&kind("a"), &stamp(1)).is_some()).count();
    assert_eq!((begun, pool.all()), (2, 3));
    pool.end_one(&kind("a"), End::Made(SECOND), Instant::now());
    assert!(
        pool.begin_one(&kind("a"), &stamp(1)).is_some()
            && pool.begin_one(&kind("a"), &stamp(1)).is_none()
    );
    assert!(pool.begin_one(&kind("b"), &stamp(1)).is_none());
}

#[tokio::test]
async fn nobody_gets_a_second_one_before_everybody_has_one() {
    let pool = pool("a", &[1, 1]);
    pool.set_up(&kind("b"), &stamp(1), 2);
    for expected in ["b", "b", "a"] {
        let poorest = pool.poorest(false, |_| true).unwrap();
        assert_eq!(poorest, kind(expected));
        // What is being made is as good as there.
        assert!(pool.begin_one(&poorest, &stamp(1)).is_some());
    }
    assert!(pool.begin_one(&kind("a"), &stamp(2)).is_none(), "it is not of this shelf");
    drop(pool.clear(|_| true));
    assert_eq!(pool.poorest(false, |_| true), None);
}

/// However many agents one of them has.
#[tokio::test]
async fn tenants_have_equal_parts() {
    let pool = Pool::default();
    let all = ["a", "b", "c"].map(kind).into_iter();
    let all: Vec<Kind> = all.chain([of("other", "a"), of("other", "b")]).collect();
    for kind in &all[..3] {
        pool.set_up(kind, &stamp(1), 1);
        assert!(pool.put(kind, Spare::of_nobody(stamp(1))).is_none());
    }
    assert_eq!(pool.poorest(true, |_| true), None);
    for (kind, count) in all[3..].iter().zip([2, 1]) {
        pool.set_up(kind, &stamp(1), count);
    }
    // Of three and none one goes; of two and one none.
    let next = || pool.poorest(true, |_| true);
    assert_eq!(next(), Some(all[3].clone()));
    assert_eq!(pool.give_to(&all[4]).map(|spare| spare.stamp), Some(stamp(1)));
    assert_eq!(pool.poorest(false, |_| true), Some(all[3].clone()));
    assert!(pool.begin_one(&all[4], &stamp(1)).is_some());
    assert!(next().is_none() && pool.give_to(&all[3]).is_none());
    // Where there is room again, the tenant that has fewest is next, and its agent that has none.
    assert_eq!(pool.poorest(false, |_| true), Some(all[3].clone()));
    assert_eq!(pool.poorest(false, |kind| kind.tenant == Tenant::default()), Some(kind("c")));
    // Whoever needs room has one of whoever has most.
    assert!(pool.spare_one().is_some());
    assert_eq!((pool.ready(), pool.all()), (1, 2));
}

#[tokio::test]
async fn who_has_as_many_sandboxes_as_it_may_gets_none() {
    let stage = Stage::set().await;
    let (shared, ours) = (&stage.shared, kind("a").owner());
    let may_have = |kind: Kind| shared.exceeding(&kind.owner(), 1).is_none();
    let limit = |tenant, agent| {
        let mut live = shared.live.write().unwrap();
        live.admission.max_per_tenant = tenant;
        live.admission.max_per_agent = agent;
    };
    let session = shared.gates.owners.count(&ours);
    assert!(may_have(kind("a")), "any number may be");
    limit(3, 2);
    assert!(may_have(kind("a")) && may_have(kind("b")));
    let spare = shared.gates.spares.count(&ours);
    assert!(!may_have(kind("a")) && may_have(kind("b")));
    let other = shared.gates.spares.count(&kind("b").owner());
    assert!(!may_have(kind("b")) && may_have(of("other", "a")));
    drop((session, spare));
    assert!(may_have(kind("a")) && may_have(kind("b")));
    drop(other);
    assert!(shared.gates.spares.is_empty());
}

/// A spare of this tenant's agent is on its shelf, and counts.
fn with_counted(stage: &Stage, kind: &Kind) {
    let shared = &stage.shared;
    shared.pool.set_up(kind, &stamp(1), 9);
    let spare = Spare::counted(stamp(1), shared.gates.spares.count(&kind.owner()));
    assert!(shared.pool.put(kind, spare).is_none());
}

#[tokio::test]
async fn no_session_waits_because_of_spares_of_its_own() {
    let stage = Stage::set().await;
    let shared = &stage.shared;
    shared.live.write().unwrap().admission.max_per_tenant = 2;
    let all = [kind("a"), kind("a"), of("other", "a")];
    all.iter().for_each(|kind| with_counted(&stage, kind));
    let spares = |kind: &Kind| shared.gates.spares.of(&kind.owner()).agent;
    // Those that keep it from its limit go, and nobody else's.
    let first = shared.enter(kind("b").owner(), None).now_or_never().unwrap().unwrap();
    assert_eq!((spares(&all[0]), spares(&all[2])), (1, 1));
    let second = shared.enter(kind("b").owner(), None).now_or_never().unwrap().unwrap();
    assert_eq!((spares(&all[0]), spares(&all[2]), shared.pool.ready()), (0, 1, 1));
    drop((first, second));
}

#[tokio::test]
async fn who_has_more_than_its_part_gives_to_whoever_lacks_one() {
    let pool = pool("a", &[1, 1, 1, 1]);
    let there = || ["a", "b", "c"].map(|agent| pool.shelves().get(&kind(agent)).map(Shelf::there));
    let give = |agent| {
        let is_given = pool.give_to(&kind(agent)).is_some();
        is_given && pool.begin_one(&kind(agent), &stamp(1)).is_some()
    };
    assert!(!give("a") && !give("b"), "nobody else wants any");
    pool.set_up(&kind("b"), &stamp(1), 10);
    assert!(give("b"));
    assert_eq!(there(), [Some(3), Some(1), None]);
    assert!(give("b"));
    assert!(!give("b") && !give("a"), "they have equally many");
    assert_eq!(there(), [Some(2), Some(2), None]);
    pool.set_up(&kind("c"), &stamp(1), 10);
    assert!(give("c"));
    // Of two and one none is better off.
    assert!(!give("c") && !give("a"));
    assert_eq!((there(), pool.all()), ([Some(1), Some(2), Some(1)], 4));
}

#[tokio::test]
async fn failures_are_followed_by_longer_and_longer_pauses() {
    let pool = Pool::default();
    pool.set_up(&kind("a"), &stamp(1), 1);
    let now = Instant::now();
    let mut pauses = vec![];
    for _ in 0..10 {
        assert!(pool.begin_one(&kind("a"), &stamp(1)).is_some());
        pool.end_one(&kind("a"), End::Failed, now);
        assert!(pool.begin_one(&kind("a"), &stamp(1)).is_none(), "it rests");
        let until = pool.shelves().get_mut(&kind("a")).unwrap().rests_until.take();
        pauses.push(until.unwrap().duration_since(now).as_secs());
    }
    assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    // That there is no room says nothing of the agent.
    for _ in 0..2 {
        assert!(pool.begin_one(&kind("a"), &stamp(1)).is_some());
        pool.end_one(&kind("a"), End::NoRoom, now);
        let until = pool.shelves().get_mut(&kind("a")).unwrap().rests_until.take();
        assert_eq!(until.unwrap().duration_since(now), PAUSE);
    }
    // Something else may go well at once.
    pool.end_one(&kind("a"), End::Failed, now);
    pool.set_up(&kind("a"), &stamp(2), 1);
    assert!(pool.begin_one(&kind("a"), &stamp(2)).is_some());
}

#[tokio::test]
async fn so_is_the_loss_of_those_that_could_be_made() {
    let pool = Pool::default();
    pool.set_up(&kind("a"), &stamp(1), 1);
    let pause = |pool: &Pool| {
        let until = pool.shelves().get_mut(&kind("a")).unwrap().rests_until.take();
        until.map(|until| until.duration_since(Instant::now()).as_secs_f64().round())
    };
    for expected in [2.0, 4.0, 8.0] {
        let spare = Spare::of_nobody(stamp(1));
        let lost = Session { agent: kind("a").agent, id: spare.id, ..Session::example(1) };
        assert!(
            pool.begin_one(&kind("a"), &stamp(1)).is_some()
                && pool.put(&kind("a"), spare).is_none()
        );
        pool.end_one(&kind("a"), End::Made(SECOND), Instant::now());
        pool.lost(&lost);
        assert_eq!((pause(&pool), pool.ready()), (Some(expected), 0));
    }
    // One that a session has taken was good for something.
    fill(&pool, "a", &[1]);
    assert_eq!(asked(&pool, &stamp(1).settings), (true, 0));
    pool.lost(&Session { agent: kind("a").agent, ..Session::example(1) });
    assert_eq!(pause(&pool), Some(2.0));
}

/// Has another one fail that is made for "b", and its pause pass; returns for how many seconds nobody gives
/// one for it.
fn fail(pool: &Pool) -> Option<u64> {
    let now = Instant::now();
    assert!(pool.begin_one(&kind("b"), &stamp(1)).is_some());
    pool.end_one(&kind("b"), End::Failed, now);
    let mut shelves = pool.shelves();
    let shelf = shelves.get_mut(&kind("b")).unwrap();
    shelf.rests_until = None;
    shelf.doubted_until.map(|until| until.duration_since(now).as_secs())
}

#[tokio::test]
async fn nobody_gives_one_for_those_that_cannot_be_made() {
    let pool = pool("a", &[1, 1, 1, 1]);
    pool.set_up(&kind("a"), &stamp(1), 4);
    pool.set_up(&kind("b"), &stamp(1), 1);
    let next = || (pool.poorest(false, |_| true), pool.poorest(true, |_| true));
    let (none, b) = (None, Some(kind("b")));
    assert_eq!(next(), (b.clone(), b.clone()), "nobody knows that it cannot");
    let doubts: Vec<_> = (0..10).map_while(|_| fail(&pool)).collect();
    assert_eq!(doubts, [24, 48, 96, 192, 384, 768, 1536, 3072, 3600, 3600]);
    assert_eq!(next(), (b.clone(), none.clone()), "it may be tried where there is room");
    // That holds up nobody else, who also has the room that is made for it.
    pool.set_up(&kind("c"), &stamp(1), 1);
    assert_eq!(next(), (Some(kind("c")), Some(kind("c"))));
    // Also when it has one.
    assert!(pool.put(&kind("c"), Spare::of_nobody(stamp(1))).is_none());
    pool.set_up(&kind("c"), &stamp(1), 2);
    assert_eq!(next(), (Some(kind("c")), Some(kind("c"))));
    drop(pool.clear(|kind| kind.agent.as_str() == "c"));
    // It is tried once more when that was long ago, and when what was wrong may be mended.
    pool.shelves().get_mut(&kind("b")).unwrap().doubted_until = Some(Instant::now());
    assert_eq!(next(), (b.clone(), b.clone()));
    fail(&pool);
    pool.set_up(&kind("b"), &stamp(2), 1);
    assert_eq!(next(), (b.clone(), b.clone()));
    // One that a session has taken was good for something, one that could be made may be lost at once.
    pool.set_up(&kind("b"), &stamp(1), 2);
    fail(&pool);
    assert!(pool.put(&kind("b"), Spare::of_nobody(stamp(1))).is_none());
    assert_eq!(next(), (b.clone(), none));
    assert!(pool.take_one(&kind("b"), &stamp(1), &stamp(1).settings).0.is_some());
    assert_eq!(next(), (b.clone(), b));
}

#[tokio::test]
async fn without_a_shelf_nobody_looks_for_one() {
    let stage = Stage::set().await;
    assert!(!stage.shared.make_place());
    stage.shared.close_pool().await;
    assert!(stage.shared.pool.set_up(&kind("a"), &stamp(1), 1).is_empty());
    assert!(stage.shared.pool.shelves().is_empty());
}
