use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use serde_json::json;
use tokio::sync::oneshot;

use super::*;
use crate::domain::{AgentConfig, AgentId, Day, SessionId, Timestamp};
use crate::sandbox::pressure::Pressure;
use crate::session::stage::Stage;

/// An agent for which one is to be kept.
fn agent(tenant: &str) -> Agent {
    let config = json!({ "preWarmCount": 1 });
    Agent {
        id: AgentId::random(),
        tenant: tenant.parse().unwrap(),
        name: "a".parse().unwrap(),
        version: 1,
        env: BTreeMap::new(),
        config: AgentConfig::new("", config.as_object().unwrap().clone()).unwrap(),
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
    }
}

/// An agent for which one is to be kept, its shelf's kind, and what spares are made with.
async fn set() -> (Stage, Agent, Kind, Stamp) {
    let (stage, agent) = (Stage::set().await, agent("ours"));
    let stamp = stage.shared.stamp(&agent).unwrap();
    let kind = Kind::of(&agent);
    (stage, agent, kind, stamp)
}

#[tokio::test]
async fn none_are_kept_for_a_tenant_that_is_being_deleted() {
    let stage = Stage::set().await;
    let (stays, goes) = (agent("stays"), agent("goes"));
    for agent in [&stays, &goes] {
        stage.shared.store.deploy(agent.clone()).await.unwrap();
    }
    let mut keeper = Keeper::new(stage.shared.clone());
    keeper.read_all().await;
    assert_eq!(keeper.agents.len(), 2);
    stage.shared.store.leave_tenant(&goes.tenant).await.unwrap();
    keeper.read_all().await;
    assert!(keeper.agents.keys().eq([&Kind::of(&stays)]));
    keeper.read(Kind::of(&goes)).await;
    assert_eq!(keeper.agents.len(), 1);
}

#[tokio::test]
async fn one_that_was_deployed_anew_is_not_gone() {
    let stage = Stage::set().await;
    let agent = agent("ours");
    let Kind { tenant, agent: name } = Kind::of(&agent);
    stage.shared.store.deploy(agent.clone()).await.unwrap();
    let mut keeper = Keeper::new(stage.shared.clone());
    let mut happened = stage.shared.happened.subscribe();
    let deleted = || Ok(Happened::AgentDeleted(tenant.clone(), name.clone()));
    assert!(keeper.heard(deleted(), &mut happened).await);
    assert_eq!(keeper.agents.len(), 1);
    let other = Happened::SessionCreated(tenant.clone(), SessionId::random());
    assert!(!keeper.heard(Ok(other), &mut happened).await);
    stage.shared.store.delete_agent(&agent.tenant, &agent.name).await.unwrap();
    keeper.heard(deleted(), &mut happened).await;
    assert!(keeper.agents.is_empty());
}

#[tokio::test]
async fn what_they_are_made_with_is_found_out_when_it_may_have_changed() {
    let (stage, agent, kind, _) = set().await;
    let shared = &stage.shared;
    shared.store.deploy(agent.clone()).await.unwrap();
    let mut keeper = Keeper::new(shared.clone());
    keeper.read_all().await;
    let stamp = |keeper: &mut Keeper| {
        keeper.stamp_all();
        keeper.agents[&kind].stamp.clone()
    };
    let first = stamp(&mut keeper);
    assert_eq!(first, shared.stamp(&agent).ok());
    // Whoever changes an agent says so.
    let next = Agent { version: 2, ..agent };
    keeper.agents.get_mut(&kind).unwrap().agent = next.clone();
    assert_eq!(stamp(&mut keeper), first, "it is asked each time");
    shared.store.deploy(next.clone()).await.unwrap();
    keeper.read(kind.clone()).await;
    let second = stamp(&mut keeper);
    assert!(second != first && second == shared.stamp(&next).ok());
    shared.sandboxes.change_key();
    let third = stamp(&mut keeper);
    assert!(third != second && third == shared.stamp(&next).ok());
}

#[tokio::test]
async fn an_agent_whose_sessions_cannot_be_made_has_no_shelf() {
    let (stage, agent, kind, stamp) = set().await;
    let shared = &stage.shared;
    shared.pool.set_up(&kind, &stamp, 1);
    let mut keeper = Keeper::new(shared.clone());
    // More than can be passed to a program.
    let env = BTreeMap::from([("A".to_owned(), "x".repeat(2 << 20))]);
    keeper.agents.insert(kind.clone(), Wanting::new(Agent { env, ..agent }));
    assert_eq!(shared.pool.poorest(false, |_| true), Some(kind.clone()));
    keeper.see_to_all();
    assert!(!shared.pool.has_shelf(&kind) && shared.pool.poorest(false, |_| true).is_none());
}

#[tokio::test]
async fn none_are_begun_before_the_keeper_knows_who_is_gone() {
    let (stage, agent, kind, stamp) = set().await;
    let shared = &stage.shared;
    shared.store.deploy(agent.clone()).await.unwrap();
    let mut keeper = Keeper::new(shared.clone());
    keeper.read_all().await;
    shared.throw_away_of(&agent.tenant, Some(&agent.name)).await;
    // What it knows is of before.
    shared.pool.set_up(&kind, &stamp, 1);
    assert!(shared.pool.is_in_doubt() && shared.pool.begin_one(&kind, &stamp).is_none());
    keeper.read_all().await;
    shared.pool.set_up(&kind, &stamp, 1);
    assert!(!shared.pool.is_in_doubt() && shared.pool.begin_one(&kind, &stamp).is_some());
}

/// How many have ended for this.
fn ended(stage: &Stage, why: SpareEnd) -> u64 {
    stage.shared.metrics().spares_ended.of(why).get()
}

#[tokio::test]
async fn those_that_serve_nobody_any_more_are_counted_by_why() {
    let (stage, agent, kind, stamp) = set().await;
    let pool = &stage.shared.pool;
    let old = Stamp { version: 0, ..stamp.clone() };
    pool.set_up(&kind, &old, 1);
    assert!(pool.put(&kind, Spare::of_nobody(old)).is_none());
    let mut keeper = Keeper::new(stage.shared.clone());
    keeper.agents.insert(kind.clone(), Wanting::new(agent));
    keeper.see_to_all();
    assert_eq!(ended(&stage, SpareEnd::Outdated), 1);
    for _ in 0..2 {
        assert!(pool.put(&kind, Spare::of_nobody(stamp.clone())).is_none());
    }
    keeper.see_to_all();
    assert_eq!((ended(&stage, SpareEnd::Surplus), pool.ready()), (1, 1));
    keeper.agents.clear();
    keeper.see_to_all();
    assert_eq!((ended(&stage, SpareEnd::Gone), pool.ready()), (1, 0));
    assert_eq!(ended(&stage, SpareEnd::Outdated), 1);
}

#[tokio::test]
async fn one_that_cannot_be_made_is_counted() {
    let (stage, agent, kind, stamp) = set().await;
    let shared = &stage.shared;
    shared.pool.set_up(&kind, &stamp, 1);
    let keeper = Keeper::new(shared.clone());
    let start = keeper.start(&kind, false).unwrap();
    let gone = shared.pool.begin_one(&kind, &stamp).unwrap();
    // Its agent has no folder.
    begin(shared.clone(), agent, (stamp, gone), start).await;
    assert_eq!(ended(&stage, SpareEnd::Failed), 1);
}

/// How long it takes the keeper to look again, when it is told to.
async fn pause(keeper: &mut Keeper, tick: &mut Interval) -> Duration {
    let (begun, mut happened) = (Instant::now(), keeper.shared.happened.subscribe());
    keeper.shared.pool.look_again();
    keeper.wait(&mut happened, tick).await;
    keeper.give_way().await;
    begun.elapsed()
}

#[tokio::test]
async fn only_behind_one_that_was_taken_the_next_waits() {
    let (stage, _, kind, stamp) = set().await;
    let pool = &stage.shared.pool;
    let mut keeper = Keeper::new(stage.shared.clone());
    tokio::time::pause();
    let mut tick = interval(EVERY);
    tick.tick().await;
    pool.set_up(&kind, &stamp, 1);
    assert!(pool.put(&kind, Spare::of_nobody(stamp.clone())).is_none());
    assert_eq!(pause(&mut keeper, &mut tick).await, Duration::ZERO);
    assert!(pool.take_one(&kind, &stamp, &stamp.settings).0.is_some());
    let behind = pause(&mut keeper, &mut tick).await;
    assert!((FIRST..2 * FIRST).contains(&behind), "{behind:?}");
    // Who finds none takes none.
    assert!(pool.take_one(&kind, &stamp, &stamp.settings).0.is_none());
    assert_eq!(pause(&mut keeper, &mut tick).await, Duration::ZERO);
}

#[tokio::test]
async fn another_key_is_noticed_at_once() {
    let stage = Stage::set().await;
    let mut keeper = Keeper::new(stage.shared.clone());
    let mut happened = stage.shared.happened.subscribe();
    tokio::time::pause();
    let mut tick = interval(EVERY);
    tick.tick().await;
    let begun = Instant::now();
    stage.shared.sandboxes.change_key();
    keeper.wait(&mut happened, &mut tick).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    keeper.wait(&mut happened, &mut tick).await;
    assert!(begun.elapsed() >= EVERY, "it was noticed twice");
}

#[tokio::test]
async fn they_are_made_slowly_while_what_runs_lacks_processors_or_disks() {
    let (stage, _, kind, _) = set().await;
    let shared = &stage.shared;
    shared.live.write().unwrap().admission.launches = 4;
    shared.fit_gates();
    let mut keeper = Keeper::new(shared.clone());
    let starts = |keeper: &Keeper| {
        let both = [keeper.start(&kind, false), keeper.start(&kind, false)];
        both.iter().flatten().count()
    };
    keeper.begun_at = Some(Instant::now());
    assert_eq!((starts(&keeper), keeper.held_back_until()), (AT_ONCE, None));
    for (cpu, io) in [(true, false), (false, true)] {
        shared.sandboxes.press(Pressure { cpu, io, memory: false });
        assert_eq!(starts(&keeper), 1);
    }
    tokio::time::pause();
    let (begun, mut happened) = (Instant::now(), shared.happened.subscribe());
    let mut tick = interval(EVERY);
    tick.tick().await;
    keeper.begun_at = Some(begun);
    assert!(keeper.held_back_until().is_some());
    keeper.wait(&mut happened, &mut tick).await;
    assert!((SLOWLY..EVERY).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!(keeper.held_back_until(), None);
}

#[tokio::test]
async fn nobody_waits_for_long_for_one_that_is_slow() {
    let (stage, _, kind, _) = set().await;
    let shared = &stage.shared;
    shared.live.write().unwrap().admission.launches = 4;
    shared.fit_gates();
    let keeper = Keeper::new(shared.clone());
    let permit = || keeper.start(&kind, false).map(|start| start.permit);
    tokio::time::pause();
    let (one, other) = (permit().unwrap(), permit().unwrap());
    assert!(permit().is_none());
    assert_eq!(with_permit(shared, other, async { 1 }).await, 1);
    assert!(permit().is_some());
    let _ = shared.pool.stirred().now_or_never();
    let making = with_permit(shared, one, pending::<()>());
    assert!(timeout(2 * LONG, making).await.is_err());
    assert_eq!(keeper.at_once.available_permits(), AT_ONCE);
    assert!(shared.pool.stirred().now_or_never().is_some(), "the keeper is not told");
}

#[tokio::test]
async fn one_counts_from_before_it_is_made() {
    let (stage, agent, kind, stamp) = set().await;
    let shared = &stage.shared;
    shared.live.write().unwrap().admission.max_per_tenant = 1;
    shared.pool.set_up(&kind, &stamp, 2);
    let mut keeper = Keeper::new(shared.clone());
    keeper.agents.insert(kind.clone(), Wanting::new(agent.clone()));
    let start = keeper.start(&kind, false).unwrap();
    let gone = shared.pool.begin_one(&kind, &stamp).unwrap();
    assert!(keeper.next().is_none(), "it is as many as may be");
    // It cannot be made: its agent has no folder.
    begin(shared.clone(), agent, (stamp.clone(), gone), start).await;
    assert!(shared.gates.spares.is_empty());
    // What is there when there may be fewer goes.
    for _ in 0..2 {
        let spare = Spare::counted(stamp.clone(), shared.gates.spares.count(&kind.owner()));
        assert!(shared.pool.put(&kind, spare).is_none());
    }
    keeper.is_known = true;
    keeper.ticked().await;
    assert_eq!(shared.gates.spares.of(&kind.owner()).tenant, 1);
}

/// Which day it is there, nobody else can tell.
#[tokio::test]
async fn none_are_made_for_an_agent_whose_time_zone_is_not_known() {
    let (stage, agent, kind, stamp) = set().await;
    let shared = &stage.shared;
    shared.pool.set_up(&kind, &stamp, 1);
    let mut keeper = Keeper::new(shared.clone());
    let env = BTreeMap::from([("TZ".to_owned(), "Nowhere/Else".to_owned())]);
    keeper.agents.insert(kind.clone(), Wanting::new(Agent { env, ..agent }));
    keeper.see_to_all();
    assert!(!shared.pool.has_shelf(&kind));
}

#[tokio::test]
async fn the_next_day_is_found_out() {
    let (stage, agent, kind, stamp) = set().await;
    let mut keeper = Keeper::new(stage.shared.clone());
    let old = Stamp { day: Day::default(), ..stamp };
    keeper.agents.insert(kind.clone(), Wanting { agent, stamp: Some(old) });
    keeper.stamp_all();
    assert_ne!(keeper.agents[&kind].stamp.as_ref().unwrap().day, Day::default());
}

#[tokio::test]
async fn no_place_is_held_while_the_one_that_was_given_ends() {
    let (stage, agent, kind, stamp) = set().await;
    let shared = &stage.shared;
    let rich = Kind { tenant: "rich".parse().unwrap(), ..kind.clone() };
    let (until, ends) = oneshot::channel();
    shared.pool.set_up(&rich, &stamp, 2);
    // As many as may be. The newest is given.
    for spare in [Spare::of_nobody(stamp.clone()), Spare::that_lasts(stamp.clone(), ends)] {
        assert!(shared.pool.put(&rich, spare).is_none());
    }
    shared.pool.set_up(&kind, &stamp, 1);
    let keeper = Keeper::new(shared.clone());
    let there = || (shared.pool.all(), shared.admitted().launches.taken);
    let start = keeper.start(&kind, true).unwrap();
    let gone = shared.pool.begin_one(&kind, &stamp).unwrap();
    assert_eq!(ended(&stage, SpareEnd::Capacity), 1);
    let mut going = Box::pin(begin(shared.clone(), agent, (stamp, gone), start));
    assert!(going.as_mut().now_or_never().is_none());
    assert_eq!(there(), (2, 0), "nobody else may have its room, and everybody its place");
    drop(until);
    going.await;
    assert_eq!((there(), shared.pool.poorest(false, |_| true)), ((1, 0), Some(kind.clone())));
    let start = keeper.start(&kind, false).unwrap();
    assert!(matches!(start.step, Step::Make(_)));
    assert_eq!(there(), (1, 1));
}

#[tokio::test]
async fn whoever_has_them_go_waits_for_those_that_are_being_made() {
    let (stage, agent, kind, stamp) = set().await;
    let shared = &stage.shared;
    shared.pool.set_up(&kind, &stamp, 1);
    let making = shared.pool.there.begin(kind.clone());
    let gone = shared.pool.begin_one(&kind, &stamp).unwrap();
    let mut going = Box::pin(shared.throw_away_of(&agent.tenant, None));
    assert!(going.as_mut().now_or_never().is_none());
    assert!(gone.is_cancelled(), "it is not told");
    drop(making);
    going.await;
    shared.close_pool().await;
}
