//! Request bodies: bounded, and read once. What they say is read in [`crate::domain`].

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;

use super::error::ApiError;
use crate::session::api::Refusal;

/// Memory set aside before the first byte of a body has come.
const LARGEST_RESERVE: usize = 1024 * 1024;

/// Reads the JSON body of a request, at most `limit` bytes of it.
///
/// # Errors
/// 413 beyond the limit, 415 for anything but JSON, 408 when nothing comes for `patience`.
pub(super) async fn read(
    request: Request,
    limit: usize,
    patience: Duration,
) -> Result<Bytes, ApiError> {
    let announced = announced_length(request.headers());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    let is_json = is_json(request.headers());
    let reserve = announced.map_or(0, |length| (length as usize).min(LARGEST_RESERVE));
    let body = collect(request.into_body(), limit, reserve, patience).await?;
    if !is_json && !body.is_empty() {
        return Err(not_json());
    }
    Ok(body)
}

/// The body of a request as it comes, for those who do not hold all of it.
pub(super) fn stream(
    body: Body,
    patience: Duration,
) -> impl Stream<Item = Result<Bytes, Refusal>> + Send + Unpin {
    let pieces = stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        loop {
            let frame = match tokio::time::timeout(patience, body.frame()).await {
                Err(_) => return Some((Err(Refusal::Stalled), None)),
                Ok(None) => return None,
                Ok(Some(frame)) => frame,
            };
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => return Some((Ok(data), Some(body))),
                // Trailers say nothing to us.
                Ok(Err(_)) => {}
                Err(_) => {
                    let broken = Refusal::Invalid("the body broke off".to_owned());
                    return Some((Err(broken), None));
                }
            }
        }
    });
    Box::pin(pieces)
}

async fn collect(
    mut body: Body,
    limit: usize,
    reserve: usize,
    patience: Duration,
) -> Result<Bytes, ApiError> {
    let mut whole = BytesMut::with_capacity(reserve);
    loop {
        let frame = tokio::time::timeout(patience, body.frame()).await.map_err(|_| too_slow())?;
        let Some(frame) = frame else {
            return Ok(whole.freeze());
        };
        let frame = frame.map_err(|_| ApiError::invalid("the body broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(too_large(limit));
        }
        whole.extend_from_slice(&data);
    }
}

fn too_large(limit: usize) -> ApiError {
    let text = format!("Request body is too large (at most {limit} bytes)");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, text)
}

/// 415: JSON is needed.
pub(super) fn not_json() -> ApiError {
    let text = "the body must be JSON, with Content-Type: application/json";
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text)
}

fn too_slow() -> ApiError {
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")
}

/// How many bytes a body will have, when that is said.
pub(super) fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether a body is JSON, as it says.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let media = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = media.split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use futures_util::StreamExt;

    use super::*;

    fn request(content_type: Option<&str>, body: impl Into<Body>) -> Request {
        let mut request = Request::new(body.into());
        if let Some(value) = content_type {
            request.headers_mut().insert(CONTENT_TYPE, value.parse().unwrap());
        }
        request
    }

    async fn status(request: Request) -> Result<Bytes, u16> {
        let read = read(request, 8, Duration::from_millis(50)).await;
        read.map_err(|error| error.into_response().status().as_u16())
    }

    #[tokio::test]
    async fn bodies_are_bounded_json() {
        let json = Some("application/json; charset=utf-8");
        assert_eq!(status(request(json, "12345678")).await, Ok("12345678".into()));
        assert_eq!(status(request(json, "123456789")).await, Err(413));
        assert_eq!(status(request(None, "{}")).await, Err(415));
        assert_eq!(status(request(Some("text/plain"), "{}")).await, Err(415));
        assert_eq!(status(request(None, "")).await, Ok(Bytes::new()));
    }

    #[tokio::test]
    async fn a_body_is_read_as_it_comes() {
        let pieces = [Ok("1"), Ok("2"), Err("broken")];
        let body = Body::from_stream(stream::iter(pieces));
        let pieces: Vec<_> = stream(body, Duration::from_secs(1)).collect().await;
        let pieces = pieces.into_iter().map(|piece| piece.map_err(|error| error.to_string()));
        let expected = [Ok("1".into()), Ok("2".into()), Err("the body broke off".to_owned())];
        assert_eq!(pieces.collect::<Vec<_>>(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_is_given_up() {
        let stalled = Body::from_stream(stream::pending::<Result<Bytes, String>>());
        assert_eq!(status(request(Some("application/json"), stalled)).await, Err(408));
    }
}
