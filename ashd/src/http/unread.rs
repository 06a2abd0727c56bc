//! Bodies that nobody read.
//!
//! When an answer does not depend on the body, the rest of the body is not waited for and the
//! connection ends behind the answer. The client is told, so that it does not send its next
//! request into a connection that is about to close.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http_body::{Frame, SizeHint};

/// Whether a body has been read to its end.
pub(super) struct Watch(Arc<AtomicBool>);

impl Watch {
    /// Watches a body; there is nothing to watch when it is empty.
    pub(super) fn over(body: Body) -> (Body, Option<Watch>) {
        if body.is_end_stream() {
            return (body, None);
        }
        let ended = Arc::new(AtomicBool::new(false));
        (Body::new(Watched { body, ended: ended.clone() }), Some(Watch(ended)))
    }

    /// Marks the answer as the last of its connection, unless the body has been read.
    pub(super) fn mark(self, response: &mut Response) {
        if !self.0.load(Ordering::Relaxed) {
            close(response);
        }
    }
}

/// Marks an answer as the last of its connection.
pub(super) fn close(response: &mut Response) {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

struct Watched {
    body: Body,
    ended: Arc<AtomicBool>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.ended.store(true, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
