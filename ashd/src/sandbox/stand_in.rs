//! Who answers in the broker's place.
//!
//! When there is none, and none is to be expected, whoever knocks would wait for ever otherwise. And
//! a CLI that is made ready before anybody has said a word asks something only to have asked: that is
//! answered here, so that it never leaves the machine. What is said is always the same, and what comes
//! from a sandbox is thrown away without a look at it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::AbortHandle;

/// How long one client may take to ask and to hear the answer; the next one waits meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait when no connection can be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// A failure in the words of the model API, with the word that keeps the CLI from asking again.
const NO_BROKER: &str = concat!(
    "HTTP/1.1 503 Service Unavailable\r\n",
    "content-type: application/json\r\n",
    "x-should-retry: false\r\n",
    "connection: close\r\n\r\n",
    r#"{"type":"error","error":{"type":"api_error","message":"the model broker does not run: "#,
    r#"whoever runs this server finds the reason in its log"}}"#,
);

/// The shortest answer of the model API that the CLI takes for one: a stream of one word. See "Streaming
/// messages" in the model API's reference.
const PRIMER: &str = concat!(
    "HTTP/1.1 200 OK\r\n",
    "content-type: text/event-stream\r\n",
    "connection: close\r\n\r\n",
    "event: message_start\n",
    r#"data: {"type":"message_start","message":{"id":"msg_primer","type":"message","#,
    r#""role":"assistant","model":"primer","content":[],"stop_reason":null,"stop_sequence":null,"#,
    r#""usage":{"input_tokens":0,"output_tokens":0}}}"#,
    "\n\nevent: content_block_start\n",
    r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
    "\n\nevent: content_block_delta\n",
    r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Yes"}}"#,
    "\n\nevent: content_block_stop\n",
    r#"data: {"type":"content_block_stop","index":0}"#,
    "\n\nevent: message_delta\n",
    r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"#,
    r#""usage":{"output_tokens":0}}"#,
    "\n\nevent: message_stop\n",
    r#"data: {"type":"message_stop"}"#,
    "\n\n",
);

/// What is said to everybody.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// That there is no broker.
    NoBroker,
    /// A word of a model that was not asked.
    Primer,
}

impl Answer {
    fn text(self) -> &'static str {
        match self {
            Answer::NoBroker => NO_BROKER,
            Answer::Primer => PRIMER,
        }
    }
}

/// Answers at one socket until it is dropped. The socket stays as it is, for a broker to have.
#[derive(Debug)]
pub(super) struct StandIn(AbortHandle);

impl StandIn {
    /// Begins to answer.
    ///
    /// # Errors
    /// When the socket cannot be listened to.
    pub(super) fn begin(listener: &OwnedFd, answer: Answer) -> io::Result<StandIn> {
        let listener = std::os::unix::net::UnixListener::from(listener.try_clone()?);
        let listener = UnixListener::from_std(listener)?;
        Ok(StandIn(tokio::spawn(answer_all(listener, answer.text())).abort_handle()))
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn answer_all(listener: UnixListener, text: &'static str) {
    loop {
        match listener.accept().await {
            // Who takes too long, or hangs up, is not told.
            Ok((stream, _)) => drop(tokio::time::timeout(PATIENCE, answer(stream, text)).await),
            Err(error) => {
                tracing::debug!(%error, "a sandbox is not told that there is no broker");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Answers a request, and takes the rest of it: who is hung up on while it speaks hears nothing.
async fn answer(mut stream: UnixStream, text: &str) -> io::Result<()> {
    if stream.read(&mut [0; 1024]).await? > 0 {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        copy(&mut stream, &mut sink()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::super::socket;
    use super::*;

    fn asked(path: &std::path::Path, request: &[u8]) -> String {
        let mut client = std::os::unix::net::UnixStream::connect(path).unwrap();
        client.write_all(request).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_asks_is_told_the_same_whatever_it_sends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = socket::listen(&path, 0).unwrap();
        let stand_in = StandIn::begin(&listener, Answer::NoBroker).unwrap();
        let large = [&b"POST /v1/messages HTTP/1.1\r\n\r\n"[..], &vec![b'x'; 8 << 20]].concat();
        let ask = move || [&b"nonsense"[..], &large].map(|request| asked(&path, request));
        let answers = tokio::task::spawn_blocking(ask).await.unwrap();
        assert_eq!(answers, [NO_BROKER, NO_BROKER]);
        drop(stand_in);
    }

    #[test]
    fn the_answer_is_one_that_the_cli_understands() {
        let (head, body) = NO_BROKER.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("x-should-retry: false"));
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["type"], &body["error"]["type"]), (&"error".into(), &"api_error".into()));
    }

    #[test]
    fn the_primer_is_a_whole_answer_of_the_model() {
        let (head, body) = PRIMER.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"));
        let events: Vec<&str> = body.split_terminator("\n\n").collect();
        let mut kinds = events.iter().map(|event| {
            let (name, data) = event.split_once('\n').unwrap();
            let data = data.strip_prefix("data: ").unwrap();
            let data: serde_json::Value = serde_json::from_str(data).unwrap();
            assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
            name
        });
        assert_eq!(kinds.next(), Some("event: message_start"));
        assert_eq!(kinds.next_back(), Some("event: message_stop"));
        // The others are what they say, too.
        assert_eq!(kinds.count(), 4);
        assert!(body.ends_with("\n\n"));
    }
}
