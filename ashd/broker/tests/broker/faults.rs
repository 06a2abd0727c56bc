//! When one side fails, the other one learns it at once and truly.

use ash_broker::control::{Failures, Limits};
use tokio::net::TcpListener;

use crate::stage::{CANARY, DOCUMENT, EVENTS, STREAM, Stage, Upstream, answer, chunk, post};

/// What got no answer.
async fn failed(stage: &Stage) -> Failures {
    stage.control.standing().await.unwrap().failed.unwrap()
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_call() {
    let upstream = Upstream::start().await;
    let mut stage = Stage::new(&upstream).await;
    // Before the answer begins …
    let (client, mut api) = stage.asked(&upstream).await;
    drop(client);
    assert_eq!(api.rest().await, "");
    // … and in the middle of it.
    let (mut client, mut api) = stage.asked(&upstream).await;
    api.write(format!("{STREAM}{}", chunk(EVENTS[0]))).await;
    client.until(EVENTS[0]).await;
    drop(client);
    assert_eq!(api.rest().await, "");
    let usage = stage.usage().await;
    assert_eq!((usage.complete, usage.tokens.input_tokens), (false, 7));
}

#[tokio::test]
async fn an_upstream_that_is_down_is_told() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = gone.local_addr().unwrap().port();
    drop(gone);
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    let mut settings = upstream.settings(Limits::default());
    settings.upstream = format!("http://127.0.0.1:{port}");
    stage.control.configure(&settings, None).await.unwrap();
    let mut client = stage.client().await;
    client.write(post("/v1/messages", "{}")).await;
    let reply = client.rest().await;
    assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
    assert!(reply.contains("the model API cannot be reached: connection refused"), "{reply}");
    assert!(reply.contains("x-should-retry: true\r\n"), "{reply}");
    assert!(!reply.contains(&port.to_string()) && !reply.contains(CANARY), "{reply}");
    assert_eq!(failed(&stage).await, Failures { unreachable: 1, ..Failures::default() });
}

#[tokio::test]
async fn an_upstream_that_is_silent_is_given_up() {
    let upstream = Upstream::start().await;
    let limits = Limits { upstream_silence_ms: 200, ..Limits::default() };
    let mut stage = Stage::with(&upstream, limits).await;
    let (mut client, mut api) = stage.asked(&upstream).await;
    let reply = client.rest().await;
    assert!(reply.starts_with("HTTP/1.1 504 ") && reply.contains("timeout_error"), "{reply}");
    assert_eq!(api.rest().await, "");
    let (mut client, mut api) = stage.asked(&upstream).await;
    api.write(format!("{STREAM}{}", chunk(EVENTS[0]))).await;
    let reply = client.rest().await;
    assert!(reply.contains(EVENTS[0]) && !reply.contains("0\r\n\r\n"), "{reply}");
    assert!(!stage.usage().await.complete);
    // The second one has begun to answer.
    assert_eq!(failed(&stage).await, Failures { silent: 1, ..Failures::default() });
}

#[tokio::test]
async fn an_answer_that_is_cut_arrives_cut() {
    let upstream = Upstream::start().await;
    let mut stage = Stage::new(&upstream).await;
    let (mut client, mut api) = stage.asked(&upstream).await;
    api.write(format!("{STREAM}{}", chunk(EVENTS[0]))).await;
    drop(api);
    let reply = client.rest().await;
    assert!(reply.contains(EVENTS[0]) && !reply.contains("0\r\n\r\n"), "{reply}");
    assert!(!stage.usage().await.complete);
    let (mut client, mut api) = stage.asked(&upstream).await;
    let whole = answer("application/json", DOCUMENT);
    api.write(&whole[..whole.len() - 5]).await;
    drop(api);
    let reply = client.rest().await;
    // The last word of it may be missing: it waited for what would have shown that it is not the key.
    let came = &DOCUMENT[..DOCUMENT.len() - 5 - CANARY.len()];
    assert!(reply.contains(came) && !reply.contains(DOCUMENT), "{reply}");
    assert!(!stage.usage().await.complete);
}

#[tokio::test]
async fn a_connection_without_an_answer_is_told() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    for nonsense in ["", "SSH-2.0-x\r\n", "HTTP/1.1 200 OK\r\ncontent-le"] {
        let (mut client, mut api) = stage.asked(&upstream).await;
        api.write(nonsense).await;
        drop(api);
        let reply = client.rest().await;
        assert!(reply.starts_with("HTTP/1.1 502 ") && reply.contains("api_error"), "{reply}");
        assert!(!reply.contains(CANARY));
    }
    assert_eq!(failed(&stage).await, Failures { bad_answer: 3, ..Failures::default() });
}

#[tokio::test]
async fn a_name_of_a_call_that_fits_no_message_breaks_nothing_off() {
    let upstream = Upstream::start().await;
    let mut stage = Stage::new(&upstream).await;
    let (mut client, mut api) = stage.asked(&upstream).await;
    let endless = format!("request-id: {}", "x".repeat(100_000));
    api.write(answer("application/json", DOCUMENT).replace("request-id: req_1", &endless)).await;
    client.until(DOCUMENT).await;
    let usage = stage.usage().await;
    assert_eq!((usage.request_id, usage.tokens.input_tokens), (None, 7));
    assert_eq!(stage.control.granted().await.unwrap().len(), 1);
}

#[tokio::test]
async fn redirects_are_neither_followed_nor_told() {
    let upstream = Upstream::start().await;
    let elsewhere = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    for status in ["301 Moved", "302 Found", "307 Temporary", "308 Permanent", "304 Not"] {
        let (mut client, mut api) = stage.asked(&upstream).await;
        let location = format!("http://127.0.0.1:{}/", elsewhere.port());
        api.write(format!(
            "HTTP/1.1 {status}\r\nlocation: {location}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        ))
        .await;
        let reply = client.rest().await;
        assert!(reply.starts_with("HTTP/1.1 502 "), "{reply}");
        assert!(!reply.to_lowercase().contains("location"), "{reply}");
    }
    elsewhere.assert_untouched().await;
    assert_eq!(failed(&stage).await, Failures { bad_answer: 5, ..Failures::default() });
}

#[tokio::test]
async fn what_is_not_configured_is_told() {
    let upstream = Upstream::start().await;
    let stage = Stage::bare().await;
    let mut client = stage.client().await;
    client.write(post("/v1/messages", "{}")).await;
    assert!(client.rest().await.starts_with("HTTP/1.1 503 "));
    stage.control.configure(&upstream.settings(Limits::default()), None).await.unwrap();
    let mut client = stage.client().await;
    client.write(post("/v1/messages", "{}")).await;
    let reply = client.rest().await;
    assert!(reply.starts_with("HTTP/1.1 401 "), "{reply}");
    assert!(reply.contains("no model API key is configured"), "{reply}");
    assert!(reply.contains("x-should-retry: false\r\n"), "{reply}");
    assert_eq!(failed(&stage).await, Failures { not_ready: 1, no_key: 1, ..Failures::default() });
    upstream.assert_untouched().await;
}

#[tokio::test]
async fn a_refusal_reaches_who_is_still_writing() {
    let stage = Stage::bare().await;
    for path in ["/v1/messages", "/v1/files"] {
        let mut client = stage.client().await;
        client.write(post(path, &"x".repeat(4_000_000))).await;
        let reply = client.rest().await;
        assert!(reply.ends_with(r#""type":"error"}"#), "{reply}");
    }
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let mut settings = Upstream::start().await.settings(Limits::default());
    settings.upstream = format!("http://127.0.0.1:{gone}");
    stage.control.configure(&settings, None).await.unwrap();
    stage.key(CANARY).await;
    let mut client = stage.client().await;
    client.write(post("/v1/messages", &"x".repeat(4_000_000))).await;
    assert!(client.rest().await.starts_with("HTTP/1.1 503 "));
}

#[tokio::test]
async fn a_connection_that_the_model_api_closed_is_not_used_again() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    let mut client = stage.client().await;
    for _ in 0..5 {
        client.write(post("/v1/messages", "{}")).await;
        let mut api = upstream.accept().await;
        api.until("{}").await;
        api.write(answer("application/json", DOCUMENT)).await;
        client.until(DOCUMENT).await;
    }
}
