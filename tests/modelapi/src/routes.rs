//! What each path answers.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, Receiver};

use crate::faults::Faults;
use crate::gates::Gates;
use crate::id;
use crate::log::{Log, Request, monotonic_ns};
use crate::player::{Part, Whole, kind_of, play};
use crate::script::Script;

/// The size at which the real API refuses a request.
const BODY_LIMIT: usize = 32 * 1024 * 1024;

/// What all connections share.
pub(crate) struct State {
    pub(crate) log: Log,
    pub(crate) gates: Gates,
    pub(crate) faults: Faults,
    /// The key that callers must show, if any.
    pub(crate) key: Option<String>,
}

impl State {
    /// Forgets everything that earlier requests left.
    pub(crate) fn reset(&self) {
        self.log.clear();
        self.gates.reset();
        self.faults.reset();
    }
}

/// Why a connection ends without (the rest of) an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// Wanted by the script, or the server is going down.
    #[error("the script cuts the connection here")]
    Cut,
    /// The request could not be logged.
    #[error("cannot write the request log: {0}")]
    Log(#[from] io::Error),
}

type Answer = Response<Either<Full<Bytes>, Stream>>;

/// Answers one request.
pub(crate) async fn answer(
    state: Arc<State>,
    request: hyper::Request<Incoming>,
) -> Result<Answer, Broken> {
    let at_ns = monotonic_ns();
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    if let Some(command) = path.strip_prefix("/__control/") {
        return Ok(control(&state, &head.method, command).await);
    }
    let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
        return Ok(refusal(413, "the request is larger than 32 MB"));
    };
    let body = body.to_bytes();
    let entry = Arc::new(Request {
        at_ns,
        method: head.method.to_string(),
        path: head.uri.to_string(),
        headers: readable(&head.headers),
        body: parse(&body),
    });
    state.log.add(entry.clone())?;
    route(state, &path, &entry, body.len()).await
}

async fn route(
    state: Arc<State>,
    path: &str,
    request: &Request,
    bytes: usize,
) -> Result<Answer, Broken> {
    match (request.method.as_str(), path) {
        ("GET" | "HEAD", "/") => Ok(whole(200, &json!({}))),
        ("POST", "/v1/messages" | "/v1/messages/count_tokens") if !admits(&state, request) => {
            Ok(refusal(401, "invalid x-api-key"))
        }
        ("POST", "/v1/messages") => message(state, request, bytes).await,
        ("POST", "/v1/messages/count_tokens") => {
            Ok(whole(200, &json!({"input_tokens": 1 + bytes / 4})))
        }
        _ => Ok(refusal(404, "not found")),
    }
}

async fn message(state: Arc<State>, request: &Request, bytes: usize) -> Result<Answer, Broken> {
    let caller = request.headers.get("x-claude-code-session-id").map_or("", String::as_str);
    let Some(script) = Script::read(&request.body, caller, bytes) else {
        return Ok(refusal(400, "the body must have a model and messages"));
    };
    let (sender, mut parts) = mpsc::channel(8);
    tokio::spawn(play(state, script, sender));
    match parts.recv().await {
        Some(Part::Whole(mut answer)) => {
            if answer.quotes {
                answer.body["error"]["message"] = json!(request.headers).to_string().into();
            }
            Ok(in_one_piece(&answer))
        }
        Some(Part::Frames(first)) => Ok(stream(first, parts)),
        Some(Part::Cut) | None => Err(Broken::Cut),
    }
}

/// The test's side door: the same acts as the library has, for tests in other languages.
async fn control(state: &State, method: &Method, command: &str) -> Answer {
    match (method, command.split_once('/').unwrap_or((command, ""))) {
        (&Method::GET, ("requests", "")) => {
            let requests = state.log.matching(|_| true);
            whole(200, &requests.iter().map(|request| json!(**request)).collect())
        }
        (&Method::POST, ("reset", "")) => {
            state.reset();
            whole(200, &json!({}))
        }
        (&Method::POST, ("release", name)) => {
            state.gates.release(name);
            whole(200, &json!({}))
        }
        (&Method::GET, ("held", name)) => {
            state.gates.held(name).await;
            whole(200, &json!({}))
        }
        _ => refusal(404, "no such control"),
    }
}

fn admits(state: &State, request: &Request) -> bool {
    let Some(key) = &state.key else { return true };
    let header = |name: &str| request.headers.get(name).map(String::as_str);
    let bearer = header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    header("x-api-key") == Some(key) || bearer == Some(key)
}

fn readable(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut readable: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        readable
            .entry(name.as_str().to_owned())
            .and_modify(|known| *known = format!("{known}, {value}"))
            .or_insert_with(|| value.to_string());
    }
    readable
}

fn parse(body: &[u8]) -> Value {
    if body.is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(body).unwrap_or_else(|_| String::from_utf8_lossy(body).into())
}

/// The API's error object.
pub(crate) fn error_body(kind: &str, message: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": message}})
}

fn refusal(status: u16, message: &str) -> Answer {
    whole(status, &error_body(kind_of(status), message))
}

fn whole(status: u16, body: &Value) -> Answer {
    let body = Either::Left(Full::new(Bytes::from(body.to_string())));
    with_head(status, "application/json", body)
}

fn in_one_piece(answer: &Whole) -> Answer {
    let mut response = whole(answer.status, &answer.body);
    let retry_after = answer.retry_after.as_deref().and_then(|s| HeaderValue::from_str(s).ok());
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds);
    }
    response
}

fn stream(first: Bytes, rest: Receiver<Part>) -> Answer {
    let body = Stream { first: Some(first), rest };
    with_head(200, "text/event-stream; charset=utf-8", Either::Right(body))
}

fn with_head(status: u16, content_type: &'static str, body: Either<Full<Bytes>, Stream>) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Ok(id) = HeaderValue::from_str(&id::with_prefix("req_011C")) {
        headers.insert("request-id", id);
    }
    response
}

/// The body of a streamed answer.
pub(crate) struct Stream {
    first: Option<Bytes>,
    rest: Receiver<Part>,
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        match std::task::ready!(self.rest.poll_recv(cx)) {
            Some(Part::Frames(frames)) => Poll::Ready(Some(Ok(Frame::data(frames)))),
            Some(Part::Cut) => Poll::Ready(Some(Err(Broken::Cut))),
            Some(Part::Whole(_)) | None => Poll::Ready(None),
        }
    }
}
