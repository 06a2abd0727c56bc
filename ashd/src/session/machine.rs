//! What a session may do next. Pure: no clock, no I/O, no locks.
//!
//! ```text
//!            Send                 Launched, Granted         TurnEnded
//!   sandbox ──────► sandbox           ───────► turn: ours  ──────────► turn: none
//!   none            launching                     │  ▲                    │
//!     ▲               │ LaunchFailed              │  └── next in queue ◄──┘
//!     │◄──────────────┘                           │ SandboxLost, Stop, End, Shutdown
//!     │◄──────────────────────────────────────────┘ (the turn fails, truthfully)
//!
//!   status   starting ──► active ◄──► paused          stop: ► stopped ──resume──► active
//!                           │ ▲────────┘ resume       end, from anywhere: ► ended, for good
//! ```
//!
//! [`State::step`] takes an event and says what is to be done, in order. What is refused leaves
//! the state as it was.
//!
//! A turn of ours runs in a place, of which there may be fewer than sessions. One is asked for when a
//! turn could begin, and given back between any two turns: others may be waiting for it.

use std::collections::VecDeque;

use crate::domain::{Status, TurnId, WhenBusy};

/// Everything that decides what a session may do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct State {
    /// As committed, or about to be by an effect.
    pub status: Status,
    /// Whether there is a sandbox.
    pub sandbox: Sandbox,
    /// Whether a turn runs in it.
    pub turn: Turn,
    /// Turns that wait, next first.
    pub queue: VecDeque<TurnId>,
    /// What it has of the places that turns run in.
    pub permit: Permit,
    /// The session becomes active when the launch under way succeeds.
    pub resuming: bool,
    /// The most turns that may wait.
    pub queue_limit: usize,
}

/// Whether there is a sandbox.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sandbox {
    /// There is none.
    None,
    /// One is being made.
    Launching,
    /// Its bridge answers.
    Up,
}

/// Whether a turn runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Turn {
    /// None.
    None,
    /// One that a message began.
    Ours(TurnId),
    /// One that the CLI began by itself.
    Own,
}

/// What a session has of the places that turns run in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Permit {
    /// Nothing.
    None,
    /// It has asked for one.
    Asked,
    /// It has one.
    Held,
}

/// Something that happened or is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Event {
    /// A message came.
    Send(TurnId, WhenBusy),
    /// A message that waits was withdrawn by its sender.
    Withdraw(TurnId),
    /// A sandbox is needed, but no turn.
    Wake,
    /// The sandbox's bridge answers. Which sandbox it is has been committed, and with it that the
    /// session is active, if it is so from now on.
    Launched,
    /// The sandbox could not be made.
    LaunchFailed,
    /// The sandbox is gone.
    SandboxLost,
    /// There is a place, which was asked for.
    Granted,
    /// A turn that a message began is over.
    TurnEnded(TurnId),
    /// The CLI began a turn by itself.
    OwnTurnBegan,
    /// That turn is over.
    OwnTurnEnded,
    /// Interrupt the running turn.
    Interrupt,
    /// Set aside, sandbox kept.
    Pause,
    /// Set aside, sandbox ended.
    Stop,
    /// Make active again.
    Resume,
    /// End for good.
    End,
    /// End the sandbox and keep the status: the next message makes another one.
    Cool,
    /// The daemon goes away and takes the sandboxes along.
    Shutdown,
}

/// Something to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Effect {
    /// Commit this status.
    Status(Status),
    /// Make a sandbox.
    Launch,
    /// Ask for a place that the next turn can run in.
    Ask,
    /// Give the place back, or ask for it no longer.
    Release,
    /// Commit the user message, then give the turn to the bridge.
    Begin(TurnId),
    /// Ask the CLI to interrupt what it runs.
    Interrupt,
    /// Record that the turn failed.
    Fail(TurnId, Failure),
    /// Answer a waiting message with a refusal.
    Refuse(TurnId, Denied),
    /// End the sandbox.
    EndSandbox,
}

/// Why a turn ended without a result.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Failure {
    /// The sandbox is gone.
    SandboxLost,
    /// The session was stopped.
    Stopped,
    /// The session was ended.
    Ended,
    /// The daemon went away.
    Shutdown,
}

/// Why an event is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Denied {
    /// Messages need an active session.
    NotActive(Status),
    /// The verb does not fit the status.
    WrongStatus(Status),
    /// The session has ended.
    Ended,
    /// A turn runs, and the sender does not want to wait.
    Busy,
    /// Too many wait; the most that may.
    QueueFull(usize),
    /// The sandbox could not be made.
    NoSandbox,
    /// The daemon goes away.
    ShuttingDown,
}

/// What a step came to.
pub(super) type Step = Result<Vec<Effect>, Denied>;

impl State {
    /// The state of a session that has no sandbox.
    pub(super) fn cold(status: Status, queue_limit: usize) -> State {
        State {
            status,
            sandbox: Sandbox::None,
            turn: Turn::None,
            queue: VecDeque::new(),
            permit: Permit::None,
            resuming: false,
            queue_limit,
        }
    }

    /// The state of a session with a sandbox whose bridge answers. A turn that runs has its place.
    pub(super) fn live(status: Status, turn: Turn, queue_limit: usize) -> State {
        let permit = if matches!(turn, Turn::Ours(_)) { Permit::Held } else { Permit::None };
        State { sandbox: Sandbox::Up, turn, permit, ..State::cold(status, queue_limit) }
    }

    /// Takes an event: what is to be done, or why not.
    pub(super) fn step(&mut self, event: Event) -> Step {
        let mut effects = self.take(event)?;
        if !self.needs_place() {
            effects.extend(self.release());
        }
        Ok(effects)
    }

    fn take(&mut self, event: Event) -> Step {
        match event {
            Event::Send(turn, when_busy) => self.send(turn, when_busy),
            Event::Withdraw(turn) => {
                self.queue.retain(|waiting| *waiting != turn);
                Ok(vec![])
            }
            Event::Wake => self.wake(),
            Event::Launched => Ok(self.launched()),
            Event::LaunchFailed => Ok(self.launch_failed()),
            Event::SandboxLost => Ok(self.sandbox_lost()),
            Event::Granted => Ok(self.granted()),
            Event::TurnEnded(turn) => Ok(self.turn_ended(Turn::Ours(turn))),
            Event::OwnTurnBegan => {
                if self.turn == Turn::None && self.sandbox == Sandbox::Up {
                    self.turn = Turn::Own;
                }
                Ok(vec![])
            }
            Event::OwnTurnEnded => Ok(self.turn_ended(Turn::Own)),
            Event::Interrupt if self.turn == Turn::None => Ok(vec![]),
            Event::Interrupt => Ok(vec![Effect::Interrupt]),
            Event::Pause => self.pause(),
            Event::Stop => self.stop(),
            Event::Resume => self.resume(),
            Event::End => Ok(self.leave(Status::Ended, Failure::Ended, Denied::Ended)),
            Event::Cool => self.cool(),
            Event::Shutdown => Ok(self.shutdown()),
        }
    }

    fn send(&mut self, turn: TurnId, when_busy: WhenBusy) -> Step {
        if self.status != Status::Active {
            return Err(Denied::NotActive(self.status));
        }
        if self.turn == Turn::None && self.sandbox != Sandbox::Launching && self.queue.is_empty() {
            self.queue.push_back(turn);
            return Ok(self.next().into_iter().collect());
        }
        let busy = self.turn != Turn::None || !self.queue.is_empty();
        if busy && when_busy == WhenBusy::Reject {
            return Err(Denied::Busy);
        }
        if self.queue.len() >= self.queue_limit {
            return Err(Denied::QueueFull(self.queue_limit));
        }
        if when_busy == WhenBusy::Interrupt {
            self.queue.push_front(turn);
            return self.take(Event::Interrupt);
        }
        self.queue.push_back(turn);
        Ok(vec![])
    }

    fn wake(&mut self) -> Step {
        if self.status != Status::Active {
            return Err(Denied::NotActive(self.status));
        }
        if self.sandbox != Sandbox::None {
            return Ok(vec![]);
        }
        self.sandbox = Sandbox::Launching;
        Ok(vec![Effect::Launch])
    }

    fn launched(&mut self) -> Vec<Effect> {
        if self.sandbox != Sandbox::Launching {
            return vec![Effect::EndSandbox];
        }
        self.sandbox = Sandbox::Up;
        if std::mem::take(&mut self.resuming) {
            self.status = Status::Active;
        }
        self.next().into_iter().collect()
    }

    fn launch_failed(&mut self) -> Vec<Effect> {
        if self.sandbox == Sandbox::Launching {
            self.sandbox = Sandbox::None;
        }
        self.resuming = false;
        self.refuse_queue(Denied::NoSandbox)
    }

    fn sandbox_lost(&mut self) -> Vec<Effect> {
        if self.sandbox != Sandbox::Up {
            return vec![];
        }
        self.sandbox = Sandbox::None;
        let mut effects = self.fail_turn(Failure::SandboxLost);
        effects.push(Effect::EndSandbox);
        effects.extend(self.next());
        effects
    }

    fn granted(&mut self) -> Vec<Effect> {
        if self.permit != Permit::Asked {
            return vec![];
        }
        self.permit = Permit::Held;
        self.next().into_iter().collect()
    }

    fn turn_ended(&mut self, turn: Turn) -> Vec<Effect> {
        if self.turn != turn {
            return vec![];
        }
        self.turn = Turn::None;
        // What the CLI began by itself had no place: one that was granted meanwhile is for the next.
        let given_back = match turn {
            Turn::Ours(_) => self.release(),
            Turn::Own | Turn::None => None,
        };
        given_back.into_iter().chain(self.next()).collect()
    }

    /// Whether a turn runs in a place, or could begin in one.
    fn needs_place(&self) -> bool {
        let waits = self.status == Status::Active && !self.queue.is_empty();
        matches!(self.turn, Turn::Ours(_)) || waits && self.sandbox == Sandbox::Up
    }

    fn release(&mut self) -> Option<Effect> {
        let permit = std::mem::replace(&mut self.permit, Permit::None);
        (permit != Permit::None).then_some(Effect::Release)
    }

    /// The next waiting turn begins, or what it needs for that is asked for.
    fn next(&mut self) -> Option<Effect> {
        if self.turn != Turn::None || self.status != Status::Active {
            return None;
        }
        match self.sandbox {
            Sandbox::Launching => None,
            Sandbox::Up => self.next_in_sandbox(),
            Sandbox::None => {
                self.queue.front()?;
                self.sandbox = Sandbox::Launching;
                Some(Effect::Launch)
            }
        }
    }

    fn next_in_sandbox(&mut self) -> Option<Effect> {
        let turn = *self.queue.front()?;
        match self.permit {
            Permit::None => {
                self.permit = Permit::Asked;
                Some(Effect::Ask)
            }
            Permit::Asked => None,
            Permit::Held => {
                self.queue.pop_front();
                self.turn = Turn::Ours(turn);
                Some(Effect::Begin(turn))
            }
        }
    }

    fn pause(&mut self) -> Step {
        if self.status != Status::Active {
            return Err(Denied::WrongStatus(self.status));
        }
        self.status = Status::Paused;
        let mut effects = vec![Effect::Status(Status::Paused)];
        effects.extend(self.refuse_queue(Denied::NotActive(Status::Paused)));
        Ok(effects)
    }

    fn stop(&mut self) -> Step {
        if !matches!(self.status, Status::Active | Status::Starting) {
            return Err(Denied::WrongStatus(self.status));
        }
        Ok(self.leave(Status::Stopped, Failure::Stopped, Denied::NotActive(Status::Stopped)))
    }

    fn cool(&mut self) -> Step {
        if self.status == Status::Ended {
            return Err(Denied::Ended);
        }
        let waits = self.sandbox == Sandbox::Launching || !self.queue.is_empty();
        if self.turn != Turn::None || waits {
            return Err(Denied::Busy);
        }
        match std::mem::replace(&mut self.sandbox, Sandbox::None) {
            Sandbox::Up => Ok(vec![Effect::EndSandbox]),
            Sandbox::None | Sandbox::Launching => Ok(vec![]),
        }
    }

    fn resume(&mut self) -> Step {
        match (self.status, self.sandbox) {
            (Status::Ended, _) => Err(Denied::Ended),
            (Status::Active, _) => Ok(vec![]),
            (_, Sandbox::Up) => {
                self.status = Status::Active;
                Ok(vec![Effect::Status(Status::Active)])
            }
            (_, Sandbox::Launching) => {
                self.resuming = true;
                Ok(vec![])
            }
            (_, Sandbox::None) => {
                self.resuming = true;
                self.sandbox = Sandbox::Launching;
                Ok(vec![Effect::Launch])
            }
        }
    }

    fn shutdown(&mut self) -> Vec<Effect> {
        let status = match self.status {
            Status::Active | Status::Starting => Status::Paused,
            other => other,
        };
        self.leave(status, Failure::Shutdown, Denied::ShuttingDown)
    }

    /// Ends the turn, the queue and the sandbox; the status is committed last, so that history
    /// reads in the order of things.
    fn leave(&mut self, status: Status, failure: Failure, denied: Denied) -> Vec<Effect> {
        let mut effects = self.fail_turn(failure);
        effects.extend(self.refuse_queue(denied));
        self.resuming = false;
        if std::mem::replace(&mut self.sandbox, Sandbox::None) != Sandbox::None {
            effects.push(Effect::EndSandbox);
        }
        if std::mem::replace(&mut self.status, status) != status {
            effects.push(Effect::Status(status));
        }
        effects
    }

    /// Ends the turn, and gives its place back, or the one that is asked for, before the sandbox is
    /// ended: others need not wait for that.
    fn fail_turn(&mut self, failure: Failure) -> Vec<Effect> {
        let failed = match std::mem::replace(&mut self.turn, Turn::None) {
            Turn::Ours(turn) => Some(Effect::Fail(turn, failure)),
            Turn::Own | Turn::None => None,
        };
        failed.into_iter().chain(self.release()).collect()
    }

    fn refuse_queue(&mut self, denied: Denied) -> Vec<Effect> {
        self.queue.drain(..).map(|turn| Effect::Refuse(turn, denied)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        assert_eq!(
            step(&mut state, Event::Send(c, WhenBusy::Interrupt)),
            Ok(vec![Effect::Interrupt])
        );
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
        let effects =
            vec![Effect::Fail(a, Failure::SandboxLost), Effect::EndSandbox, Effect::Launch];
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
}
