//! Who answers in the broker's place when there is none, and none is to be expected.
//!
//! Whoever knocks would wait for ever otherwise. What is said is always the same, and what comes from
//! a sandbox is thrown away without a look at it.

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
const ANSWER: &str = concat!(
    "HTTP/1.1 503 Service Unavailable\r\n",
    "content-type: application/json\r\n",
    "x-should-retry: false\r\n",
    "connection: close\r\n\r\n",
    r#"{"type":"error","error":{"type":"api_error","message":"the model broker does not run: "#,
    r#"whoever runs this server finds the reason in its log"}}"#,
);

/// Answers at one socket until it is dropped. The socket stays as it is, for a broker to have.
#[derive(Debug)]
pub(super) struct StandIn(AbortHandle);

impl StandIn {
    /// Begins to answer.
    ///
    /// # Errors
    /// When the socket cannot be listened to.
    pub(super) fn begin(listener: &OwnedFd) -> io::Result<StandIn> {
        let listener = std::os::unix::net::UnixListener::from(listener.try_clone()?);
        let listener = UnixListener::from_std(listener)?;
        Ok(StandIn(tokio::spawn(answer_all(listener)).abort_handle()))
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn answer_all(listener: UnixListener) {
    loop {
        match listener.accept().await {
            // Who takes too long, or hangs up, is not told.
            Ok((stream, _)) => drop(tokio::time::timeout(PATIENCE, answer(stream)).await),
            Err(error) => {
                tracing::debug!(%error, "a sandbox is not told that there is no broker");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Answers a request, and takes the rest of it: who is hung up on while it speaks hears nothing.
async fn answer(mut stream: UnixStream) -> io::Result<()> {
    if stream.read(&mut [0; 1024]).await? > 0 {
        stream.write_all(ANSWER.as_bytes()).await?;
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
        let stand_in = StandIn::begin(&listener).unwrap();
        let large = [&b"POST /v1/messages HTTP/1.1\r\n\r\n"[..], &vec![b'x'; 8 << 20]].concat();
        let ask = move || [&b"nonsense"[..], &large].map(|request| asked(&path, request));
        let answers = tokio::task::spawn_blocking(ask).await.unwrap();
        assert_eq!(answers, [ANSWER, ANSWER]);
        drop(stand_in);
    }

    #[test]
    fn the_answer_is_one_that_the_cli_understands() {
        let (head, body) = ANSWER.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("x-should-retry: false"));
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["type"], &body["error"]["type"]), (&"error".into(), &"api_error".into()));
    }
}
