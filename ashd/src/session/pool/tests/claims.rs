//! What becomes of spares that have a sandbox: they are taken, lost, or go.

use super::*;

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
