//! Streams that hyper begins and that go on without it.
//!
//! What hyper has for a connection is made for requests: two buffers of 8 KiB and more, for as long as
//! the connection lasts. A stream of events lasts for hours and is silent most of the time, and there
//! may be thousands. So hyper writes the head of such an answer, and when that is out the connection
//! is taken from it: [`Wire::send`] writes the chunks. Behind the end of the stream the next request
//! is hyper's again.
//!
//! The body itself tells when: it is asked for frames behind the head. One that is there already goes out
//! with the head, in the same packet. Then it gives what it really is to the [`Takeover`] of its connection
//! and is never ready again. The connection's [`Wire`], through which hyper writes, is flushed when nothing
//! is left to be written.

use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::{Buf, Bytes};
use http::Version;
use http::header::{CONNECTION, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

/// What a client may send while a stream flows, in bytes, before nothing more is read from it.
const EARLY: usize = 8 * 1024;

/// What stands behind each chunk, and what is the last one (RFC 9112, section 7.1).
const CHUNK_END: Bytes = Bytes::from_static(b"\r\n");
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The place in which the body of a stream waits for its connection to be taken from hyper.
#[derive(Clone, Default)]
pub(super) struct Takeover(Arc<Mutex<Option<Waiting>>>);

/// A body that waits.
struct Waiting {
    body: Body,
    /// Whether everything in front of it has been written.
    is_due: bool,
}

impl Takeover {
    /// Only the connection's task comes here: nobody ever waits for the lock.
    fn lock(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, body: Body) {
        *self.lock() = Some(Waiting { body, is_due: false });
    }

    /// Nothing waits to be written.
    fn flushed(&self) {
        if let Some(waiting) = self.lock().as_mut() {
            waiting.is_due = true;
        }
    }

    /// The body, when it is its turn.
    pub(super) fn take(&self) -> Option<Body> {
        let due = self.lock().take_if(|waiting| waiting.is_due)?;
        Some(due.body)
    }

    /// Lets the body of an answer be taken over, if it is one that can be, and the connection goes on
    /// behind it.
    pub(super) fn allow(self, response: &mut Response) {
        let Some(Detachable(takeover)) = response.extensions_mut().remove() else { return };
        if !closes(response.headers()) {
            // Nobody else does.
            let _ = takeover.set(self);
        }
    }
}

/// Whether the connection goes on behind the answer to a request: then the answer's end has a mark,
/// without which the end of the connection is one.
pub(super) fn goes_on(request: &Parts) -> bool {
    request.version == Version::HTTP_11 && !closes(&request.headers)
}

/// Whether a stream may take over the connection that a request came by.
///
/// Behind a request that says its length twice hyper ends the connection: another server in between may
/// have seen its end elsewhere (RFC 9112, section 6.1). But it shows only one of the two: so none
/// that has this one is taken over.
pub(super) fn may_take_over(request: &Parts) -> bool {
    goes_on(request) && !request.headers.contains_key(TRANSFER_ENCODING)
}

fn closes(headers: &HeaderMap) -> bool {
    let is_close = |word: &str| word.trim().eq_ignore_ascii_case("close");
    let says_so = |value: &HeaderValue| value.to_str().is_ok_and(|t| t.split(',').any(is_close));
    headers.get_all(CONNECTION).iter().any(says_so)
}

/// The takeover of the connection that an answer goes to, as soon as that is known.
#[derive(Clone)]
struct Detachable(Arc<OnceLock<Takeover>>);

/// An answer whose body may go on without hyper.
pub(super) fn detachable(body: Body) -> Response {
    let takeover = Arc::new(OnceLock::new());
    let body = Handing { body: Some(body), is_asked: false, takeover: takeover.clone() };
    let mut response = Response::new(Body::new(body));
    response.extensions_mut().insert(Detachable(takeover));
    response
}

/// A body that gives itself to the takeover of its connection, if it may, and flows as usual if not.
struct Handing {
    /// None: it has done so.
    body: Option<Body>,
    /// Whether it was asked for what is there already.
    is_asked: bool,
    takeover: Arc<OnceLock<Takeover>>,
}

impl HttpBody for Handing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let Some(takeover) = this.takeover.get() else {
            let Some(body) = &mut this.body else { return Poll::Ready(None) };
            return Pin::new(body).poll_frame(cx);
        };
        if !std::mem::replace(&mut this.is_asked, true)
            && let Some(body) = &mut this.body
            && let Poll::Ready(frame) = Pin::new(body).poll_frame(cx)
        {
            return Poll::Ready(frame);
        }
        if let Some(body) = this.body.take() {
            takeover.offer(body);
        }
        Poll::Pending
    }
}

/// A connection, as hyper and streams use it one after the other.
pub(super) struct Wire {
    stream: TcpStream,
    /// What the client has sent while a stream flowed.
    early: Vec<u8>,
    takeover: Takeover,
}

impl Wire {
    /// A connection whose streams are offered there.
    pub(super) fn new(stream: TcpStream, takeover: Takeover) -> Wire {
        Wire { stream, early: Vec::new(), takeover }
    }

    /// Gives back what was read and belongs to the next request: it stands before what is still to be
    /// read.
    pub(super) fn unread(&mut self, bytes: &[u8]) {
        let mut early = bytes.to_vec();
        early.append(&mut self.early);
        self.early = early;
    }

    /// The connection itself.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Sends a body, chunk by chunk, and the mark of its end.
    ///
    /// # Errors
    /// When the client has hung up, or the body breaks off.
    pub(super) async fn send(&mut self, mut body: Body) -> io::Result<()> {
        loop {
            let frame = tokio::select! {
                biased;
                frame = body.frame() => frame,
                gone = self.hung_up() => return Err(gone),
            };
            match frame {
                Some(frame) => {
                    let frame = frame.map_err(io::Error::other)?;
                    // There are no others: a stream has no trailers.
                    if let Ok(chunk) = frame.into_data() {
                        self.chunk(chunk).await?;
                    }
                }
                None => return self.stream.write_all(LAST_CHUNK).await,
            }
        }
    }

    async fn chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        if chunk.is_empty() {
            // It would be the last one.
            return Ok(());
        }
        let size = Bytes::from(format!("{:X}\r\n", chunk.len()));
        let mut framed = size.chain(chunk).chain(CHUNK_END);
        self.stream.write_all_buf(&mut framed).await
    }

    /// Ends when the client has hung up; what it sends is kept for the next request. May be given up
    /// at any time.
    async fn hung_up(&mut self) -> io::Error {
        while self.early.len() < EARLY {
            let readable = poll_fn(|cx| self.stream.poll_read_ready(cx)).await;
            if let Err(gone) = readable.and_then(|()| self.take_early()) {
                return gone;
            }
        }
        pending().await
    }

    fn take_early(&mut self) -> io::Result<()> {
        let mut piece = [0; 1024];
        match self.stream.try_read(&mut piece) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.early.extend_from_slice(&piece[..read]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.early.len().min(buffer.remaining());
        buffer.put_slice(&self.early[..length]);
        self.early.drain(..length);
        if self.early.is_empty() {
            self.early = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
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

    /// hyper flushes what it writes through when it has nothing left to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.takeover.flushed();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{FutureExt, stream};
    use http::Request;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    /// What becomes a body, chunk by chunk, and the body.
    fn body() -> (mpsc::Sender<&'static str>, Body) {
        let (sender, chunks) = mpsc::channel(4);
        let chunks = stream::unfold(chunks, async |mut chunks: mpsc::Receiver<&'static str>| {
            let chunk = chunks.recv().await?;
            Some((Ok::<_, Infallible>(chunk), chunks))
        });
        (sender, Body::from_stream(chunks))
    }

    #[tokio::test]
    async fn a_body_waits_until_what_stands_before_it_is_written() {
        let (takeover, (chunks, body)) = (Takeover::default(), body());
        let mut response = detachable(body);
        takeover.clone().allow(&mut response);
        takeover.flushed();
        assert!(takeover.take().is_none(), "it was not asked for yet");
        assert!(response.body_mut().frame().now_or_never().is_none());
        assert!(takeover.take().is_none());
        takeover.flushed();
        let body = takeover.take().unwrap();
        chunks.send("x").await.unwrap();
        drop(chunks);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "x");
        takeover.flushed();
        assert!(takeover.take().is_none());
        assert!(response.body_mut().frame().now_or_never().is_none());
    }

    #[tokio::test]
    async fn what_is_there_already_goes_out_with_the_head() {
        let (takeover, (chunks, body)) = (Takeover::default(), body());
        let mut response = detachable(body);
        takeover.clone().allow(&mut response);
        for chunk in ["a", "b"] {
            chunks.send(chunk).await.unwrap();
        }
        drop(chunks);
        let first = response.body_mut().frame().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "a");
        // Only that: the rest is for whoever takes the connection.
        assert!(response.body_mut().frame().now_or_never().is_none());
        takeover.flushed();
        let rest = takeover.take().unwrap();
        assert_eq!(rest.collect().await.unwrap().to_bytes(), "b");
    }

    #[tokio::test]
    async fn in_front_of_the_end_of_a_connection_a_body_flows_as_usual() {
        let takeover = Takeover::default();
        let mut response = detachable(Body::from("x"));
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        takeover.clone().allow(&mut response);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "x");
        takeover.flushed();
        assert!(takeover.take().is_none());
    }

    /// A client may send more in advance than hyper reads at once.
    #[tokio::test]
    async fn what_is_given_back_stands_before_what_was_not_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut wire = Wire::new(stream, Takeover::default());
        wire.unread(b"abcdef");
        let mut read = [0; 4];
        wire.read_exact(&mut read).await.unwrap();
        wire.unread(&read[2..]);
        wire.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"cdef");
    }

    #[test]
    fn a_connection_goes_on_unless_somebody_says_that_it_does_not() {
        let asked = |version, said: &str| {
            let request = Request::builder().version(version).header(CONNECTION, said);
            goes_on(&request.body(()).unwrap().into_parts().0)
        };
        for said in ["keep-alive", "closed", ""] {
            assert!(asked(Version::HTTP_11, said), "{said}");
        }
        for said in ["close", "Close", "keep-alive, close"] {
            assert!(!asked(Version::HTTP_11, said), "{said}");
        }
        assert!(!asked(Version::HTTP_10, "keep-alive"));
    }
}
