//! A sandbox for the session: who waits for it, and when none is made.

use futures_util::FutureExt as _;

use super::*;
use crate::domain::Tenant;
use crate::session::admission::Entry;
use crate::session::api::Happened;
use crate::session::stage::{LAUNCHES, handle};
use crate::store::StoreError;
use crate::telemetry::metrics::labels::{ColdSource, Resumed};

/// As many sandboxes as may be made at a time are being made.
async fn all_launches(stage: &Stage) -> Vec<Entry> {
    let mut making = vec![];
    for _ in 0..LAUNCHES {
        making.push(enter(stage).await.unwrap());
    }
    making
}

/// A sandbox for somebody else.
async fn enter(stage: &Stage) -> Result<Entry, Refusal> {
    stage.shared.enter((Tenant::default(), "other".parse().unwrap()), None).await
}

/// A driver of an active session without a sandbox.
async fn cold() -> (Stage, Driver) {
    let (stage, session) = (Stage::set().await, Session::example(1));
    stage.add(&session).await;
    let (driver, _) = Driver::new(stage.shared.clone(), session);
    (stage, driver)
}

#[tokio::test]
async fn who_waits_for_another_turn_has_a_stream_once_the_sandbox_is_up() {
    let (_stage, mut driver, _bridge) = idle(Status::Active).await;
    driver.state = State::cold(Status::Active, 4);
    driver.state.step(Event::Wake).unwrap();
    let (mut first, mut second) = (send(&mut driver).await, send(&mut driver).await);
    assert!(first.try_recv().is_err() && second.try_recv().is_err());
    let (running, _bridge) = linked().await;
    driver.launched(Ok(life(running))).await;
    assert!(matches!(first.try_recv(), Ok(Ok(_))));
    assert!(matches!(second.try_recv(), Ok(Ok(_))));
    assert_eq!(history(&driver).await, [EventKind::User]);
}

#[tokio::test]
async fn who_waits_for_a_sandbox_has_a_stream_that_says_where_it_stands() {
    let (stage, mut driver) = cold().await;
    let mut making = all_launches(&stage).await;
    let mut other = Box::pin(enter(&stage));
    assert!(other.as_mut().now_or_never().is_none());
    let first = send(&mut driver).await.await.unwrap().unwrap();
    let second = send(&mut driver).await.await.unwrap().unwrap();
    let positions = || [first.position(), second.position()];
    assert_eq!(positions(), [Some(2), Some(3)]);
    drop(other);
    assert_eq!(positions(), [Some(1), Some(2)]);
    drop(making.pop());
    let Input::Entered(entered) = next_input(&mut driver).await else { panic!("nothing came") };
    driver.entered(entered).await;
    assert_eq!(positions(), [Some(1), Some(2)]);
}

/// Where that takes no time, it may still be refused in full.
#[tokio::test]
async fn who_does_not_have_to_wait_has_none_before_its_turn_begins() {
    let (stage, mut driver) = cold().await;
    let mut waiting = send(&mut driver).await;
    assert!(waiting.try_recv().is_err());
    assert_eq!(stage.shared.admitted().launches.taken, 1, "it is asked for twice, or not yet");
    let Input::Entered(entered) = next_input(&mut driver).await else { panic!("nothing came") };
    assert!(entered.is_ok());
    driver.entered(entered).await;
    assert!(waiting.try_recv().is_err());
}

#[tokio::test]
async fn nor_who_does_not_want_to() {
    let (stage, mut driver) = cold().await;
    let _making = all_launches(&stage).await;
    let request = Message::read(br#"{"content":"x","whenBusy":"reject"}"#).unwrap().request;
    let (reply, mut waiting) = oneshot::channel();
    driver.send(request, Reading::default(), reply).await;
    let _other = send(&mut driver).await.await.unwrap().unwrap();
    assert!(waiting.try_recv().is_err());
}

#[tokio::test]
async fn who_waits_for_a_launch_that_takes_long_has_a_stream() {
    let (_stage, mut driver) = cold().await;
    driver.state.step(Event::Wake).unwrap();
    driver.launching = Some(tokio::spawn(std::future::pending()));
    driver.slow_at = Some(tokio::time::Instant::now());
    let mut first = send(&mut driver).await;
    assert!(first.try_recv().is_err());
    assert!(matches!(next_input(&mut driver).await, Input::Slow));
    driver.take_long();
    assert!(matches!(first.try_recv(), Ok(Ok(_))));
    let mut second = send(&mut driver).await;
    assert!(matches!(second.try_recv(), Ok(Ok(_))), "who comes then knows as well");
}

#[tokio::test]
async fn it_is_measured_how_long_who_needs_a_sandbox_waits_for_it() {
    for is_command in [false, true] {
        let (stage, mut driver) = cold().await;
        let wakes = &stage.shared.metrics().wakes;
        let measured = |source| wakes.of(source).get_sample_count();
        // What fails is not measured.
        let _refused = send(&mut driver).await;
        driver.stand_back();
        driver.launched(Err(Refusal::Sandbox("there is no room".to_owned()))).await;
        assert_eq!(measured(ColdSource::Local), 0);
        let (reply, _ran) = oneshot::channel();
        let mut answer = None;
        if is_command {
            let request = ExecRequest::new("true", None).unwrap();
            driver.command(Command::Exec { request, reply }).await;
        } else {
            answer = Some(send(&mut driver).await);
        }
        driver.stand_back();
        let (running, _bridge) = linked().await;
        driver.launched(Ok(life(running))).await;
        assert_eq!((measured(ColdSource::Local), measured(ColdSource::Cloud)), (1, 0));
        drop(answer);
    }
}

/// That is measured as a resume.
#[tokio::test]
async fn but_not_of_whoever_resumes_it() {
    let (stage, mut driver, _bridge) = idle(Status::Paused).await;
    driver.state = State::cold(Status::Paused, 4);
    let (reply, _resumed) = oneshot::channel();
    driver.command(Command::Resume { reply }).await;
    driver.stand_back();
    let (running, _bridge) = linked().await;
    driver.launched(Ok(life(running))).await;
    let metrics = stage.shared.metrics();
    assert_eq!(metrics.resume_times.of(Resumed::Local).get_sample_count(), 1);
    assert_eq!(metrics.wakes.of(ColdSource::Local).get_sample_count(), 0);
}

#[tokio::test]
async fn a_session_s_log_names_no_file_of_this_machine() {
    let (_stage, mut driver, _bridge) = idle(Status::Active).await;
    let failed = StoreError::Database("cannot open /var/lib/ash/ash.db".to_owned());
    driver.launched(Err(failed.into())).await;
    let said = driver.logs.after(-1);
    assert!(said.len() == 1 && !said[0].text.contains("/var"), "{said:?}");
}

/// Nobody else sees to it, and what may not be there is not cleared.
#[tokio::test]
async fn what_was_built_for_a_launch_that_is_given_up_is_put_on_the_disk() {
    let (stage, mut driver) = cold().await;
    let (store, id) = (stage.shared.store.clone(), driver.session.id);
    let (running, _bridge) = linked().await;
    store.note_unsynced(id, running.id).await.unwrap();
    let built = Some(stage.shared.disk.now());
    driver.state.step(Event::Wake).unwrap();
    driver.launching = Some(tokio::spawn(async move { Ok(Life { built, ..life(running) }) }));
    stop(&mut driver).await.unwrap();
    let synced = async {
        while store.unsynced_build(id).await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), synced).await.expect("nobody flushes it");
}

#[tokio::test]
async fn a_sandbox_is_made_when_it_may_be() {
    let (stage, mut driver) = cold().await;
    let mut making = all_launches(&stage).await;
    let _waiting = send(&mut driver).await;
    assert!(driver.entering.is_some() && driver.launching.is_none());
    drop(making.pop());
    let Input::Entered(entered) = next_input(&mut driver).await else { panic!("nothing came") };
    driver.entered(entered).await;
    assert!(driver.entering.is_none() && driver.launching.is_some());
}

#[tokio::test]
async fn whoever_does_something_else_meanwhile_keeps_no_place_from_others() {
    let (stage, mut driver) = cold().await;
    let making = all_launches(&stage).await;
    let (shared, (tell, taken)) = (stage.shared.clone(), oneshot::channel());
    let write: Write = Box::new(move |_| {
        let _ = tell.send(shared.admitted().launches.taken);
    });
    // As when a cut looks at the files: a message comes before it can be done.
    driver.command(Command::Write(write)).await;
    let _waiting = send(&mut driver).await;
    assert!(next_input(&mut driver).now_or_never().is_none());
    // It is given one, and has not looked.
    drop(making);
    assert_eq!(stage.shared.admitted().launches.taken, 1);
    driver.write_waiting().await;
    assert_eq!(taken.await, Ok(0));
    assert!(matches!(next_input(&mut driver).await, Input::Entered(Ok(_))));
}

/// Else whoever uploads all the time would keep its own message waiting.
#[tokio::test]
async fn a_change_of_files_behind_a_message_does_not_cost_it_its_place_in_the_line() {
    let (stage, mut driver) = cold().await;
    let mut making = all_launches(&stage).await;
    let _waiting = send(&mut driver).await;
    assert!(next_input(&mut driver).now_or_never().is_none());
    let mut other = Box::pin(enter(&stage));
    assert!(other.as_mut().now_or_never().is_none());
    let (tell, mut written) = oneshot::channel();
    let write: Write = Box::new(move |_| {
        let _ = tell.send(());
    });
    driver.command(Command::Write(write)).await;
    driver.write_waiting().await;
    drop(making.pop());
    let Input::Entered(entered) = next_input(&mut driver).await else { panic!("nothing came") };
    assert!(entered.is_ok() && other.as_mut().now_or_never().is_none());
    driver.entered(entered).await;
    driver.write_waiting().await;
    assert!(driver.launching.is_some() && written.try_recv().is_err());
    // Behind that it is done, whatever became of it.
    driver.launched(Err(Refusal::ShuttingDown)).await;
    driver.write_waiting().await;
    assert_eq!(written.await, Ok(()));
}

#[tokio::test]
async fn none_is_made_for_whoever_has_hung_up() {
    for is_granted in [true, false] {
        let (stage, mut driver) = cold().await;
        let making = all_launches(&stage).await;
        drop(send(&mut driver).await);
        let input = next_input(&mut driver).await;
        assert!(matches!(input, Input::HungUp));
        match is_granted {
            // It was asked for, and may be made before that was heard.
            true => {
                drop(making);
                driver.entered(enter(&stage).await).await;
            }
            false => driver.hung_up().await,
        }
        assert!(driver.entering.is_none() && driver.launching.is_none());
        assert_eq!(driver.state, State::cold(Status::Active, 4));
    }
}

#[tokio::test]
async fn nor_for_a_command_whose_sender_has() {
    let (stage, mut driver) = cold().await;
    let (reply, answer) = oneshot::channel();
    let request = ExecRequest::new("true", None).unwrap();
    driver.command(Command::Exec { request, reply }).await;
    assert!(driver.entering.is_some());
    drop(answer);
    driver.entered(enter(&stage).await).await;
    assert!(driver.launching.is_none() && !driver.execs.are_waiting());
    assert_eq!(driver.state, State::cold(Status::Active, 4));
}

#[tokio::test]
async fn who_stops_a_session_does_not_wait_for_a_sandbox_that_is_asked_for() {
    let (stage, mut driver) = cold().await;
    let _making = all_launches(&stage).await;
    let waiting = send(&mut driver).await;
    stop(&mut driver).await.unwrap();
    assert!(driver.entering.is_none());
    assert!(told(waiting).await.contains("Session is stopped"));
}

/// What the stream of a message says first whose sender has waited.
async fn told(waiting: oneshot::Receiver<Result<Subscription, Refusal>>) -> String {
    let frames = waiting.await.unwrap().unwrap().next().await.unwrap();
    String::from_utf8_lossy(&frames[0].bytes).into_owned()
}

#[tokio::test]
async fn a_message_that_has_waited_in_vain_is_refused_in_its_stream() {
    let (stage, mut driver) = cold().await;
    let _making = all_launches(&stage).await;
    let waiting = send(&mut driver).await;
    tokio::time::pause();
    let Input::Entered(entered) = next_input(&mut driver).await else { panic!("nothing came") };
    tokio::time::resume();
    driver.entered(entered).await;
    let told = told(waiting).await;
    let words =
        ["event: error", r#""code":"capacity""#, "making other sandboxes", r#""retryAfter":5"#];
    assert!(words.iter().all(|word| told.contains(word)), "{told}");
    assert_eq!(driver.state, State::cold(Status::Active, 4));
}

#[tokio::test]
async fn one_that_need_not_wait_for_that_is_refused_in_full() {
    let (stage, mut driver) = cold().await;
    stage.shared.live.write().unwrap().admission.patience = Duration::ZERO;
    let _making = all_launches(&stage).await;
    let waiting = send(&mut driver).await;
    let Input::Entered(entered) = next_input(&mut driver).await else { panic!("nothing came") };
    driver.entered(entered).await;
    let refused = waiting.await.unwrap();
    assert!(matches!(refused, Err(Refusal::Capacity { retry_after_s: 1.., .. })));
    assert_eq!(driver.state, State::cold(Status::Active, 4));
}

#[tokio::test]
async fn whoever_resumes_is_shown_what_everybody_is_shown() {
    let (stage, mut driver, _bridge) = idle(Status::Paused).await;
    let registry = &stage.shared.registry;
    registry.handle_or(&driver.session, || handle(&driver.session, mpsc::channel(1).0));
    let (reply, answer) = oneshot::channel();
    driver.command(Command::Resume { reply }).await;
    let (told, shown) = (answer.await.unwrap().unwrap(), registry.view(driver.session.id).unwrap());
    assert!(Arc::ptr_eq(&told, &shown), "it is written twice");
    assert_eq!(shown.session, driver.session);
    assert_eq!((shown.session.status, shown.session.last_seq), (Status::Active, 1));
    assert_eq!(shown.json, SessionView::of(&driver.session).json);
}

#[tokio::test]
async fn whoever_resumes_is_answered_before_others_are_told() {
    let (stage, mut driver, _bridge) = idle(Status::Paused).await;
    let mut happened = stage.shared.happened.subscribe();
    let (reply, answer) = oneshot::channel::<Result<Arc<SessionView>, Refusal>>();
    let answered = async {
        answer.await.unwrap().unwrap();
        happened.try_recv().is_err()
    };
    // Whoever waits has its turn first, each time that one of the two has.
    let resumed = driver.command(Command::Resume { reply });
    let (is_first, ()) = tokio::join!(biased; answered, resumed);
    assert!(is_first);
    let (tenant, id) = (driver.session.tenant.clone(), driver.session.id);
    let told = Happened::SessionChanged(tenant, id, Status::Active);
    assert_eq!(happened.try_recv().unwrap(), told);
    assert!(happened.try_recv().is_err(), "it is told twice");
    // Of other statuses they are told as well.
    let (reply, paused) = oneshot::channel();
    driver.command(Command::Pause { reply }).await;
    paused.await.unwrap().unwrap();
    assert!(matches!(happened.try_recv(), Ok(Happened::SessionChanged(.., Status::Paused))));
}

#[tokio::test]
async fn a_session_that_was_made_is_told_of_when_its_driver_begins() {
    let (stage, mut driver) = cold().await;
    let mut happened = stage.shared.happened.subscribe();
    let (running, _bridge) = linked().await;
    driver.begin_life(Begin::Launched(running, Counted::any())).await;
    let (tenant, id) = (driver.session.tenant.clone(), driver.session.id);
    assert_eq!(happened.try_recv().unwrap(), Happened::SessionCreated(tenant, id));
    // One that goes on was made long ago.
    driver.begin_life(Begin::Cold).await;
    assert!(happened.try_recv().is_err());
}
