//! One request of a sandbox: judged, given the real credential, passed on and answered.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use tracing::warn;

use crate::body::{Answer, Download, Fate, Upload};
use crate::control::{Event, Limits, Usage};
use crate::gate::Seat;
use crate::policy::{self, Call, Verdict};
use crate::problem::Problem;
use crate::redact::{Redactor, Secret};
use crate::upstream::{self, Upstream};
use crate::usage::Meter;

/// Longest name of a call that is told to `ashd`, in bytes. The model API's are far shorter; what
/// stands there could be more than fits the conversation with `ashd`, which would break off.
const REQUEST_ID_LIMIT: usize = 256;

/// Answers one request of the sandbox that has this seat.
pub(crate) async fn answer(
    seat: Arc<Seat>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let (head, body) = request.into_parts();
    let (body, fate) = Upload::new(body, &seat.limits());
    let answer = match policy::judge(&head.method, &head.uri) {
        Verdict::Forward(call) => forward(&seat, call, (head, body), &fate).await,
        Verdict::Greet => Ok(Response::new(Answer::Whole(None))),
        Verdict::Refuse => {
            drop(body);
            Err(Problem::forbidden())
        }
    };
    Ok(match answer {
        Ok(answer) => answer,
        Err(problem) => {
            if problem.is_refusal() {
                seat.house.refuse();
            }
            if let Some(failure) = problem.failure() {
                seat.house.fail(failure);
            }
            fate.drain().await;
            problem.into_response().map(|body| Answer::Whole(Some(body)))
        }
    })
}

async fn forward(
    seat: &Arc<Seat>,
    call: Call,
    (head, body): (Parts, Upload),
    fate: &Fate,
) -> Result<Response<Answer>, Problem> {
    let upstream = seat.house.upstream().ok_or_else(Problem::not_ready)?;
    let limits = &upstream.limits;
    let turn = Turn::take(seat, limits.concurrent_requests)?;
    let key = seat.house.key().ok_or_else(Problem::no_key)?;
    if body.size_hint().lower() > limits.request_bytes {
        return Err(Problem::too_large(limits.request_bytes));
    }
    let (bill, secret) = (Bill::new(turn, call), Secret::new(&key));
    let request = prepare(&upstream, call, (&head, body), key)?;
    let patience = Duration::from_millis(limits.upstream_silence_ms);
    match tokio::time::timeout(patience, upstream.send(request)).await {
        Ok(Ok(answer)) => deliver(limits, answer, bill, secret),
        Ok(Err(error)) => Err(fate.fault().unwrap_or_else(|| failed(seat, &error))),
        Err(_) => Err(Problem::silent()),
    }
}

/// The request as it leaves: our URL, known headers, the real key, a bounded body.
fn prepare(
    upstream: &Upstream,
    call: Call,
    (head, body): (&Parts, Upload),
    key: HeaderValue,
) -> Result<Request<Upload>, Problem> {
    let uri = upstream.uri(call, head.uri.query()).ok_or_else(Problem::forbidden)?;
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = policy::outgoing(&head.headers, key);
    Ok(request)
}

/// Why no answer came. A sandbox can make this happen as often as it likes, so not each is logged.
fn failed(seat: &Seat, error: &legacy::Error) -> Problem {
    if let Some(others) = seat.complaint() {
        let cause = upstream::chain(error);
        warn!(
            ash_session = seat.session(), ash_sandbox = %seat.sandbox, others,
            "the model API did not answer: {cause}"
        );
    }
    if error.is_connect() {
        return Problem::unreachable(upstream::reason(error));
    }
    Problem::bad_answer("ended the connection before it answered")
}

/// The answer as it comes back, without the key. Redirects are never followed and never told: the
/// next hop could be anybody.
fn deliver(
    limits: &Limits,
    answer: Response<Incoming>,
    mut bill: Bill,
    secret: Secret,
) -> Result<Response<Answer>, Problem> {
    let (head, body) = answer.into_parts();
    if head.status.is_redirection() || head.status.is_informational() {
        return Err(Problem::bad_answer("sent a redirect or something else that is not passed on"));
    }
    if policy::is_encoded(&head.headers) {
        return Err(Problem::bad_answer("sent a compressed answer, which nobody asked for"));
    }
    let mut headers = policy::incoming(head.status, &head.headers);
    secret.strip(&mut headers);
    // What is billed leaves this process as well.
    bill.open(head.status.as_u16(), &headers);
    let passes = (Redactor::new(secret), bill);
    let download = Download::new(body, limits.upstream_silence_ms, passes);
    let mut response = Response::new(Answer::Stream(Box::new(download)));
    *response.status_mut() = head.status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// One of the requests that a sandbox may have under way.
struct Turn(Arc<Seat>);

impl Turn {
    fn take(seat: &Arc<Seat>, limit: usize) -> Result<Self, Problem> {
        let turn = Self(seat.clone());
        let before = turn.0.under_way.fetch_add(1, Ordering::Relaxed);
        if before < limit { Ok(turn) } else { Err(Problem::too_many(limit)) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a call costs: told to `ashd` when the answer ends, whichever way it does.
pub(crate) struct Bill {
    turn: Turn,
    call: Call,
    since: Instant,
    meter: Meter,
    answer: Option<(u16, Option<String>)>,
    complete: bool,
}

impl Bill {
    fn new(turn: Turn, call: Call) -> Self {
        let meter = Meter::new(None);
        Self { turn, call, since: Instant::now(), meter, answer: None, complete: false }
    }

    /// The head of the answer is there.
    fn open(&mut self, status: u16, headers: &HeaderMap) {
        self.meter = Meter::new(headers.get(CONTENT_TYPE));
        let id = headers.get("request-id").and_then(|id| id.to_str().ok());
        let id = id.filter(|id| id.len() <= REQUEST_ID_LIMIT);
        self.answer = Some((status, id.map(ToOwned::to_owned)));
    }

    /// The next bytes of the answer.
    pub(crate) fn passes(&mut self, data: &Bytes) {
        self.meter.feed(data);
    }

    /// The answer came to its end.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        // Counting tokens is free, and a call without an answer has no price: it is counted as a failure.
        let Some((status, request_id)) = self.answer.take() else { return };
        if self.call == Call::CountTokens {
            return;
        }
        let seat = &self.turn.0;
        seat.house.outbox.push(Event::Usage(Usage {
            sandbox: seat.sandbox,
            request_id,
            status,
            duration_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            complete: self.complete,
            tokens: self.meter.finish(),
        }));
    }
}
