//! Server-sent events: frames that were encoded once go out as they are.
//!
//! Nothing is read from the subscription before the connection takes what was read last, so a slow
//! client costs one batch, and a client that is gone drops its subscription.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::detach::detachable;
use crate::session::Subscription;
use crate::session::api::Frame;

const MEDIA: &str = "text/event-stream";

/// What is sent when nothing else is: a comment, which clients skip.
const PING: Bytes = Bytes::from_static(b": ping\n\n");

/// The same to whoever waits for a turn, with where the message stands.
fn standing(position: u64) -> Bytes {
    format!(": waiting {position}\n\n").into()
}

/// Small frames are sent together up to this many bytes; copying them is cheaper than sending
/// them one by one. Larger ones are never copied.
const TOGETHER: usize = 8 * 1024;

/// Answers with a stream of frames that ends when the subscription does, or at shutdown.
pub(super) fn response(
    subscription: Subscription,
    ping_every: Duration,
    shutdown: &CancellationToken,
) -> Response {
    respond(Writer::new(subscription, ping_every, shutdown))
}

fn respond<S: Source>(writer: Writer<S>) -> Response {
    let chunks = stream::unfold(writer, async |mut writer| {
        let chunk = writer.next().await?;
        Some((Ok::<_, Infallible>(chunk), writer))
    });
    let mut response = detachable(Body::from_stream(chunks));
    for (name, value) in [
        (CONTENT_TYPE, MEDIA),
        (CACHE_CONTROL, "no-cache"),
        (CONNECTION, "keep-alive"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether an answer is a stream of frames.
pub(super) fn is_stream(response: &Response) -> bool {
    response.headers().get(CONTENT_TYPE).is_some_and(|media| media == MEDIA)
}

/// Where frames come from. Waiting may be given up at any time without losing frames.
trait Source: Send + 'static {
    fn next(&mut self) -> impl Future<Output = Option<Vec<Frame>>> + Send;

    /// Where the message stands whose turn is waited for; `None` when none is.
    fn position(&self) -> Option<u64>;
}

impl Source for Subscription {
    fn next(&mut self) -> impl Future<Output = Option<Vec<Frame>>> + Send {
        Subscription::next(self)
    }

    fn position(&self) -> Option<u64> {
        Subscription::position(self)
    }
}

struct Writer<S> {
    source: S,
    /// What is said before all else: that the turn has to be waited for.
    opening: Option<Bytes>,
    waiting: VecDeque<Bytes>,
    last: Instant,
    /// Not moved with every frame: when it rings it looks how long ago the last one was.
    alarm: Pin<Box<Sleep>>,
    ping_every: Duration,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S: Source> Writer<S> {
    fn new(source: S, ping_every: Duration, shutdown: &CancellationToken) -> Self {
        let now = Instant::now();
        Writer {
            opening: source.position().map(standing),
            source,
            waiting: VecDeque::new(),
            last: now,
            alarm: Box::pin(sleep_until(now + ping_every)),
            ping_every,
            shutdown: Box::pin(shutdown.clone().cancelled_owned()),
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        if let Some(opening) = self.opening.take() {
            return Some(opening);
        }
        while self.waiting.is_empty() {
            tokio::select! {
                biased;
                frames = self.source.next() => {
                    self.waiting.extend(frames?.into_iter().map(|frame| frame.bytes));
                }
                () = &mut self.shutdown => return None,
                () = &mut self.alarm => {
                    if let Some(ping) = self.ring() {
                        return Some(ping);
                    }
                }
            }
        }
        self.last = Instant::now();
        Some(chunk(&mut self.waiting))
    }

    fn ring(&mut self) -> Option<Bytes> {
        let due = self.last + self.ping_every;
        let now = Instant::now();
        let silent = now >= due;
        if silent {
            self.last = now;
        }
        self.alarm.as_mut().reset(self.last + self.ping_every);
        silent.then(|| self.source.position().map_or(PING, standing))
    }
}

/// Takes what goes out next: one frame as it is, or several small ones together.
fn chunk(waiting: &mut VecDeque<Bytes>) -> Bytes {
    let first = waiting.pop_front().unwrap_or_default();
    let fits =
        |size: usize, next: Option<&Bytes>| next.is_some_and(|next| size + next.len() <= TOGETHER);
    if !fits(first.len(), waiting.front()) {
        return first;
    }
    let mut together = BytesMut::with_capacity(TOGETHER);
    together.extend_from_slice(&first);
    while fits(together.len(), waiting.front()) {
        together.extend_from_slice(&waiting.pop_front().unwrap_or_default());
    }
    together.freeze()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::auth::Keys;
    use crate::domain::EventId;
    use crate::http::{ConnectionLimits, Front, Guard, Origins, RateLimits, Rates, Tally, run};
    use crate::session::api::FrameClass;

    impl Source for mpsc::Receiver<Vec<Frame>> {
        fn next(&mut self) -> impl Future<Output = Option<Vec<Frame>>> + Send {
            self.recv()
        }

        fn position(&self) -> Option<u64> {
            None
        }
    }

    /// A turn that has to be waited for, and begins when something comes.
    struct Queue {
        begins: mpsc::Receiver<Vec<Frame>>,
        /// 0 when it has begun.
        position: Arc<AtomicU64>,
    }

    impl Source for Queue {
        async fn next(&mut self) -> Option<Vec<Frame>> {
            let frames = self.begins.recv().await;
            self.position.store(0, Ordering::Relaxed);
            frames
        }

        fn position(&self) -> Option<u64> {
            Some(self.position.load(Ordering::Relaxed)).filter(|position| *position > 0)
        }
    }

    fn frame(bytes: impl Into<Bytes>) -> Frame {
        let id = EventId { seq: 1, k: 0 };
        Frame { id, class: FrameClass::Whole, bytes: bytes.into() }
    }

    fn open(shutdown: &CancellationToken) -> (mpsc::Sender<Vec<Frame>>, Response) {
        let (sender, source) = mpsc::channel(1);
        (sender, respond(Writer::new(source, Duration::from_secs(15), shutdown)))
    }

    async fn next(response: &mut Response) -> Option<Bytes> {
        let frame = response.body_mut().frame().await?;
        Some(frame.unwrap().into_data().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn frames_go_out_as_they_are() {
        let (sender, mut response) = open(&CancellationToken::new());
        sender.send(vec![frame("id: 1.0\ndata: {}\n\n")]).await.unwrap();
        assert_eq!(next(&mut response).await.unwrap(), "id: 1.0\ndata: {}\n\n");
        sender.send(vec![frame("a\n\n"), frame("b\n\n")]).await.unwrap();
        assert_eq!(next(&mut response).await.unwrap(), "a\n\nb\n\n");
        drop(sender);
        assert_eq!(next(&mut response).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_filled_with_pings_and_only_silence() {
        let (sender, mut response) = open(&CancellationToken::new());
        let start = Instant::now();
        tokio::time::sleep(Duration::from_secs(10)).await;
        sender.send(vec![frame("x\n\n")]).await.unwrap();
        assert_eq!(next(&mut response).await.unwrap(), "x\n\n");
        assert_eq!(next(&mut response).await.unwrap(), PING);
        assert_eq!(start.elapsed().as_secs(), 25);
        assert_eq!(next(&mut response).await.unwrap(), PING);
        assert_eq!(start.elapsed().as_secs(), 40);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_turn_is_told_at_once_and_with_every_ping_where_it_stands() {
        let (sender, begins) = mpsc::channel(1);
        let position = Arc::new(AtomicU64::new(12));
        let queue = Queue { begins, position: position.clone() };
        let (every, shutdown) = (Duration::from_secs(15), CancellationToken::new());
        let mut response = respond(Writer::new(queue, every, &shutdown));
        let start = Instant::now();
        assert_eq!(next(&mut response).await.unwrap(), ": waiting 12\n\n");
        assert_eq!(start.elapsed().as_secs(), 0);
        position.store(1, Ordering::Relaxed);
        assert_eq!(next(&mut response).await.unwrap(), ": waiting 1\n\n");
        assert_eq!(start.elapsed().as_secs(), 15);
        sender.send(vec![frame("x\n\n")]).await.unwrap();
        assert_eq!(next(&mut response).await.unwrap(), "x\n\n");
        assert_eq!(next(&mut response).await.unwrap(), PING);
    }

    #[tokio::test]
    async fn shutdown_ends_the_stream_behind_what_is_there() {
        let shutdown = CancellationToken::new();
        let (sender, mut response) = open(&shutdown);
        sender.send(vec![frame("x\n\n")]).await.unwrap();
        shutdown.cancel();
        assert_eq!(next(&mut response).await.unwrap(), "x\n\n");
        assert_eq!(next(&mut response).await, None);
        assert!(sender.is_closed(), "nobody reads from it any more");
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_drops_its_source() {
        let (sender, response) = open(&CancellationToken::new());
        drop(response);
        assert!(sender.is_closed());
    }

    /// A request, up to the empty line.
    fn request(path: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n\
             Authorization: Bearer key\r\n"
        )
    }

    /// Serves one stream behind the real accept loop and asks for it.
    async fn over_a_socket(
        shutdown: &CancellationToken,
    ) -> (mpsc::Sender<Vec<Frame>>, TcpStream, JoinHandle<()>) {
        over_a_socket_with(shutdown, &(request("/api/stream") + "\r\n")).await
    }

    /// The same, with more requests than one, or another.
    async fn over_a_socket_with(
        shutdown: &CancellationToken,
        requests: &str,
    ) -> (mpsc::Sender<Vec<Frame>>, TcpStream, JoinHandle<()>) {
        let (sender, response) = open(shutdown);
        let response = Arc::new(Mutex::new(Some(response)));
        let told = response.clone();
        let handler = move || async move { response.lock().unwrap().take().unwrap() };
        // With a body, which is read first.
        let told = move |_: Bytes| async move { told.lock().unwrap().take().unwrap() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let front = Front {
            guard: Guard { bound: address.ip(), hosts: vec![], origins: Origins::Loopback },
            keys: Arc::new(Keys::new(Some("key"), [])),
            limits: RateLimits::new(Rates::default()),
            cached: Arc::new(|_, _| None),
            router: Router::new()
                .route("/api/stream", get(handler).post(told))
                .route("/api/other", get(|| async { "answered" })),
            tally: Tally::new(Arc::default()),
        };
        let limits = ConnectionLimits::default();
        let serving = tokio::spawn(run(listener, Arc::new(front), limits, shutdown.clone()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(requests.as_bytes()).await.unwrap();
        (sender, stream, serving)
    }

    async fn in_time<T>(happening: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(20), happening).await.expect("it happens")
    }

    async fn until(stream: &mut TcpStream, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            let mut piece = [0; 4096];
            let size = in_time(stream.read(&mut piece)).await.unwrap();
            assert_ne!(size, 0, "closed behind {text:?}");
            text.push_str(std::str::from_utf8(&piece[..size]).unwrap());
        }
        text
    }

    #[tokio::test]
    async fn on_the_wire_it_is_an_event_stream_that_pages_may_read() {
        let shutdown = CancellationToken::new();
        let (sender, mut stream, serving) = over_a_socket(&shutdown).await;
        let head = until(&mut stream, "\r\n\r\n").await;
        for line in [
            "HTTP/1.1 200 OK",
            "content-type: text/event-stream",
            "cache-control: no-cache",
            "connection: keep-alive",
            "x-accel-buffering: no",
            "transfer-encoding: chunked",
            "access-control-allow-origin: http://localhost",
        ] {
            assert!(head.lines().any(|known| known == line), "{line} in {head}");
        }
        sender.send(vec![frame("data: 1\n\n")]).await.unwrap();
        assert_eq!(until(&mut stream, "\n\n\r\n").await, "9\r\ndata: 1\n\n\r\n");
        drop(sender);
        assert_eq!(until(&mut stream, "0\r\n\r\n").await, "0\r\n\r\n");
        drop(stream);
        shutdown.cancel();
        in_time(serving).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_ends_its_subscription() {
        let shutdown = CancellationToken::new();
        let (sender, mut stream, serving) = over_a_socket(&shutdown).await;
        until(&mut stream, "\r\n\r\n").await;
        drop(stream);
        in_time(sender.closed()).await;
        shutdown.cancel();
        in_time(serving).await.unwrap();
    }

    #[tokio::test]
    async fn shutdown_ends_streams_as_they_end() {
        let shutdown = CancellationToken::new();
        let (sender, mut stream, serving) = over_a_socket(&shutdown).await;
        until(&mut stream, "\r\n\r\n").await;
        shutdown.cancel();
        assert_eq!(until(&mut stream, "0\r\n\r\n").await, "0\r\n\r\n");
        // The client still holds its half of the connection open.
        in_time(serving).await.unwrap();
        assert!(sender.is_closed());
    }

    #[tokio::test]
    async fn a_connection_goes_on_behind_a_stream() {
        let shutdown = CancellationToken::new();
        let (sender, mut stream, serving) = over_a_socket(&shutdown).await;
        sender.send(vec![frame("data: 1\n\n")]).await.unwrap();
        until(&mut stream, "9\r\ndata: 1\n\n\r\n").await;
        drop(sender);
        let other = request("/api/other") + "\r\n";
        for end in ["0\r\n\r\n", ""] {
            stream.write_all(other.as_bytes()).await.unwrap();
            let text = until(&mut stream, "answered").await;
            assert!(text.starts_with(&format!("{end}HTTP/1.1 200 OK\r\n")), "{text}");
        }
        drop(stream);
        shutdown.cancel();
        in_time(serving).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_asked_while_a_stream_flows_is_answered_behind_it() {
        let shutdown = CancellationToken::new();
        let other = request("/api/other") + "\r\n";
        // One comes with the stream's own request, and another one later.
        let both = request("/api/stream") + "\r\n" + &other;
        let (sender, mut stream, serving) = over_a_socket_with(&shutdown, &both).await;
        until(&mut stream, "\r\n\r\n").await;
        stream.write_all(other.as_bytes()).await.unwrap();
        sender.send(vec![frame("data: 1\n\n")]).await.unwrap();
        assert_eq!(until(&mut stream, "\n\n\r\n").await, "9\r\ndata: 1\n\n\r\n");
        drop(sender);
        let mut text = String::new();
        while text.matches("answered").count() < 2 {
            text += &until(&mut stream, "answered").await;
        }
        assert!(text.starts_with("0\r\n\r\nHTTP/1.1 200 OK\r\n"), "{text}");
        assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{text}");
        drop(stream);
        shutdown.cancel();
        in_time(serving).await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_is_to_end_behind_a_stream_does() {
        let last = request("/api/stream") + "Connection: close\r\n\r\n";
        let old = request("/api/stream").replace("HTTP/1.1", "HTTP/1.0") + "\r\n";
        let chunks = "9\r\ndata: 1\n\n\r\n0\r\n\r\n";
        for (asked, told) in [(last, chunks), (old, "data: 1\n\n")] {
            let shutdown = CancellationToken::new();
            let (sender, mut stream, serving) = over_a_socket_with(&shutdown, &asked).await;
            let head = until(&mut stream, "\r\n\r\n").await;
            assert!(head.lines().any(|line| line == "connection: close"), "{head}");
            sender.send(vec![frame("data: 1\n\n")]).await.unwrap();
            drop(sender);
            let mut rest = String::new();
            in_time(stream.read_to_string(&mut rest)).await.unwrap();
            assert_eq!(rest, told);
            drop(stream);
            shutdown.cancel();
            in_time(serving).await.unwrap();
        }
    }

    /// Where such a request ends is a matter of opinion: what follows may be a part of it, smuggled past a
    /// proxy.
    #[tokio::test]
    async fn nothing_is_answered_behind_a_request_with_two_lengths() {
        let shutdown = CancellationToken::new();
        let head = request("/api/stream").replace("GET", "POST");
        let lengths = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        let both = head + lengths + &request("/api/other") + "\r\n";
        let (sender, mut stream, serving) = over_a_socket_with(&shutdown, &both).await;
        let head = until(&mut stream, "\r\n\r\n").await;
        assert!(head.contains("close\r\n"), "{head}");
        drop(sender);
        let mut rest = String::new();
        in_time(stream.read_to_string(&mut rest)).await.unwrap();
        assert_eq!(rest, "0\r\n\r\n");
        drop(stream);
        shutdown.cancel();
        in_time(serving).await.unwrap();
    }

    #[tokio::test]
    async fn what_the_kernel_does_not_take_at_once_follows() {
        const FRAMES: usize = 200;
        let shutdown = CancellationToken::new();
        let (sender, mut stream, serving) = over_a_socket(&shutdown).await;
        until(&mut stream, "\r\n\r\n").await;
        let large = Bytes::from(vec![b'x'; 100_000]);
        let sent = tokio::spawn(async move {
            for _ in 0..FRAMES {
                sender.send(vec![frame(large.clone())]).await.unwrap();
            }
        });
        let chunk = "186A0\r\n".len() + 100_000 + "\r\n".len();
        let mut all = vec![0; FRAMES * chunk + "0\r\n\r\n".len()];
        in_time(stream.read_exact(&mut all)).await.unwrap();
        assert!(all.starts_with(b"186A0\r\nxxx") && all.ends_with(b"xxx\r\n0\r\n\r\n"));
        sent.await.unwrap();
        drop(stream);
        shutdown.cancel();
        in_time(serving).await.unwrap();
    }

    #[tokio::test]
    async fn nothing_is_read_ahead_of_the_client() {
        let (sender, mut response) = open(&CancellationToken::new());
        let large = || frame(vec![b'x'; TOGETHER]);
        sender.send(vec![large(), large()]).await.unwrap();
        next(&mut response).await.unwrap();
        sender.send(vec![large()]).await.unwrap();
        next(&mut response).await.unwrap();
        assert_eq!(sender.capacity(), 0, "the second batch was taken before its time");
    }

    #[test]
    fn large_frames_are_not_copied_and_order_is_kept() {
        let large = Bytes::from(vec![b'x'; TOGETHER]);
        let small = Bytes::from_static(b"s");
        let mut waiting: VecDeque<_> =
            [&small, &small, &large, &small, &large].into_iter().cloned().collect();
        assert_eq!(chunk(&mut waiting), "ss");
        let sent = chunk(&mut waiting);
        assert_eq!(sent.as_ptr(), large.as_ptr());
        assert_eq!(chunk(&mut waiting).as_ptr(), small.as_ptr());
        assert_eq!(chunk(&mut waiting).as_ptr(), large.as_ptr());
        assert!(waiting.is_empty());
    }
}
