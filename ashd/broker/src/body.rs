//! The two streams of a call, each with its bounds: the request on its way up, the answer coming
//! down. Neither keeps more than the piece that is passing, and at most a word of the one before.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::control::Limits;
use crate::problem::Problem;
use crate::redact::Redactor;
use crate::relay::Bill;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The other end of it failed.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// A bound was crossed.
    #[error("the body crossed a bound")]
    Bound,
}

/// Notices when nothing has moved for some time.
#[derive(Debug)]
struct Silence {
    limit: Duration,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Silence {
    fn new(limit_ms: u64) -> Self {
        let limit = Duration::from_millis(limit_ms);
        let since = Instant::now();
        Self { limit, since, timer: Box::pin(tokio::time::sleep(limit)) }
    }

    /// Something moved. The timer itself is only moved once it fires.
    fn broken(&mut self) {
        self.since = Instant::now();
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let due = self.since + self.limit;
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(due);
        }
    }
}

/// Polls a body for its next data; trailers are passed over. `Err` inside means silence.
fn poll_data(
    body: &mut Incoming,
    silence: &mut Silence,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, Error>>> {
    while let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
        match frame.transpose()?.map(Frame::into_data) {
            None => return Poll::Ready(None),
            Some(Ok(data)) => {
                silence.broken();
                return Poll::Ready(Some(Ok(data)));
            }
            Some(Err(_trailers)) => {}
        }
    }
    ready!(silence.poll_over(cx));
    Poll::Ready(Some(Err(Error::Bound)))
}

/// A request body on its way to the model API.
pub(crate) struct Upload {
    flow: Option<Flow>,
    fate: Arc<Fate>,
}

/// A body from a sandbox and what it may still bring.
struct Flow {
    body: Incoming,
    silence: Silence,
    limit: u64,
    left: u64,
}

/// What became of a request body.
#[derive(Default)]
pub(crate) struct Fate {
    fault: OnceLock<Problem>,
    rest: Mutex<Option<Flow>>,
}

impl Upload {
    /// Passes a body within these limits.
    pub(crate) fn new(body: Incoming, limits: &Limits) -> (Self, Arc<Fate>) {
        let silence = Silence::new(limits.body_silence_ms);
        let limit = limits.request_bytes;
        let fate = Arc::new(Fate::default());
        let flow = Some(Flow { body, silence, limit, left: limit });
        (Self { flow, fate: fate.clone() }, fate)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        *self.fate.rest.lock().unwrap_or_else(PoisonError::into_inner) = self.flow.take();
    }
}

impl Flow {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Stop>>> {
        let next = ready!(poll_data(&mut self.body, &mut self.silence, cx));
        Poll::Ready(next.map(|data| match data {
            Ok(data) => {
                let left = self.left.checked_sub(data.len() as u64);
                self.left = left.ok_or_else(|| Stop::Bound(Problem::too_large(self.limit)))?;
                Ok(data)
            }
            Err(Error::Bound) => Err(Stop::Bound(Problem::slow())),
            Err(Error::Http(error)) => Err(Stop::Http(error)),
        }))
    }
}

enum Stop {
    Http(hyper::Error),
    Bound(Problem),
}

impl Fate {
    /// What was wrong with the body: it crossed a bound, or broke off.
    pub(crate) fn fault(&self) -> Option<Problem> {
        self.fault.get().cloned()
    }

    /// Reads what is left of the body, within its limits. A sandbox that is still writing its request
    /// would otherwise find the connection closed before it finds the refusal on it.
    pub(crate) async fn drain(&self) {
        let flow = self.rest.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut flow) = flow else { return };
        while let Some(Ok(_)) = poll_fn(|cx| flow.poll_next(cx)).await {}
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let Some(flow) = &mut this.flow else { return Poll::Ready(None) };
        Poll::Ready(ready!(flow.poll_next(cx)).map(|data| {
            data.map(Frame::data).map_err(|stop| {
                // Nothing more is read of a body that went wrong.
                this.flow = None;
                match stop {
                    Stop::Http(error) => {
                        // Else it would look as if the model API had not answered.
                        this.fate.fault.get_or_init(Problem::broken_off);
                        Error::Http(error)
                    }
                    Stop::Bound(problem) => {
                        this.fate.fault.get_or_init(|| problem);
                        Error::Bound
                    }
                }
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.flow.as_ref().is_none_or(|flow| flow.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.flow.as_ref().map_or_else(SizeHint::default, |flow| flow.body.size_hint())
    }
}

/// An answer on its way to the sandbox.
pub(crate) struct Download {
    body: Incoming,
    silence: Silence,
    redactor: Redactor,
    bill: Bill,
    /// Nothing more comes from the model API.
    ended: bool,
}

impl Download {
    /// Passes an answer with no pause longer than `silence_ms`, and writes its usage on the bill.
    pub(crate) fn new(
        body: Incoming,
        silence_ms: u64,
        (redactor, mut bill): (Redactor, Bill),
    ) -> Self {
        let ended = body.is_end_stream();
        if ended {
            bill.complete();
        }
        Self { body, silence: Silence::new(silence_ms), redactor, bill, ended }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let next = ready!(self.poll_redacted(cx));
        match &next {
            Some(Ok(data)) => self.bill.passes(data),
            Some(Err(_)) => {}
            None => self.bill.complete(),
        }
        if self.is_end_stream() {
            self.bill.complete();
        }
        Poll::Ready(next)
    }

    /// What may pass next. Of an answer that breaks off the word that waits is left out: nobody can use
    /// half a line.
    fn poll_redacted(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        while !self.ended {
            match ready!(poll_data(&mut self.body, &mut self.silence, cx)) {
                Some(Ok(piece)) => {
                    self.ended = self.body.is_end_stream();
                    if let Some(data) = self.redactor.pass(piece, self.ended) {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.ended = true,
            }
        }
        Poll::Ready(self.redactor.rest().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.redactor.waiting() == 0
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint() + SizeHint::with_exact(self.redactor.waiting() as u64)
    }
}

/// What a sandbox receives.
pub(crate) enum Answer {
    /// Ours.
    Whole(Option<Bytes>),
    /// The model API's.
    Stream(Box<Download>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let download = match self.get_mut() {
            Self::Whole(bytes) => return Poll::Ready(bytes.take().map(|all| Ok(Frame::data(all)))),
            Self::Stream(download) => download,
        };
        let next = ready!(download.poll_next(cx));
        Poll::Ready(next.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(download) => download.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream(download) => download.size_hint(),
        }
    }
}
