//! What does not pass.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::sync::mpsc;

use ash_broker::control::{Failures, Limits, Peer};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::process::Uid;
use tokio::net::{TcpListener, UnixStream};
use tokio::runtime::Runtime;

use uuid::Uuid;

use crate::stage::{CANARY, ROOT, Stage, Upstream, Wire, answer, chunk, connect, post, soon};

#[tokio::test]
async fn every_other_call_is_refused() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    let (_, path) = stage.grant("a").await;
    for call in [
        "GET / ",
        "GET /v1/messages",
        "PUT /v1/messages",
        "POST /",
        "POST /v1/messages/",
        "POST //v1/messages",
        "POST /v1/files/../messages",
        "POST /v1/%6dessages",
        "POST /v1/messages%3fbeta",
        "POST /v1/messages/batches",
        "POST /v1/files",
        "GET /v1/models",
        "DELETE /v1/files/x",
        "POST /proxy?url=/v1/messages",
    ] {
        let mut client = connect(&path).await;
        let call = call.trim_end();
        client.write(format!("{call} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")).await;
        let reply = client.rest().await;
        assert!(reply.starts_with("HTTP/1.1 403 "), "{call}: {reply}");
        assert!(reply.contains(r#""type":"permission_error""#), "{call}: {reply}");
        assert!(!reply.contains(CANARY));
    }
    upstream.assert_untouched().await;
    assert_eq!(stage.control.standing().await.unwrap().refused, Some(14));
}

#[tokio::test]
async fn ambiguous_requests_are_refused() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    let (_, path) = stage.grant("a").await;
    let line = "POST /v1/messages HTTP/1.1\r\nHost: a\r\n";
    for bytes in [
        format!("{line}Content-Length: 2\r\nContent-Length: 2\r\n\r\n{{}}"),
        format!("{line}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"),
        format!("{line}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{line}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n"),
        format!("{line}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        format!("{line}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        format!("{line}X: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
        "POST http://api/v1/messages HTTP/1.1\r\nContent-Length: 0\r\n\r\n".into(),
        "CONNECT api.example:443 HTTP/1.1\r\n\r\n".into(),
        "POST /v1/messages HTTP/1.0\r\nContent-Length: 0\r\n\r\n".into(),
        "POST /v1/messages HTTP/1.1\nHost: a\nContent-Length: 0\n\n".into(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
    ] {
        let mut client = connect(&path).await;
        client.write(&bytes).await;
        let reply = client.rest().await;
        assert!(reply.starts_with("HTTP/1.1 400 "), "{bytes:?}: {reply:?}");
    }
    upstream.assert_untouched().await;
    // A connection is over when both have hung up.
    let counted = async {
        while stage.control.standing().await.unwrap().refused < Some(12) {
            tokio::task::yield_now().await;
        }
    };
    soon(counted).await;
}

#[tokio::test]
async fn nothing_is_read_after_a_refusal() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    let mut client = stage.client().await;
    let denied = "POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    client.write(format!("{denied}{}", post("/v1/messages", "{}"))).await;
    let reply = client.rest().await;
    assert_eq!(reply.matches("HTTP/1.1").count(), 1, "{reply}");
    upstream.assert_untouched().await;
}

#[tokio::test]
async fn odd_chunks_cut_the_request_short() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    let mut client = stage.client().await;
    client
        .write("POST /v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.write(chunk("good")).await;
    let mut api = upstream.accept().await;
    api.until(&chunk("good")).await;
    client.write("4;x=\"\r\nevil\r\n0\r\n\r\n").await;
    assert_eq!(api.rest().await, "");
    // It is not the model API that has failed.
    client.rest().await;
    assert_eq!(stage.control.standing().await.unwrap().failed, Some(Failures::default()));
}

#[tokio::test]
async fn only_the_agent_may_connect() {
    const AGENT: u32 = 1_879_048_200;
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    let path = stage.grant_to(Uuid::new_v4(), "a", Peer { uid: AGENT, ..ROOT }).await;
    assert_eq!(connect(&path).await.rest().await, "");
    let other = connect_as(AGENT + 1, path.clone());
    assert_eq!(other.rest_of_greeting().await, "");
    let agent = connect_as(AGENT, path);
    assert!(agent.rest_of_greeting().await.starts_with("HTTP/1.1 200 "));
}

/// A connection made by a thread of another user.
fn connect_as(uid: u32, path: PathBuf) -> Stranger {
    let connect = move || {
        let uid = Uid::from_raw(uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        StdUnixStream::connect(path).unwrap()
    };
    Stranger(std::thread::spawn(connect).join().unwrap())
}

struct Stranger(StdUnixStream);

impl Stranger {
    async fn rest_of_greeting(self) -> String {
        use std::io::Write;
        let mut stream = self.0;
        // A connection that was dropped already cannot be written to.
        let _ = stream.write_all(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.set_nonblocking(true).unwrap();
        Wire::new(UnixStream::from_std(stream).unwrap()).rest().await
    }
}

#[tokio::test]
async fn bodies_are_bounded_with_and_without_a_length() {
    let upstream = Upstream::start().await;
    let stage = Stage::with(&upstream, Limits { request_bytes: 100, ..Limits::default() }).await;
    let mut client = stage.client().await;
    client.write(post("/v1/messages", &"a".repeat(101))).await;
    let reply = client.rest().await;
    assert!(reply.starts_with("HTTP/1.1 413 ") && reply.contains("request_too_large"), "{reply}");
    upstream.assert_untouched().await;
    let mut client = stage.client().await;
    client
        .write("POST /v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.write(chunk(&"a".repeat(60))).await;
    let mut api = upstream.accept().await;
    api.until(&"a".repeat(60)).await;
    client.write(chunk(&"a".repeat(60))).await;
    assert!(client.rest().await.starts_with("HTTP/1.1 413 "));
    assert_eq!(api.rest().await.trim(), "");
}

#[tokio::test]
async fn requests_under_way_are_bounded_for_each_sandbox() {
    let upstream = Upstream::start().await;
    let stage =
        Stage::with(&upstream, Limits { concurrent_requests: 1, ..Limits::default() }).await;
    let (_, path) = stage.grant("a").await;
    let mut first = connect(&path).await;
    first.write(post("/v1/messages", "{}")).await;
    let mut api = upstream.accept().await;
    api.until("{}").await;
    let mut second = connect(&path).await;
    second.write(post("/v1/messages", "{}")).await;
    let reply = second.rest().await;
    assert!(reply.starts_with("HTTP/1.1 429 ") && reply.contains("rate_limit_error"), "{reply}");
    let mut neighbour = stage.client().await;
    neighbour.write(post("/v1/messages", "{}")).await;
    upstream.accept().await.until("{}").await;
    api.write(answer("application/json", "{}")).await;
    first.until("\r\n\r\n{}").await;
    first.write(post("/v1/messages", "[]")).await;
    api.until("[]").await;
}

#[tokio::test]
async fn connections_are_bounded_for_each_sandbox() {
    let upstream = Upstream::start().await;
    let stage = Stage::with(&upstream, Limits { connections: 1, ..Limits::default() }).await;
    let (_, path) = stage.grant("a").await;
    let greeting = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut first = connect(&path).await;
    first.write(greeting).await;
    first.head().await;
    let mut second = connect(&path).await;
    second.write(greeting).await;
    first.write(greeting).await;
    first.head().await;
    drop(first);
    second.head().await;
}

#[tokio::test]
async fn slow_heads_and_bodies_are_given_up() {
    let upstream = Upstream::start().await;
    let limits = Limits { head_timeout_ms: 100, body_silence_ms: 100, ..Limits::default() };
    let stage = Stage::with(&upstream, limits).await;
    let mut client = stage.client().await;
    client.write("POST /v1/messages HTTP/1.1\r\nHost:").await;
    assert!(!client.rest().await.contains("HTTP/1.1 2"));
    let mut client = stage.client().await;
    client.write("POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await;
    assert!(client.rest().await.starts_with("HTTP/1.1 408 "));
}

/// Pieces that make requests, whole and broken, allowed and not.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "POST /v1/messages HTTP/1.1\r\nHost: a\r\n",
        "POST /v1/messages?beta=true HTTP/1.1\r\n",
        "POST /v1/files HTTP/1.1\r\n",
        "GET /v1/models HTTP/1.1\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 40\r\n",
        "Transfer-Encoding: chunked\r\n",
        "X-Api-Key: placeholder\r\n",
        "\r\n",
        "\n",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "abc",
    ]);
    let piece = prop_oneof![
        8 => known.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(piece, 1..14).prop_map(|pieces| pieces.concat())
}

/// Answers everything and tells what it was asked.
async fn obliging(listener: TcpListener, heads: mpsc::Sender<String>) {
    while let Ok((stream, _)) = listener.accept().await {
        let heads = heads.clone();
        tokio::spawn(async move {
            let mut wire = Wire::new(stream);
            let _ = heads.send(wire.head().await);
            wire.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        });
    }
}

#[test]
fn no_bytes_get_anything_else_through() {
    let runtime = Runtime::new().unwrap();
    let (heads, seen) = mpsc::channel();
    let (stage, path) = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(obliging(listener, heads));
        let stage = Stage::bare().await;
        stage.key(CANARY).await;
        let settings = ash_broker::control::Settings {
            upstream: format!("http://127.0.0.1:{port}"),
            proxy: None,
            allow_plaintext: false,
            limits: Limits::default(),
        };
        stage.control.configure(&settings, None).await.unwrap();
        let (_, path) = stage.grant("a").await;
        (stage, path)
    });
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&pieces(), |bytes| {
        let reply = runtime.block_on(exchange(&path, &bytes));
        prop_assert!(!reply.contains(CANARY));
        while let Ok(head) = seen.try_recv() {
            let line = head.lines().next().unwrap_or_default();
            let allowed = ["POST /v1/messages HTTP/1.1", "POST /v1/messages?beta=true HTTP/1.1"];
            prop_assert!(allowed.contains(&line), "{}", head);
            prop_assert_eq!(head.matches("x-api-key").count(), 1);
        }
        Ok(())
    });
    outcome.unwrap();
    drop(stage);
}

/// Sends these bytes and nothing more; reads what comes back.
async fn exchange(path: &std::path::Path, bytes: &[u8]) -> String {
    use tokio::io::AsyncWriteExt;
    let mut client = connect(path).await;
    // The broker may hang up before it has read all of it.
    let _ = soon(client.stream.write_all(bytes)).await;
    let _ = client.stream.shutdown().await;
    client.rest().await
}
