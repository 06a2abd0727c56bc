//! What a sandbox says on standard error before and beside its conversation.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::domain::{SandboxId, SessionId};

/// How much is kept, in bytes; the rest is read and thrown away.
const KEPT: usize = 4096;

/// How long to wait for the rest of what a failed launch says.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The reading end of a sandbox's standard error. It is read to its end, listened to or not, so
/// that nobody inside ever waits for room in the pipe.
#[derive(Debug)]
pub(super) struct Said {
    kept: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Said {
    pub(super) fn listen(
        sandbox: SandboxId,
        session: SessionId,
        pipe: OwnedFd,
    ) -> io::Result<Said> {
        let kept = Arc::<Mutex<Vec<u8>>>::default();
        let (pipe, keep) = (Receiver::from_owned_fd(pipe)?, kept.clone());
        let reader = tokio::spawn(async move {
            let said = read(pipe, &keep).await;
            if !said.is_empty() {
                tracing::info!(
                    ash_session = %session, ash_sandbox = %sandbox, said,
                    "a sandbox ended with words on standard error"
                );
            }
        });
        Ok(Said { kept, reader })
    }

    /// What was said, after the last process that can say something is gone, or a moment later.
    pub(super) async fn last_words(mut self) -> String {
        // Whoever still holds the pipe open has said enough.
        let _ = timeout(LAST_WORDS, &mut self.reader).await;
        text(&lock(&self.kept))
    }
}

/// Reads to the end; returns what is kept of it.
async fn read(mut pipe: Receiver, kept: &Mutex<Vec<u8>>) -> String {
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let mut kept = lock(kept);
        let room = KEPT - kept.len();
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
    text(&lock(kept))
}

fn lock(kept: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;
    use crate::sandbox::socket;

    #[tokio::test]
    async fn the_beginning_is_kept_and_nobody_waits_for_room() {
        let (read, write) = socket::pipe().unwrap();
        let said = Said::listen(SandboxId::random(), SessionId::random(), read).unwrap();
        // Much more than a pipe holds.
        let writer = tokio::task::spawn_blocking(move || {
            File::from(write).write_all(&[b'x'; 500_000]).unwrap();
        });
        writer.await.unwrap();
        assert_eq!(said.last_words().await, "x".repeat(KEPT));
    }

    #[tokio::test]
    async fn who_keeps_the_pipe_open_is_not_waited_for() {
        let (read, write) = socket::pipe().unwrap();
        let said = Said::listen(SandboxId::random(), SessionId::random(), read).unwrap();
        assert_eq!(said.last_words().await, "");
        drop(write);
    }
}
