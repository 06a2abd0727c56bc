//! Pipes out: the stream of a session and the output of a command.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use ash_dbus::Error;
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::json;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;
use tokio::time::timeout;
use zbus::DBusError;

use super::words;
use crate::session::ExecPiece;
use crate::session::api::{ExecOutput, Refusal};
use crate::session::{ExecStream, Subscription};

/// How long a reader may take nothing before it is detached.
const PATIENCE: Duration = Duration::from_secs(60);

/// The write end of a pipe whose read end a client holds.
pub(super) struct Outlet {
    pipe: Sender,
    patience: Duration,
}

impl Outlet {
    /// A pipe: the end to write and the end to hand out. The latter blocks, as programs expect.
    ///
    /// # Errors
    /// When the process has no more file descriptors.
    pub(super) fn new() -> io::Result<(Outlet, OwnedFd)> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok((Outlet { pipe: Sender::from_owned_fd(writer)?, patience: PATIENCE }, reader))
    }

    /// Writes all of it, waiting for the reader.
    ///
    /// # Errors
    /// When the reader is gone, or has taken nothing for too long.
    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            timeout(self.patience, self.pipe.writable()).await??;
            match self.pipe.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until the reader has closed its end.
    async fn abandoned(&self) {
        // An error means the same: nobody can be reached through this pipe.
        let _ = self.pipe.ready(Interest::ERROR).await;
    }
}

/// Writes a stream to its reader, to the end or until the reader leaves. The turn goes on anyway.
pub(super) async fn pour(mut subscription: Subscription, outlet: Outlet) {
    let all = async {
        while let Some(frames) = subscription.next().await {
            for frame in frames {
                outlet.write(&frame.bytes).await?;
            }
        }
        io::Result::Ok(())
    };
    tokio::select! {
        _ = all => {}
        () = outlet.abandoned() => {}
    }
}

/// Where the output of a command goes.
pub(super) struct Outlets {
    /// Standard output.
    pub(super) stdout: Outlet,
    /// Standard error.
    pub(super) stderr: Outlet,
    /// One line about the end.
    pub(super) status: Outlet,
}

/// Writes a command's output as it comes and then how it ended. The command runs to its end
/// whether anybody reads its output or not, and is killed when nobody waits for its end any more.
pub(super) async fn run(stream: ExecStream, outlets: Outlets) {
    let Outlets { stdout, stderr, status } = outlets;
    tokio::select! {
        line = relay(stream, [stdout, stderr]) => {
            // Whoever does not read this any more does not want it.
            let _ = status.write(line.as_bytes()).await;
        }
        () = status.abandoned() => {}
    }
}

/// Relays output and returns the status line. An output whose reader left is thrown away.
async fn relay(mut stream: ExecStream, [stdout, stderr]: [Outlet; 2]) -> String {
    let (mut stdout, mut stderr) = (Some(stdout), Some(stderr));
    while let Some(piece) = stream.next().await {
        let (outlet, bytes) = match &piece {
            ExecPiece::Stdout(bytes) => (&mut stdout, bytes),
            ExecPiece::Stderr(bytes) => (&mut stderr, bytes),
        };
        if let Some(open) = outlet
            && open.write(bytes).await.is_err()
        {
            *outlet = None;
        }
    }
    status_line(stream.end().await)
}

fn status_line(ended: Result<ExecOutput, Refusal>) -> String {
    let status = match ended {
        Ok(output) => json!({
            "exitCode": output.exit_code,
            "timedOut": output.timed_out,
            "truncated": output.truncated,
        }),
        Err(refusal) => {
            let error: Error = words::refused(refusal);
            json!({"error": error.name().as_str(), "message": error.to_string()})
        }
    };
    format!("{status}\n")
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn everything_written_is_read_by_a_slow_reader() {
        let (outlet, reader) = Outlet::new().unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let (mut file, mut all) = (File::from(reader), Vec::new());
            let mut piece = [0; 777];
            while let Ok(count @ 1..) = file.read(&mut piece) {
                all.extend_from_slice(&piece[..count]);
            }
            all
        });
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
        outlet.write(&sent).await.unwrap();
        drop(outlet);
        assert!(read.await.unwrap() == sent);
    }

    #[tokio::test]
    async fn a_reader_that_leaves_is_noticed_without_writing() {
        let (outlet, reader) = Outlet::new().unwrap();
        let waiting = tokio::spawn(async move { outlet.abandoned().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(reader);
        timeout(PATIENCE, waiting).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_detached() {
        let (mut outlet, _reader) = Outlet::new().unwrap();
        outlet.patience = Duration::from_millis(10);
        let error = outlet.write(&vec![0; 1 << 20]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn status_is_one_line_of_json() {
        let output = ExecOutput {
            exit_code: 3,
            stdout: Default::default(),
            stderr: Default::default(),
            timed_out: false,
            truncated: true,
        };
        assert_eq!(
            status_line(Ok(output)),
            "{\"exitCode\":3,\"timedOut\":false,\"truncated\":true}\n"
        );
        assert_eq!(
            status_line(Err(Refusal::ShuttingDown)),
            "{\"error\":\"org.ashd.Ash1.Error.ShuttingDown\",\
             \"message\":\"The server is shutting down; try again when it is back\"}\n"
        );
    }
}
