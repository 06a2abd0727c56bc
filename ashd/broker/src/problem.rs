//! What a sandbox is told when its request is not answered by the model API.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use crate::policy::SHOULD_RETRY;

/// Why a request got no answer of the model API, when neither its sandbox nor a bound is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nobody has said where it is.
    NotReady,
    /// Nobody has given a key.
    NoKey,
    /// There is no connection.
    Unreachable,
    /// It ended the connection first, or what it said is not passed on.
    BadAnswer,
    /// It said nothing in time.
    Silent,
}

/// A failure in the words of the model API, so that its clients understand it. Its text goes into
/// the sandbox: it never holds a path, an address or a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    kind: &'static str,
    message: String,
    failure: Option<Failure>,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), failure: None }
    }

    fn counted(self, failure: Failure) -> Self {
        Self { failure: Some(failure), ..self }
    }

    /// Not one of the calls that may leave.
    pub(crate) fn forbidden() -> Self {
        let message = "a sandbox may only create messages and count their tokens";
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    /// Nobody gave the broker a key.
    pub(crate) fn no_key() -> Self {
        let message = "no model API key is configured: whoever runs this server has to give it one";
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message).counted(Failure::NoKey)
    }

    /// The request body is larger than `limit` bytes.
    pub(crate) fn too_large(limit: u64) -> Self {
        let message = format!("the request is larger than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    /// The sandbox stopped in the middle of its request.
    pub(crate) fn slow() -> Self {
        let message = "the request body did not arrive in time";
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message)
    }

    /// The sandbox ended its request in the middle, or wrote what is none.
    pub(crate) fn broken_off() -> Self {
        let message = "the request body broke off";
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// The sandbox has `limit` requests under way already.
    pub(crate) fn too_many(limit: usize) -> Self {
        let message =
            format!("{limit} requests of this sandbox are under way already; try again later");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
    }

    /// The broker does not know yet where the model API is.
    pub(crate) fn not_ready() -> Self {
        let message = "the way to the model API is not configured yet";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "api_error", message).counted(Failure::NotReady)
    }

    /// No connection to the model API.
    pub(crate) fn unreachable(why: &str) -> Self {
        let message = format!("the model API cannot be reached: {why}");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "api_error", message)
            .counted(Failure::Unreachable)
    }

    /// A connection, but no proper answer.
    pub(crate) fn bad_answer(what: &str) -> Self {
        let message = format!("the model API {what}");
        Self::new(StatusCode::BAD_GATEWAY, "api_error", message).counted(Failure::BadAnswer)
    }

    /// A connection, but no answer in time.
    pub(crate) fn silent() -> Self {
        let message = "the model API did not answer in time";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout_error", message).counted(Failure::Silent)
    }

    /// Whether it is the sandbox that asked for what it may not have.
    pub(crate) fn is_refusal(&self) -> bool {
        let ours =
            [StatusCode::FORBIDDEN, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::TOO_MANY_REQUESTS];
        ours.contains(&self.status)
    }

    /// Why there is no answer of the model API, when that is what it says.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failure
    }

    /// Whether the same request may succeed later.
    fn may_pass(&self) -> bool {
        let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
        self.status.is_server_error() || passing.contains(&self.status)
    }

    /// The response. It ends the connection: what else the sandbox may have written on it after a
    /// request that failed is not read.
    pub(crate) fn into_response(self) -> Response<Bytes> {
        let error = json!({ "type": self.kind, "message": self.message });
        let body = json!({ "type": "error", "error": error }).to_string();
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let again = HeaderValue::from_static(if self.may_pass() { "true" } else { "false" });
        headers.insert(SHOULD_RETRY, again);
        response
    }
}
