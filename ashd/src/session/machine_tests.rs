use proptest::prelude::*;

use super::*;

fn turn() -> TurnId {
    TurnId::random()
}

fn live() -> State {
    State::live(Status::Active, Turn::None, 2)
}

/// Takes an event, where there is always a place: what is done besides asking for it and giving it
/// back.
fn step(state: &mut State, event: Event) -> Step {
    let mut effects = state.step(event)?;
    while let Some(at) = effects.iter().position(|effect| *effect == Effect::Ask) {
        drop(effects.splice(at..=at, state.step(Event::Granted)?));
    }
    effects.retain(|effect| *effect != Effect::Release);
    Ok(effects)
}

#[test]
fn a_message_wakes_a_cold_session_and_runs_when_it_is_up() {
    let mut state = State::cold(Status::Active, 2);
    let a = turn();
    assert_eq!(step(&mut state, Event::Send(a, WhenBusy::Queue)), Ok(vec![Effect::Launch]));
    assert_eq!(step(&mut state, Event::Launched), Ok(vec![Effect::Begin(a)]));
    assert_eq!(step(&mut state, Event::TurnEnded(a)), Ok(vec![]));
    assert_eq!(state, live());
}

#[test]
fn busy_is_queued_refused_or_interrupts() {
    let mut state = live();
    let [a, b, c, d] = [turn(), turn(), turn(), turn()];
    step(&mut state, Event::Send(a, WhenBusy::Queue)).unwrap();
    assert_eq!(step(&mut state, Event::Send(b, WhenBusy::Reject)), Err(Denied::Busy));
    assert_eq!(step(&mut state, Event::Send(b, WhenBusy::Queue)), Ok(vec![]));
    assert_eq!(step(&mut state, Event::Send(c, WhenBusy::Interrupt)), Ok(vec![Effect::Interrupt]));
    assert_eq!(step(&mut state, Event::Send(d, WhenBusy::Queue)), Err(Denied::QueueFull(2)));
    assert_eq!(step(&mut state, Event::TurnEnded(a)), Ok(vec![Effect::Begin(c)]));
    assert_eq!(step(&mut state, Event::TurnEnded(c)), Ok(vec![Effect::Begin(b)]));
}

#[test]
fn a_failed_launch_refuses_who_waited_and_leaves_the_status() {
    let mut state = State::cold(Status::Stopped, 2);
    assert_eq!(step(&mut state, Event::Resume), Ok(vec![Effect::Launch]));
    assert_eq!(step(&mut state, Event::LaunchFailed), Ok(vec![]));
    assert_eq!(state.status, Status::Stopped);
    let mut state = State::cold(Status::Active, 2);
    let a = turn();
    step(&mut state, Event::Send(a, WhenBusy::Queue)).unwrap();
    assert_eq!(
        step(&mut state, Event::LaunchFailed),
        Ok(vec![Effect::Refuse(a, Denied::NoSandbox)])
    );
}

#[test]
fn a_lost_sandbox_fails_its_turn_and_the_next_gets_a_new_one() {
    let mut state = live();
    let [a, b] = [turn(), turn()];
    step(&mut state, Event::Send(a, WhenBusy::Queue)).unwrap();
    step(&mut state, Event::Send(b, WhenBusy::Queue)).unwrap();
    let effects = vec![Effect::Fail(a, Failure::SandboxLost), Effect::EndSandbox, Effect::Launch];
    assert_eq!(step(&mut state, Event::SandboxLost), Ok(effects));
    assert_eq!(step(&mut state, Event::Launched), Ok(vec![Effect::Begin(b)]));
}

#[test]
fn pausing_lets_the_turn_go_on_and_refuses_what_comes_after() {
    let mut state = live();
    let [a, b] = [turn(), turn()];
    step(&mut state, Event::Send(a, WhenBusy::Queue)).unwrap();
    assert_eq!(step(&mut state, Event::Pause), Ok(vec![Effect::Status(Status::Paused)]));
    let denied = Denied::NotActive(Status::Paused);
    assert_eq!(step(&mut state, Event::Send(b, WhenBusy::Queue)), Err(denied));
    assert_eq!(step(&mut state, Event::TurnEnded(a)), Ok(vec![]));
    assert_eq!(step(&mut state, Event::Resume), Ok(vec![Effect::Status(Status::Active)]));
}

#[test]
fn a_launch_that_outlived_its_session_is_ended() {
    let mut state = State::cold(Status::Stopped, 2);
    step(&mut state, Event::Resume).unwrap();
    let ended = vec![Effect::EndSandbox, Effect::Status(Status::Ended)];
    assert_eq!(step(&mut state, Event::End), Ok(ended));
    assert_eq!(step(&mut state, Event::Launched), Ok(vec![Effect::EndSandbox]));
    assert_eq!(step(&mut state, Event::Resume), Err(Denied::Ended));
}

#[test]
fn a_turn_begins_when_it_has_a_place_and_gives_it_back_behind_it() {
    let mut state = live();
    let [a, b] = [turn(), turn()];
    assert_eq!(state.step(Event::Send(a, WhenBusy::Queue)), Ok(vec![Effect::Ask]));
    assert_eq!(state.step(Event::Send(b, WhenBusy::Queue)), Ok(vec![]));
    let reject = Event::Send(turn(), WhenBusy::Reject);
    assert_eq!(state.step(reject), Err(Denied::Busy), "others wait");
    assert_eq!(state.step(Event::Granted), Ok(vec![Effect::Begin(a)]));
    // Not kept for the next one: it may be somebody else's turn.
    let next = vec![Effect::Release, Effect::Ask];
    assert_eq!(state.step(Event::TurnEnded(a)), Ok(next));
    assert_eq!(state.step(Event::Granted), Ok(vec![Effect::Begin(b)]));
    assert_eq!(state.step(Event::TurnEnded(b)), Ok(vec![Effect::Release]));
    assert_eq!(state, live());
}

#[test]
fn nobody_waits_for_a_place_in_vain() {
    let reasons = |a| {
        let lost = vec![Effect::Release, Effect::EndSandbox, Effect::Launch];
        let refused = |status| Effect::Refuse(a, Denied::NotActive(status));
        let (paused, stopped) = (Status::Paused, Status::Stopped);
        let end = [Effect::EndSandbox, Effect::Status(stopped)];
        [
            (Event::Withdraw(a), vec![Effect::Release]),
            (Event::SandboxLost, lost),
            (Event::Pause, vec![Effect::Status(paused), refused(paused), Effect::Release]),
            (Event::Stop, [&[Effect::Release, refused(stopped)][..], &end].concat()),
        ]
    };
    for each in 0..reasons(turn()).len() {
        let (mut state, a) = (live(), turn());
        state.step(Event::Send(a, WhenBusy::Queue)).unwrap();
        assert_eq!(state.step(Event::Cool), Err(Denied::Busy), "it is about to be used");
        let (event, effects) = reasons(a)[each].clone();
        assert_eq!(state.step(event), Ok(effects));
        assert_eq!(state.permit, Permit::None);
    }
}

#[test]
fn a_place_that_comes_while_the_cli_works_by_itself_is_for_the_next_turn() {
    let (mut state, a) = (live(), turn());
    state.step(Event::Send(a, WhenBusy::Queue)).unwrap();
    assert_eq!(state.step(Event::OwnTurnBegan), Ok(vec![]));
    assert_eq!(state.step(Event::Granted), Ok(vec![]));
    assert_eq!(state.step(Event::OwnTurnEnded), Ok(vec![Effect::Begin(a)]));
}

fn event() -> impl Strategy<Value = u8> {
    0u8..18
}

/// Turns a byte into an event that may happen in this state.
fn pick(byte: u8, state: &State) -> Event {
    let running = match state.turn {
        Turn::Ours(turn) => turn,
        Turn::None | Turn::Own => turn(),
    };
    match byte {
        0 => Event::Send(turn(), WhenBusy::Queue),
        1 => Event::Send(turn(), WhenBusy::Reject),
        2 => Event::Send(turn(), WhenBusy::Interrupt),
        3 => Event::Withdraw(state.queue.front().copied().unwrap_or_else(turn)),
        4 | 5 => Event::Launched,
        6 => Event::LaunchFailed,
        7 => Event::SandboxLost,
        8 => Event::TurnEnded(running),
        9 => Event::OwnTurnBegan,
        10 => Event::OwnTurnEnded,
        11 => Event::Interrupt,
        12 => Event::Pause,
        13 => Event::Stop,
        14 => Event::Resume,
        16 => Event::Wake,
        17 => Event::Granted,
        _ => Event::Shutdown,
    }
}

proptest! {
    /// Every turn that was taken begins or is refused once; every turn that began ends once;
    /// one runs at a time, in a sandbox that is up and in a place; nothing waits for nothing, and no
    /// place is kept for nothing.
    #[test]
    fn turns_are_neither_lost_nor_doubled(bytes in prop::collection::vec(event(), 0..200)) {
        let mut state = State::cold(Status::Active, 4);
        let (mut waiting, mut running, mut place) = (Vec::new(), None, Permit::None);
        for byte in bytes.into_iter().chain([15]) {
            let event = pick(byte, &state);
            let before = state.clone();
            let Ok(effects) = state.step(event) else {
                prop_assert_eq!(&before, &state, "a refusal changes nothing");
                continue;
            };
            match event {
                Event::Send(turn, _) => waiting.push(turn),
                Event::Withdraw(turn) => waiting.retain(|w| *w != turn),
                Event::TurnEnded(turn) if running == Some(turn) => running = None,
                Event::Granted if place == Permit::Asked => place = Permit::Held,
                _ => {}
            }
            for effect in effects {
                match effect {
                    Effect::Begin(turn) => {
                        prop_assert!(waiting.contains(&turn));
                        waiting.retain(|w| *w != turn);
                        prop_assert_eq!(running.replace(turn), None);
                        prop_assert_eq!((state.sandbox, place), (Sandbox::Up, Permit::Held));
                    }
                    Effect::Ask => {
                        prop_assert_eq!(std::mem::replace(&mut place, Permit::Asked), Permit::None);
                    }
                    Effect::Release => {
                        prop_assert_ne!(std::mem::replace(&mut place, Permit::None), Permit::None);
                    }
                    Effect::Refuse(turn, _) => {
                        prop_assert!(waiting.contains(&turn));
                        waiting.retain(|w| *w != turn);
                    }
                    Effect::Fail(turn, _) => prop_assert_eq!(running.take(), Some(turn)),
                    Effect::Status(_) | Effect::Launch | Effect::Interrupt
                    | Effect::EndSandbox => {}
                }
            }
            prop_assert!(state.queue.len() <= state.queue_limit);
            prop_assert_eq!(state.queue.len(), waiting.len());
            let idle = state.turn == Turn::None && state.status == Status::Active;
            let comes = state.sandbox == Sandbox::Launching || place == Permit::Asked;
            prop_assert!(!idle || waiting.is_empty() || comes);
            prop_assert_eq!(place, state.permit);
            prop_assert!(place == Permit::None || running.is_some() || !waiting.is_empty());
        }
        prop_assert!(waiting.is_empty() && running.is_none(), "shutdown leaves nothing");
        prop_assert_eq!((state.sandbox, place), (Sandbox::None, Permit::None));
    }
}
