use std::sync::PoisonError;

use futures_util::FutureExt as _;

use super::*;
use crate::sandbox::pressure::Pressure;
use crate::session::stage::{LAUNCHES, Stage, TURNS};

/// How long something may take that happens.
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn fewer_turns_begin_while_memory_is_short() {
    let stage = Stage::set().await;
    let (turns, tenant) = (stage.shared.gates.turns.clone(), Tenant::default());
    let following = tokio::spawn(follow_pressure(stage.shared.clone()));
    let is = |places| {
        let turns = turns.clone();
        async move {
            while turns.counts().max != places {
                tokio::task::yield_now().await;
            }
        }
    };
    stage.shared.sandboxes.press(Pressure { memory: true, ..Pressure::default() });
    tokio::time::timeout(LONG, is(1)).await.unwrap();
    assert_eq!(stage.shared.admitted().short, [Scarce::Memory]);
    let _running = turns.enter(&tenant);
    let Entered::Waiting(mut ticket) = turns.enter(&tenant) else { panic!("there are two") };
    // Of what else is short a turn needs little.
    stage.shared.sandboxes.press(Pressure { cpu: true, io: true, memory: false });
    tokio::time::timeout(LONG, is(TURNS as u64)).await.unwrap();
    assert_eq!(stage.shared.admitted().short, [Scarce::Cpu, Scarce::Io]);
    assert!(tokio::time::timeout(LONG, ticket.granted()).await.unwrap().is_some());
    following.abort();
}

#[tokio::test]
async fn and_while_there_is_room_for_few_processes() {
    let stage = Stage::set().await;
    let groups = stage.shared.places.data_dir.join("groups");
    std::fs::create_dir_all(&groups).unwrap();
    std::fs::write(groups.join("pids.max"), "32").unwrap();
    for (pids, places) in [("28", TURNS as u64), ("29", 1), ("1", TURNS as u64)] {
        std::fs::write(groups.join("pids.current"), pids).unwrap();
        let short = stage.shared.fit_gates();
        let admitted = stage.shared.admitted();
        assert_eq!(admitted.turns.max, places, "{short:?}");
        assert_eq!(admitted.short.contains(&Scarce::Processes), short.is_some());
        assert!(short.is_none_or(|short| short.want == Want::Processes));
    }
}

#[tokio::test]
async fn that_something_is_short_is_said_once_and_that_it_is_over_when_it_is_for_long() {
    tokio::time::pause();
    let short = || Some(NoRoom { want: Want::Memory, reason: "short".into(), retry_after_s: 1 });
    assert_eq!(note(None, None), None);
    let first = note(short(), None);
    assert_eq!(first, Some(Instant::now()));
    tokio::time::advance(CALM - LOOK).await;
    assert_eq!(note(None, first), first);
    assert_eq!(note(short(), first), Some(Instant::now()));
    tokio::time::advance(LOOK).await;
    assert_eq!(note(None, first), None);
}

#[tokio::test]
async fn fewer_sandboxes_are_made_at_a_time_while_turns_lack_processors_or_disks() {
    let stage = Stage::set().await;
    let launches = || {
        stage.shared.fit_gates();
        stage.shared.admitted().launches.max
    };
    for (cpu, io) in [(true, false), (false, true)] {
        stage.shared.sandboxes.press(Pressure { cpu, io, memory: false });
        assert_eq!(launches(), LAUNCHES as u64, "nothing runs");
        let running = stage.shared.gates.turns.take(&Tenant::default());
        assert_eq!(launches(), 1);
        drop(running);
        assert_eq!(launches(), LAUNCHES as u64);
    }
}

#[tokio::test]
async fn what_runs_goes_first_and_not_for_long() {
    let (stage, tenant) = (Stage::set().await, Tenant::default());
    tokio::time::pause();
    let slow = Pressure { cpu: true, ..Pressure::default() };
    stage.shared.sandboxes.press(slow);
    assert!(enter(&stage, &tenant).now_or_never().is_some_and(|entered| entered.is_ok()));
    let _running = stage.shared.gates.turns.take(&tenant);
    let begun = Instant::now();
    assert!(enter(&stage, &tenant).await.is_ok());
    assert!((YIELD..2 * YIELD).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    let mut entering = Box::pin(enter(&stage, &tenant));
    assert!(entering.as_mut().now_or_never().is_none());
    let begun = Instant::now();
    stage.shared.sandboxes.press(Pressure::default());
    assert!(entering.await.is_ok() && begun.elapsed() < YIELD);
    // Nobody is refused for that.
    stage.shared.sandboxes.press(slow);
    set_patience(&stage, Duration::ZERO);
    assert!(enter(&stage, &tenant).now_or_never().is_some_and(|entered| entered.is_ok()));
}

const SHORT: Pressure = Pressure { memory: true, cpu: false, io: false };

async fn enter(stage: &Stage, tenant: &Tenant) -> Result<Entry, Refusal> {
    enter_as(stage, tenant, "agent").await
}

async fn enter_as(stage: &Stage, tenant: &Tenant, agent: &str) -> Result<Entry, Refusal> {
    stage.shared.enter((tenant.clone(), agent.parse().unwrap()), None).await
}

fn set(stage: &Stage, change: impl FnOnce(&mut Admission)) {
    let mut live = stage.shared.live.write().unwrap_or_else(PoisonError::into_inner);
    change(&mut live.admission);
}

fn set_patience(stage: &Stage, patience: Duration) {
    set(stage, |admission| admission.patience = patience);
}

/// Why there is no sandbox.
fn capacity(entered: Result<Entry, Refusal>) -> String {
    match entered {
        Err(Refusal::Capacity { reason, retry_after_s: 1.. }) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("there is room"),
    }
}

#[tokio::test]
async fn so_many_sandboxes_are_made_at_a_time_and_tenants_take_turns() {
    let stage = Stage::set().await;
    let [many, one]: [Tenant; 2] = ["many", "one"].map(|name| name.parse().unwrap());
    let mut making = vec![];
    for _ in 0..LAUNCHES {
        making.push(enter(&stage, &many).await.unwrap());
    }
    let mut waiting = vec![];
    for tenant in [&many, &many, &one] {
        let mut entering = Box::pin(enter(&stage, tenant));
        assert!(entering.as_mut().now_or_never().is_none());
        waiting.push(entering);
    }
    // Who gives up is passed over.
    drop(waiting.remove(0));
    let (one, many) = (waiting.pop().unwrap(), waiting.pop().unwrap());
    drop(making.pop());
    let made = one.await.unwrap();
    assert!(many.now_or_never().is_none());
    drop(made);
    assert!(enter(&stage, &Tenant::default()).await.is_ok());
}

#[tokio::test]
async fn who_has_waited_long_enough_is_told_to_come_back() {
    let (stage, tenant) = (Stage::set().await, Tenant::default());
    tokio::time::pause();
    set_patience(&stage, Duration::from_secs(7));
    let mut making = vec![];
    for _ in 0..LAUNCHES {
        making.push(enter(&stage, &tenant).await.unwrap());
    }
    let begun = Instant::now();
    assert!(capacity(enter(&stage, &tenant).await).contains("making other sandboxes"));
    assert_eq!(begun.elapsed().as_secs(), 7);
    // When nothing is made because something is short, that is why.
    stage.shared.sandboxes.press(SHORT);
    assert!(capacity(enter(&stage, &tenant).await).contains("short of memory"));
    drop(making);
    let begun = Instant::now();
    assert!(capacity(enter(&stage, &tenant).await).contains("short of memory"));
    assert_eq!(begun.elapsed().as_secs(), 7);
    set_patience(&stage, Duration::ZERO);
    assert!(capacity(enter(&stage, &tenant).await).contains("short of memory"));
    let mut refused = stage.shared.admitted().refused;
    refused.retain(|(_, times)| *times > 0);
    assert_eq!(refused, [("launches", 1), ("memory", 3)]);
}

#[tokio::test]
async fn a_tenant_and_an_agent_have_so_many_sandboxes_and_no_more() {
    let stage = Stage::set().await;
    let [ours, theirs]: [Tenant; 2] = ["ours", "theirs"].map(|name| name.parse().unwrap());
    set(&stage, |admission| (admission.max_per_tenant, admission.max_per_agent) = (2, 1));
    let mut first = enter_as(&stage, &ours, "a").await.unwrap();
    first.let_others_in();
    let told = capacity(enter_as(&stage, &ours, "a").await);
    assert!(told.contains("all 1 sandboxes that one agent"), "{told}");
    let mut second = enter_as(&stage, &ours, "b").await.unwrap();
    second.let_others_in();
    let told = capacity(enter_as(&stage, &ours, "c").await);
    assert!(told.contains("all 2 sandboxes that one tenant"), "{told}");
    // An agent of another tenant is another one.
    assert!(enter_as(&stage, &theirs, "a").await.is_ok());
    drop(first);
    assert!(enter_as(&stage, &ours, "c").await.is_ok());
    set(&stage, |admission| (admission.max_per_tenant, admission.max_per_agent) = (0, 0));
    assert!(enter_as(&stage, &ours, "b").await.is_ok());
}

#[tokio::test]
async fn what_comes_back_is_waited_for() {
    let (stage, tenant) = (Stage::set().await, Tenant::default());
    tokio::time::pause();
    stage.shared.sandboxes.press(SHORT);
    let mut entering = Box::pin(enter(&stage, &tenant));
    assert!(tokio::time::timeout(LOOK * 9, &mut entering).await.is_err());
    stage.shared.sandboxes.press(Pressure::default());
    assert!(entering.await.is_ok());
}

#[tokio::test]
async fn a_daemon_that_goes_makes_none_and_keeps_nobody_waiting() {
    let (stage, tenant) = (Stage::set().await, Tenant::default());
    tokio::time::pause();
    stage.shared.sandboxes.press(SHORT);
    let mut entering: Vec<_> = (0..=LAUNCHES).map(|_| Box::pin(enter(&stage, &tenant))).collect();
    for entering in &mut entering {
        assert!(entering.as_mut().now_or_never().is_none());
    }
    stage.service.shut_down(false).await;
    for entering in entering {
        assert!(matches!(entering.await, Err(Refusal::ShuttingDown)));
    }
}
