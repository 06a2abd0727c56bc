//! The end of the conversation that `ashd` holds.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_seqpacket::UnixSeqpacket;
use uuid::Uuid;

use super::{Ask, Event, Failures, Outcome, Peer, Request, Settings, Word, receive, send};

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many events wait for whoever reads them.
const EVENTS: usize = 4096;

/// Why a request to the broker failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed, or nobody listens on it.
    #[error("the broker cannot be reached: {0}")]
    Io(#[from] io::Error),
    /// The conversation ended before the answer came.
    #[error("the broker went away; start it or connect again")]
    Gone,
    /// No answer in time.
    #[error("the broker did not answer within {} s", PATIENCE.as_secs())]
    Silent,
    /// The broker said no.
    #[error("the broker refused: {0}")]
    Refused(String),
}

/// A conversation with the broker. It ends when this is dropped; grants outlive it.
pub struct Control {
    link: Arc<UnixSeqpacket>,
    waiting: Arc<Waiting>,
    next: AtomicU64,
    reader: JoinHandle<()>,
}

/// What happened in the broker, in order.
pub struct Events(mpsc::Receiver<Event>);

impl Events {
    /// The next event; `None` when the conversation is over.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

impl Control {
    /// Connects to the broker's socket. The broker talks to one client at a time: the one before is
    /// cut.
    pub async fn connect(path: &Path) -> Result<(Self, Events), Error> {
        let link = Arc::new(UnixSeqpacket::connect(path).await?);
        let waiting = Arc::new(Waiting::default());
        let (events, queue) = mpsc::channel(EVENTS);
        let reader = tokio::spawn(listen(link.clone(), waiting.clone(), events));
        Ok((Self { link, waiting, next: AtomicU64::new(0), reader }, Events(queue)))
    }

    /// Says where the model API is; `ca` is a file of PEM certificates to trust besides the system's.
    pub async fn configure(
        &self,
        settings: &Settings,
        ca: Option<BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        self.done(Request::Configure(settings.clone()), ca).await
    }

    /// Hands over the model API key as a file (see [`super::secret`]); replaces the one before.
    pub async fn key(&self, secret: BorrowedFd<'_>) -> Result<(), Error> {
        self.done(Request::Key, Some(secret)).await
    }

    /// Takes the model API key back that this or another `ashd` has handed over. A broker of before
    /// refuses that.
    pub async fn forget_key(&self) -> Result<(), Error> {
        self.done(Request::Key, None).await
    }

    /// Lets a sandbox talk through this listening Unix socket, on which this peer comes.
    pub async fn grant(
        &self,
        sandbox: Uuid,
        Peer { uid: agent_uid, session }: Peer,
        listener: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        self.done(Request::Grant { sandbox, agent_uid, session }, Some(listener)).await
    }

    /// Closes a sandbox's listener and cuts its connections.
    pub async fn revoke(&self, sandbox: Uuid) -> Result<(), Error> {
        self.done(Request::Revoke { sandbox }, None).await
    }

    /// Ends the broker.
    pub async fn quit(&self) -> Result<(), Error> {
        self.done(Request::Quit, None).await
    }

    /// The sandboxes that have a listener.
    pub async fn granted(&self) -> Result<Vec<Uuid>, Error> {
        let mut all = Vec::new();
        loop {
            let after = all.last().copied();
            match self.ask(Request::List { after }, None).await? {
                Outcome::Granted { sandboxes, more, .. } => {
                    all.extend(sandboxes);
                    if !more {
                        return Ok(all);
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// What the broker says of itself.
    pub async fn standing(&self) -> Result<Standing, Error> {
        // Behind the last sandbox, so that none is listed.
        match self.ask(Request::List { after: Some(Uuid::max()) }, None).await? {
            Outcome::Granted { has_key, refused, failed, .. } => {
                Ok(Standing { has_key, refused, failed })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The sandboxes that have requests on their way to the model API; absent when the broker is one that
    /// does not say.
    pub async fn asking(&self) -> Result<Option<Vec<Uuid>>, Error> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            match self.ask(Request::List { after }, None).await? {
                Outcome::Granted { sandboxes, more, asking: Some(places), .. } => {
                    all.extend(places.iter().filter_map(|place| sandboxes.get(*place).copied()));
                    if !more {
                        return Ok(Some(all));
                    }
                    after = sandboxes.last().copied();
                }
                Outcome::Granted { .. } => return Ok(None),
                other => return Err(unexpected(&other)),
            }
        }
    }

    async fn done(&self, request: Request, fd: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        match self.ask(request, fd).await? {
            Outcome::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&self, request: Request, fd: Option<BorrowedFd<'_>>) -> Result<Outcome, Error> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let answer = self.waiting.expect(id).ok_or(Error::Gone)?;
        let _waiter = Waiter { waiting: &self.waiting, id };
        send(&self.link, &Ask { id, request }, fd).await?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Err(_) => Err(Error::Silent),
            Ok(Err(_)) => Err(Error::Gone),
            Ok(Ok(Outcome::Refused { message })) => Err(Error::Refused(message)),
            Ok(Ok(outcome)) => Ok(outcome),
        }
    }
}

/// What a broker says of itself; absent of each what it does not say, because it is an older one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether it has a model API key.
    pub has_key: Option<bool>,
    /// How many requests of sandboxes it has refused since it began.
    pub refused: Option<u64>,
    /// How many of them got no answer of the model API since then.
    pub failed: Option<Failures>,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn unexpected(outcome: &Outcome) -> Error {
    Error::Refused(format!("an answer that does not fit the question: {outcome:?}"))
}

/// Who waits for which answer; `None` once no answer can come any more.
struct Waiting(Mutex<Option<HashMap<u64, oneshot::Sender<Outcome>>>>);

impl Default for Waiting {
    fn default() -> Self {
        Self(Mutex::new(Some(HashMap::new())))
    }
}

impl Waiting {
    fn expect(&self, id: u64) -> Option<oneshot::Receiver<Outcome>> {
        let (sender, receiver) = oneshot::channel();
        self.lock().as_mut()?.insert(id, sender);
        Some(receiver)
    }

    fn answer(&self, id: u64, outcome: Outcome) {
        if let Some(sender) = self.forget(id) {
            // Whoever asked may have stopped waiting.
            let _ = sender.send(outcome);
        }
    }

    fn forget(&self, id: u64) -> Option<oneshot::Sender<Outcome>> {
        self.lock().as_mut()?.remove(&id)
    }

    fn close(&self) {
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Outcome>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits; leaves no trace when it gives up.
struct Waiter<'a> {
    waiting: &'a Waiting,
    id: u64,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.waiting.forget(self.id);
    }
}

/// Hands answers and events to those who wait for them until the broker hangs up.
async fn listen(link: Arc<UnixSeqpacket>, waiting: Arc<Waiting>, events: mpsc::Sender<Event>) {
    let mut lost = 0;
    while let Ok(Some(packet)) = receive::<Word>(&link).await {
        match packet.message {
            Word::Reply { id, outcome } => waiting.answer(id, outcome),
            Word::Event(event) => lost = offer(&events, event, lost),
        }
    }
    waiting.close();
}

/// An unread event must never hold up an answer, so what does not fit is counted; returns the count
/// that is still to be told.
fn offer(events: &mpsc::Sender<Event>, event: Event, lost: u64) -> u64 {
    if lost > 0 && events.try_send(Event::Lost { count: lost }).is_err() {
        return lost + 1;
    }
    u64::from(events.try_send(event).is_err())
}
