//! A gateway that shows the key again: the sandbox does not see it.

use crate::stage::{CANARY, STREAM, Stage, Upstream, answer, chunk};

fn stars() -> String {
    "*".repeat(CANARY.len())
}

/// The head of a stream, on a connection that serves no other.
fn stream() -> String {
    STREAM.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn an_error_that_quotes_the_request_shows_no_key() {
    let upstream = Upstream::start().await;
    let mut stage = Stage::new(&upstream).await;
    let (mut client, mut api) = stage.asked(&upstream).await;
    let body = format!("{{\"error\":{{\"message\":\"got x-api-key: {CANARY}, x-app: cli\"}}}}");
    let length = body.len();
    api.write(format!(
        "HTTP/1.1 400 {CANARY}\r\ncontent-type: application/json\r\nrequest-id: {CANARY}\r\n\
         retry-after: 3\r\nx-api-key: {CANARY}\r\ncontent-length: {length}\r\n\r\n{body}"
    ))
    .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 400 ") && head.contains("retry-after: 3\r\n"), "{head}");
    assert!(head.contains(&format!("content-length: {length}\r\n")), "{head}");
    assert!(!head.contains(CANARY) && !head.contains("request-id"), "{head}");
    let hidden = body.replace(CANARY, &stars());
    assert_eq!(client.until(&hidden).await, hidden);
    let usage = stage.usage().await;
    assert_eq!((usage.request_id, usage.complete), (None, true));
}

#[tokio::test]
async fn a_stream_shows_no_key_wherever_it_is_cut() {
    let upstream = Upstream::start().await;
    let mut stage = Stage::new(&upstream).await;
    for at in [0, 1, 9, CANARY.len() - 1] {
        let (mut client, mut api) = stage.asked(&upstream).await;
        let (first, last) = CANARY.split_at(at);
        api.write(format!("{}{}", stream(), chunk(&format!("data: {first}")))).await;
        // What is no part of it has passed before the rest exists.
        client.until("data: ").await;
        api.write(format!("{}0\r\n\r\n", chunk(&format!("{last}.\n\n")))).await;
        let rest = client.until("0\r\n\r\n").await;
        assert!(rest.contains(&format!("{}.\n\n", stars())), "cut at {at}: {rest:?}");
        assert!(stage.usage().await.complete);
    }
}

#[tokio::test]
async fn a_line_that_never_ends_passes_all_the_same() {
    let upstream = Upstream::start().await;
    let mut stage = Stage::new(&upstream).await;
    // It ends as the stream does …
    let (mut client, mut api) = stage.asked(&upstream).await;
    api.write(format!("{}{}0\r\n\r\n", stream(), chunk("data: sk-ant-"))).await;
    let whole = client.until("0\r\n\r\n").await;
    assert!(whole.contains("sk-ant-\r\n0\r\n\r\n"), "{whole:?}");
    assert!(stage.usage().await.complete);
    // … or it is cut, and then the half of it is of no use.
    let (mut client, mut api) = stage.asked(&upstream).await;
    api.write(format!("{}{}", stream(), chunk("data: sk-ant-"))).await;
    client.until("data: ").await;
    drop(api);
    assert_eq!(client.rest().await, "\r\n");
    assert!(!stage.usage().await.complete);
}

#[tokio::test]
async fn an_answer_that_cannot_be_looked_through_is_refused() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    for coding in ["content-encoding: gzip", "transfer-encoding: gzip, chunked"] {
        let (mut client, mut api) = stage.asked(&upstream).await;
        api.write(format!("HTTP/1.1 200 OK\r\n{coding}\r\nconnection: close\r\n\r\n")).await;
        let reply = client.rest().await;
        assert!(reply.starts_with("HTTP/1.1 502 "), "{coding}: {reply}");
        assert!(reply.contains("sent a compressed answer"), "{coding}: {reply}");
    }
}

#[tokio::test]
async fn a_word_for_a_key_is_not_missing_from_what_is_said() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    stage.key("none").await;
    let (mut client, mut api) = stage.asked(&upstream).await;
    api.write(answer("application/json", "{\"text\":\"none of it\"}")).await;
    client.until("none of it").await;
}
