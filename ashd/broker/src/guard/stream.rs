//! The guard in the way of a connection's bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Guard, Part};

/// A connection whose incoming bytes pass the guard.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: S,
    guard: Guard,
    shut: bool,
}

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, guard: Guard::new(), shut: false }
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
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

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
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
