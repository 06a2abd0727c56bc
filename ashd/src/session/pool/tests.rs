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

/// A spare of an agent that is deployed, and the far end of its link.
async fn with_spare(stage: &Stage) -> UnixStream {
    with_spare_of(stage, AgentConfig::default()).await
}

/// The same, of an agent with this config.
async fn with_spare_of(stage: &Stage, config: AgentConfig) -> UnixStream {
    let agent = Agent {
        id: AgentId::random(),
        tenant: Tenant::default(),
        name: kind("a").agent,
        version: 1,
        env: BTreeMap::new(),
        config,
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
    };
    stage.shared.store.deploy(agent.clone()).await.unwrap();
    with_spare_for(stage, &agent, 1).await
}

/// Puts a spare on the shelf of an agent, whose session has the id of this example.
async fn with_spare_for(stage: &Stage, of: &Agent, number: u128) -> UnixStream {
    let (shared, (running, bridge)) = (&stage.shared, linked().await);
    let (stamp, slot) = (shared.stamp(of).unwrap(), shared.take_slot().unwrap());
    let (agent, slot, sandbox) = (of.name.clone(), Some(slot), running.id);
    let agent_version = of.version;
    let session = Session { agent, agent_version, slot, sandbox, ..Session::example(number) };
    shared.pool.set_up(&kind("a"), &stamp, 1);
    assert!(shared.pool.put(&kind("a"), Spare::of(shared, stamp, session, running)).is_none());
    bridge
}

/// Asks for a session of that agent.
async fn ask(stage: &Stage) -> Result<SessionId, Refusal> {
    ask_for(stage, Settings::default()).await
}

/// The same, with these settings.
async fn ask_for(stage: &Stage, settings: Settings) -> Result<SessionId, Refusal> {
    let caller = Caller { tenant: Tenant::default(), scope: Scope::Run };
    let new = NewSession { agent: kind("a").agent, settings };
    stage.service.create(&caller, new).await.map(|view| view.session.id)
}

/// Sessions that are recorded.
async fn recorded(stage: &Stage) -> Vec<SessionId> {
    let store = &stage.shared.store;
    let (all, _) = store.sessions(&Tenant::default(), SessionFilter::default()).await.unwrap();
    all.iter().map(|session| session.id).collect()
}

#[tokio::test]
async fn one_becomes_the_session_of_whoever_asks() {
    let stage = Stage::set().await;
    let (shared, _bridge) = (&stage.shared, with_spare(&stage).await);
    let id = ask(&stage).await.unwrap();
    assert_eq!((id, recorded(&stage).await), (Session::example(1).id, vec![id]));
    assert!(shared.registry.handle(id).is_some() && shared.making.all().is_empty());
    assert_eq!((shared.pool.ready(), shared.pool.hits()), (0, 1));
    // It counts from then on, and once.
    let has = shared.gates.owners.of(&(Tenant::default(), kind("a").agent));
    assert_eq!((has.tenant, has.agent), (1, 1));
}

#[tokio::test]
async fn who_names_what_is_usual_anyway_gets_one() {
    let stage = Stage::set().await;
    let (shared, _bridge) = (&stage.shared, with_spare(&stage).await);
    // Another one cannot be made: its agent has no folder.
    assert!(ask_for(&stage, of_mode(PermissionMode::Plan)).await.is_err());
    assert_eq!(shared.pool.ready(), 1);
    let usual = of_mode(shared.options.cli.permission_mode);
    let id = ask_for(&stage, usual.clone()).await.unwrap();
    assert_eq!((id, shared.pool.hits()), (Session::example(1).id, 1));
    let session = shared.store.session(id).await.unwrap().unwrap();
    assert_eq!(session.settings, usual, "it is shown as it was asked for");
}

/// Of a CLI that was started to ask before it does anything.
async fn with_one_that_asks(stage: &Stage) -> UnixStream {
    let config = json!({ "permissionMode": "default" });
    with_spare_of(stage, AgentConfig::new("", config.as_object().unwrap().clone()).unwrap()).await
}

fn of_mode(mode: PermissionMode) -> Settings {
    Settings { permission_mode: Some(mode), ..Settings::default() }
}

/// Answers what the CLI is told, as a bridge would; returns that.
async fn answer(bridge: &mut UnixStream, error: Option<&str>) -> Value {
    let mut head = [0; HEADER];
    bridge.read_exact(&mut head).await.unwrap();
    let header = Header::decode(&head).unwrap();
    let mut request = vec![0; header.body];
    bridge.read_exact(&mut request).await.unwrap();
    assert_eq!(header.kind, frame::Kind::Control);
    let reply = ControlReply { response: None, error: error.map(str::to_owned) };
    let (reply, mut said) = (serde_json::to_vec(&reply).unwrap(), vec![]);
    frame::write(&mut said, frame::Kind::ControlReply, header.number, &reply).unwrap();
    bridge.write_all(&said).await.unwrap();
    serde_json::from_slice(&request).unwrap()
}

#[tokio::test]
async fn who_wants_another_mode_gets_one_that_was_told() {
    for error in [None, Some("no such mode")] {
        let stage = Stage::set().await;
        let (shared, mut bridge) = (&stage.shared, with_one_that_asks(&stage).await);
        let wanted = of_mode(PermissionMode::AcceptEdits);
        let (made, told) =
            tokio::join!(ask_for(&stage, wanted.clone()), answer(&mut bridge, error));
        assert_eq!(told, json!({ "subtype": "set_permission_mode", "mode": "acceptEdits" }));
        // Another one cannot be made: its agent has no folder.
        assert_eq!(made.is_ok(), error.is_none());
        shared.making.wait_for(|_| true).await;
        assert_eq!((shared.pool.ready(), shared.pool.hits()), (0, u64::from(made.is_ok())));
        assert_eq!(shared.slots.used().is_empty(), made.is_err());
        if let Ok(id) = made {
            let session = shared.store.session(id).await.unwrap().unwrap();
            assert_eq!(session.settings, wanted);
        }
    }
}

#[tokio::test]
async fn one_that_does_not_say_in_which_mode_it_is_goes() {
    let stage = Stage::set().await;
    let (shared, _bridge) = (&stage.shared, with_one_that_asks(&stage).await);
    tokio::time::pause();
    assert!(ask_for(&stage, of_mode(PermissionMode::DontAsk)).await.is_err());
    shared.making.wait_for(|_| true).await;
    assert_eq!((shared.pool.ready(), shared.pool.hits()), (0, 0));
    assert!(shared.slots.used().is_empty() && recorded(&stage).await.is_empty());
    assert_eq!(ended(&stage), [0, 1, 0, 0, 0, 0]);
}

#[tokio::test]
async fn the_end_of_one_that_cannot_be_had_is_not_waited_for() {
    let stage = Stage::set().await;
    let (shared, mut bridge) = (&stage.shared, with_one_that_asks(&stage).await);
    let agent = shared.store.agent(&Tenant::default(), &kind("a").agent).await.unwrap().unwrap();
    let wanted = create::settled(&agent, of_mode(PermissionMode::AcceptEdits)).unwrap();
    let taking = shared.take_spare(&agent, &wanted);
    let (taken, _) = tokio::join!(taking, answer(&mut bridge, Some("no such mode")));
    assert!(taken.is_none() && shared.making.has(|_| true), "it was waited for");
    // Whoever deletes its agent does wait.
    shared.throw_away_of(&Tenant::default(), Some(&kind("a").agent)).await;
    assert!(shared.slots.used().is_empty() && shared.making.all().is_empty());
}

#[tokio::test]
async fn nor_is_that_of_one_that_was_lost() {
    let stage = Stage::set().await;
    let (shared, (running, bridge)) = (&stage.shared, linked().await);
    let slot = shared.take_slot().unwrap();
    let session = Session { slot: Some(slot), ..Session::example(1) };
    let spare = Spare::of(shared, stamp(1), session, running);
    drop(bridge);
    let lost = async {
        while !spare.is_lost() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(20 * SECOND, lost).await.unwrap();
    let taken = spare.take().now_or_never();
    assert!(taken.is_some_and(|taken| taken.is_none()), "it is waited for");
    shared.pool.there.wait_for(|_| true).await;
    assert!(shared.slots.used().is_empty() && shared.making.all().is_empty());
}

/// Else a session would be refused where one is about to make room.
#[tokio::test]
async fn but_its_room_is_where_there_is_no_other() {
    let stage = Stage::set().await;
    let shared = &stage.shared;
    let room = || shared.room(SandboxId::random());
    let mut taken = vec![];
    for _ in 0..shared.options.max_sandboxes {
        taken.push(room().await.ok().unwrap());
    }
    let going = shared.pool.going.begin(SessionId::random());
    let mut waiting = Box::pin(room());
    assert!(waiting.as_mut().now_or_never().is_none());
    taken.pop();
    drop(going);
    assert!(waiting.await.is_ok());
}

#[tokio::test]
async fn who_wants_a_mode_that_is_not_told_gets_none() {
    let stage = Stage::set().await;
    let (shared, _bridge) = (&stage.shared, with_one_that_asks(&stage).await);
    for mode in [PermissionMode::Plan, PermissionMode::BypassPermissions] {
        assert!(ask_for(&stage, of_mode(mode)).await.is_err());
    }
    assert_eq!((shared.pool.ready(), shared.pool.hits()), (1, 0));
}

#[tokio::test]
async fn one_of_before_another_key_serves_nobody() {
    let stage = Stage::set().await;
    let (shared, _bridge) = (&stage.shared, with_spare(&stage).await);
    shared.sandboxes.change_key();
    // Another one cannot be made: its agent has no folder.
    assert!(ask(&stage).await.is_err());
    assert_eq!((shared.pool.ready(), shared.pool.hits()), (0, 0));
    assert_eq!(ended(&stage), [0, 0, 0, 1, 0, 0]);
}

#[tokio::test]
async fn nobody_has_a_session_whose_sandbox_has_no_way_out() {
    let stage = Stage::set().await;
    let (shared, _bridge) = (&stage.shared, with_spare(&stage).await);
    shared.sandboxes.await_broker();
    // Whoever lists sessions meanwhile finds it.
    let attached = shared.places.attachments_of(Session::example(1).id);
    std::fs::create_dir_all(&attached).unwrap();
    tokio::time::pause();
    // Another one cannot be made: its agent has no folder.
    assert!(ask(&stage).await.is_err());
    assert!(recorded(&stage).await.is_empty() && !attached.exists());
    assert!(shared.slots.used().is_empty() && shared.making.all().is_empty());
    assert_eq!((shared.pool.ready(), shared.pool.hits()), (0, 0));
}

/// Has the agent have as many as it may, and nobody get any in their place, until this is dropped.
async fn has_all(stage: &Stage) -> (Counted, Vec<OwnedSemaphorePermit>) {
    let (owners, owner) = (&stage.shared.gates.owners, kind("a").owner());
    stage.shared.live.write().unwrap().admission.max_per_agent = 1;
    let (counted, mut turns) = (owners.count(&owner), vec![]);
    for _ in 0..AT_ONCE {
        turns.push(owners.turn(&owner.0).await.unwrap());
    }
    (counted, turns)
}

#[tokio::test]
async fn who_waited_while_its_agent_changed_gets_one_of_the_new_version() {
    let stage = Stage::set().await;
    let (shared, _bridge) = (&stage.shared, with_spare(&stage).await);
    // From then on the store has it at hand.
    let agent = shared.store.agent(&Tenant::default(), &kind("a").agent).await.unwrap().unwrap();
    let others = has_all(&stage).await;
    let mut asking = Box::pin(ask(&stage));
    assert!(asking.as_mut().now_or_never().is_none());
    let newer = Agent { version: 2, ..agent };
    shared.store.deploy(newer.clone()).await.unwrap();
    let _newer = with_spare_for(&stage, &newer, 2).await;
    drop(others);
    let session = shared.store.session(asking.await.unwrap()).await.unwrap().unwrap();
    assert_eq!((session.agent_version, shared.pool.hits()), (2, 1));
}

/// Its tenant may have left meanwhile, and everything of it.
#[tokio::test]
async fn one_that_goes_leaves_no_vault() {
    let stage = Stage::set().await;
    stage.shared.unmake(&Session::example(1)).await;
    assert!(stage.shared.snapshots.tenants().unwrap().is_empty());
}

#[tokio::test]
async fn one_that_clears_itself_away_is_waited_for() {
    let stage = Stage::set().await;
    let (shared, (running, _bridge)) = (&stage.shared, linked().await);
    let slot = shared.take_slot().unwrap();
    let session = Session { agent: kind("a").agent, slot: Some(slot), ..Session::example(1) };
    shared.pool.set_up(&kind("a"), &stamp(1), 1);
    assert!(shared.pool.put(&kind("a"), Spare::of(shared, stamp(1), session, running)).is_none());
    // As the keeper does, and everybody who does not wait.
    assert!(shared.make_place());
    shared.throw_away_of(&Tenant::default(), Some(&kind("a").agent)).await;
    assert!(shared.slots.used().is_empty() && shared.making.all().is_empty());
}

#[tokio::test]
async fn those_of_one_that_cannot_be_ended_stay_taken() {
    for ends in [true, false] {
        let stage = Stage::set().await;
        let (shared, (running, _bridge)) = (&stage.shared, linked().await);
        if !ends {
            // What would kill it cannot be written to.
            let group = shared.places.data_dir.join("groups").join(running.id.to_string());
            std::fs::create_dir_all(group.join("cgroup.kill")).unwrap();
        }
        let slot = shared.take_slot().unwrap();
        let session = Session { slot: Some(slot), ..Session::example(1) };
        let making = shared.making.begin((session.id, slot));
        let controls = Controls { model: "m".to_owned(), thinking: None };
        let claimed = Claimed { running, controls, heard: vec![] };
        let since = shared.disk.now();
        shared.throw_away_taken(Claim { session, claimed, since, making }).await;
        assert_eq!(shared.slots.used().contains(&slot), !ends);
    }
}

/// How many have ended and no session had them, by why, in the order of the words.
fn ended(stage: &Stage) -> Vec<u64> {
    let ended = &stage.shared.metrics().spares_ended;
    SpareEnd::ALL.iter().map(|why| ended.of(*why).get()).collect()
}

#[tokio::test]
async fn those_that_go_are_counted_by_why() {
    let stage = Stage::set().await;
    let shared = &stage.shared;
    fill(&shared.pool, "a", &[1, 1, 1]);
    assert!(shared.make_place() && shared.make_place_now().await);
    assert_eq!(ended(&stage), [0, 0, 2, 0, 0, 0]);
    shared.throw_away_of(&Tenant::default(), None).await;
    assert_eq!(ended(&stage), [0, 0, 2, 0, 0, 1]);
    assert!(!shared.make_place() && !shared.make_place_now().await);
    assert_eq!(ended(&stage), [0, 0, 2, 0, 0, 1]);
}

#[tokio::test]
async fn one_that_is_lost_is_counted_with_what_was_killed_in_it() {
    let stage = Stage::set().await;
    let (shared, (running, bridge)) = (&stage.shared, linked().await);
    let agent = shared.places.data_dir.join("groups").join(running.id.to_string()).join("agent");
    std::fs::create_dir_all(&agent).unwrap();
    std::fs::write(agent.join("memory.events"), "oom 1\noom_kill 3\n").unwrap();
    let session = Session { agent: kind("a").agent, ..Session::example(1) };
    shared.pool.set_up(&kind("a"), &stamp(1), 1);
    let spare = Spare::of(shared, stamp(1), session, running);
    assert!(shared.pool.put(&kind("a"), spare).is_none());
    drop(bridge);
    shared.pool.there.wait_for(|_| true).await;
    let metrics = shared.metrics();
    assert_eq!((shared.pool.ready(), metrics.lost.get()), (0, 1));
    assert_eq!(ended(&stage), [1, 0, 0, 0, 0, 0]);
    assert_eq!(metrics.oom_kills.of(Exhausted::Sandbox).get(), 3);
}

#[tokio::test]
async fn one_goes_when_a_session_waits_for_memory() {
    let stage = Stage::set().await;
    fill(&stage.shared.pool, "a", &[1, 1]);
    stage.shared.sandboxes.press(Pressure { memory: true, ..Pressure::default() });
    let owner = (Tenant::default(), "b".parse().unwrap());
    let mut entering = Box::pin(stage.shared.enter(owner, None));
    assert!(entering.as_mut().now_or_never().is_none());
    assert_eq!(stage.shared.pool.ready(), 1);
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
async fn the_last_that_an_agent_may_have_can_be_a_spare() {
    let stage = Stage::set().await;
    let (shared, owner) = (&stage.shared, kind("a").owner());
    let _bridge = with_spare(&stage).await;
    shared.live.write().unwrap().admission.max_per_agent = 2;
    let other = shared.gates.owners.count(&owner);
    assert!(shared.exceeding(&owner, 1).is_some());
    ask(&stage).await.unwrap();
    let (sessions, spares) = (shared.gates.owners.of(&owner), shared.gates.spares.of(&owner));
    assert_eq!((sessions.agent, spares.agent, shared.pool.hits()), (2, 0, 1));
    drop(other);
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
