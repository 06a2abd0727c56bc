//! The guard in the way of a connection's bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::{Guard, Part};

/// How long a peer may take to hang up when it has been told that nothing more comes.
const LINGER: Duration = Duration::from_secs(5);

/// A connection whose incoming bytes pass the guard.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: S,
    guard: Guard,
    shut: bool,
    /// Runs once nothing more is said.
    linger: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, guard: Guard::new(), shut: false, linger: None }
    }

    /// Takes back what must not pass. In a head a NUL takes its place: no parser accepts one there,
    /// so the peer is told 400 after the answers to what came before. A body is simply cut.
    fn shut(&mut self, buffer: &mut ReadBuf<'_>, end: usize, within: Part) -> io::Result<()> {
        self.shut = true;
        buffer.set_filled(end);
        match within {
            Part::Head => buffer.put_slice(b"\0"),
            Part::Body => return Err(io::Error::new(io::ErrorKind::InvalidData, "bad framing")),
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> Guarded<S> {
    /// Waits until the peer has hung up, or has had its time. What it still says is thrown away.
    fn poll_parting(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let linger = self.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        loop {
            if linger.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut bytes = [0; 1024];
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.shut {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        match self.guard.feed(&buffer.filled()[before..]) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(fault) => Poll::Ready(self.shut(buffer, before + fault.at, fault.within)),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Says that nothing more comes, and leaves it to the peer to hang up: the CLI takes an answer for
    /// cut when the connection is closed from both sides right behind it, and asks again.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        self.poll_parting(cx).map(Ok)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn the_peer_hangs_up_first() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let closing = tokio::spawn(async move { Guarded::new(ours).shutdown().await });
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0, "it is told that nothing more comes");
        theirs.write_all(b"too late").await.unwrap();
        assert!(!closing.is_finished(), "it was hung up on");
        drop(theirs);
        closing.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_hang_up_is_not_waited_for_for_ever() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        Guarded::new(ours).shutdown().await.unwrap();
    }
}
