//! The verbs.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinError;

use super::admission::{self, Gates};
use super::agents::Deployments;
use super::api::{
    AgentChange, Caller, Deployment, ExecOutput, Happened, LogLine, Reading, Refusal,
};
use super::behind;
use super::clearing::{self, Clearing};
use super::copies::{self, Copies};
use super::counting;
use super::disk::Disk;
use super::driver::{Command, Driver, Handle};
use super::exec::ExecStream;
use super::fsck;
use super::garbage::{self, Garbage};
use super::gathering::Gathering;
use super::ladder::{self, Ladder};
use super::pool::{self, Pool};
use super::reconcile;
use super::registry::{Registry, SessionView};
use super::retention::{self, Retention};
use super::shared::{Live, Options, Shared};
use super::stream::Subscription;
use super::tenants;
use super::under_way::UnderWay;
use super::unsynced::{GATHERING, Syncing};
use crate::domain::{
    Agent, AgentName, Event, ExecRequest, Session, SessionId, Status, TurnRequest,
};
use crate::objects::Objects;
use crate::sandbox::Sandboxes;
use crate::sandbox::broker::Usage as SeenUsage;
use crate::sandbox::lease::Slots;
use crate::snapshot::Snapshots;
use crate::store::{EventRange, SessionFilter, Store, Usage};

pub use super::places::Places;

pub(super) type Result<T> = std::result::Result<T, Refusal>;

/// How many happenings a watcher may lag behind.
const WATCHED: usize = 1024;

/// Everything that can be done to agents and sessions. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    pub(super) shared: Arc<Shared>,
    pub(super) deployments: Arc<Deployments>,
    pub(super) started: Instant,
}

impl Service {
    /// Brings store, state directory and sandboxes into agreement, and goes on with every session
    /// whose sandbox has outlived the daemon.
    ///
    /// # Errors
    /// When the store or the state directory cannot be read.
    pub async fn start(
        store: Arc<dyn Store>,
        (sandboxes, usage): (Arc<Sandboxes>, mpsc::Receiver<SeenUsage>),
        objects: Option<Objects>,
        places: Places,
        options: Options,
    ) -> Result<Service> {
        let sessions = store.unended_sessions().await?;
        let (base, count) = options.uids;
        let slots = Slots::new(base, count, sessions.iter().filter_map(|session| session.slot));
        let kept = places.vaults();
        let snapshots = tokio::task::spawn_blocking(move || Snapshots::open(&kept)).await;
        let snapshots = snapshots.map_err(|error| Refusal::Internal(error.to_string()))?;
        let snapshots = snapshots.map_err(|error| Refusal::Internal(error.to_string()))?;
        let shared = Arc::new(Shared {
            store,
            sandboxes,
            snapshots,
            slots,
            registry: Registry::default(),
            launching: UnderWay::default(),
            gates: Gates::new(&options.live.admission),
            live: RwLock::new(options.live.clone()),
            options,
            places,
            happened: broadcast::channel(WATCHED).0,
            shutting_down: false.into(),
            resting: Gathering::new(Some(GATHERING)),
            syncing: Syncing::default(),
            disk: Disk::default(),
            garbage: Garbage::default(),
            making: UnderWay::default(),
            asides: UnderWay::default(),
            attaching: UnderWay::default(),
            copies: Copies::new(objects),
            retention: Retention::default(),
            ladder: Ladder::default(),
            clearing: Clearing::default(),
            pool: Pool::default(),
        });
        reconcile::run(&shared, sessions).await?;
        tokio::spawn(fsck::look_behind(shared.clone()));
        tokio::spawn(garbage::collect_for_ever(shared.clone()));
        tokio::spawn(copies::copy_for_ever(shared.clone()));
        tokio::spawn(ladder::go_down_for_ever(shared.clone()));
        tokio::spawn(clearing::clear_for_ever(shared.clone()));
        tokio::spawn(admission::follow_pressure(shared.clone()));
        tokio::spawn(counting::account(shared.clone(), usage));
        tokio::spawn(counting::count_refusals(shared.clone()));
        let service = Service { shared, deployments: Arc::default(), started: Instant::now() };
        tokio::spawn(behind::catch_up(service.clone()));
        tokio::spawn(tenants::finish(service.clone()));
        tokio::spawn(retention::keep_for_ever(service.clone()));
        tokio::spawn(pool::keep_for_ever(service.shared.clone()));
        Ok(service)
    }

    /// Takes over what the configuration says now.
    pub fn adopt(&self, live: Live) {
        *self.shared.live.write().unwrap_or_else(PoisonError::into_inner) = live;
        self.shared.fit_gates();
        self.shared.pool.look_again();
    }

    /// Ends every driver; with `end`, their sandboxes as well, and sessions that were active are
    /// paused. Returns when all is recorded.
    pub async fn shut_down(&self, end: bool) {
        self.shared.shutting_down.store(true, Ordering::Relaxed);
        self.shared.gates.close();
        // They are nobody's, and no use to the next daemon.
        self.shared.close_pool().await;
        if end {
            // What is being made may have a sandbox, and has a driver only behind that.
            self.shared.making.wait_for(|_| true).await;
        }
        let mut ends = vec![];
        for handle in self.shared.registry.handles() {
            let (reply, ended) = oneshot::channel();
            // A driver that is gone has ended already.
            if handle.commands.send(Command::Shutdown { end, reply }).await.is_ok() {
                ends.push(ended);
            }
        }
        for ended in ends {
            let _ = ended.await;
        }
    }

    /// Puts on the disk what sessions were made with a moment ago, when their sandboxes are kept: the next
    /// daemon could not tell whether it is there.
    pub async fn sync_made(&self) {
        self.shared.sync_made().await;
    }

    /// Puts everything on the disk, when there is no sandbox any more: whatever happens to the machine
    /// then, nothing has to be built again.
    pub async fn rest(&self) {
        if let Err(error) = self.shared.sync_all().await {
            tracing::warn!(%error, "sessions' files may not be on the disk");
        }
    }

    /// Deploys a folder as the next version of an agent.
    pub async fn deploy(&self, caller: &Caller, deployment: Deployment) -> Result<Agent> {
        self.shared.disk_has_room()?;
        let (service, caller) = (self.clone(), caller.clone());
        detached(
            async move { service.deployments.deploy(&service.shared, &caller, deployment).await },
        )
        .await
    }

    /// Changes an agent's environment or config without a new version. Sessions that there are keep
    /// what they were made with.
    pub async fn change_agent(
        &self,
        caller: &Caller,
        name: &AgentName,
        change: AgentChange,
    ) -> Result<Agent> {
        self.shared.disk_has_room()?;
        let (service, caller, name) = (self.clone(), caller.clone(), name.clone());
        detached(async move {
            service.deployments.change(&service.shared, (&caller, &name), change).await
        })
        .await
    }

    /// Where an agent's newest version lies on this machine. Not for API users.
    pub fn agent_path(&self, agent: &Agent) -> PathBuf {
        self.shared.places.version(&agent.tenant, &agent.name, agent.version)
    }

    /// Every agent of the caller, by name.
    pub async fn agents(&self, caller: &Caller) -> Result<Vec<Agent>> {
        Ok(self.shared.store.agents(&caller.tenant).await?)
    }

    /// One agent.
    pub async fn agent(&self, caller: &Caller, name: &AgentName) -> Result<Agent> {
        let agent = self.shared.store.agent(&caller.tenant, name).await?;
        agent.ok_or(Refusal::NoAgent)
    }

    /// Sessions, newest first, and their number without limit and offset.
    pub async fn sessions(
        &self,
        caller: &Caller,
        filter: SessionFilter,
    ) -> Result<(Vec<Session>, u64)> {
        Ok(self.shared.store.sessions(&caller.tenant, filter).await?)
    }

    /// One session without waiting, if it is in memory. The hot path of `GET`.
    pub fn cached(&self, caller: &Caller, id: SessionId) -> Option<Arc<SessionView>> {
        self.shared.registry.view(id).filter(|view| view.session.tenant == caller.tenant)
    }

    /// One session.
    pub async fn session(&self, caller: &Caller, id: SessionId) -> Result<Arc<SessionView>> {
        if let Some(view) = self.cached(caller, id) {
            return Ok(view);
        }
        Ok(SessionView::of(&self.stored(caller, id).await?))
    }

    pub(super) async fn stored(&self, caller: &Caller, id: SessionId) -> Result<Session> {
        let session = self.shared.store.session(id).await?;
        session.filter(|session| session.tenant == caller.tenant).ok_or(Refusal::NoSession)
    }

    /// The driver of a session, started if there is none. An ended session has none.
    async fn driver(&self, caller: &Caller, id: SessionId) -> Result<Handle> {
        if let Some(view) = self.shared.registry.view(id) {
            if view.session.tenant != caller.tenant {
                return Err(Refusal::NoSession);
            }
            if let Some(handle) = self.shared.registry.handle(id) {
                return Ok(handle);
            }
        }
        let session = self.stored(caller, id).await?;
        if session.status == Status::Ended {
            return Err(Refusal::Ended);
        }
        // Whoever makes it owns its row until it is there, with the driver that it may get.
        if session.is_arriving() || self.shared.making.has(|(made, _)| *made == id) {
            return Err(Refusal::Arriving);
        }
        if self.shared.is_shutting_down() {
            return Err(Refusal::ShuttingDown);
        }
        Ok(Driver::of(&self.shared, &session))
    }

    pub(super) async fn ask<T>(
        &self,
        caller: &Caller,
        id: SessionId,
        command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command,
    ) -> Result<T> {
        let handle = self.driver(caller, id).await?;
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        if matches!(command, Command::Stop { .. } | Command::End { .. }) {
            handle.leaving.store(true, Ordering::Relaxed);
        }
        // A driver that takes no commands any more has ended with its session, or with the daemon.
        let gone = || match self.shared.is_shutting_down() {
            true => Refusal::ShuttingDown,
            false => Refusal::Ended,
        };
        handle.commands.send(command).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Sets a session aside; its sandbox stays, a running turn goes on to its end.
    pub async fn pause(&self, caller: &Caller, id: SessionId) -> Result<Arc<SessionView>> {
        let paused = self.ask(caller, id, |reply| Command::Pause { reply }).await;
        paused.map_err(|refusal| ended_is_a_status(refusal, "pause"))
    }

    /// Sets a session aside and ends its sandbox. Goes on when the caller is gone.
    pub async fn stop(&self, caller: &Caller, id: SessionId) -> Result<Arc<SessionView>> {
        let (service, caller) = (self.clone(), caller.clone());
        let stop = async move { service.ask(&caller, id, |reply| Command::Stop { reply }).await };
        detached(stop).await.map_err(|refusal| ended_is_a_status(refusal, "stop"))
    }

    /// Makes a session active again.
    pub async fn resume(&self, caller: &Caller, id: SessionId) -> Result<Arc<SessionView>> {
        self.ask(caller, id, |reply| Command::Resume { reply }).await
    }

    /// Ends a session for good. With `purge`, removes its history and workspace as well. Goes on
    /// when the caller is gone.
    pub async fn end(
        &self,
        caller: &Caller,
        id: SessionId,
        purge: bool,
    ) -> Result<Arc<SessionView>> {
        let (service, caller) = (self.clone(), caller.clone());
        detached(async move { service.end_now(&caller, id, purge).await }).await
    }

    async fn end_now(
        &self,
        caller: &Caller,
        id: SessionId,
        purge: bool,
    ) -> Result<Arc<SessionView>> {
        let ended = self.ask(caller, id, |reply| Command::End { purge, reply }).await;
        let view = match ended {
            Ok(view) => view,
            Err(Refusal::Ended) => {
                let session = self.stored(caller, id).await?;
                if purge {
                    let cleared = self.shared.purge(&session).await?;
                    self.shared.tell_purged(&session);
                    cleared?;
                }
                SessionView::of(&session)
            }
            Err(refusal) => return Err(refusal),
        };
        // What was purged is not there any more; one that is there by now is another one.
        if !purge {
            self.shared.registry.remove(id);
        }
        Ok(view)
    }

    /// Sends a message. The stream begins with `session_start`, once the user message is durable,
    /// and ends behind `done`.
    pub async fn send(
        &self,
        caller: &Caller,
        id: SessionId,
        request: TurnRequest,
        reading: Reading,
    ) -> Result<Subscription> {
        self.shared.disk_has_room()?;
        let sent = self.ask(caller, id, |reply| Command::Send { request, reading, reply }).await;
        sent.map_err(not_active)
    }

    /// Follows a session's stream.
    pub async fn follow(
        &self,
        caller: &Caller,
        id: SessionId,
        reading: Reading,
    ) -> Result<Subscription> {
        let journal = match self.driver(caller, id).await {
            Ok(handle) => handle.journal,
            // The history of an ended session can be read; nothing will follow.
            Err(Refusal::Ended) => {
                let journal = Arc::new(super::journal::Journal::default());
                journal.close();
                journal
            }
            Err(refusal) => return Err(refusal),
        };
        Ok(Subscription::of_session(id, self.shared.store.clone(), journal, reading))
    }

    /// Interrupts the running turn; false if there was none.
    pub async fn interrupt(&self, caller: &Caller, id: SessionId) -> Result<bool> {
        match self.ask(caller, id, |reply| Command::Interrupt { reply }).await {
            Err(Refusal::Ended) => Ok(false),
            result => result,
        }
    }

    /// Runs a command to its end.
    pub async fn exec(
        &self,
        caller: &Caller,
        id: SessionId,
        request: ExecRequest,
    ) -> Result<ExecOutput> {
        self.exec_stream(caller, id, request).await?.collect().await
    }

    /// Runs a command, output as it comes.
    pub async fn exec_stream(
        &self,
        caller: &Caller,
        id: SessionId,
        request: ExecRequest,
    ) -> Result<ExecStream> {
        let running = self.ask(caller, id, |reply| Command::Exec { request, reply }).await;
        running.map_err(not_active)
    }

    /// Durable events, in order.
    pub async fn history(
        &self,
        caller: &Caller,
        id: SessionId,
        range: EventRange,
    ) -> Result<Vec<Event>> {
        self.session(caller, id).await?;
        Ok(self.shared.store.events(id, range).await?)
    }

    /// Log lines of the session's sandboxes with an index above `after` (−1: all that are kept).
    pub async fn logs(&self, caller: &Caller, id: SessionId, after: i64) -> Result<Vec<LogLine>> {
        self.session(caller, id).await?;
        Ok(self
            .shared
            .registry
            .handle(id)
            .map(|handle| handle.logs.after(after))
            .unwrap_or_default())
    }

    /// Tokens and cost of a session so far.
    pub async fn usage(&self, caller: &Caller, id: SessionId) -> Result<Usage> {
        self.session(caller, id).await?;
        Ok(self.shared.store.usage(id).await?)
    }

    /// What happens to agents and sessions from now on.
    pub fn watch(&self) -> broadcast::Receiver<Happened> {
        self.shared.happened.subscribe()
    }
}

#[cfg(test)]
impl Service {
    /// One for tests, in which nothing goes on by itself.
    pub(super) fn on(shared: Arc<Shared>) -> Service {
        Service { shared, deployments: Arc::default(), started: Instant::now() }
    }
}

/// Carries work out that must not stop half-way because the one who asked for it hung up.
pub(super) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    joined(tokio::spawn(work).await)
}

/// Carries out what may block.
pub(super) async fn blocking<T: Send + 'static>(
    what: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    joined(tokio::task::spawn_blocking(what).await)
}

/// What has come of a task. That it broke off is a refusal like any other.
pub(super) fn joined<T>(done: std::result::Result<Result<T>, JoinError>) -> Result<T> {
    done.unwrap_or_else(|error| Err(Refusal::Internal(error.to_string())))
}

/// Pausing and stopping name the status that stands in the way, also this one.
fn ended_is_a_status(refusal: Refusal, verb: &'static str) -> Refusal {
    match refusal {
        Refusal::Ended => Refusal::WrongStatus { verb, status: Status::Ended },
        other => other,
    }
}

/// Messages and commands name the status that stands in the way, also this one.
fn not_active(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Ended => Refusal::NotActive(Status::Ended),
        other => other,
    }
}
