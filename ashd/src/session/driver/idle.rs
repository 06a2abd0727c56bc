//! Down the idle ladder: how a sandbox rests that nobody uses, and goes on.
//!
//! The [`ladder`](crate::session::ladder) says which step is due. Here it is looked once more whether
//! nobody uses the sandbox, and the step is taken: the agent stands still, gives its memory back, or ends
//! when its files are saved. Whatever needs the agent has it go on first; what does not, like a cut, leaves
//! it where it is. What ends a sandbox ends one that stands still at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::saving::Wish;
use super::{Command, Driver, refusal};
use crate::domain::{Point, SessionChange};
use crate::fault;
use crate::sandbox::cgroup::Frozen;
use crate::session::api::Refusal;
use crate::session::ladder::{Place, Rung, Step};
use crate::session::machine::{Effect, Event, State, Turn};
use crate::telemetry::metrics::labels::Eviction;

/// How long the broker may take to say who waits for the model. A message for the session waits meanwhile.
const ANSWER: Duration = Duration::from_millis(500);

/// How far down its sandbox is.
#[derive(Default)]
pub(super) struct Idle {
    /// Since when nobody has used it. None: somebody does, or there is none.
    since: Option<Instant>,
    /// What was told of it.
    shown: Option<Place>,
    /// The CLI was started, and has not said that it is ready.
    pub(super) is_starting: bool,
    /// Tasks that the CLI runs in the background.
    tasks: u64,
    /// Its agent stands still.
    still: Option<Frozen>,
    /// Its agent has given its memory back, or was to.
    reclaim: Option<Reclaim>,
    /// It is about to end.
    cooling: Option<Cooling>,
}

/// What becomes of an agent's memory. Dropping it says that the agent is to go on.
struct Reclaim {
    stop: Arc<AtomicBool>,
    /// Under way; says whether it was given back.
    given: Option<oneshot::Receiver<bool>>,
    /// What came of it; nothing, as long as that is not known.
    rung: Rung,
}

impl Drop for Reclaim {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A sandbox that ends when its files are saved and all that its agent has said was heard.
struct Cooling {
    /// What it ends for.
    why: Eviction,
    saved: oneshot::Receiver<Result<Point, Refusal>>,
    is_saved: bool,
    /// The number of the answer that comes behind all that was said.
    awaited: Option<u64>,
    /// Its agent stands still for nothing else.
    froze: bool,
    /// Whoever asked for it.
    reply: oneshot::Sender<bool>,
}

impl Cooling {
    /// Whether everything is done; none when it will not be.
    fn is_ready(&mut self) -> Option<bool> {
        match self.saved.try_recv() {
            Ok(Ok(_)) => self.is_saved = true,
            Ok(Err(_)) => return None,
            Err(TryRecvError::Closed) if !self.is_saved => return None,
            Err(TryRecvError::Empty | TryRecvError::Closed) => {}
        }
        (!self.reply.is_closed()).then_some(self.is_saved && self.awaited.is_none())
    }
}

impl Command {
    /// Whether somebody uses the sandbox for it.
    pub(super) fn is_use(&self) -> bool {
        !matches!(
            self,
            Command::Rest { .. }
                | Command::Clear { .. }
                | Command::Save { .. }
                | Command::Shutdown { .. }
        )
    }
}

impl Idle {
    /// For how long nobody has asked for anything. None: something that was asked for is not over.
    pub(super) fn rested(&self) -> Option<Duration> {
        self.since.map(|since| since.elapsed())
    }

    /// The bridge has answered that this was all.
    pub(super) fn heard(&mut self, id: u64) {
        if let Some(cooling) = &mut self.cooling
            && cooling.awaited == Some(id)
        {
            cooling.awaited = None;
        }
    }

    /// The CLI runs so many tasks in the background. How long they may hold the sandbox begins anew when
    /// one begins or ends.
    pub(super) fn tasks_run(&mut self, running: u64) {
        if std::mem::replace(&mut self.tasks, running) != running {
            self.since = None;
        }
    }

    /// There is no sandbox any more; returns what has held its agent.
    pub(super) fn leave(&mut self) -> Option<Frozen> {
        let shown = self.shown.take();
        std::mem::replace(self, Idle { shown, ..Idle::default() }).still
    }

    /// Where it is said whether the agent has given its memory back, while it does.
    pub(super) fn giving(&mut self) -> Option<&mut oneshot::Receiver<bool>> {
        self.reclaim.as_mut()?.given.as_mut()
    }

    /// The agent has given its memory back, or that could not be done.
    pub(super) fn given(&mut self, has_given: bool) {
        if let Some(reclaim) = &mut self.reclaim {
            reclaim.given = None;
            reclaim.rung = if has_given { Rung::Reclaimed } else { Rung::Kept };
        }
    }

    fn rung(&self) -> Rung {
        match (&self.still, &self.reclaim) {
            (None, _) => Rung::Awake,
            (Some(_), None) => Rung::Frozen,
            (Some(_), Some(reclaim)) => reclaim.rung,
        }
    }
}

impl Driver {
    /// Whether somebody uses the sandbox: it is in no state to rest.
    fn is_used(&self) -> bool {
        self.state.turn != Turn::None || self.is_used_further()
    }

    /// Whether somebody does beside a turn whose end is recorded, and that the bridge has not said to be over.
    fn is_used_further(&self) -> bool {
        let in_turn = self.state.turn == Turn::Own || self.session.turn.is_some() || self.own_turn;
        let is_awaited = !self.state.queue.is_empty() || self.launching.is_some();
        let runs = self.execs.are_waiting() || self.execs.may_run();
        in_turn || is_awaited || runs || self.idle.is_starting || self.replay.active
    }

    /// Whether a task holds the sandbox that nobody uses: what it does shows in nothing, and its end is a
    /// turn. Not for ever: it may be one that never ends.
    fn is_held(&self) -> bool {
        let holds = |since: Instant| since.elapsed() < self.shared.live().times.background;
        self.idle.tasks > 0 && self.idle.since.is_none_or(holds)
    }

    /// Behind everything that is done: goes on with what was begun, has an agent go on that is used, and
    /// tells how the sandbox is.
    pub(super) async fn tend(&mut self) {
        self.go_on_cooling().await;
        if self.is_used() || self.is_held() {
            self.stay_warm();
            self.thaw();
        }
        self.note_end();
    }

    /// Something is over, if nothing else is to be done in the sandbox. That is told before whoever waits for
    /// it hears of it, who may ask for another sandbox at once.
    pub(super) fn note_end(&mut self) {
        match self.is_used_further() {
            true => self.idle.since = None,
            false => drop(self.idle.since.get_or_insert_with(Instant::now)),
        }
        let (idle_since, has_tasks) = (self.idle.since, self.idle.tasks > 0);
        let rung = self.idle.rung();
        let place = |sandbox| Place { sandbox, idle_since, has_tasks, rung };
        self.show_place(self.link.as_ref().map(|link| place(link.id)));
    }

    /// Somebody is about to use the sandbox: what nobody has used begins anew behind that. It is told first,
    /// because it may take long, in which nobody is to wait for this one to take a step.
    pub(super) fn note_use(&mut self) {
        self.idle.since = None;
        if let Some(place) = self.idle.shown {
            self.show_place(Some(Place { idle_since: None, ..place }));
        }
    }

    /// Tells how the sandbox is, when that has changed.
    pub(super) fn show_place(&mut self, place: Option<Place>) {
        if self.idle.shown != place {
            self.shared.ladder.show(&self.session, place);
            self.idle.shown = place;
        }
    }

    /// Has the agent go on, if it stands still.
    pub(super) fn thaw(&mut self) {
        self.idle.reclaim = None;
        if self.idle.still.take().is_some() {
            tracing::debug!(ash_session = %self.session.id, "an idle sandbox goes on");
        }
    }

    /// Takes a step down, unless somebody uses the sandbox, or has since it was seen.
    pub(super) async fn rest_further(
        &mut self,
        step: Step,
        seen: Option<Instant>,
        reply: oneshot::Sender<bool>,
    ) {
        let is_at_rest = self.link.is_some() && self.idle.cooling.is_none();
        // What came first may have taken long: what its agent does since then nobody has looked at.
        let is_as_seen = self.idle.since == seen && !reply.is_closed();
        let is_free = is_at_rest && is_as_seen && !self.is_used() && !self.is_held();
        // Whoever asked may be gone.
        match step {
            _ if !is_free => drop(reply.send(false)),
            Step::Freeze => {
                let stands = self.stand_still().await;
                if stands {
                    self.shared.ladder.has_frozen();
                }
                fault::point("idle.frozen");
                let _ = reply.send(stands);
            }
            Step::Reclaim => self.give_memory_back(reply),
            Step::Cool => self.cool(Eviction::Idle, reply).await,
            Step::GiveWay => self.cool(Eviction::Capacity, reply).await,
        }
    }

    /// Stops the agent where it is, unless it waits for the model; whether it stands still.
    ///
    /// It may have begun to since it was looked at, and would not be there for the answer. What it has
    /// handed over and the broker has not read yet shows when it is asked again, before the sandbox ends.
    async fn stand_still(&mut self) -> bool {
        let has_stood = self.idle.still.is_some();
        if !has_stood && !self.stop_agent().await {
            return false;
        }
        match self.is_asking().await {
            Some(false) => return true,
            // Where nobody can tell: it has begun nothing since it stands still.
            None if has_stood => return true,
            None | Some(true) => {}
        }
        let id = self.session.id;
        tracing::debug!(ash_session = %id, "an agent is not stopped: it may wait for the model");
        self.thaw();
        self.idle.since = None;
        false
    }

    /// Whether the agent waits for the model; `None`: nobody can tell, or not soon.
    async fn is_asking(&mut self) -> Option<bool> {
        let sandbox = self.link.as_ref()?.id;
        let asking = timeout(ANSWER, self.shared.sandboxes.asking()).await.ok().flatten()?;
        Some(asking.contains(&sandbox))
    }

    /// Stops the agent where it is; whether it stands still.
    async fn stop_agent(&mut self) -> bool {
        let Some(link) = &self.link else { return false };
        let (sandboxes, id) = (self.shared.sandboxes.clone(), link.id);
        match spawn_blocking(move || sandboxes.freeze(id)).await {
            Ok(Ok(still)) => self.idle.still = still,
            Ok(Err(error)) => {
                tracing::warn!(ash_session = %self.session.id, %error, "an idle agent goes on");
                self.idle.since = None;
            }
            Err(_) => {}
        }
        self.idle.still.is_some()
    }

    /// Has the agent's memory given back, beside everything else.
    fn give_memory_back(&mut self, reply: oneshot::Sender<bool>) {
        let (Some(link), Some(_), None) = (&self.link, &self.idle.still, &self.idle.reclaim) else {
            let _ = reply.send(false);
            return;
        };
        let (stop, (tell, given)) = (Arc::new(AtomicBool::new(false)), oneshot::channel());
        let rung = Rung::Frozen;
        self.idle.reclaim = Some(Reclaim { stop: stop.clone(), given: Some(given), rung });
        let (shared, sandbox, session) = (self.shared.clone(), link.id, self.session.id);
        tokio::spawn(async move {
            let sandboxes = shared.sandboxes.clone();
            let given = spawn_blocking(move || sandboxes.reclaim(sandbox, &stop)).await;
            fault::point("idle.reclaimed");
            let has_given = match given {
                Ok(Ok(bytes)) => {
                    shared.ladder.has_reclaimed(bytes);
                    tracing::debug!(ash_session = %session, bytes, "memory was given back");
                    true
                }
                Ok(Err(error)) => {
                    tracing::warn!(ash_session = %session, %error, "memory was not given back");
                    false
                }
                Err(_) => false,
            };
            // It may go on by now, and whoever asked may be gone.
            let _ = tell.send(has_given);
            let _ = reply.send(has_given);
        });
    }

    /// Has the sandbox end when it is saved as it is now, and all that its agent has said was heard.
    async fn cool(&mut self, why: Eviction, reply: oneshot::Sender<bool>) {
        let froze = self.idle.still.is_none();
        if !self.stand_still().await {
            let _ = reply.send(false);
            return;
        }
        let asked = self.link.as_ref().map(|link| link.sender.drain());
        let Some(Ok(awaited)) = asked else {
            // Its bridge is gone, which is about to be heard.
            let _ = reply.send(false);
            return;
        };
        let (tell, saved) = oneshot::channel();
        self.wish(Wish::new(None, tell)).await;
        self.idle.cooling = Some(Cooling { why, saved, is_saved: false, awaited, froze, reply });
    }

    /// Ends a sandbox that is saved, or leaves it when it cannot be saved or is used again.
    async fn go_on_cooling(&mut self) {
        let ready = match &mut self.idle.cooling {
            Some(cooling) => cooling.is_ready(),
            None => return,
        };
        match ready {
            None => self.stay_warm(),
            Some(_) if self.is_used() || self.idle.since.is_none() => self.stay_warm(),
            Some(true) => self.end_saved().await,
            Some(false) => {}
        }
    }

    /// Ends a sandbox that is saved, unless the broker has by now read that its agent asks the model.
    async fn end_saved(&mut self) {
        if self.is_asking().await == Some(true) {
            self.thaw();
            self.stay_warm();
            self.idle.since = None;
            return;
        }
        // Whoever asks for something meanwhile comes first.
        if self.commands.is_empty() {
            self.go_cold().await;
        }
    }

    /// Leaves a sandbox that was about to end, for as long as one that was used just now. Tasks that have
    /// held it for as long as they may do not hold it anew for that: nothing has happened in it.
    pub(super) fn stay_warm(&mut self) {
        let Some(cooling) = self.idle.cooling.take() else { return };
        if cooling.froze {
            self.thaw();
        }
        let background = self.shared.live().times.background;
        let is_over = |since: &Instant| since.elapsed() >= background;
        let held = self.idle.since.filter(|since| self.idle.tasks > 0 && is_over(since));
        self.idle.since = held.and_then(|_| Instant::now().checked_sub(background));
        let _ = cooling.reply.send(false);
    }

    /// Ends a sandbox of which everything is saved. The session is as it was, and has another one with
    /// its next message.
    async fn go_cold(&mut self) {
        let recorded = self.begin_cold("rest").await;
        fault::point("idle.recorded");
        let effects = match recorded {
            Ok(effects) => effects,
            Err(refusal) => {
                let id = self.session.id;
                tracing::warn!(ash_session = %id, error = %refusal, "an idle sandbox goes on");
                return self.stay_warm();
            }
        };
        let cooling = self.idle.cooling.take();
        let why = cooling.as_ref().map_or(Eviction::Idle, |cooling| cooling.why);
        // Something of it may be left, which was logged: it has ended all the same.
        let _ = self.perform(effects).await;
        self.shared.ladder.has_cooled(why);
        fault::point("idle.ended");
        tracing::info!(ash_session = %self.session.id, "an idle sandbox was saved and ended");
        if let Some(Cooling { reply, .. }) = cooling {
            let _ = reply.send(true);
        }
    }

    /// Records that the sandbox is about to end and the session is as it was: what is lost from here on
    /// is not missed. Returns what is to be done.
    pub(super) async fn begin_cold(&mut self, verb: &'static str) -> Result<Vec<Effect>, Refusal> {
        let (state, effects) = self.may_go_cold(verb)?;
        let cold = SessionChange { cold: Some(true), ..SessionChange::none() };
        self.commit(cold, vec![]).await?;
        self.state = state;
        Ok(effects)
    }

    /// How the session is when its sandbox has ended, and what is to be done for that; or why it may not end.
    pub(super) fn may_go_cold(&self, verb: &'static str) -> Result<(State, Vec<Effect>), Refusal> {
        let mut state = self.state.clone();
        let effects = state.step(Event::Cool).map_err(|denied| refusal(denied, verb))?;
        Ok((state, effects))
    }
}
