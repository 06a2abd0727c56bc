//! What goes wrong, as clients see it: `{"error": text, "statusCode": n}`, always.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, StatusCode};
use serde::Serialize;

use crate::domain::Unfit;
use crate::session::StoreError;
use crate::session::api::Refusal;
use crate::telemetry::SharedPace;

/// Seconds after which a client may try again when too many messages wait.
const QUEUE_RETRY_S: u32 = 5;

/// The code of a request that is wrong, whoever finds that out.
const INVALID: &str = "invalid_request";

/// A refusal on its way to a client.
#[derive(Debug)]
pub(super) struct ApiError {
    /// The status.
    pub(super) status: StatusCode,
    text: Cow<'static, str>,
    message: Option<String>,
    code: Option<&'static str>,
    retry_after_s: Option<u32>,
}

/// What answers a request.
pub(super) type Answer = Result<Response, ApiError>;

impl ApiError {
    /// An error with a text for the client.
    pub(super) fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        ApiError { status, text: text.into(), message: None, code: None, retry_after_s: None }
    }

    /// 400: the request is not acceptable; the text says where and what was expected.
    pub(super) fn invalid(text: impl Into<Cow<'static, str>>) -> Self {
        ApiError::new(StatusCode::BAD_REQUEST, text).code(INVALID)
    }

    /// 404 for a path that nothing answers to. Clients know this shape by its `message`.
    pub(super) fn no_route(method: &Method, path: &str) -> Self {
        let path: String = path.chars().take(200).collect();
        let message = format!("Route {method}:{path} not found");
        let error = ApiError::new(StatusCode::NOT_FOUND, "Not Found");
        ApiError { message: Some(message), ..error }
    }

    /// 429: a client has asked too often. Clients know this shape by its `message`.
    pub(super) fn too_many_requests(seconds: u32) -> Self {
        let message = format!("Rate limit exceeded, retry in {}", in_words(seconds));
        let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "Too Many Requests");
        ApiError { message: Some(message), ..error }.code("rate_limited").retry_after(seconds)
    }

    /// What the client is told.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    fn code(self, code: &'static str) -> Self {
        ApiError { code: Some(code), ..self }
    }

    fn retry_after(self, seconds: u32) -> Self {
        ApiError { retry_after_s: Some(seconds), ..self }
    }
}

/// A time to wait, rounded up.
fn in_words(seconds: u32) -> String {
    let (number, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds.div_ceil(60), "minute"),
        3600.. => (seconds.div_ceil(3600), "hour"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

impl From<Unfit> for ApiError {
    fn from(unfit: Unfit) -> Self {
        ApiError::invalid(unfit.to_string())
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let error = ApiError::new(status_of(&refusal), refusal.public_text());
        if matches!(refusal, Refusal::Store(_) | Refusal::Internal(_)) {
            static PACE: SharedPace = SharedPace::new();
            if let Some(left_out) = PACE.step(0) {
                tracing::error!(%refusal, left_out, "a request was not served");
            }
        }
        match refusal {
            Refusal::Invalid(_) => error.code(INVALID),
            Refusal::Busy | Refusal::Overtaken(_) => error.code("busy"),
            Refusal::QueueFull(_) => error.code("queue_full").retry_after(QUEUE_RETRY_S),
            Refusal::Capacity { retry_after_s, .. } => {
                error.code("capacity").retry_after(retry_after_s)
            }
            Refusal::ShuttingDown => error.code("shutting_down"),
            Refusal::Store(StoreError::Full) => error.code("disk_full"),
            _ => error,
        }
    }
}

/// Which status a refusal has. This is the only place that knows.
fn status_of(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::NoAgent
        | Refusal::NoAgentNamed(_)
        | Refusal::NoSession
        | Refusal::NoCheckpoint
        | Refusal::NoWorkspace
        | Refusal::NoFile
        | Refusal::NoAttachment
        | Refusal::AttachmentLost
        | Refusal::NotStored
        | Refusal::NoTenant
        | Refusal::NoKey => StatusCode::NOT_FOUND,
        Refusal::NotActive(_) | Refusal::WrongStatus { .. } | Refusal::Invalid(_) => {
            StatusCode::BAD_REQUEST
        }
        Refusal::Ended => StatusCode::GONE,
        Refusal::Forbidden(_) => StatusCode::FORBIDDEN,
        Refusal::Busy
        | Refusal::Overtaken(_)
        | Refusal::Arriving
        | Refusal::FilesNotReady
        | Refusal::ReadOnly
        | Refusal::InTheWay(_)
        | Refusal::TooManyAttachments(_)
        | Refusal::TooMuch(_)
        | Refusal::NameTaken
        | Refusal::LastCheckpoint
        | Refusal::NewestCheckpoint
        | Refusal::NoObjectStore
        | Refusal::HereAlready
        | Refusal::TakenElsewhere
        | Refusal::OtherAgent { .. }
        | Refusal::NotAtCheckpoint { .. } => StatusCode::CONFLICT,
        Refusal::Precondition(_) => StatusCode::PRECONDITION_FAILED,
        Refusal::TooLarge(_) | Refusal::AttachmentTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::Stalled => StatusCode::REQUEST_TIMEOUT,
        Refusal::QueueFull(_) => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Store(StoreError::Full) => StatusCode::INSUFFICIENT_STORAGE,
        Refusal::Capacity { .. }
        | Refusal::ShuttingDown
        | Refusal::ObjectStore
        | Refusal::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Sandbox(_)
        | Refusal::NothingKept
        | Refusal::Damaged { .. }
        | Refusal::Backup(_)
        | Refusal::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shape<'a> {
    error: &'a str,
    status_code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let shape = Shape {
            error: &self.text,
            status_code: self.status.as_u16(),
            code: self.code,
            message: self.message.as_deref(),
        };
        let mut response = json(self.status, &shape);
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// A JSON answer.
pub(super) fn json<T: Serialize>(status: StatusCode, body: &T) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => json_bytes(status, body),
        Err(_) => json_bytes(
            StatusCode::INTERNAL_SERVER_ERROR,
            r#"{"error":"The answer cannot be written as JSON","statusCode":500}"#,
        ),
    }
}

/// An answer that is JSON already.
pub(super) fn json_bytes(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::Status;

    async fn shown(error: ApiError) -> (u16, Option<String>, Value) {
        let response = error.into_response();
        let status = response.status().as_u16();
        let retry = response.headers().get(RETRY_AFTER);
        let retry = retry.map(|value| value.to_str().unwrap().to_owned());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, retry, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn every_refusal_has_its_status() {
        let cases = [
            (Refusal::NoAgent, 404, "Agent not found"),
            (Refusal::NoAgentNamed("x".parse().unwrap()), 404, "Agent \"x\" not found"),
            (Refusal::NoSession, 404, "Session not found"),
            (Refusal::NotActive(Status::Paused), 400, "Session is paused"),
            (
                Refusal::WrongStatus { verb: "pause", status: Status::Ended },
                400,
                "Cannot pause session with status \"ended\"",
            ),
            (Refusal::NoWorkspace, 404, "No workspace available for this session"),
            (Refusal::NoFile, 404, "File not found"),
            (
                Refusal::FilesNotReady,
                409,
                "The session's files are being put in place; try again when it has started",
            ),
            (
                Refusal::ReadOnly,
                409,
                "Session has ended: its files can be read, and not changed; fork it to go on with them",
            ),
            (
                Refusal::Precondition("it is there already"),
                412,
                "The file is not as the request says: it is there already",
            ),
            (Refusal::TooLarge(9), 413, "Request body is too large (at most 9 bytes)"),
            (Refusal::AttachmentTooLarge(9), 413, "Attachment too large (max 9 bytes)"),
            (
                Refusal::TooMuch("there are more than 9 files".into()),
                409,
                "The session's files cannot be saved: there are more than 9 files",
            ),
            (Refusal::NoAttachment, 404, "Attachment not found"),
            (Refusal::Stalled, 408, "the body did not arrive in time"),
            (Refusal::Ended, 410, "Session has ended — create a new session"),
            (Refusal::Invalid("name: no".into()), 400, "name: no"),
            (Refusal::Forbidden("no".into()), 403, "no"),
            (
                Refusal::Busy,
                409,
                "Session is busy with another message; try again when it is answered, or interrupt it",
            ),
            (Refusal::Overtaken("It went"), 409, "It went; try again"),
            (Refusal::ShuttingDown, 503, "The server is shutting down; try again when it is back"),
            (Refusal::Sandbox("lost".into()), 500, "lost"),
            (Refusal::Internal("odd".into()), 500, "Internal error: odd"),
        ];
        for (refusal, status, text) in cases {
            let (got, _, body) = shown(refusal.into()).await;
            assert_eq!((got, body["error"].as_str().unwrap()), (status, text));
            assert_eq!(body["statusCode"], status);
        }
    }

    #[tokio::test]
    async fn refusals_of_the_moment_say_when_to_try_again() {
        let (status, retry, body) = shown(Refusal::QueueFull(16).into()).await;
        assert_eq!(
            (status, retry.as_deref(), &body["code"]),
            (429, Some("5"), &json!("queue_full"))
        );
        let capacity = Refusal::Capacity { reason: "Capacity reached".into(), retry_after_s: 3 };
        let (status, retry, _) = shown(capacity.into()).await;
        assert_eq!((status, retry.as_deref()), (503, Some("3")));
    }

    #[tokio::test]
    async fn too_many_requests_have_the_shape_clients_know() {
        let (_, retry, body) = shown(ApiError::too_many_requests(700)).await;
        let message = "Rate limit exceeded, retry in 12 minutes";
        assert_eq!(retry.as_deref(), Some("700"));
        assert_eq!(
            body,
            json!({"error": "Too Many Requests", "message": message, "statusCode": 429,
                "code": "rate_limited"})
        );
        assert_eq!(["1 second", "59 seconds"], [1, 59].map(in_words));
        assert_eq!(["1 minute", "1 hour"], [60, 3600].map(in_words));
    }

    #[tokio::test]
    async fn a_request_that_is_wrong_is_told_apart_from_a_status_that_does_not_allow_it() {
        for wrong in [ApiError::invalid("no"), Refusal::Invalid("no".into()).into()] {
            let (status, _, body) = shown(wrong).await;
            assert_eq!((status, &body["code"]), (400, &json!("invalid_request")));
        }
        let (status, _, body) = shown(Refusal::NotActive(Status::Paused).into()).await;
        assert_eq!((status, body.get("code")), (400, None));
    }

    #[tokio::test]
    async fn a_full_disk_is_told_apart() {
        let (status, _, body) = shown(Refusal::Store(StoreError::Full).into()).await;
        assert_eq!((status, &body["code"]), (507, &json!("disk_full")));
    }

    #[tokio::test]
    async fn what_the_database_says_is_not_shown() {
        let failed = StoreError::Database("cannot open /var/lib/ash/ash.db".into());
        let (status, _, body) = shown(Refusal::Store(failed).into()).await;
        assert_eq!(
            (status, &body["error"]),
            (503, &json!("The server cannot use its database right now; try again later"))
        );
    }

    #[tokio::test]
    async fn unknown_routes_have_the_shape_clients_know() {
        let (_, _, body) = shown(ApiError::no_route(&Method::GET, "/x")).await;
        assert_eq!(
            body,
            json!({"error": "Not Found", "message": "Route GET:/x not found", "statusCode": 404})
        );
    }
}
