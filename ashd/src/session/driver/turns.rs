//! How turns begin, fail and are refused.

use std::time::{Duration, Instant};

use ash_wire::words::Turn as WireTurn;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::{Driver, Failure, Reply, RunningCli};
use crate::domain::event::Origin;
use crate::domain::session::RunningTurn;
use crate::domain::{
    Event as Durable, EventKind, NewEvent, SessionChange, Timestamp, TurnId, TurnOptions,
    TurnRequest, WhenBusy,
};
use crate::fault;
use crate::session::api::{Reading, Refusal};
use crate::session::cli::{self, Controls, Conversation, StartKey};
use crate::session::frames;
use crate::session::going_on;
use crate::session::machine::{Denied, Event, Sandbox, Turn};
use crate::session::standing::Standing;
use crate::session::stream::{Starter, Subscription};
use crate::store::StoreError;
use crate::telemetry::message;
use crate::telemetry::metrics::labels::TurnEnd;

/// How long a session is taken for this machine's without asking the object store.
const OWNED: Duration = Duration::from_secs(60);

/// What is said of a turn whose end could not be recorded when it came.
const MISSED: &str = "Interrupted: what became of it could not be stored at the time";

/// A message whose turn has not begun.
pub(super) struct Waiting {
    pub(super) request: TurnRequest,
    /// When it came.
    came: Instant,
    pub(super) standing: Standing,
    starter: Starter,
    /// The caller, until it has its stream.
    caller: Option<(Reply<Subscription>, Subscription)>,
}

impl Waiting {
    fn is_abandoned(&self) -> bool {
        match &self.caller {
            Some((reply, _)) => reply.is_closed(),
            None => self.starter.is_abandoned(),
        }
    }

    /// Waits until the caller hangs up.
    pub(super) async fn left(&mut self) {
        match &mut self.caller {
            Some((reply, _)) => reply.closed().await,
            None => self.starter.left().await,
        }
    }

    /// The caller gets its stream, whether or not the turn has begun.
    fn release(&mut self) {
        if let Some((reply, subscription)) = self.caller.take() {
            let _ = reply.send(Ok(subscription));
        }
    }

    pub(super) fn refuse(mut self, refusal: Refusal) {
        match self.caller.take() {
            Some((reply, _)) => drop(reply.send(Err(refusal))),
            None => self.starter.refuse(refusal),
        }
    }
}

impl Driver {
    /// Takes a message. The caller has its stream once its turn has begun, or once it is certain
    /// to wait: for another turn, of this session or of others, or for a sandbox that may not be made right
    /// away. Until then it can still be refused in full.
    pub(super) async fn send(
        &mut self,
        request: TurnRequest,
        reading: Reading,
        reply: Reply<Subscription>,
    ) {
        let turn = TurnId::random();
        let when_busy = request.when_busy;
        self.withdraw_abandoned().await;
        let runs_unheard = self.may_run_unheard();
        let effects = match self.state.step(Event::Send(turn, when_busy)) {
            Ok(effects) => effects,
            Err(denied) => return drop(reply.send(Err(refusal(denied, "send")))),
        };
        if runs_unheard && when_busy == WhenBusy::Interrupt {
            self.interrupt();
        }
        let (subscription, starter) = Subscription::of_turn(
            self.session.id,
            self.shared.store.clone(),
            self.journal.clone(),
            reading,
        );
        let standing = self.line.standing();
        let caller = Some((reply, subscription.standing(standing.clone())));
        let came = Instant::now();
        self.waiting.insert(turn, Waiting { request, came, standing, starter, caller });
        // Refusals reach the callers through their streams.
        let _ = self.perform(effects).await;
        if self.state.sandbox != Sandbox::Up {
            self.see_who_waits();
        } else if let Some(waiting) = self.waiting.get_mut(&turn) {
            waiting.release();
        }
    }

    /// It has to be waited for that there is a sandbox: whoever waits has its stream. Who does not want to
    /// wait for a turn is told in full, later, whether it has to.
    pub(super) fn release_patient(&mut self) {
        let all = self.waiting.values_mut();
        let patient = all.filter(|waiting| waiting.request.when_busy != WhenBusy::Reject);
        patient.for_each(Waiting::release);
    }

    /// A sandbox has come up: whoever still waits does so for another turn, and has its stream.
    pub(super) fn release_waiting(&mut self) {
        self.waiting.values_mut().for_each(Waiting::release);
    }

    /// A message whose sender hung up before its turn began was never accepted: it makes room.
    pub(super) async fn withdraw_abandoned(&mut self) {
        let gone: Vec<TurnId> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.is_abandoned())
            .map(|(turn, _)| *turn)
            .collect();
        for turn in gone {
            self.waiting.remove(&turn);
            let _ = self.step(Event::Withdraw(turn)).await;
        }
    }

    /// Finds out beside the turn whether another machine has taken the session, when nobody has asked
    /// for long: at its end it would be too late to say so.
    fn ask_for_owner(&mut self) {
        if self.asked_at.is_none_or(|asked| asked.elapsed() > OWNED) {
            self.asked_at = Some(Instant::now());
            self.shared.copies.wake(self.session.id);
        }
    }

    /// Whether somebody still waits for a turn that has not begun.
    pub(super) fn is_wanted(&self, turn: TurnId) -> bool {
        self.waiting.get(&turn).is_some_and(|waiting| !waiting.is_abandoned())
    }

    /// Commits the user message, tells the caller, and gives the turn to the bridge. Returns what
    /// happened if the turn did not begin.
    pub(super) async fn begin_turn(&mut self, turn: TurnId) -> Option<Event> {
        let ended = Some(Event::TurnEnded(turn));
        let Some(mut waiting) = self.waiting.remove(&turn).filter(|w| !w.is_abandoned()) else {
            return ended;
        };
        let begun = Instant::now();
        waiting.standing.stand(0);
        if let Err(error) = self.record_missed_end().await {
            waiting.refuse(error.into());
            return ended;
        }
        let mut events = vec![];
        if let Some(point) = self.changes_to_tell() {
            let told = going_on::changed(point);
            events.push(self.event(EventKind::Lifecycle, None, told.to_string().into()));
        }
        let mut event = self.event(EventKind::User, Some(turn), user_body(&waiting.request));
        event.seq += events.len() as u64;
        events.push(event.clone());
        let user_seq = event.seq;
        let change = SessionChange {
            turn: Some(Some(RunningTurn { id: turn, user_seq })),
            last_active_at: Some(Timestamp::now()),
            last_error: Some(None),
            ..SessionChange::none()
        };
        // Whoever finds the message in the store must not take its turn for one that is over.
        self.journal.begin_turn();
        if let Err(error) = self.commit(change, events).await {
            self.journal.end_turn();
            waiting.refuse(error.into());
            return ended;
        }
        (self.told_of, self.looked_back) = (self.changes, true);
        self.times.turn_began(begun, waiting.came);
        fault::point("turn.recorded");
        self.ask_for_owner();
        let request = &waiting.request;
        let given = self.give_turn(turn, &request.content, &request.options).await;
        fault::point("turn.given");
        self.show_beginning(&event, |place| {
            waiting.release();
            waiting.starter.begin(place, user_seq);
        });
        if given {
            return None;
        }
        self.not_given(turn).await;
        ended
    }

    /// Records that a turn could not be handed to the bridge.
    pub(super) async fn not_given(&mut self, turn: TurnId) {
        let text = "The message could not be handed to the agent";
        // A failure to record is logged where it happens, and mended at the next start.
        let _ = self.record_failure(turn, TurnEnd::Failed, text).await;
    }

    /// Shows the user message to the readers.
    pub(super) fn show_beginning(
        &mut self,
        user: &Durable,
        begun: impl FnOnce(crate::session::journal::Place),
    ) {
        self.partial = None;
        self.replay.in_turn = false;
        self.journal.begin_turn();
        begun(self.journal.end());
        let frames = self.encoder.event(user, &mut self.numbering);
        self.journal.append(frames);
    }

    /// Hands a turn to the bridge, with a CLI that serves it; false if the bridge does not take it.
    pub(super) async fn give_turn(
        &mut self,
        turn: TurnId,
        content: &RawValue,
        options: &TurnOptions,
    ) -> bool {
        if !self.ready_cli(options).await {
            return false;
        }
        let turn = WireTurn { id: turn.to_string(), content: content.to_owned() };
        self.link.as_ref().is_some_and(|link| link.sender.turn(&turn).is_ok())
    }

    /// Sees to it that a CLI runs, or starts, that serves a message with these options; false if
    /// that cannot be.
    async fn ready_cli(&mut self, options: &TurnOptions) -> bool {
        let key = StartKey::of(options);
        let controls = self.controls(options);
        match &mut self.cli {
            Some(running) if running.key.serves(&key) => {
                let requests = controls.requests_from(running.controls.as_ref());
                running.controls = Some(controls);
                if let Some(link) = &self.link {
                    for request in requests {
                        let _ = link.sender.control(link.sender.next_id(), &request);
                    }
                }
            }
            _ => return self.start_again(options).await,
        }
        true
    }

    /// Starts a CLI in a sandbox that has had one; false if it is not known how it has to begin, or
    /// the bridge does not take it.
    async fn start_again(&mut self, options: &TurnOptions) -> bool {
        match self.find_again().await {
            Ok(conversation) => self.start_cli(conversation, options),
            Err(refusal) => {
                self.log_refusal(&refusal);
                false
            }
        }
    }

    /// What another CLI has to begin with. That it knows nothing is said before it begins.
    async fn find_again(&mut self) -> Result<Conversation, Refusal> {
        let conversation = self.shared.conversation(&self.session).await?;
        self.record_lost(conversation).await?;
        Ok(conversation)
    }

    fn controls(&self, options: &TurnOptions) -> Controls {
        Controls::of(options, &self.session, &self.shared.options.cli)
    }

    /// Starts a CLI for messages with these options; false if the bridge does not take that: one
    /// that runs already is not what they want.
    pub(super) fn start_cli(&mut self, conversation: Conversation, options: &TurnOptions) -> bool {
        let (key, controls) = (StartKey::of(options), self.controls(options));
        let defaults = &self.shared.options.cli;
        let start = cli::start(&self.session, conversation, &key, &controls, defaults);
        let link = self.link.as_ref();
        let is_taken = link.is_some_and(|link| link.sender.start_cli(&start).is_ok());
        self.cli_gone = None;
        self.idle.is_starting = is_taken;
        self.cli = is_taken.then_some(RunningCli { key, controls: Some(controls), cost: 0.0 });
        is_taken
    }

    /// Asks the CLI to interrupt what it runs.
    pub(super) fn interrupt(&mut self) {
        self.replay.interrupts = self.replay.active;
        self.times.interrupted();
        if let Some(link) = &self.link {
            let _ = link.sender.interrupt(link.sender.next_id());
        }
    }

    pub(super) fn refuse_waiting(&mut self, turn: TurnId, denied: Denied) {
        if let Some(waiting) = self.waiting.remove(&turn) {
            let error = self.launch_error.as_ref().filter(|_| denied == Denied::NoSandbox);
            waiting.refuse(error.map_or_else(|| refusal(denied, "send"), Refusal::clone));
        }
    }

    /// Records that a turn ended without a result.
    pub(super) async fn fail_turn(
        &mut self,
        turn: TurnId,
        failure: Failure,
    ) -> Result<(), Refusal> {
        let (end, text) = match failure {
            Failure::SandboxLost => (TurnEnd::SandboxLost, self.why_lost("it answered")),
            Failure::Stopped => {
                (TurnEnd::Stopped, "The session was stopped while it answered".to_owned())
            }
            Failure::Ended => {
                (TurnEnd::Stopped, "The session was ended while it answered".to_owned())
            }
            Failure::Shutdown => {
                (TurnEnd::Shutdown, "Interrupted: the server was shut down".to_owned())
            }
        };
        self.record_failure(turn, end, &text).await
    }

    /// Records the end of a turn that is over, if that was not possible when it came: before
    /// anything else of the session is.
    pub(super) async fn record_missed_end(&mut self) -> Result<(), StoreError> {
        let missed = self.session.turn.filter(|turn| self.state.turn != Turn::Ours(turn.id));
        let Some(missed) = missed else { return Ok(()) };
        let (event, change) = self.failure(Some(missed.id), MISSED);
        self.commit(change, vec![event.clone()]).await?;
        let frames = self.encoder.event(&event, &mut self.numbering);
        self.journal.append(frames);
        Ok(())
    }

    /// The error that ends a turn, of ours or of the CLI's own, and what it changes.
    fn failure(&self, turn: Option<TurnId>, text: &str) -> (NewEvent, SessionChange) {
        let event = self.event(EventKind::Error, turn, frames::error_body(text));
        let last_error = Some(Some(text.to_owned()));
        let change =
            SessionChange { turn: turn.map(|_| None), last_error, ..SessionChange::none() };
        (event, change)
    }

    /// Commits and shows the error that ends a turn.
    pub(super) async fn record_failure(
        &mut self,
        turn: TurnId,
        end: TurnEnd,
        text: &str,
    ) -> Result<(), Refusal> {
        let (event, change) = self.failure(Some(turn), text);
        let recorded = self.record_error(event, change).await;
        self.end_turn(end);
        recorded?;
        tracing::warn!(
            message_id = message::TURN_FAILED, ash_session = %self.session.id, ash_turn = %turn,
            ash_agent = %self.session.agent, ash_tenant = %self.session.tenant, error = text,
            "turn failed"
        );
        Ok(())
    }

    /// Commits and shows that what the CLI did by itself, if it did, came to nothing: its answer in history
    /// has no end. What the bridge has said of it under a number it may say again to the next daemon, which is
    /// not to record it once more. What could not be recorded is, when the sandbox is lost for it.
    pub(super) async fn fail_own_turn(
        &mut self,
        text: &str,
        number: Option<u64>,
    ) -> Result<(), Refusal> {
        if self.state.turn != Turn::Own || !std::mem::take(&mut self.own_turn) {
            return Ok(());
        }
        if number.is_some_and(|number| number <= self.replay.committed) {
            return Ok(());
        }
        let epoch = self.session.sandbox.epoch();
        let (event, change) = self.failure(None, text);
        let origin = number.map(|number| Origin { epoch, number });
        let event = NewEvent { origin, ..event };
        let recorded = self.record_error(event, change).await;
        self.own_turn = recorded.is_err();
        recorded
    }

    /// Commits and shows an error. Readers are told in any case; what is not on disk is not numbered.
    async fn record_error(
        &mut self,
        event: NewEvent,
        change: SessionChange,
    ) -> Result<(), Refusal> {
        let change = SessionChange { last_active_at: Some(event.at), ..change };
        let recorded = self.commit_stubbornly(change, vec![event.clone()]).await;
        self.note_end();
        let frames = match &recorded {
            Ok(()) => self.encoder.event(&event, &mut self.numbering),
            Err(refusal) => {
                self.encoder.unrecorded(refusal, event.turn.is_some(), &mut self.numbering)
            }
        };
        self.journal.append(frames);
        recorded
    }
}

/// The body of a user message's event. Options are kept beside it when there are any: a daemon
/// that is killed before it could give the turn away leaves that to the next.
fn user_body(request: &TurnRequest) -> Bytes {
    let content = request.content.get();
    if request.options == TurnOptions::default() {
        return format!("{{\"type\":\"user\",\"content\":{content}}}").into();
    }
    let options = serde_json::to_string(&request.options).unwrap_or_else(|_| "{}".to_owned());
    format!("{{\"type\":\"user\",\"content\":{content},\"options\":{options}}}").into()
}

/// What a refusal of the machine is to the caller of a verb.
pub(super) fn refusal(denied: Denied, verb: &'static str) -> Refusal {
    match denied {
        Denied::NotActive(status) => Refusal::NotActive(status),
        Denied::WrongStatus(status) => Refusal::WrongStatus { verb, status },
        Denied::Ended => Refusal::Ended,
        Denied::Busy => Refusal::Busy,
        Denied::QueueFull(limit) => Refusal::QueueFull(limit),
        Denied::NoSandbox => {
            let text = "The sandbox could not be started; the session's log says why";
            Refusal::Sandbox(text.to_owned())
        }
        Denied::ShuttingDown => Refusal::ShuttingDown,
    }
}
