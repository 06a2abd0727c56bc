//! The broker at work: one conversation with `ashd`, any number of sandboxes.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use http::HeaderValue;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustix::net::{SocketType, sockopt};
use rustls::RootCertStore;
use tokio::sync::Notify;
use tokio_seqpacket::{UnixSeqpacket, UnixSeqpacketListener};
use tracing::{info, warn};
use uuid::Uuid;

use crate::control::{
    Ask, Event, Failures, Outcome, Packet, Peer, Request, Settings, Word, receive, send,
};
use crate::gate::{self, Gates};
use crate::key;
use crate::outbox::Outbox;
use crate::problem::Failure;
use crate::upstream::{self, Upstream};

/// Sandboxes in one answer to a list request: 44 bytes each, well inside a packet.
const PAGE: usize = 1000;

/// Largest file of extra certificates, in bytes.
const CA_LIMIT: u64 = 1024 * 1024;

/// How long to wait when no connection can be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// How long answers that are under way may take when the broker is told to end.
const FAREWELL: Duration = Duration::from_secs(60);

/// How long `ashd` may take to hear the last reports.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why the broker cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Standard input is something else.
    #[error("standard input must be the listening control socket (SOCK_SEQPACKET) that ashd makes")]
    NotAListener,
    /// The control socket cannot be used.
    #[error("the control socket cannot be used: {0}")]
    Io(#[from] io::Error),
}

/// Why a request of `ashd` was refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the request came with {got} descriptors; it needs {needed}")]
    Descriptors { got: usize, needed: &'static str },
    #[error("the extra certificates cannot be read: {0}")]
    Ca(io::Error),
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    #[error(transparent)]
    Key(#[from] key::Error),
    #[error(transparent)]
    Gate(#[from] gate::Error),
}

/// What the sandboxes' connections share.
pub(crate) struct House {
    roots: RootCertStore,
    upstream: RwLock<Option<Arc<Upstream>>>,
    key: RwLock<Option<HeaderValue>>,
    /// The key that the service manager gave: the one to use when `ashd` gives none.
    credential: Option<HeaderValue>,
    pub(crate) outbox: Outbox,
    guests: AtomicUsize,
    emptied: Notify,
    /// Requests of sandboxes that were refused.
    refused: AtomicU64,
    /// Those that got no answer of the model API.
    failed: Mutex<Failures>,
    /// The sandboxes' connections; taken when they are to come to their end.
    connections: Mutex<Option<GracefulShutdown>>,
}

impl House {
    fn new(roots: RootCertStore, key: Option<HeaderValue>) -> Self {
        Self {
            roots,
            upstream: RwLock::default(),
            key: RwLock::new(key.clone()),
            credential: key,
            outbox: Outbox::default(),
            connections: Mutex::new(Some(GracefulShutdown::new())),
            guests: AtomicUsize::new(0),
            emptied: Notify::new(),
            refused: AtomicU64::new(0),
            failed: Mutex::default(),
        }
    }

    /// The way to the model API, once it is configured.
    pub(crate) fn upstream(&self) -> Option<Arc<Upstream>> {
        self.upstream.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The model API key, once there is one.
    pub(crate) fn key(&self) -> Option<HeaderValue> {
        self.key.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What lets a connection hear that it is to end after its answer; absent when none may begin.
    pub(crate) fn watcher(&self) -> Option<Watcher> {
        self.connections().as_ref().map(GracefulShutdown::watcher)
    }

    fn connections(&self) -> MutexGuard<'_, Option<GracefulShutdown>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sandbox was refused something.
    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A sandbox got no answer of the model API.
    pub(crate) fn fail(&self, failure: Failure) {
        let mut failed = self.failed();
        let count = match failure {
            Failure::NotReady => &mut failed.not_ready,
            Failure::NoKey => &mut failed.no_key,
            Failure::Unreachable => &mut failed.unreachable,
            Failure::BadAnswer => &mut failed.bad_answer,
            Failure::Silent => &mut failed.silent,
        };
        *count += 1;
    }

    fn failed(&self) -> MutexGuard<'_, Failures> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sandbox's connection begins.
    pub(crate) fn enter(&self) {
        self.guests.fetch_add(1, Ordering::Relaxed);
    }

    /// A sandbox's connection has ended.
    pub(crate) fn leave(&self) {
        if self.guests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.emptied.notify_one();
        }
    }

    fn configure(&self, settings: &Settings, ca: Option<OwnedFd>) -> Result<(), Refusal> {
        let extra = ca.map(certificates).transpose().map_err(Refusal::Ca)?.unwrap_or_default();
        let upstream = Upstream::new(settings, &self.roots, &extra)?;
        *self.upstream.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(upstream));
        info!(upstream = settings.upstream, proxy = settings.proxy.is_some(), "configured");
        Ok(())
    }

    /// Uses the key in this file from now on; without one, what the service manager gave.
    fn change_key(&self, file: Option<OwnedFd>) -> Result<(), Refusal> {
        let key = file.map(key::read).transpose()?;
        match &key {
            Some(_) => info!("the model API key is set"),
            None => info!(credential = self.credential.is_some(), "ashd gives no model API key"),
        }
        let key = key.or_else(|| self.credential.clone());
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = key;
        Ok(())
    }

    /// Lets every connection end after the answer that is under way; waits for it, but not for ever.
    async fn empty(&self) {
        let Some(connections) = self.connections().take() else { return };
        if tokio::time::timeout(FAREWELL, connections.shutdown()).await.is_err() {
            warn!("answers that took longer than {} s were cut", FAREWELL.as_secs());
        }
    }

    /// Waits until nobody has used the broker for `span` and no sandbox is connected; for ever
    /// without a span.
    async fn unused(&self, span: Option<Duration>) {
        let Some(span) = span else { return std::future::pending().await };
        tokio::time::sleep(span).await;
        while self.guests.load(Ordering::Relaxed) > 0 {
            self.emptied.notified().await;
        }
    }
}

fn certificates(fd: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = File::from(fd);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(CA_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > CA_LIMIT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than a mebibyte"));
    }
    Ok(bytes)
}

/// Takes the control socket over: it must be listening for sequenced packets. Needs a runtime.
pub fn adopt(socket: OwnedFd) -> Result<UnixSeqpacketListener, Error> {
    let fits = sockopt::socket_type(&socket).is_ok_and(|kind| kind == SocketType::SEQPACKET)
        && sockopt::socket_acceptconn(&socket).unwrap_or(false);
    if !fits {
        return Err(Error::NotAListener);
    }
    rustix::io::ioctl_fionbio(&socket, true).map_err(io::Error::from)?;
    Ok(socket.try_into()?)
}

/// How a conversation with `ashd` ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Parting {
    /// It may come back.
    Left,
    /// It has told the broker to end.
    Quit,
}

/// What a broker begins with.
pub struct Begin {
    /// The certificates of the system.
    pub roots: RootCertStore,
    /// The key that the service manager gave; `ashd` may give another.
    pub key: Option<HeaderValue>,
    /// End when nobody has used the broker for so long.
    pub exit_when_unused: Option<Duration>,
}

/// Serves `ashd` and the sandboxes it grants. Returns when `ashd` says so, when nobody has used the
/// broker for as long as it was told, or when `leave` is there and what was under way has ended.
pub async fn run(listener: UnixSeqpacketListener, begin: Begin, leave: impl Future<Output = ()>) {
    let house = Arc::new(House::new(begin.roots, begin.key));
    let (mut gates, mut ashd) = (Gates::default(), None);
    tokio::select! {
        () = serve(&house, listener, (&mut gates, &mut ashd), begin.exit_when_unused) => return,
        () = leave => info!("told to end; bringing the answers under way to their end"),
    }
    gates.close();
    house.outbox.push(Event::Leaving);
    let mut empty = pin!(house.empty());
    tokio::select! {
        () = &mut empty => {}
        _ = converse(&house, &mut gates, ashd.as_ref()) => empty.await,
    }
    if let Some(link) = &ashd {
        let _ = tokio::time::timeout(LAST_WORDS, tell_all(&house, link)).await;
    }
    info!("ended");
}

async fn serve(
    house: &Arc<House>,
    mut listener: UnixSeqpacketListener,
    (gates, ashd): (&mut Gates, &mut Option<UnixSeqpacket>),
    exit_when_unused: Option<Duration>,
) {
    loop {
        tokio::select! {
            link = listener.accept() => match link {
                Ok(link) if is_root(&link) => {
                    info!("ashd is here");
                    *ashd = Some(link);
                }
                Ok(_) => warn!("refused a control connection that is not root's"),
                Err(error) => {
                    warn!("cannot accept a control connection: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            parting = converse(house, gates, ashd.as_ref()) => match parting {
                Parting::Left => *ashd = None,
                Parting::Quit => return info!("ashd has sent the broker home"),
            },
            () = house.unused(exit_when_unused), if ashd.is_none() => {
                info!("nobody uses the broker any more");
                return;
            }
        }
    }
}

/// Sends what `ashd` has not heard yet.
async fn tell_all(house: &House, link: &UnixSeqpacket) {
    while !house.outbox.is_empty() {
        if tell(house, link).await.is_err() {
            return;
        }
    }
}

async fn tell(house: &House, link: &UnixSeqpacket) -> io::Result<()> {
    let ticket = house.outbox.next().await;
    send(link, &Word::Event(ticket.event().clone()), None).await?;
    ticket.sent();
    Ok(())
}

fn is_root(link: &UnixSeqpacket) -> bool {
    link.peer_cred().is_ok_and(|peer| peer.uid() == 0)
}

/// Talks to `ashd` until it hangs up; waits for ever when it is not there.
async fn converse(house: &Arc<House>, gates: &mut Gates, link: Option<&UnixSeqpacket>) -> Parting {
    let Some(link) = link else { return std::future::pending().await };
    match exchange(house, gates, link).await {
        Ok(Parting::Quit) => return Parting::Quit,
        Ok(Parting::Left) => info!("ashd has left"),
        Err(error) => warn!("the conversation with ashd broke off: {error}"),
    }
    Parting::Left
}

async fn exchange(
    house: &Arc<House>,
    gates: &mut Gates,
    link: &UnixSeqpacket,
) -> io::Result<Parting> {
    loop {
        tokio::select! {
            packet = receive::<Ask>(link) => {
                let Some(Packet { message: Ask { id, request }, fds }) = packet? else {
                    return Ok(Parting::Left);
                };
                let quit = request == Request::Quit;
                let outcome = outcome(obey(house, gates, request, fds));
                send(link, &Word::Reply { id, outcome }, None).await?;
                if quit {
                    return Ok(Parting::Quit);
                }
            }
            told = tell(house, link) => told?,
        }
    }
}

fn outcome(result: Result<Outcome, Refusal>) -> Outcome {
    result.unwrap_or_else(|refusal| {
        warn!("refused a request of ashd: {refusal}");
        Outcome::Refused { message: refusal.to_string() }
    })
}

fn obey(
    house: &Arc<House>,
    gates: &mut Gates,
    request: Request,
    fds: Vec<OwnedFd>,
) -> Result<Outcome, Refusal> {
    match request {
        Request::Configure(settings) => house.configure(&settings, optional(fds)?)?,
        Request::Key => house.change_key(optional(fds)?)?,
        Request::Grant { sandbox, agent_uid: uid, session } => {
            gates.grant(house, sandbox, (one(fds)?, Peer { uid, session }))?;
        }
        Request::Revoke { sandbox } => gates.revoke(sandbox),
        Request::Quit => {}
        Request::List { after } => return Ok(list(house, gates, after)),
    }
    Ok(Outcome::Done)
}

fn list(house: &House, gates: &Gates, after: Option<Uuid>) -> Outcome {
    let (page, more) = gates.list(after, PAGE);
    let asks = |(place, (_, is_asking)): (usize, &(Uuid, bool))| is_asking.then_some(place);
    let asking = Some(page.iter().enumerate().filter_map(asks).collect());
    let sandboxes = page.into_iter().map(|(sandbox, _)| sandbox).collect();
    let has_key = Some(house.key().is_some());
    let refused = Some(house.refused.load(Ordering::Relaxed));
    let failed = Some(*house.failed());
    Outcome::Granted { sandboxes, more, has_key, asking, refused, failed }
}

fn one(fds: Vec<OwnedFd>) -> Result<OwnedFd, Refusal> {
    let [fd] = <[OwnedFd; 1]>::try_from(fds)
        .map_err(|fds| Refusal::Descriptors { got: fds.len(), needed: "one" })?;
    Ok(fd)
}

fn optional(mut fds: Vec<OwnedFd>) -> Result<Option<OwnedFd>, Refusal> {
    match fds.len() {
        0 | 1 => Ok(fds.pop()),
        got => Err(Refusal::Descriptors { got, needed: "one at most" }),
    }
}
