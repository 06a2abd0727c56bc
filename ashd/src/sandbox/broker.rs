//! The broker, as a process that this daemon starts or finds, and loses.
//!
//! The broker outlives an `ashd` that is killed, and `ashd` outlives a broker: whoever is left
//! finds or starts the other, and every sandbox has its way out again, at the same place. A broker
//! that is told to end says so: fresh sockets then take the old ones' places at once, and whoever
//! knocks waits for the next broker instead of being turned away. When none comes, it is told.

mod asking;
mod grants;
mod reports;
mod setup;

use std::collections::BTreeMap;
#[cfg(test)]
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ash_broker::control::{self, Control, Event, Events, Launch};
use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::level_filters::LevelFilter;

use super::children::Children;
use super::socket;
use crate::domain::SandboxId;
use crate::fault;
use crate::telemetry::message;

use self::grants::Grant;
use self::reports::Reports;
pub use self::setup::{BrokerError, BrokerSetup, ModelKey};
pub use ash_broker::control::{Failures, Limits, Peer, Settings, Standing, Usage};

/// How long a grant waits for a broker that is being started anew.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pause before a broker that could not be started is tried again, at first and at most.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The broker.
#[derive(Debug)]
pub struct Broker {
    shared: Arc<Shared>,
    supervisor: AbortHandle,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

/// What the supervisor and the verbs share.
struct Shared {
    setup: BrokerSetup,
    /// The key as it is now; that of the setup until it is changed.
    key: Mutex<Option<ModelKey>>,
    children: Children,
    /// Who may talk: what a new broker is told.
    grants: Mutex<BTreeMap<SandboxId, Grant>>,
    /// Whether the broker has said that it ends; the next one comes.
    leaving: AtomicBool,
    /// Whether no broker is to be expected.
    is_hopeless: AtomicBool,
    control: watch::Sender<Option<Arc<Control>>>,
    /// Whether the broker that is there has a key, as far as it has said.
    has_key: Mutex<Option<bool>>,
    /// How often the key may have become another one.
    keys: watch::Sender<u64>,
    /// Who waits for the model, where a test says so.
    #[cfg(test)]
    asking: Mutex<Option<BTreeSet<SandboxId>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("setup", &self.setup).finish_non_exhaustive()
    }
}

impl Broker {
    /// Finds the broker or starts it, and from then on keeps it there; what it reports comes out
    /// of the receiver.
    ///
    /// One that a service manager runs may also come later: it may be ending just now, or fail to
    /// begin. Sandboxes wait for it.
    ///
    /// # Errors
    /// When it is ours to start and cannot be started, or refuses its settings.
    pub(super) async fn start(
        setup: BrokerSetup,
        children: Children,
    ) -> Result<(Broker, mpsc::Receiver<Usage>), BrokerError> {
        socket::directory(&setup.model_dir, 0o700).map_err(BrokerError::Socket)?;
        let (grants, control) = (Mutex::default(), watch::Sender::new(None));
        let (key, leaving) = (Mutex::new(setup.key.clone()), AtomicBool::new(false));
        let (has_key, is_hopeless) = (Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared {
            setup,
            key,
            children,
            grants,
            leaving,
            is_hopeless,
            control,
            has_key,
            keys: watch::Sender::new(0),
            #[cfg(test)]
            asking: Mutex::default(),
        });
        let events = match &shared.setup.program {
            Some(_) => Some(shared.begin().await?),
            None => shared.begin_soon().await,
        };
        let (reports, receiver) = Reports::new(shared.setup.metrics.clone());
        let supervisor = tokio::spawn(supervise(shared.clone(), events, reports)).abort_handle();
        Ok((Broker { shared, supervisor }, receiver))
    }

    /// Replaces the model API key, or takes it back, also for brokers that are started later.
    ///
    /// # Errors
    /// When the broker that runs did not hear of it.
    pub(super) async fn set_key(&self, key: Option<ModelKey>) -> Result<(), BrokerError> {
        *self.shared.key.lock().unwrap_or_else(PoisonError::into_inner) = key;
        self.shared.note_key();
        let control = self.shared.reach().await?;
        self.shared.give_key(&control).await?;
        // Without one of ours it may have its service manager's.
        let has_key = control.standing().await?.has_key;
        *self.shared.has_key() = has_key;
        Ok(())
    }

    /// Whether the broker has a model API key; absent when it is not there, or does not say.
    pub(super) fn has_key(&self) -> Option<bool> {
        *self.shared.has_key()
    }

    /// How often the model API key may have become another one: it was replaced, or a broker began. What
    /// that one has from its service manager it tells nobody.
    pub(super) fn key_epoch(&self) -> u64 {
        *self.shared.keys.borrow()
    }

    /// Tells of every change of that.
    pub(super) fn key_changes(&self) -> watch::Receiver<u64> {
        self.shared.keys.subscribe()
    }

    /// Keeps it no more, and ends it if it is ours and not a service manager's.
    pub(super) async fn end(&self) {
        self.supervisor.abort();
        let control = self.shared.control.borrow().clone();
        if let (Some(control), Some(_)) = (control, &self.shared.setup.program)
            && let Err(error) = control.quit().await
        {
            tracing::warn!(%error, "the broker was not sent home");
        }
    }
}

impl Shared {
    fn grants(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Grant>> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is known that a broker comes later, or none: sandboxes do not wait for it.
    fn is_late(&self) -> bool {
        self.leaving.load(Ordering::SeqCst) || self.is_hopeless.load(Ordering::SeqCst)
    }

    fn has_key(&self) -> MutexGuard<'_, Option<bool>> {
        self.has_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key is another one, or may be.
    fn note_key(&self) {
        self.keys.send_modify(|epoch| *epoch += 1);
    }

    /// There is no broker for now.
    fn lose(&self) {
        self.control.send_replace(None);
        *self.has_key() = None;
    }

    /// The broker, as soon as it is there.
    async fn reach(&self) -> Result<Arc<Control>, BrokerError> {
        let mut control = self.control.subscribe();
        let there = control.wait_for(Option::is_some);
        let there = tokio::time::timeout(PATIENCE, there).await.map_err(|_| BrokerError::Absent)?;
        there.ok().and_then(|there| there.clone()).ok_or(BrokerError::Absent)
    }

    /// The broker ends: whoever knocks waits for the next one. Returns the conversation with it, which
    /// goes on as long as somebody has it.
    fn wait_for_next(&self) -> Option<Arc<Control>> {
        self.leaving.store(true, Ordering::SeqCst);
        let last = self.control.send_replace(None);
        self.lose();
        self.for_each(|sandbox| self.prepare(sandbox));
        last
    }

    /// No broker is to be expected: whoever knocks is told so until there is one.
    fn despair(&self) {
        if !self.is_hopeless.swap(true, Ordering::SeqCst) {
            tracing::error!(
                message_id = message::NO_BROKER,
                "there is still no broker; turns fail until ash-broker.service runs"
            );
            self.for_each(|sandbox| self.stand_in(sandbox));
        }
    }

    /// Finds or starts a broker and tells it everything.
    async fn begin(&self) -> Result<Events, BrokerError> {
        let (control, events) = match Control::connect(&self.setup.socket).await {
            Ok(there) => there,
            Err(error) => self.spawn(error).await?,
        };
        self.configure(&control).await?;
        let known = control.granted().await?;
        // Before it is seen who is there: who comes later waits for this broker.
        self.leaving.store(false, Ordering::SeqCst);
        self.is_hopeless.store(false, Ordering::SeqCst);
        for sandbox in self.open_ones() {
            let waits = |grant: &Grant| grant.waiting.is_some();
            let waits = self.grants().get(&sandbox).is_some_and(waits);
            if !waits && !known.contains(&sandbox.0) {
                self.prepare(sandbox)?;
            }
            self.hand_over(&control, sandbox).await?;
        }
        // It changes only when we change it.
        let has_key = control.standing().await?.has_key;
        *self.has_key() = has_key;
        // Before anybody is handed over to it.
        self.note_key();
        self.control.send_replace(Some(Arc::new(control)));
        Ok(events)
    }

    /// As [`begin`](Self::begin), for a broker that should be there and need not.
    async fn begin_soon(&self) -> Option<Events> {
        let begun = tokio::time::timeout(self.setup.patience, self.begin()).await;
        let error = match begun {
            Ok(Ok(events)) => return Some(events),
            Ok(Err(error)) => error,
            Err(_) => BrokerError::Absent,
        };
        tracing::error!(%error, "going on without a broker for now; see ash-broker.service");
        self.leaving.store(true, Ordering::SeqCst);
        None
    }

    async fn spawn(&self, absent: control::Error) -> Result<(Control, Events), BrokerError> {
        let Some(program) = &self.setup.program else { return Err(absent.into()) };
        let listener = control::listen(&self.setup.socket).map_err(BrokerError::Start)?;
        let uid = self.setup.uid;
        let exit_when_unused = Some(self.setup.exit_when_unused);
        // As talkative as we are.
        let log = LevelFilter::current();
        let launch = Launch { program, uid, gid: uid, exit_when_unused, log };
        let child = launch.start(listener, |command| Command::from(command).spawn());
        let child = child.map_err(BrokerError::Start)?;
        self.children.watch("broker", child);
        fault::point("broker.spawned");
        Ok(Control::connect(&self.setup.socket).await?)
    }
}

/// Passes reports on while there is a broker, and gets the next one when there is none, or when it
/// leaves.
async fn supervise(shared: Arc<Shared>, mut first: Option<Events>, reports: Reports) {
    let mut leaving = JoinSet::new();
    loop {
        let mut events = match first.take() {
            Some(events) => events,
            None => begin_again(&shared).await,
        };
        match hear(&mut events, &reports).await {
            Parting::Leaving => {
                tracing::info!("the broker leaves as it was told; the next one takes its place");
                let last = shared.wait_for_next();
                leaving.spawn(hear_out(last, events, reports.clone()));
            }
            Parting::Lost => {
                tracing::warn!(
                    message_id = message::BROKER_LOST,
                    "the broker went away; starting it anew"
                );
                shared.lose();
            }
        }
        while leaving.try_join_next().is_some() {}
    }
}

/// How a broker goes.
enum Parting {
    /// It brings the answers under way to their end first.
    Leaving,
    /// It is not there any more.
    Lost,
}

/// Passes on what a broker reports, until it goes.
async fn hear(events: &mut Events, reports: &Reports) -> Parting {
    while let Some(event) = events.next().await {
        match event {
            Event::Leaving => return Parting::Leaving,
            event => reports.take(event),
        }
    }
    Parting::Lost
}

/// Passes on what a broker that leaves has to say of its last answers.
async fn hear_out(last: Option<Arc<Control>>, mut events: Events, reports: Reports) {
    hear(&mut events, &reports).await;
    drop(last);
}

async fn begin_again(shared: &Shared) -> Events {
    let (mut pause, lost, mut told) = (PAUSE, Instant::now(), String::new());
    loop {
        match shared.begin().await {
            Ok(events) => return events,
            // Once, however long it lasts.
            Err(error) if error.to_string() == told => {}
            Err(error) => {
                tracing::error!(%error, "there is no broker");
                told = error.to_string();
            }
        }
        if lost.elapsed() > shared.setup.hope {
            shared.despair();
        }
        tokio::time::sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

#[cfg(test)]
impl Broker {
    /// Sandboxes wait for the next broker.
    pub(super) fn await_next(&self) {
        self.shared.leaving.store(false, Ordering::SeqCst);
    }

    /// The key is another one.
    pub(super) fn change_key(&self) {
        self.shared.note_key();
    }

    /// From now on these wait for the model; `None`: nobody can tell.
    pub(super) fn say_asking(&self, asking: Option<BTreeSet<SandboxId>>) {
        *self.shared.asking.lock().unwrap_or_else(PoisonError::into_inner) = asking;
    }
}

#[cfg(test)]
#[path = "broker_tests.rs"]
mod tests;
