//! The accept loop and the life of a connection.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use hyper::server::conn::http1::{self, Parts};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::detach::{Takeover, Wire};
use super::front::{Front, Visit};

/// How long the loop rests when accepting fails for want of descriptors or memory.
const REST: Duration = Duration::from_millis(100);

/// How long a client that was answered before it had sent everything may go on sending, so that
/// its answer is not lost in a connection reset.
const LINGER: Duration = Duration::from_secs(2);

/// What a connection may cost.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections at one time; further ones wait in the kernel's queue.
    pub connections: usize,
    /// From the end of an answer (or the connection's beginning) until the next request's head
    /// must be complete. Bounds both idling and slow heads.
    pub head_within: Duration,
    /// Header lines of a request.
    pub headers: usize,
    /// Bytes of a request's head; also how much is buffered towards a client that reads slowly.
    pub head_bytes: usize,
    /// How long a peer may leave what was sent to it unacknowledged.
    pub unacknowledged: Duration,
    /// How long connections have to end by themselves at shutdown.
    pub drain: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        ConnectionLimits {
            connections: 10_000,
            head_within: Duration::from_secs(75),
            headers: 100,
            head_bytes: 32 * 1024,
            unacknowledged: Duration::from_secs(60),
            drain: Duration::from_secs(5),
        }
    }
}

/// The two steps of going away.
#[derive(Clone)]
struct Leaving {
    /// No further request.
    soon: CancellationToken,
    /// No further byte.
    now: CancellationToken,
}

/// Accepts connections until `shutdown`, then lets the open ones end, for `drain` at most.
pub async fn run(
    listener: TcpListener,
    front: Arc<Front>,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) {
    let leaving = Leaving { soon: shutdown, now: CancellationToken::new() };
    let room = Arc::new(Semaphore::new(limits.connections));
    let open = TaskTracker::new();
    while let Some((accepted, permit)) = next(&listener, &room, &leaving.soon).await {
        let (front, leaving) = (front.clone(), leaving.clone());
        // Begun in there: one that is moved in has its place twice.
        open.spawn(async move {
            connection(accepted, front, limits, leaving).await;
            drop(permit);
        });
    }
    drop(listener);
    open.close();
    if tokio::time::timeout(limits.drain, open.wait()).await.is_err() {
        leaving.now.cancel();
        open.wait().await;
    }
}

/// The next connection, when there is room for it; `None` at shutdown.
async fn next(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(Accepted, OwnedSemaphorePermit)> {
    let accept = async {
        let permit = room.clone().acquire_owned().await.ok()?;
        Some((accept(listener).await, permit))
    };
    tokio::select! {
        () = shutdown.cancelled() => None,
        accepted = accept => accepted,
    }
}

/// A connection, and the address of its other end.
type Accepted = (TcpStream, IpAddr);

async fn accept(listener: &TcpListener) -> Accepted {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer.ip()),
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections; trying again");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Whether only the one connection is lost.
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

async fn connection(
    (stream, peer): Accepted,
    front: Arc<Front>,
    limits: ConnectionLimits,
    leaving: Leaving,
) {
    if let Err(error) = prepare(&stream, limits) {
        tracing::debug!(%error, "a connection ended at once");
        return;
    }
    let takeover = Takeover::default();
    let visit = Visit { front: &front, peer: front.peer(peer, Some(&takeover)) };
    let wire = Wire::new(stream, takeover.clone());
    tokio::select! {
        () = leaving.now.cancelled() => {}
        () = converse(wire, (visit, &takeover), limits, &leaving.soon) => {}
    }
}

fn prepare(stream: &TcpStream, limits: ConnectionLimits) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let patience = u32::try_from(limits.unacknowledged.as_millis()).unwrap_or(u32::MAX);
    Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, patience)?)
}

/// Answers requests, and sends the streams that some of them ask for, one after the other.
async fn converse(
    mut wire: Wire,
    (visit, takeover): (Visit<'_>, &Takeover),
    limits: ConnectionLimits,
    shutdown: &CancellationToken,
) {
    loop {
        let (back, ended) = requests(wire, (visit, takeover), limits, shutdown).await;
        wire = back;
        let Ended::TakenOver(body) = ended else { break };
        let sent = wire.send(body).await;
        tell(sent.as_ref().err());
        if sent.is_err() || shutdown.is_cancelled() {
            break;
        }
    }
    let mut stream = wire.into_stream();
    // Our half, if that is still to be done: behind it comes nothing, and what was written arrives.
    if stream.shutdown().await.is_ok() {
        // Idle clients may never close theirs; the end of the daemon does not wait for them.
        tokio::select! {
            () = linger(stream) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// How hyper has come to its end with a connection.
enum Ended {
    /// There are no further requests.
    Closed,
    /// An answer goes on without it.
    TakenOver(Body),
}

/// Answers requests until there are no more, or a stream takes the connection over.
async fn requests(
    wire: Wire,
    (visit, takeover): (Visit<'_>, &Takeover),
    limits: ConnectionLimits,
    shutdown: &CancellationToken,
) -> (Wire, Ended) {
    let mut connection = serve(wire, visit, limits);
    // With the shutdown of our half, before which hyper sends what it has buffered: without, it
    // would drop the end of an answer that the client has no room for yet.
    let ended = tokio::select! {
        ended = end(&mut connection, takeover) => Some(ended),
        () = shutdown.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            end(&mut connection, takeover).await
        }
    };
    let Parts { io, read_buf, .. } = connection.into_parts();
    let mut wire = io.into_inner();
    wire.unread(&read_buf);
    (wire, ended)
}

fn serve(wire: Wire, visit: Visit<'_>, limits: ConnectionLimits) -> Http<'_> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head_within)
        .max_headers(limits.headers)
        .max_buf_size(limits.head_bytes);
    http.serve_connection(TokioIo::new(wire), visit)
}

/// A connection in the hands of hyper.
type Http<'a> = http1::Connection<TokioIo<Wire>, Visit<'a>>;

/// Waits for hyper to come to its end.
async fn end(connection: &mut Http<'_>, takeover: &Takeover) -> Ended {
    let polled = |cx: &mut Context<'_>| match Pin::new(&mut *connection).poll(cx) {
        Poll::Ready(ended) => {
            tell(ended.as_ref().err());
            Poll::Ready(Ended::Closed)
        }
        // What was just polled may have been the flush that a stream waits for.
        Poll::Pending => {
            takeover.take().map_or(Poll::Pending, |body| Poll::Ready(Ended::TakenOver(body)))
        }
    };
    poll_fn(polled).await
}

fn tell(error: Option<&impl std::fmt::Display>) {
    if let Some(error) = error {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// Waits for the client to close its half.
async fn linger(mut stream: TcpStream) {
    // Not in the future itself: that would be larger by this for all of the connection's life.
    let mut unread = vec![0; 8 * 1024];
    let drain = async {
        while stream.read(&mut unread).await.ok()? > 0 {}
        Some(())
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::Router;

    use super::*;
    use crate::auth::Keys;
    use crate::http::metrics::Tally;
    use crate::http::{Guard, Origins, RateLimits, Rates};

    /// Bytes that a connection's task may take beside what is on the heap.
    const TASK: usize = 5 * 1024;

    #[tokio::test]
    async fn a_connection_takes_little_for_all_of_its_life() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let local = Ipv4Addr::LOCALHOST.into();
        let front = Front {
            guard: Guard { bound: local, hosts: vec![], origins: Origins::Loopback },
            keys: Arc::new(Keys::new(Some("key"), [])),
            limits: RateLimits::new(Rates::default()),
            cached: Arc::new(|_, _| None),
            router: Router::new(),
            tally: Tally::new(Arc::default()),
        };
        let leaving = Leaving { soon: CancellationToken::new(), now: CancellationToken::new() };
        let limits = ConnectionLimits::default();
        let task = connection((stream, local), Arc::new(front), limits, leaving);
        assert!(size_of_val(&task) <= TASK, "{} bytes", size_of_val(&task));
    }
}
