//! One task per session owns its state; everyone else sends it commands.
//!
//! The driver waits for commands of the edges, a sandbox that may be made or is being made, a place for the
//! next turn, and what the bridge says. Each becomes an event of the [`machine`](super::machine), and the
//! machine's effects are carried out one after the other. What history keeps is committed before
//! anyone sees it; what it does not keep goes to the readers at once.

mod commit;
mod end;
mod entering;
mod exec;
mod input;
mod life;
mod lines;
mod permit;
mod replay;
mod saving;
mod telling;
mod times;
mod turns;
mod writes;

mod back;

mod clear;
mod idle;
mod rest;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use self::entering::Entering;
use self::exec::Execs;
use self::idle::Idle;
use self::input::Input;
pub(super) use self::life::{Begin, Claimed};
use self::permit::Permit;
pub(super) use self::replay::Replay;
use self::saving::{Saving, Wish};
pub(super) use self::times::FirstCall;
use self::times::Times;
use self::turns::{Waiting, refusal};
use self::writes::{Changes, Writes};
pub(super) use self::writes::{Workspace, Write};
use super::api::{Reading, Refusal};
use super::clearing::Cleared;
use super::cli::{Controls, StartKey};
use super::exec::ExecStream;
use super::frames::{Encoder, Numbering};
use super::journal::Journal;
use super::keeping::Life;
use super::ladder::Step;
use super::logs::Logs;
use super::machine::{Effect, Event, Failure, State, Turn};
use super::owners::Counted;
use super::registry::SessionView;
use super::rewind::Goal;
use super::shared::Shared;
use super::standing::Line;
use super::stream::Subscription;
use crate::domain::{
    ExecRequest, Point, PointId, PointName, Session, SessionChange, Status, TurnId, TurnRequest,
};
use crate::sandbox::Running;
use crate::telemetry::metrics::Metrics;

/// Messages of the bridge that are taken at once.
const BATCH: usize = 512;

type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What the edges ask of a session.
pub(super) enum Command {
    /// Run a turn.
    Send { request: TurnRequest, reading: Reading, reply: Reply<Subscription> },
    /// Interrupt the running turn.
    Interrupt { reply: Reply<bool> },
    /// Set aside, keep the sandbox.
    Pause { reply: Reply<Arc<SessionView>> },
    /// Set aside, end the sandbox.
    Stop { reply: Reply<Arc<SessionView>> },
    /// Make active again.
    Resume { reply: Reply<Arc<SessionView>> },
    /// End for good; with `purge`, the session's files go as well.
    End { purge: bool, reply: Reply<Arc<SessionView>> },
    /// Make a point.
    Save { name: Option<PointName>, reply: Reply<Point> },
    /// Go back to a point, or to before a message.
    GoBack { to: Goal, reply: Reply<Arc<SessionView>> },
    /// Run a command beside the turn.
    Exec { request: ExecRequest, reply: Reply<ExecStream> },
    /// Change files.
    Write(Write),
    /// Take a step down the idle ladder, if it is as it was seen: nobody had used it since then. Whether it
    /// was taken.
    Rest { step: Step, seen: Option<tokio::time::Instant>, reply: oneshot::Sender<bool> },
    /// Give files and uids back, if nothing was asked for so long and this point, which is whole, has all of
    /// the files. Without one, only say whether that may be.
    Clear { point: Option<PointId>, rest: Duration, reply: Reply<Cleared> },
    /// The daemon goes away. With `end`, the sandbox goes along; else it waits for the next one.
    Shutdown { end: bool, reply: oneshot::Sender<()> },
}

/// What others hold of a driver.
#[derive(Clone)]
pub(super) struct Handle {
    /// Takes commands.
    pub(super) commands: mpsc::Sender<Command>,
    /// The session's frames.
    pub(super) journal: Arc<Journal>,
    /// The session's log.
    pub(super) logs: Arc<Logs>,
    /// Set before a command that ends the sandbox is sent: a commit that is tried again and again
    /// must not stand in its way.
    pub(super) leaving: Arc<AtomicBool>,
    /// Told of the model's calls.
    pub(super) first_call: Arc<FirstCall>,
}

impl Handle {
    /// What others are to hold of a session's driver, and where that hears its commands.
    fn new(session: &Session, metrics: &Metrics) -> (Handle, mpsc::Receiver<Command>) {
        let (commands, heard) = mpsc::channel(64);
        let journal = Arc::new(Journal::counting(metrics));
        let logs = Arc::new(Logs::new(session));
        let (leaving, first_call) = (Arc::default(), Arc::default());
        (Handle { commands, journal, logs, leaving, first_call }, heard)
    }
}

/// What a CLI was started with and set to since.
struct RunningCli {
    key: StartKey,
    /// Not known of a CLI that an earlier daemon started.
    controls: Option<Controls>,
    /// US dollars that its last result named.
    cost: f64,
}

pub(super) struct Driver {
    shared: Arc<Shared>,
    session: Session,
    state: State,
    commands: mpsc::Receiver<Command>,
    journal: Arc<Journal>,
    logs: Arc<Logs>,
    leaving: Arc<AtomicBool>,
    encoder: Encoder,
    numbering: Numbering,
    /// Messages whose turn has not begun.
    waiting: HashMap<TurnId, Waiting>,
    /// What it has of the places that turns run in.
    permit: Permit,
    line: Arc<Line>,
    times: Times,
    link: Option<Running>,
    /// Counts its sandbox as its tenant's and its agent's.
    counted: Option<Counted>,
    /// It is waited for that a sandbox may be made.
    entering: Option<Entering>,
    launching: Option<JoinHandle<Result<Life, Refusal>>>,
    /// When whoever waits for the launch under way is to know that it takes long. None: they know, or there
    /// is none.
    slow_at: Option<tokio::time::Instant>,
    /// Callers that wait for the launch under way.
    resuming: Vec<Reply<Arc<SessionView>>>,
    /// Why the newest launch failed.
    launch_error: Option<Refusal>,
    cli: Option<RunningCli>,
    /// Why the CLI is gone, in words.
    cli_gone: Option<String>,
    /// Whether what the CLI says belongs to a turn of its own.
    own_turn: bool,
    /// The message whose deltas are being read, if its complete form has not come.
    partial: Option<String>,
    replay: Replay,
    /// The bridge's number of the newest event heard; 0 before the first.
    last_number: u64,
    /// Bytes of deltas that were heard and not acknowledged.
    owed: usize,
    /// Something that was heard could not be kept: nothing more is heard and acknowledged, until
    /// the sandbox is ended or left to the next daemon.
    is_deaf: bool,
    /// What a line that history does not keep has changed, until the next commit.
    carried: SessionChange,
    execs: Execs,
    saving: Option<Saving>,
    /// What the newest point has of changes by others than turns.
    kept: Option<(Changes, PointId)>,
    /// What history tells of them.
    told_of: Changes,
    /// Whether nothing is left to be looked for of what the daemon before this one did not tell.
    looked_back: bool,
    /// Who asked for a point that the cut under way is too late for.
    wishes: Vec<Wish>,
    /// Whether points are let go of when there are many: not on the way back to one of them.
    keeps_all: bool,
    /// Changes of files that wait.
    writes: Writes,
    /// When it was last asked whether the session is this machine's.
    asked_at: Option<Instant>,
    /// How often files were changed by others than turns, or may have been.
    changes: Changes,
    /// Whether it was seen to that what a change leaves alone is on the disk.
    is_synced: bool,
    /// When what was changed is saved.
    settles_at: Option<tokio::time::Instant>,
    /// The newest point, when it was made for nothing but changes of files.
    changes_point: Option<PointId>,
    /// How far down the idle ladder the sandbox is.
    idle: Idle,
    /// Nothing is kept of it, nor of its sandbox.
    is_purged: bool,
    /// A status that is recorded and was not told yet.
    untold: Option<Status>,
    over: bool,
}

impl Driver {
    /// Starts the driver of a session.
    pub(super) fn spawn(shared: Arc<Shared>, session: Session, begin: Begin) -> Handle {
        let (mut driver, handle) = Driver::new(shared, session);
        if matches!(begin, Begin::Adopted(..)) {
            driver.keep_count();
            driver.keep_place();
        }
        tokio::spawn(driver.run(begin));
        handle
    }

    /// The driver of a session, which begins without a sandbox if there is none.
    pub(super) fn of(shared: &Arc<Shared>, session: &Session) -> Handle {
        let begin = || Driver::spawn(shared.clone(), session.clone(), Begin::Cold);
        shared.registry.handle_or(session, begin)
    }

    fn new(shared: Arc<Shared>, session: Session) -> (Driver, Handle) {
        let metrics = shared.options.metrics.clone();
        let (handle, commands) = Handle::new(&session, &metrics);
        let driver = Driver {
            state: State::cold(session.status, shared.options.queue_limit),
            encoder: Encoder::new(session.id),
            numbering: Numbering::resumed(session.last_seq),
            line: shared.gates.line(&session.tenant),
            shared,
            session,
            commands,
            journal: handle.journal.clone(),
            logs: handle.logs.clone(),
            leaving: handle.leaving.clone(),
            waiting: HashMap::new(),
            permit: Permit::None,
            times: Times::new(metrics, handle.first_call.clone()),
            link: None,
            counted: None,
            entering: None,
            launching: None,
            slow_at: None,
            resuming: vec![],
            launch_error: None,
            cli: None,
            cli_gone: None,
            own_turn: false,
            partial: None,
            replay: Replay::default(),
            last_number: 0,
            owed: 0,
            is_deaf: false,
            carried: SessionChange::none(),
            execs: Execs::default(),
            saving: None,
            kept: None,
            told_of: Changes::default(),
            looked_back: false,
            wishes: vec![],
            keeps_all: false,
            writes: Writes::default(),
            asked_at: None,
            changes: Changes::default(),
            is_synced: false,
            settles_at: None,
            changes_point: None,
            idle: Idle::default(),
            is_purged: false,
            untold: None,
            over: false,
        };
        (driver, handle)
    }

    async fn run(mut self, begin: Begin) {
        self.begin_life(begin).await;
        self.tend().await;
        let mut batch = Vec::new();
        while !self.over {
            match self.input(&mut batch).await {
                Input::Command(Some(command)) => self.command(command).await,
                Input::Command(None) => break,
                Input::Entered(entered) => self.entered(entered).await,
                Input::Launched(result) => self.launched(result).await,
                Input::Slow => self.take_long(),
                Input::Granted(place) => self.granted(place).await,
                Input::HungUp => self.hung_up().await,
                Input::Said(said) => {
                    self.said(said, &mut batch).await;
                    self.keep_no_room(&mut batch);
                }
                Input::Saved(saved) => {
                    self.saved(saved).await;
                    self.hear_moment(&mut batch).await;
                }
                Input::Settled => self.settled(),
                Input::GaveBack(has_given) => self.idle.given(has_given),
                Input::Idle => self.rest(),
            }
            self.end_unheard().await;
            self.write_waiting().await;
            self.tend().await;
        }
        self.show_place(None);
        self.abandon_saving().await;
        self.journal.close();
        if self.session.status == Status::Ended {
            // One that was purged may be back by now, from another machine, with a driver of its own.
            self.shared.registry.let_go(self.session.id, &self.journal, || true);
        }
    }

    async fn command(&mut self, command: Command) {
        if command.is_use() {
            self.note_use();
        }
        // Callers that are gone do not need their answers.
        match command {
            Command::Send { request, reading, reply } => self.send(request, reading, reply).await,
            Command::Interrupt { reply } => {
                let _ = reply.send(self.interrupt_any().await);
            }
            Command::Pause { reply } => {
                let paused = self.pause().await;
                self.note_end();
                let _ = reply.send(paused);
                // A turn that goes on is saved at its end.
                if self.state.status == Status::Paused && self.state.turn == Turn::None {
                    self.save();
                }
            }
            Command::Stop { reply } => {
                let _ = reply.send(self.stop().await);
                self.leaving.store(false, Ordering::Relaxed);
            }
            Command::Resume { reply } => self.resume(reply).await,
            Command::End { purge, reply } => {
                self.end(purge, reply).await;
                self.leaving.store(false, Ordering::Relaxed);
            }
            Command::Save { name, reply } => self.wish(Wish::new(name, reply)).await,
            Command::GoBack { to, reply } => {
                let gone_back = self.go_back(to).await;
                self.note_end();
                let _ = reply.send(gone_back);
            }
            Command::Write(write) => self.writes.add(write),
            Command::Exec { request, reply } => self.exec(request, reply).await,
            Command::Rest { step, seen, reply } => self.rest_further(step, seen, reply).await,
            Command::Clear { point, rest, reply } => {
                let _ = reply.send(self.clear(point, rest).await);
            }
            Command::Shutdown { end, reply } => {
                self.shutdown(end).await;
                let _ = reply.send(());
            }
        }
    }

    /// Takes an event and carries out what follows from it.
    async fn step(&mut self, event: Event) -> Result<(), Refusal> {
        match self.state.step(event) {
            Ok(effects) => self.perform(effects).await,
            Err(denied) => Err(refusal(denied, "use")),
        }
    }

    /// Carries out effects, and those of the events that they lead to. The first failure is
    /// reported; the rest is done all the same. With a status all is recorded that could not be
    /// recorded before it.
    async fn perform(&mut self, effects: Vec<Effect>) -> Result<(), Refusal> {
        let outcome = self.carry_out(effects).await;
        self.tell_recorded();
        outcome
    }

    /// The same, but for telling others of a status that was recorded.
    async fn carry_out(&mut self, effects: Vec<Effect>) -> Result<(), Refusal> {
        let mut todo = VecDeque::from(effects);
        let mut outcome = Ok(());
        while let Some(effect) = todo.pop_front() {
            let result = match effect {
                Effect::Status(status) => {
                    let recorded = self.commit_status(status).await;
                    if recorded.is_ok() {
                        outcome = Ok(());
                    }
                    recorded
                }
                Effect::Launch => {
                    self.launch();
                    Ok(())
                }
                Effect::Ask => {
                    todo.extend(self.ask_for_place());
                    Ok(())
                }
                Effect::Release => {
                    self.settle_permit(Permit::None);
                    Ok(())
                }
                Effect::Begin(turn) => {
                    self.thaw();
                    if self.is_wanted(turn) {
                        self.capture_before_turn().await;
                    }
                    if let Some(event) = self.begin_turn(turn).await {
                        // A cut may have been given up for it.
                        self.save();
                        todo.extend(self.state.step(event).unwrap_or_default());
                    }
                    Ok(())
                }
                Effect::Interrupt => {
                    self.interrupt();
                    Ok(())
                }
                Effect::Fail(turn, failure) => self.fail_turn(turn, failure).await,
                Effect::Refuse(turn, denied) => {
                    self.refuse_waiting(turn, denied);
                    Ok(())
                }
                Effect::EndSandbox => {
                    self.end_sandbox().await;
                    self.save();
                    self.grant_wishes().await;
                    Ok(())
                }
            };
            outcome = outcome.and(result);
        }
        self.tell_standings();
        outcome
    }

    /// Whether a command waits that ends the sandbox.
    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// The session as it is: as it was last shown, if that is how it is.
    fn view(&self) -> Arc<SessionView> {
        let shown = self.shared.registry.view(self.session.id);
        let shown = shown.filter(|shown| shown.session == self.session);
        shown.unwrap_or_else(|| SessionView::of(&self.session))
    }
}

#[cfg(test)]
mod tests;
