//! The HTTP edge from outside: raw bytes on a real socket, with a router of a few known routes
//! behind the real front and the real accept loop.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ashd::auth::{Grant, Keys, hash};
use ashd::domain::{Scope, SessionId, Tenant};
use ashd::http::{ConnectionLimits, Front, Guard, Origins, RateLimits, Rates, Tally, run};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const KEY: &str = "ash_0123456789abcdefghijklmnopqrstuv";
const HOT: &str = "3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b";

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// More than the kernel buffers between two ends of a connection, in bytes.
const LARGE: usize = 64 * 1024 * 1024;

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start(limits: ConnectionLimits) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hot: SessionId = HOT.parse().unwrap();
        let grant =
            Grant { tenant: Tenant::default(), scope: Scope::Manage, label: "test".to_owned() };
        let front = Front {
            guard: Guard {
                bound: address.ip(),
                hosts: vec!["ash.example.com".into()],
                origins: Origins::Loopback,
            },
            keys: Arc::new(Keys::new(None, [(hash(KEY.as_bytes()), grant)])),
            limits: RateLimits::new(Rates { requests: 1000, ..Rates::default() }),
            cached: Arc::new(move |caller, id| {
                let ours = caller.tenant == Tenant::default() && id == hot;
                ours.then(|| Bytes::from_static(b"{\"session\":{}}"))
            }),
            router: router(),
            tally: Tally::new(Arc::default()),
        };
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(run(listener, Arc::new(front), limits, shutdown.clone()));
        Server { address, shutdown, serving }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and reads until the server closes.
    async fn exchange(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        to_end(&mut stream).await
    }

    /// One request with a key, on a connection of its own.
    async fn ask(&self, method: &str, path: &str, extra: &str) -> String {
        self.exchange(&format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\
             Connection: close\r\n{extra}\r\n"
        ))
        .await
    }
}

fn router() -> Router {
    let endless = || async {
        let pings = futures_util::stream::unfold((), |()| std::future::pending());
        Body::from_stream(futures_util::StreamExt::chain(
            futures_util::stream::iter([Ok::<_, Infallible>(Bytes::from_static(b": hello\n\n"))]),
            pings,
        ))
    };
    Router::new()
        .route("/health", get(|| async { "well" }))
        .route("/metrics", get(|| async { "counted" }))
        .route("/api/plain", get(|| async { "plain" }))
        .route("/api/echo", post(|body: Bytes| async { body }))
        .route("/api/unread", post(|| async { "unread" }))
        .route("/api/large", get(|| async { vec![b'x'; LARGE] }))
        .route("/api/endless", get(endless))
}

async fn to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer));
    read.await.expect("the server closes").unwrap();
    String::from_utf8(answer).unwrap()
}

async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut answer = String::new();
    while !answer.contains(end) {
        let mut piece = [0; 1024];
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut piece)).await;
        let read = read.expect("the server answers").unwrap();
        assert_ne!(read, 0, "closed behind {answer:?}");
        answer.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
    answer
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or(answer)
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines().skip(1).find_map(|line| {
        let (known, value) = line.split_once(": ")?;
        known.eq_ignore_ascii_case(name).then_some(value)
    })
}

#[tokio::test]
async fn everything_but_health_needs_a_key() {
    let server = Server::start(ConnectionLimits::default()).await;
    for path in ["/health", "/health?x=1"] {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&server.exchange(&request).await), "200", "{path}");
    }
    for path in ["/", "/metrics/", "/api/plain", "/api/nowhere", &format!("/api/sessions/{HOT}")] {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = server.exchange(&request).await;
        assert_eq!(status(&answer), "401", "{path}");
        assert!(
            answer.ends_with(r#"{"error":"Missing Authorization header","statusCode":401}"#),
            "{answer}"
        );
        assert_eq!(header(&answer, "www-authenticate"), None);
    }
    assert_eq!(status(&server.ask("GET", "/api/plain", "").await), "200");
}

#[tokio::test]
async fn metrics_need_a_key_when_somebody_passes_the_request_on() {
    let server = Server::start(ConnectionLimits::default()).await;
    for (head, expected) in [
        ("Host: localhost\r\n".to_owned(), "200"),
        ("Host: ash.example.com\r\n".to_owned(), "401"),
        ("Host: localhost\r\nX-Forwarded-For: 192.0.2.7\r\n".to_owned(), "401"),
        ("Host: localhost\r\nAuthorization: Bearer wrong\r\n".to_owned(), "200"),
        (format!("Host: ash.example.com\r\nAuthorization: Bearer {KEY}\r\n"), "200"),
    ] {
        let request = format!("GET /metrics HTTP/1.1\r\n{head}Connection: close\r\n\r\n");
        assert_eq!(status(&server.exchange(&request).await), expected, "{head}");
    }
}

#[tokio::test]
async fn the_hot_route_is_answered_for_its_owner_only() {
    let server = Server::start(ConnectionLimits::default()).await;
    let answer = server.ask("GET", &format!("/api/sessions/{HOT}"), "").await;
    assert_eq!(status(&answer), "200");
    assert_eq!(header(&answer, "content-type"), Some("application/json; charset=utf-8"));
    assert!(answer.ends_with("{\"session\":{}}"), "{answer}");
    let other = HOT.replace('3', "4");
    assert_eq!(status(&server.ask("GET", &format!("/api/sessions/{other}"), "").await), "404");
}

#[tokio::test]
async fn other_names_and_pages_are_refused() {
    let server = Server::start(ConnectionLimits::default()).await;
    for (head, expected) in [
        ("Host: evil.com\r\n", "403"),
        ("Host: ash.example.com\r\n", "200"),
        ("", "400"),
        ("Host: localhost\r\nHost: localhost\r\n", "400"),
        ("Host: localhost\r\nOrigin: https://evil.com\r\n", "403"),
        ("Host: localhost\r\nOrigin: http://localhost:3000\r\n", "200"),
    ] {
        let request = format!("GET /health HTTP/1.1\r\n{head}Connection: close\r\n\r\n");
        let answer = server.exchange(&request).await;
        assert_eq!(status(&answer), expected, "{head}");
        let allowed = header(&answer, "access-control-allow-origin");
        let page = expected == "200" && head.contains("Origin");
        assert_eq!(allowed, page.then_some("http://localhost:3000"));
    }
}

#[tokio::test]
async fn a_page_may_ask_before_it_calls_and_may_read_refusals() {
    let server = Server::start(ConnectionLimits::default()).await;
    let origin = "Host: localhost\r\nOrigin: http://localhost:3000\r\nConnection: close\r\n";
    let preflight = server
        .exchange(&format!(
            "OPTIONS /api/sessions HTTP/1.1\r\n{origin}Access-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: authorization, content-type\r\n\r\n"
        ))
        .await;
    assert_eq!(status(&preflight), "204");
    for (name, value) in [
        ("access-control-allow-origin", "http://localhost:3000"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET, HEAD, PUT, PATCH, POST, DELETE"),
        ("access-control-allow-headers", "authorization, content-type"),
        ("vary", "Origin, Access-Control-Request-Headers"),
    ] {
        assert_eq!(header(&preflight, name), Some(value), "{name}");
    }
    let refused = server.exchange(&format!("GET /api/plain HTTP/1.1\r\n{origin}\r\n")).await;
    assert_eq!(status(&refused), "401");
    assert_eq!(header(&refused, "access-control-allow-origin"), Some("http://localhost:3000"));
    assert_eq!(header(&refused, "vary"), Some("Origin"));
    assert!(header(&refused, "access-control-expose-headers").unwrap().contains("X-Ash-Source"));
}

#[tokio::test]
async fn answers_say_what_is_left() {
    let server = Server::start(ConnectionLimits::default()).await;
    let left = |answer: &str| header(answer, "x-ratelimit-remaining").map(str::to_owned);
    let hot = format!("/api/sessions/{HOT}");
    let answer = server.ask("GET", &hot, "").await;
    assert_eq!(header(&answer, "x-ratelimit-limit"), Some("1000"));
    assert_eq!(left(&answer).as_deref(), Some("999"));
    assert_eq!(left(&server.ask("GET", "/api/plain", "").await).as_deref(), Some("998"));
    let keyless = "GET /api/plain HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let refused = server.exchange(keyless).await;
    assert_eq!((status(&refused), left(&refused)), ("401", None));
    assert_eq!(left(&server.ask("GET", &hot, "").await).as_deref(), Some("997"));
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let server = Server::start(ConnectionLimits::default()).await;
    let answer = server.ask("HEAD", "/api/plain", "").await;
    assert_eq!((status(&answer), header(&answer, "content-length")), ("200", Some("5")));
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn requests_that_two_parsers_could_read_differently_are_refused() {
    let server = Server::start(ConnectionLimits::default()).await;
    let smuggled = "0\r\n\r\nGET /api/plain HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for head in [
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5, 6\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding : chunked\r\n",
        " Folded: x\r\n",
        "X: a\rb\r\n",
    ] {
        let answer = server.ask("POST", "/api/echo", &format!("{head}\r\n{smuggled}")).await;
        assert_eq!(status(&answer), "400", "{head:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head:?}");
    }
}

#[tokio::test]
async fn chunked_wins_over_length_and_what_follows_is_not_a_request() {
    let server = Server::start(ConnectionLimits::default()).await;
    let both = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n";
    let answer = server.ask("POST", "/api/echo", both).await;
    assert!(["200", "400"].contains(&status(&answer)), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1);
    assert!(status(&answer) == "400" || answer.ends_with("hi"), "{answer}");
}

#[tokio::test]
async fn heads_are_bounded() {
    let server = Server::start(ConnectionLimits::default()).await;
    let many = "X: y\r\n".repeat(200);
    assert_eq!(status(&server.ask("GET", "/api/plain", &many).await), "431");
    let long = format!("X: {}\r\n", "y".repeat(100_000));
    assert_eq!(status(&server.ask("GET", "/api/plain", &long).await), "431");
    assert_eq!(status(&server.ask("GET", &format!("/{}", "y".repeat(100_000)), "").await), "431");
}

#[tokio::test]
async fn slow_heads_are_given_up() {
    let limits =
        ConnectionLimits { head_within: Duration::from_millis(100), ..ConnectionLimits::default() };
    let server = Server::start(limits).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: local").await.unwrap();
    let answer = to_end(&mut stream).await;
    assert!(answer.is_empty() || status(&answer) == "408", "{answer}");
}

#[tokio::test]
async fn connections_are_kept_and_their_requests_answered_in_order() {
    let server = Server::start(ConnectionLimits::default()).await;
    let mut stream = server.connect().await;
    let request = |path: &str, extra: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n{extra}\r\n"
        )
    };
    let both = request("/api/nowhere", "") + &request("/api/plain", "Connection: close\r\n");
    stream.write_all(both.as_bytes()).await.unwrap();
    let answers = to_end(&mut stream).await;
    assert_eq!(status(&answers), "404");
    assert!(answers.ends_with("plain"), "{answers}");
}

#[tokio::test]
async fn an_answer_reaches_a_client_that_is_still_sending() {
    let server = Server::start(ConnectionLimits::default()).await;
    let mut stream = server.connect().await;
    let head = format!(
        "POST /api/unread HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\
         Content-Length: 4000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let send = async {
        // The server may stop reading at any point.
        let _ = writer.write_all(&vec![b'x'; 4_000_000]).await;
        let _ = writer.shutdown().await;
    };
    let mut answer = Vec::new();
    let (_, read) = tokio::join!(send, reader.read_to_end(&mut answer));
    read.unwrap();
    let answer = std::str::from_utf8(&answer).unwrap();
    assert_eq!((status(answer), header(answer, "connection")), ("200", Some("close")));
}

#[tokio::test]
async fn a_large_answer_is_whole_when_the_request_never_was() {
    let server = Server::start(ConnectionLimits::default()).await;
    let mut stream = server.connect().await;
    let head = format!(
        "GET /api/large HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\
         Content-Length: 2\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = to_end(&mut stream).await;
    assert_eq!((status(&answer), header(&answer, "connection")), ("200", Some("close")));
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(body.len(), LARGE);
}

#[tokio::test]
async fn a_connection_lives_on_behind_a_body_that_was_read_and_says_so_when_not() {
    let server = Server::start(ConnectionLimits::default()).await;
    for (path, key, expected) in [
        ("/api/echo", KEY, ("200", None)),
        ("/api/unread", KEY, ("200", Some("close"))),
        ("/api/nowhere", KEY, ("404", Some("close"))),
        ("/api/echo", "wrong", ("401", Some("close"))),
    ] {
        let mut stream = server.connect().await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
             Content-Length: 2\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        if expected.1.is_none() {
            stream.write_all(b"hi").await.unwrap();
        }
        let answer = until(&mut stream, "\r\n\r\n").await;
        assert_eq!((status(&answer), header(&answer, "connection")), expected, "{path} {key}");
    }
}

#[tokio::test]
async fn beyond_the_cap_connections_wait() {
    let limits = ConnectionLimits { connections: 1, ..ConnectionLimits::default() };
    let server = Server::start(limits).await;
    let mut first = server.connect().await;
    first.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    until(&mut first, "well").await;
    let mut second = server.connect().await;
    second
        .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let early = tokio::time::timeout(Duration::from_millis(50), second.readable()).await;
    assert!(early.is_err(), "answered beyond the cap");
    drop(first);
    assert_eq!(status(&to_end(&mut second).await), "200");
}

#[tokio::test]
async fn shutdown_closes_idle_connections_at_once_and_streams_in_time() {
    let limits =
        ConnectionLimits { drain: Duration::from_millis(200), ..ConnectionLimits::default() };
    let server = Server::start(limits).await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    until(&mut idle, "well").await;
    let mut stream = server.connect().await;
    let request = format!(
        "GET /api/endless HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    until(&mut stream, ": hello").await;
    server.shutdown.cancel();
    assert_eq!(to_end(&mut idle).await, "");
    tokio::time::timeout(PATIENCE, server.serving).await.expect("it ends").unwrap();
    drop(idle);
    assert!(TcpStream::connect(server.address).await.is_err());
}
