//! Commands beside the turn, as the edges see them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, oneshot};

use super::api::{ExecOutput, Refusal};

/// The most bytes of standard output and of standard error each.
pub const OUTPUT_LIMIT: u64 = 10 * 1024 * 1024;

/// A running command: its output as it comes, then how it ended. Dropping it ends the command.
pub struct ExecStream {
    waiting: Arc<Waiting>,
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

/// What nobody has taken yet. A command may write a byte at a time, and whoever reads may be slow: each of
/// the two streams is put together, so that as much is kept as was written, and nothing beside it.
#[derive(Default)]
struct Waiting {
    inner: Mutex<Inner>,
    more: Notify,
}

#[derive(Default)]
struct Inner {
    stdout: BytesMut,
    stderr: BytesMut,
    /// Standard output was taken last: neither waits until there is no more of the other.
    is_stderr_next: bool,
    end: Option<Result<ExecOutput, Refusal>>,
    /// Nothing follows.
    is_over: bool,
    /// Whoever asked has gone: nothing is kept.
    is_left: bool,
}

/// What there is to be taken.
enum Next {
    Piece(ExecPiece),
    /// Nothing follows. How the command ended, when that was told, and once.
    End(Option<Result<ExecOutput, Refusal>>),
    /// Nothing yet.
    Nothing,
}

/// The driver's end of an [`ExecStream`]. What it holds is bounded by [`OUTPUT_LIMIT`].
pub(super) struct ExecSink {
    waiting: Arc<Waiting>,
    room: u64,
}

/// Resolves when the stream was dropped, whether or not the command has ended.
pub(super) type Dropped = oneshot::Receiver<()>;

/// Makes a stream and its sink.
pub(super) fn channel() -> (ExecSink, ExecStream, Dropped) {
    let waiting = Arc::<Waiting>::default();
    let (listener, dropped) = oneshot::channel();
    let sink = ExecSink { waiting: waiting.clone(), room: 2 * OUTPUT_LIMIT };
    (sink, ExecStream { waiting, _listener: listener, end: None }, dropped)
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, piece: &ExecPiece) {
        let mut inner = self.lock();
        if inner.is_left {
            return;
        }
        match piece {
            ExecPiece::Stdout(bytes) => inner.stdout.extend_from_slice(bytes),
            ExecPiece::Stderr(bytes) => inner.stderr.extend_from_slice(bytes),
        }
        drop(inner);
        self.more.notify_one();
    }

    fn take(&self) -> Next {
        let mut inner = self.lock();
        let is_stderr = match (inner.stdout.is_empty(), inner.stderr.is_empty()) {
            (true, true) if inner.is_over => return Next::End(inner.end.take()),
            (true, true) => return Next::Nothing,
            (false, false) => inner.is_stderr_next,
            (is_stderr, _) => is_stderr,
        };
        inner.is_stderr_next = !is_stderr;
        Next::Piece(match is_stderr {
            true => ExecPiece::Stderr(std::mem::take(&mut inner.stderr).freeze()),
            false => ExecPiece::Stdout(std::mem::take(&mut inner.stdout).freeze()),
        })
    }
}

impl ExecSink {
    /// Passes output on, up to the limit: the bridge keeps to it, but is not trusted to.
    pub(super) fn output(&mut self, piece: ExecPiece) {
        let (ExecPiece::Stdout(bytes) | ExecPiece::Stderr(bytes)) = &piece;
        let Some(room) = self.room.checked_sub(bytes.len() as u64) else { return };
        self.room = room;
        // Whoever asked may have gone: then it is killed, and what it says till then is thrown away.
        self.waiting.add(&piece);
    }

    /// Tells how the command ended.
    pub(super) fn end(self, end: Result<ExecOutput, Refusal>) {
        self.waiting.lock().end = Some(end);
    }
}

impl Drop for ExecSink {
    fn drop(&mut self) {
        self.waiting.lock().is_over = true;
        self.waiting.more.notify_one();
    }
}

impl Drop for ExecStream {
    /// What was not read goes at once, and not when the command has ended.
    fn drop(&mut self) {
        *self.waiting.lock() = Inner { is_left: true, ..Inner::default() };
    }
}

impl ExecStream {
    /// The next piece of output; `None` when there is no more and [`ExecStream::end`] is ready.
    pub async fn next(&mut self) -> Option<ExecPiece> {
        loop {
            match self.waiting.take() {
                Next::Piece(piece) => return Some(piece),
                Next::End(end) => {
                    self.end = self.end.take().or(end);
                    return None;
                }
                Next::Nothing => self.waiting.more.notified().await,
            }
        }
    }

    /// How the command ended; stdout and stderr of the result are empty here.
    pub async fn end(mut self) -> Result<ExecOutput, Refusal> {
        while self.next().await.is_some() {}
        let lost =
            || Err(Refusal::Sandbox("The sandbox was lost while the command ran".to_owned()));
        self.end.take().unwrap_or_else(lost)
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn stdout(bytes: &'static [u8]) -> ExecPiece {
        ExecPiece::Stdout(Bytes::from_static(bytes))
    }

    fn stderr(bytes: &'static [u8]) -> ExecPiece {
        ExecPiece::Stderr(Bytes::from_static(bytes))
    }

    fn ended() -> Result<ExecOutput, Refusal> {
        Ok(ExecOutput {
            exit_code: 3,
            stdout: Bytes::new(),
            stderr: Bytes::new(),
            timed_out: false,
            truncated: false,
        })
    }

    #[tokio::test]
    async fn what_waits_is_put_together_and_neither_stream_waits_for_the_other() {
        let (mut sink, mut stream, _dropped) = channel();
        for _ in 0..3 {
            sink.output(stdout(b"a"));
            sink.output(stderr(b"b"));
        }
        assert_eq!(stream.next().await, Some(stdout(b"aaa")));
        sink.output(stdout(b"c"));
        assert_eq!(stream.next().await, Some(stderr(b"bbb")));
        assert_eq!(stream.next().await, Some(stdout(b"c")));
        sink.output(stdout(b""));
        assert_eq!(stream.next().now_or_never(), None);
        sink.output(stderr(b"d"));
        sink.end(ended());
        assert_eq!(stream.next().await, Some(stderr(b"d")));
        assert_eq!((stream.next().await, stream.next().await), (None, None));
        assert_eq!(stream.end().await.unwrap().exit_code, 3);
    }

    #[tokio::test]
    async fn a_bridge_that_does_not_keep_to_the_limit_is_cut_short() {
        let (mut sink, stream, _dropped) = channel();
        let much = Bytes::from(vec![b'x'; OUTPUT_LIMIT as usize]);
        for _ in 0..3 {
            sink.output(ExecPiece::Stdout(much.clone()));
        }
        sink.end(ended());
        let output = stream.collect().await.unwrap();
        assert_eq!((output.stdout.len() as u64, output.exit_code), (2 * OUTPUT_LIMIT, 3));
    }

    #[tokio::test]
    async fn a_command_of_which_nobody_tells_the_end_was_lost() {
        let (mut sink, stream, _dropped) = channel();
        sink.output(stdout(b"a"));
        drop(sink);
        assert!(matches!(stream.collect().await, Err(Refusal::Sandbox(_))));
    }

    #[test]
    fn nothing_is_kept_for_somebody_who_has_gone() {
        let (mut sink, stream, _dropped) = channel();
        let waiting = sink.waiting.clone();
        let kept = || waiting.lock().stdout.capacity();
        sink.output(stdout(b"a"));
        assert!(kept() > 0);
        drop(stream);
        assert_eq!(kept(), 0);
        sink.output(stdout(b"b"));
        assert_eq!(kept(), 0);
    }
}
