//! What passes, and how.

use ash_broker::control::Tokens;

use crate::stage::{
    CANARY, DOCUMENT, EVENTS, STREAM, Stage, Upstream, answer, chunk, connect, post,
};

fn tokens() -> Tokens {
    Tokens {
        model: Some("m".into()),
        input_tokens: 7,
        output_tokens: 45,
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: 30,
    }
}

#[tokio::test]
async fn a_stream_passes_piece_by_piece() {
    let upstream = Upstream::start().await;
    let mut stage = Stage::new(&upstream).await;
    let (sandbox, path) = stage.grant("a").await;
    let mut client = connect(&path).await;
    client.write(post("/v1/messages?beta=true", "{\"stream\":true}")).await;
    let mut api = upstream.accept().await;
    let head = api.until("{\"stream\":true}").await;
    assert!(head.starts_with("POST /v1/messages?beta=true HTTP/1.1\r\n"), "{head}");
    // Each piece arrives while the next one does not exist yet, the head too.
    api.write(STREAM).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    for event in EVENTS {
        api.write(chunk(event)).await;
        client.until(event).await;
    }
    api.write("0\r\n\r\n").await;
    client.until("0\r\n\r\n").await;
    let usage = stage.usage().await;
    assert_eq!((usage.sandbox, usage.status, usage.complete), (sandbox, 200, true));
    assert_eq!((usage.request_id.as_deref(), usage.tokens), (Some("req_1"), tokens()));
}

#[tokio::test]
async fn an_answer_in_one_piece_passes_with_its_length() {
    let upstream = Upstream::start().await;
    let mut stage = Stage::new(&upstream).await;
    let (mut client, mut api) = stage.asked(&upstream).await;
    api.write(answer("application/json", DOCUMENT)).await;
    let head = client.head().await;
    assert!(head.contains(&format!("content-length: {}\r\n", DOCUMENT.len())), "{head}");
    assert_eq!(client.until(DOCUMENT).await, DOCUMENT);
    let usage = stage.usage().await;
    assert_eq!((usage.complete, usage.tokens), (true, tokens()));
}

#[tokio::test]
async fn errors_of_the_model_api_pass_as_they_are() {
    let upstream = Upstream::start().await;
    let mut stage = Stage::new(&upstream).await;
    let (mut client, mut api) = stage.asked(&upstream).await;
    api.write(
        "HTTP/1.1 529 Overloaded\r\ncontent-type: application/json\r\nretry-after: 3\r\n\
         set-cookie: a=b\r\nserver: x\r\ncontent-length: 2\r\n\r\n{}",
    )
    .await;
    let head = client.until("{}").await;
    assert!(head.starts_with("HTTP/1.1 529 "), "{head}");
    assert!(head.contains("retry-after: 3\r\n"), "{head}");
    assert!(!head.contains("cookie") && !head.contains("server"), "{head}");
    assert_eq!(stage.usage().await.status, 529);
}

#[tokio::test]
async fn a_credential_that_is_refused_is_not_tried_again() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    let (mut client, mut api) = stage.asked(&upstream).await;
    api.write("HTTP/1.1 401 Unauthorized\r\nx-should-retry: true\r\ncontent-length: 2\r\n\r\n{}")
        .await;
    let head = client.until("{}").await;
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    assert!(head.contains("x-should-retry: false\r\n") && !head.contains("true"), "{head}");
}

#[tokio::test]
async fn a_request_body_passes_piece_by_piece() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    let mut client = stage.client().await;
    client
        .write("POST /v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.write(chunk("first")).await;
    let mut api = upstream.accept().await;
    api.until(&chunk("first")).await;
    client.write(chunk("second")).await;
    client.write("0\r\n\r\n").await;
    assert_eq!(api.until("0\r\n\r\n").await, format!("{}0\r\n\r\n", chunk("second")));
}

#[tokio::test]
async fn the_credential_is_replaced_and_the_rest_stays_inside() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    let mut client = stage.client().await;
    client
        .write(
            "POST /v1/messages HTTP/1.1\r\nHost: evil.example\r\nx-api-key: one\r\n\
             X-API-KEY: two\r\nAuthorization: Bearer three\r\nProxy-Authorization: four\r\n\
             Cookie: five\r\nX-Forwarded-For: six\r\nConnection: keep-alive, x-app\r\n\
             Accept-Encoding: gzip\r\nanthropic-version: 2023-06-01\r\nx-app: cli\r\n\
             X-Claude-Code-Session-Id: s\r\nContent-Length: 2\r\n\r\n{}",
        )
        .await;
    let mut head = upstream.accept().await.head().await.to_lowercase();
    head.truncate(head.len() - 4);
    let mut lines: Vec<&str> = head.split("\r\n").skip(1).collect();
    lines.sort_unstable();
    let host = format!("host: 127.0.0.1:{}", upstream.port());
    let key = format!("x-api-key: {CANARY}");
    let expected = [
        "accept-encoding: identity",
        "anthropic-version: 2023-06-01",
        "content-length: 2",
        host.as_str(),
        key.as_str(),
        "x-app: cli",
        "x-claude-code-session-id: s",
    ];
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn a_greeting_is_answered_here() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    let mut client = stage.client().await;
    client.write("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    upstream.assert_untouched().await;
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let upstream = Upstream::start().await;
    let mut stage = Stage::new(&upstream).await;
    let mut client = stage.client().await;
    client.write(post("/v1/messages/count_tokens", "{}")).await;
    let mut api = upstream.accept().await;
    let head = api.until("{}").await;
    assert!(head.starts_with("POST /v1/messages/count_tokens HTTP/1.1\r\n"), "{head}");
    api.write(answer("application/json", "{\"input_tokens\":3}")).await;
    client.until("{\"input_tokens\":3}").await;
    client.write(post("/v1/messages", "{}")).await;
    api.until("{}").await;
    api.write(answer("application/json", DOCUMENT)).await;
    client.until(DOCUMENT).await;
    // Counting is free: the only bill is the second call's.
    assert_eq!(stage.usage().await.tokens, tokens());
}
