//! Sandboxes that nobody uses. Their control groups only look like some.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use ash_wire::frame::{HEADER, Header};
use ash_wire::words::{ExecExit, Notice, TurnOutcome};

use super::*;
use crate::session::ladder::{Place, Rung};
use crate::session::machine::Sandbox;
use crate::session::places::ROOTS;

const HOUR: Duration = Duration::from_secs(3600);

/// A sandbox with files that nobody uses.
struct Resting {
    stage: Stage,
    driver: Driver,
    bridge: UnixStream,
    agent: PathBuf,
}

impl Resting {
    async fn set() -> Resting {
        let (stage, mut driver, bridge) = idle(Status::Active).await;
        for root in ROOTS {
            let root = stage.shared.places.session(driver.session.id).join(root);
            fs::create_dir_all(&root).unwrap();
            fs::write(root.join("file"), "kept").unwrap();
        }
        driver.session.sandbox = driver.link.as_ref().unwrap().id;
        let groups = stage.shared.places.data_dir.join("groups");
        let agent = groups.join(driver.session.sandbox.to_string()).join("agent");
        fs::create_dir_all(&agent).unwrap();
        fs::write(agent.join("cgroup.freeze"), "0").unwrap();
        fs::write(agent.join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
        stage.shared.sandboxes.say_asking(Some([].into()));
        driver.tend().await;
        Resting { stage, driver, bridge, agent }
    }

    /// Whether its agent was told to stand still.
    fn stands(&self) -> bool {
        fs::read_to_string(self.agent.join("cgroup.freeze")).unwrap() == "1"
    }

    /// Says how long tasks hold it, and that the CLI runs so many.
    async fn tasks(&mut self, background: Duration, running: u64) {
        self.stage.shared.live.write().unwrap().times.background = background;
        hear(&mut self.driver, Incoming::Tasks { running }).await;
        self.driver.tend().await;
    }

    /// Has its agent wait for the model.
    fn asks(&self) {
        let sandbox = self.driver.session.sandbox;
        self.stage.shared.sandboxes.say_asking(Some([sandbox].into()));
    }

    /// What the ladder knows of it.
    fn place(&self) -> Option<Place> {
        self.stage.shared.ladder.places().into_iter().map(|(_, place)| place).next()
    }

    /// Has it take a step, and returns where it is said whether it did.
    async fn rest(&mut self, step: Step) -> oneshot::Receiver<bool> {
        let seen = self.place().and_then(|place| place.idle_since);
        let (reply, taken) = oneshot::channel();
        self.driver.command(Command::Rest { step, seen, reply }).await;
        self.driver.tend().await;
        taken
    }

    /// How it is when its agent has given its memory back, or was to.
    async fn gave_back(&mut self) -> Rung {
        let Input::GaveBack(has_given) = next_input(&mut self.driver).await else {
            panic!("it does not")
        };
        self.driver.idle.given(has_given);
        self.driver.tend().await;
        self.place().unwrap().rung
    }

    /// Has it begin to end, and hears that this was all its agent has said.
    async fn cool(&mut self) -> oneshot::Receiver<bool> {
        self.end(Step::Cool).await
    }

    /// The same with this step.
    async fn end(&mut self, step: Step) -> oneshot::Receiver<bool> {
        let taken = self.rest(step).await;
        let id = self.asked(Kind::Drain).await;
        hear(&mut self.driver, Incoming::Drained { id }).await;
        taken
    }

    /// The number of the next frame of this kind that the bridge was sent.
    async fn asked(&mut self, kind: Kind) -> u64 {
        loop {
            let mut head = [0; HEADER];
            self.bridge.read_exact(&mut head).await.unwrap();
            let header = Header::decode(&head).unwrap();
            let mut body = vec![0; header.body];
            self.bridge.read_exact(&mut body).await.unwrap();
            if header.kind == kind {
                return header.number;
            }
        }
    }
}

#[tokio::test]
async fn an_agent_stands_still_until_a_message_comes() {
    let mut resting = Resting::set().await;
    assert!(resting.place().unwrap().idle_since.is_some());
    assert_eq!(resting.rest(Step::Freeze).await.await, Ok(true));
    assert!(resting.stands() && resting.place().unwrap().rung == Rung::Frozen);
    // As a cut does.
    let sandbox = resting.driver.session.sandbox;
    drop(resting.stage.shared.sandboxes.freeze(sandbox).unwrap());
    assert!(resting.stands());
    let mut answer = send(&mut resting.driver).await;
    assert!(!resting.stands(), "it goes on before it gets the message");
    resting.driver.tend().await;
    assert!(matches!(answer.try_recv(), Ok(Ok(_))));
    let used = Place { sandbox, idle_since: None, has_tasks: false, rung: Rung::Awake };
    assert_eq!(resting.place(), Some(used));
    resting.asked(Kind::Turn).await;
}

#[tokio::test]
async fn memory_is_given_back_by_one_that_stands_still() {
    let mut resting = Resting::set().await;
    assert_eq!(resting.rest(Step::Reclaim).await.await, Ok(false));
    resting.rest(Step::Freeze).await.await.unwrap();
    let taken = resting.rest(Step::Reclaim).await;
    assert_eq!(resting.place().unwrap().rung, Rung::Frozen, "it has begun to");
    assert_eq!(resting.gave_back().await, Rung::Reclaimed);
    assert_eq!((taken.await, resting.stage.shared.ladder.rested().reclaimed), (Ok(true), 1));
    assert_eq!(resting.rest(Step::Reclaim).await.await, Ok(false), "once is enough");
    let (reply, _output) = oneshot::channel();
    let request = ExecRequest::new("true", None).unwrap();
    resting.driver.command(Command::Exec { request, reply }).await;
    assert!(!resting.stands());
    resting.asked(Kind::Exec).await;
}

#[tokio::test]
async fn memory_that_could_not_be_given_back_does_not_count_and_is_not_asked_for_again() {
    let mut resting = Resting::set().await;
    fs::write(resting.agent.join("memory.current"), "4096").unwrap();
    // What is to be written there cannot be.
    let reclaim = resting.agent.join("memory.reclaim");
    fs::create_dir(&reclaim).unwrap();
    resting.rest(Step::Freeze).await.await.unwrap();
    let taken = resting.rest(Step::Reclaim).await;
    assert_eq!((resting.gave_back().await, taken.await), (Rung::Kept, Ok(false)));
    let rested = resting.stage.shared.ladder.rested();
    assert_eq!((rested.frozen, rested.reclaimed, rested.reclaimed_bytes), (1, 0, 0));
    assert_eq!(resting.rest(Step::Reclaim).await.await, Ok(false));
    // It was used meanwhile.
    resting.driver.thaw();
    resting.rest(Step::Freeze).await.await.unwrap();
    fs::remove_dir(&reclaim).unwrap();
    let _taken = resting.rest(Step::Reclaim).await;
    assert_eq!(resting.gave_back().await, Rung::Reclaimed);
}

#[tokio::test]
async fn who_goes_on_meanwhile_has_given_nothing_back() {
    let mut resting = Resting::set().await;
    resting.rest(Step::Freeze).await.await.unwrap();
    let taken = resting.rest(Step::Reclaim).await;
    resting.driver.thaw();
    resting.driver.tend().await;
    taken.await.unwrap();
    assert!(resting.driver.idle.giving().is_none());
    assert_eq!(resting.place().unwrap().rung, Rung::Awake);
}

#[tokio::test]
async fn one_that_is_used_takes_no_step() {
    let used: [fn(&mut Driver); 6] = [
        |driver| driver.state.turn = Turn::Own,
        |driver| driver.own_turn = true,
        |driver| driver.execs.begun_before(60_000),
        |driver| driver.idle.is_starting = true,
        |driver| driver.replay.active = true,
        |driver| driver.launching = Some(tokio::spawn(std::future::pending())),
    ];
    for (case, is_used) in used.into_iter().enumerate() {
        for step in [Step::Freeze, Step::Reclaim, Step::Cool] {
            let mut resting = Resting::set().await;
            is_used(&mut resting.driver);
            assert_eq!(resting.rest(step).await.await, Ok(false), "{case} {step:?}");
            assert!(!resting.stands() && resting.place().unwrap().idle_since.is_none(), "{case}");
        }
    }
}

#[tokio::test]
async fn that_one_is_used_is_told_before_it_is() {
    let mut resting = Resting::set().await;
    let (shared, id) = (resting.stage.shared.clone(), resting.driver.session.id);
    let before = resting.place().unwrap();
    let used = Some(Place { idle_since: None, ..before });
    let (tell, told) = oneshot::channel();
    let write: Write = Box::new(move |_| {
        let _ = tell.send(shared.ladder.place(id));
    });
    resting.driver.command(Command::Write(write)).await;
    assert_eq!(resting.place(), used);
    // As when a cut looks at the files: it has to wait, and is told again.
    resting.driver.tend().await;
    assert!(resting.place().unwrap().idle_since > before.idle_since);
    resting.driver.write_waiting().await;
    assert_eq!(told.await, Ok(used));
}

/// Who hears the result may ask for another sandbox before the bridge says that the turn is over.
#[tokio::test]
async fn that_a_turn_is_over_is_told_with_its_result() {
    let mut resting = Resting::set().await;
    let _answer = send(&mut resting.driver).await;
    let Turn::Ours(turn) = resting.driver.state.turn else { panic!("it has not begun") };
    let line = Bytes::from_static(br#"{"type":"result","subtype":"success","is_error":false}"#);
    hear(&mut resting.driver, Incoming::Line { number: 1, line }).await;
    let seen = resting.place().unwrap();
    assert!(seen.idle_since.is_some());
    assert_eq!(resting.rest(Step::Freeze).await.await, Ok(false), "it is not over");
    let notice = Notice::TurnEnded { turn: turn.to_string(), outcome: TurnOutcome::Result };
    hear(&mut resting.driver, Incoming::Notice { number: 2, notice }).await;
    resting.driver.tend().await;
    assert_eq!(resting.place(), Some(seen));
    assert_eq!(resting.rest(Step::Freeze).await.await, Ok(true));
}

#[tokio::test]
async fn that_something_else_is_over_is_told_before_it_is_answered() {
    let mut resting = Resting::set().await;
    let is_free = |resting: &Resting| resting.place().unwrap().idle_since.is_some();
    let (reply, paused) = oneshot::channel();
    resting.driver.command(Command::Pause { reply }).await;
    assert!(paused.await.unwrap().is_ok() && is_free(&resting));
    let (reply, resumed) = oneshot::channel();
    resting.driver.command(Command::Resume { reply }).await;
    assert!(resumed.await.unwrap().is_ok() && is_free(&resting));
    let (reply, ran) = oneshot::channel();
    let request = ExecRequest::new("true", None).unwrap();
    resting.driver.command(Command::Exec { request, reply }).await;
    let _output = ran.await.unwrap().unwrap();
    resting.driver.tend().await;
    assert!(!is_free(&resting));
    let id = resting.asked(Kind::Exec).await;
    let (code, signal, error) = (Some(0), None, None);
    let exit = ExecExit { code, signal, timed_out: false, truncated: false, error };
    hear(&mut resting.driver, Incoming::ExecExit { id, exit }).await;
    assert!(is_free(&resting));
}

#[tokio::test]
async fn what_was_decided_before_it_was_used_is_not_done() {
    for step in [Step::Freeze, Step::Cool] {
        let mut resting = Resting::set().await;
        let seen = resting.place().unwrap().idle_since;
        resting.driver.command(Command::Write(Box::new(|_| {}))).await;
        resting.driver.write_waiting().await;
        resting.driver.tend().await;
        let (reply, taken) = oneshot::channel();
        resting.driver.command(Command::Rest { step, seen, reply }).await;
        assert_eq!((taken.await, resting.stands()), (Ok(false), false), "{step:?}");
        // As it is now, but nobody waits for that any more.
        let seen = resting.place().unwrap().idle_since;
        let (reply, taken) = oneshot::channel();
        drop(taken);
        resting.driver.command(Command::Rest { step, seen, reply }).await;
        assert!(!resting.stands(), "{step:?}");
    }
}

#[tokio::test]
async fn one_that_has_asked_the_model_since_it_was_looked_at_goes_on() {
    for step in [Step::Freeze, Step::Cool] {
        let mut resting = Resting::set().await;
        let before = resting.place().unwrap().idle_since;
        resting.asks();
        assert_eq!(resting.rest(step).await.await, Ok(false), "{step:?}");
        assert!(!resting.stands() && resting.place().unwrap().idle_since > before, "{step:?}");
        // Nobody can tell.
        resting.stage.shared.sandboxes.say_asking(None);
        assert_eq!(resting.rest(step).await.await, Ok(false), "{step:?}");
        assert!(!resting.stands(), "{step:?}");
    }
}

#[tokio::test]
async fn what_the_broker_has_read_late_keeps_a_sandbox() {
    let mut resting = Resting::set().await;
    resting.rest(Step::Freeze).await.await.unwrap();
    resting.asks();
    assert_eq!(resting.rest(Step::Cool).await.await, Ok(false));
    assert!(!resting.stands());
    resting.stage.shared.sandboxes.say_asking(Some([].into()));
    resting.rest(Step::Freeze).await.await.unwrap();
    // One that stands still has begun nothing since.
    resting.stage.shared.sandboxes.say_asking(None);
    let taken = resting.cool().await;
    resting.driver.finish_saving().await;
    resting.asks();
    resting.driver.tend().await;
    assert_eq!(taken.await, Ok(false));
    assert!(resting.driver.link.is_some() && !resting.stands());
}

#[tokio::test]
async fn one_that_begins_something_by_itself_goes_on() {
    let mut resting = Resting::set().await;
    resting.rest(Step::Freeze).await.await.unwrap();
    // It was on its way when the agent was stopped.
    hear(&mut resting.driver, Incoming::Notice { number: 1, notice: Notice::SelfTurnBegan }).await;
    resting.driver.tend().await;
    assert!(!resting.stands() && resting.place().unwrap().idle_since.is_none());
}

#[tokio::test]
async fn one_that_a_task_holds_takes_no_step_until_it_has_held_it_for_long() {
    for step in [Step::Freeze, Step::Cool] {
        let mut resting = Resting::set().await;
        resting.tasks(HOUR, 2).await;
        let held = resting.place().unwrap();
        assert!(held.has_tasks && held.idle_since.is_some());
        assert_eq!(resting.rest(step).await.await, Ok(false), "{step:?}");
        assert!(!resting.stands());
        // One of them has ended: the time of the other begins anew.
        resting.tasks(HOUR, 1).await;
        let since = resting.place().unwrap().idle_since;
        assert!(since > held.idle_since);
        resting.tasks(HOUR, 1).await;
        assert_eq!(resting.place().unwrap().idle_since, since);
        // It is over.
        resting.tasks(Duration::ZERO, 1).await;
        let _taken = resting.rest(step).await;
        assert!(resting.stands(), "{step:?}");
    }
}

#[tokio::test]
async fn one_that_begins_a_task_goes_on() {
    let mut resting = Resting::set().await;
    resting.rest(Step::Freeze).await.await.unwrap();
    // It was said right before the agent was stopped.
    resting.tasks(HOUR, 1).await;
    assert!(!resting.stands());
    resting.tasks(HOUR, 0).await;
    let taken = resting.rest(Step::Cool).await;
    resting.driver.finish_saving().await;
    resting.tasks(HOUR, 1).await;
    assert_eq!(taken.await, Ok(false));
    assert!(resting.driver.link.is_some() && !resting.stands());
}

#[tokio::test]
async fn tasks_are_known_to_the_next_daemon_and_go_with_their_sandbox() {
    let (stage, mut driver, _bridge) = idle(Status::Active).await;
    let mut running = driver.link.take().unwrap();
    running.welcome.tasks = 1;
    driver.begin_life(Begin::Adopted(running, Replay::default())).await;
    driver.tend().await;
    assert!(stage.shared.ladder.place(driver.session.id).unwrap().has_tasks);
    driver.lost("it is gone").await;
    driver.state.step(Event::Wake).unwrap();
    let (running, _bridge) = linked().await;
    driver.launched(Ok(life(running))).await;
    driver.tend().await;
    assert!(!stage.shared.ladder.place(driver.session.id).unwrap().has_tasks);
}

#[tokio::test]
async fn a_sandbox_is_saved_and_then_ends_and_the_next_message_makes_another() {
    let mut resting = Resting::set().await;
    let mut taken = resting.cool().await;
    resting.driver.tend().await;
    assert!(resting.stands() && resting.driver.link.is_some() && taken.try_recv().is_err());
    resting.driver.finish_saving().await;
    resting.driver.tend().await;
    assert_eq!(taken.await, Ok(true));
    let Resting { stage, mut driver, .. } = resting;
    assert!(driver.link.is_none() && stage.shared.ladder.places().is_empty());
    assert!(driver.session.cold && driver.session.status == Status::Active);
    driver.finish_saving().await;
    assert_eq!(stage.shared.store.points(driver.session.id).await.unwrap().len(), 1);
    let _answer = send(&mut driver).await;
    assert_eq!(driver.state.sandbox, Sandbox::Launching);
}

#[tokio::test]
async fn one_that_has_ended_is_counted_with_why() {
    for (step, expected) in [(Step::Cool, (1, 0)), (Step::GiveWay, (1, 1))] {
        let mut resting = Resting::set().await;
        let taken = resting.end(step).await;
        resting.driver.finish_saving().await;
        resting.driver.tend().await;
        assert_eq!(taken.await, Ok(true), "{step:?}");
        let rested = resting.stage.shared.ladder.rested();
        assert_eq!((rested.cooled, rested.evictions), expected, "{step:?}");
    }
}

#[tokio::test]
async fn not_before_all_that_its_agent_said_was_heard() {
    let mut resting = Resting::set().await;
    let mut taken = resting.rest(Step::Cool).await;
    resting.driver.finish_saving().await;
    resting.driver.tend().await;
    assert!(resting.driver.link.is_some() && taken.try_recv().is_err());
    let id = resting.asked(Kind::Drain).await;
    hear(&mut resting.driver, Incoming::Notice { number: 1, notice: Notice::SelfTurnBegan }).await;
    hear(&mut resting.driver, Incoming::Drained { id }).await;
    resting.driver.tend().await;
    assert_eq!(taken.await, Ok(false));
    assert!(resting.driver.link.is_some() && !resting.stands());
}

#[tokio::test]
async fn a_message_that_comes_meanwhile_keeps_it() {
    let mut resting = Resting::set().await;
    let taken = resting.cool().await;
    let _answer = send(&mut resting.driver).await;
    resting.driver.tend().await;
    assert_eq!(taken.await, Ok(false));
    resting.driver.finish_saving().await;
    resting.driver.tend().await;
    assert!(resting.driver.link.is_some() && !resting.driver.session.cold && !resting.stands());
}

#[tokio::test]
async fn one_that_cannot_be_saved_is_kept() {
    let mut resting = Resting::set().await;
    meddle(
        &resting.stage,
        "CREATE TRIGGER full BEFORE INSERT ON points
         BEGIN SELECT RAISE(ABORT, 'there is no room'); END",
    );
    let taken = resting.cool().await;
    resting.driver.finish_saving().await;
    resting.driver.tend().await;
    assert_eq!(taken.await, Ok(false));
    assert!(resting.driver.link.is_some() && !resting.driver.session.cold && !resting.stands());
}

#[tokio::test]
async fn one_that_stood_still_before_goes_on_doing_so() {
    let mut resting = Resting::set().await;
    resting.rest(Step::Freeze).await.await.unwrap();
    let taken = resting.cool().await;
    // Whoever asked has gone.
    drop(taken);
    resting.driver.finish_saving().await;
    resting.driver.tend().await;
    assert!(resting.driver.link.is_some() && resting.stands());
}

/// Else whoever makes room now and then, and not in time, would have it stay for ever.
#[tokio::test]
async fn tasks_that_have_held_one_for_long_do_not_hold_it_anew_when_it_does_not_end() {
    let mut resting = Resting::set().await;
    resting.tasks(Duration::ZERO, 1).await;
    resting.rest(Step::Freeze).await.await.unwrap();
    let before = resting.place().unwrap();
    // Whoever asked has gone.
    drop(resting.cool().await);
    resting.driver.finish_saving().await;
    resting.driver.tend().await;
    let left = resting.place().unwrap();
    assert!(resting.driver.link.is_some() && resting.stands() && left.rung == Rung::Frozen);
    assert!(left.has_tasks && left.idle_since > before.idle_since);
    // Something happens.
    resting.tasks(HOUR, 2).await;
    assert!(!resting.stands());
}

#[tokio::test]
async fn a_daemon_that_goes_leaves_none_that_stands_still() {
    let mut resting = Resting::set().await;
    resting.rest(Step::Freeze).await.await.unwrap();
    let (reply, ended) = oneshot::channel();
    resting.driver.command(Command::Shutdown { end: false, reply }).await;
    ended.await.unwrap();
    assert!(!resting.stands() && resting.driver.link.is_some());
}

#[tokio::test]
async fn a_daemon_that_goes_leaves_one_that_was_about_to_end() {
    let mut resting = Resting::set().await;
    let taken = resting.cool().await;
    resting.driver.finish_saving().await;
    // All is saved, and this comes first.
    let (reply, ended) = oneshot::channel();
    resting.driver.command(Command::Shutdown { end: false, reply }).await;
    ended.await.unwrap();
    resting.driver.tend().await;
    assert_eq!(taken.await, Ok(false));
    assert!(resting.driver.link.is_some() && !resting.driver.session.cold && !resting.stands());
}
