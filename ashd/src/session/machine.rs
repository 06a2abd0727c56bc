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
#[path = "machine_tests.rs"]
mod tests;
