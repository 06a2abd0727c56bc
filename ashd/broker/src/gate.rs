//! Where a sandbox knocks: its listener, who may come in, and what cuts them all.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::{AddressFamily, SocketType, sockopt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::field::{DisplayValue, display};
use tracing::warn;
use uuid::Uuid;

use crate::control::{Limits, Peer};
use crate::guard::{Guarded, HEAD_LIMIT};
use crate::relay;
use crate::server::House;

/// How long to wait when no connection can be accepted, most likely for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// How often a complaint about one sandbox is logged.
const COMPLAINTS_EVERY: Duration = Duration::from_secs(1);

/// Why a listener was not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Some other descriptor.
    #[error("the descriptor of a grant must be a listening Unix stream socket")]
    NotAListener,
    /// It cannot be used.
    #[error("the listener of a grant cannot be used: {0}")]
    Io(#[from] io::Error),
}

/// A sandbox's place in the house.
pub(crate) struct Seat {
    pub(crate) sandbox: Uuid,
    /// What the log calls it.
    session: Option<Uuid>,
    pub(crate) house: Arc<House>,
    /// Its requests on their way to the model API.
    pub(crate) under_way: AtomicUsize,
    /// Its open connections.
    connections: AtomicUsize,
    /// One of them has ended.
    left: Notify,
    /// Ends all of them.
    cut: CancellationToken,
    /// What is logged about it.
    pace: Mutex<Pace>,
}

/// Keeps a sandbox from filling the log.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Instant>,
    unsaid: u64,
}

impl Pace {
    /// Whether something may be logged now, and how much was left out since the last time.
    fn step(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + COMPLAINTS_EVERY) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// The sandboxes that may talk.
#[derive(Default)]
pub(crate) struct Gates(BTreeMap<Uuid, Gate>);

struct Gate {
    seat: Arc<Seat>,
    accepting: JoinHandle<()>,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.accepting.abort();
        self.seat.cut.cancel();
    }
}

impl Gates {
    /// Opens a gate, or gives an open one another listener and uid; its connections go on, and the log
    /// calls it what it called it before.
    pub(crate) fn grant(
        &mut self,
        house: &Arc<House>,
        sandbox: Uuid,
        (listener, Peer { uid, session }): (OwnedFd, Peer),
    ) -> Result<(), Error> {
        let listener = adopt(listener)?;
        let accept = |seat: &Arc<Seat>| tokio::spawn(accept(seat.clone(), listener, uid));
        if let Some(gate) = self.0.get_mut(&sandbox) {
            gate.accepting.abort();
            gate.accepting = accept(&gate.seat);
        } else {
            let seat = Arc::new(Seat::new(sandbox, session, house.clone()));
            let accepting = accept(&seat);
            self.0.insert(sandbox, Gate { seat, accepting });
        }
        Ok(())
    }

    /// Closes all gates to those who come; who has come in stays.
    pub(crate) fn close(&self) {
        self.0.values().for_each(|gate| gate.accepting.abort());
    }

    /// Closes a gate and cuts what came through it.
    pub(crate) fn revoke(&mut self, sandbox: Uuid) {
        self.0.remove(&sandbox);
    }

    /// At most `limit` sandboxes after this one, each with whether it has requests on their way to the
    /// model API; and whether there are more.
    pub(crate) fn list(&self, after: Option<Uuid>, limit: usize) -> (Vec<(Uuid, bool)>, bool) {
        let mut rest = self.0.iter().filter(|(id, _)| after.is_none_or(|after| **id > after));
        let told = |(id, gate): (&Uuid, &Gate)| (*id, gate.seat.is_asking());
        let page = rest.by_ref().take(limit).map(told).collect();
        (page, rest.next().is_some())
    }
}

fn adopt(listener: OwnedFd) -> Result<UnixListener, Error> {
    let fits = sockopt::socket_domain(&listener).is_ok_and(|family| family == AddressFamily::UNIX)
        && sockopt::socket_type(&listener).is_ok_and(|kind| kind == SocketType::STREAM)
        && sockopt::socket_acceptconn(&listener).unwrap_or(false);
    if !fits {
        return Err(Error::NotAListener);
    }
    rustix::io::ioctl_fionbio(&listener, true).map_err(io::Error::from)?;
    Ok(UnixListener::from_std(listener.into())?)
}

/// Accepts the connections of one listener until it is replaced or revoked.
async fn accept(seat: Arc<Seat>, listener: UnixListener, uid: u32) {
    loop {
        let limits = seat.limits();
        seat.room(limits.connections).await;
        match listener.accept().await {
            Ok((stream, _)) if allowed(&stream, uid) => {
                tokio::spawn(serve(Place::take(&seat), stream, limits));
            }
            Ok(_) => {
                seat.house.refuse();
                if let Some(others) = seat.complaint() {
                    warn!(
                        ash_session = seat.session(), ash_sandbox = %seat.sandbox, others,
                        "refused a peer that is not the agent"
                    );
                }
            }
            Err(error) => {
                if let Some(others) = seat.complaint() {
                    warn!(
                        ash_session = seat.session(), ash_sandbox = %seat.sandbox, others,
                        "cannot accept a connection: {error}"
                    );
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn allowed(stream: &UnixStream, uid: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == uid)
}

/// Serves one connection to its end.
async fn serve(place: Place, stream: UnixStream, limits: Limits) {
    let seat = &place.0;
    let service = service_fn(|request| relay::answer(seat.clone(), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.head_timeout_ms))
        // The guard has bounded the head; this only must not be the smaller of the two.
        .max_buf_size(2 * HEAD_LIMIT)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(Guarded::new(stream)), service);
    let Some(watcher) = seat.house.watcher() else { return };
    // How it ends concerns nobody but the sandbox; that what came was no request is counted.
    if let Some(Err(error)) = seat.cut.run_until_cancelled(watcher.watch(connection)).await
        && error.is_parse()
    {
        seat.house.refuse();
    }
}

impl Seat {
    fn new(sandbox: Uuid, session: Option<Uuid>, house: Arc<House>) -> Self {
        Self {
            sandbox,
            session,
            house,
            under_way: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            left: Notify::new(),
            cut: CancellationToken::new(),
            pace: Mutex::default(),
        }
    }

    /// Waits until fewer than `limit` connections are open.
    async fn room(&self, limit: usize) {
        while self.connections.load(Ordering::Relaxed) >= limit {
            self.left.notified().await;
        }
    }

    /// Whether it has requests on their way to the model API.
    fn is_asking(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    /// The session that it serves, for the log.
    pub(crate) fn session(&self) -> Option<DisplayValue<Uuid>> {
        self.session.map(display)
    }

    /// Whether a complaint about this sandbox may be logged now; if so, how many were left out since
    /// the last one.
    pub(crate) fn complaint(&self) -> Option<u64> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).step(Instant::now())
    }

    /// The bounds that hold for it now.
    pub(crate) fn limits(&self) -> Limits {
        self.house.upstream().map(|upstream| upstream.limits).unwrap_or_default()
    }
}

/// A connection's share of what a sandbox may have open.
struct Place(Arc<Seat>);

impl Place {
    fn take(seat: &Arc<Seat>) -> Self {
        seat.connections.fetch_add(1, Ordering::Relaxed);
        seat.house.enter();
        Self(seat.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        self.0.house.leave();
        self.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_counted_when_they_are_not_made() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let said: Vec<_> =
            [0, 10, 999, 1000, 1500].map(|ms| pace.step(start + Duration::from_millis(ms))).into();
        assert_eq!(said, [Some(0), None, None, Some(2), None]);
    }
}
