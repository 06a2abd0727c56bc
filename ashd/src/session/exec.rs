//! Commands beside the turn, as the edges see them.

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};

use super::api::{ExecOutput, Refusal};

/// The most bytes of standard output and of standard error each.
pub const OUTPUT_LIMIT: u64 = 10 * 1024 * 1024;

/// A running command: its output as it comes, then how it ended. Dropping it ends the command.
pub struct ExecStream {
    pieces: mpsc::UnboundedReceiver<Piece>,
    /// Tells, by going, that nobody waits for the command any more.
    _listener: oneshot::Sender<()>,
    end: Option<Result<ExecOutput, Refusal>>,
}

/// A piece of a running command's output.
#[derive(Debug, Eq, PartialEq)]
pub enum ExecPiece {
    /// Standard output.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
}

/// What the driver sends.
pub(super) enum Piece {
    Output(ExecPiece),
    End(Result<ExecOutput, Refusal>),
}

/// The driver's end of an [`ExecStream`]. What it holds is bounded by [`OUTPUT_LIMIT`].
pub(super) struct ExecSink {
    pieces: mpsc::UnboundedSender<Piece>,
    room: u64,
}

/// Resolves when the stream was dropped, whether or not the command has ended.
pub(super) type Dropped = oneshot::Receiver<()>;

/// Makes a stream and its sink.
pub(super) fn channel() -> (ExecSink, ExecStream, Dropped) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let (listener, dropped) = oneshot::channel();
    let sink = ExecSink { pieces: sender, room: 2 * OUTPUT_LIMIT };
    (sink, ExecStream { pieces: receiver, _listener: listener, end: None }, dropped)
}

impl ExecSink {
    /// Passes output on, up to the limit: the bridge keeps to it, but is not trusted to.
    pub(super) fn output(&mut self, piece: ExecPiece) {
        let (ExecPiece::Stdout(bytes) | ExecPiece::Stderr(bytes)) = &piece;
        if let Some(room) = self.room.checked_sub(bytes.len() as u64) {
            self.room = room;
            // Whoever asked may have gone; the command runs to its end all the same.
            let _ = self.pieces.send(Piece::Output(piece));
        }
    }

    /// Tells how the command ended.
    pub(super) fn end(self, end: Result<ExecOutput, Refusal>) {
        let _ = self.pieces.send(Piece::End(end));
    }
}

impl ExecStream {
    /// The next piece of output; `None` when there is no more and [`ExecStream::end`] is ready.
    pub async fn next(&mut self) -> Option<ExecPiece> {
        match self.pieces.recv().await? {
            Piece::Output(piece) => Some(piece),
            Piece::End(end) => {
                self.end = Some(end);
                None
            }
        }
    }

    /// How the command ended; stdout and stderr of the result are empty here.
    pub async fn end(mut self) -> Result<ExecOutput, Refusal> {
        while self.next().await.is_some() {}
        let lost =
            || Err(Refusal::Sandbox("The sandbox was lost while the command ran".to_owned()));
        self.end.unwrap_or_else(lost)
    }

    /// Reads the command's output to its end.
    pub async fn collect(mut self) -> Result<ExecOutput, Refusal> {
        let (mut stdout, mut stderr) = (BytesMut::new(), BytesMut::new());
        while let Some(piece) = self.next().await {
            match piece {
                ExecPiece::Stdout(bytes) => stdout.extend_from_slice(&bytes),
                ExecPiece::Stderr(bytes) => stderr.extend_from_slice(&bytes),
            }
        }
        let output = self.end().await?;
        Ok(ExecOutput { stdout: stdout.freeze(), stderr: stderr.freeze(), ..output })
    }
}
