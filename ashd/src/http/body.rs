//! Request bodies: bounded, read once, and explained when they are wrong.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::error::Category;

use super::error::ApiError;

/// An explanation is not longer than this many characters, whatever a client sent.
const LONGEST_EXPLANATION: usize = 300;

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
        let text = "the body must be JSON, with Content-Type: application/json";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    Ok(body)
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

fn too_slow() -> ApiError {
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_json(headers: &HeaderMap) -> bool {
    let media = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = media.split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Reads a value out of a JSON object. An empty body is an empty object.
///
/// # Errors
/// 400 that names the place and what was expected there.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    if body.trim_ascii_start().first() == Some(&b'[') {
        // Structs can be read from arrays too; no client of ours means that.
        return Err(ApiError::invalid("body: expected an object"));
    }
    parse_at("", body)
}

/// Reads a value out of the JSON that stands at `root` of a body.
///
/// # Errors
/// 400 that names the place, beginning with `root`, and what was expected there.
pub(super) fn parse_at<'a, T: Deserialize<'a>>(root: &str, json: &'a [u8]) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        explain(root, if path == "." { "" } else { &path }, error.inner())
    })?;
    reader.end().map_err(|error| explain(root, "", &error))?;
    Ok(value)
}

fn explain(root: &str, path: &str, error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    if error.classify() != Category::Data {
        return ApiError::invalid(clip(&format!("body is not valid JSON: {text}")));
    }
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    let (path, what) = match member_of(text) {
        Some((member, what)) => (join(root, &join(path, member)), what.to_owned()),
        None => (join(root, path), expectation(text)),
    };
    let path = if path.is_empty() { "body" } else { &path };
    ApiError::invalid(clip(&format!("{path}: {what}")))
}

/// Complaints about a member are made at the object that should have it.
fn member_of(text: &str) -> Option<(&str, &'static str)> {
    let named = |prefix| text.strip_prefix(prefix)?.strip_suffix('`');
    named("missing field `")
        .map(|member| (member, "is required"))
        .or_else(|| named("duplicate field `").map(|member| (member, "is given twice")))
}

fn join(parent: &str, member: &str) -> String {
    match (parent, member) {
        ("", _) => member.to_owned(),
        (_, "") => parent.to_owned(),
        _ if member.starts_with('[') => format!("{parent}{member}"),
        _ => format!("{parent}.{member}"),
    }
}

/// What was expected, in a client's words and without the value that came instead.
fn expectation(text: &str) -> String {
    let Some((_, expected)) = text.rsplit_once("expected ") else {
        return text.to_owned();
    };
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "f64" | "f32" => "a number",
        "a sequence" => "an array",
        "a map" => "an object",
        "a borrowed string" | "string" => "a string",
        other if other.starts_with("struct ") => "an object",
        other => other,
    };
    format!("expected {expected}")
}

fn clip(text: &str) -> String {
    text.chars().take(LONGEST_EXPLANATION).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axum::response::IntoResponse;
    use proptest::prelude::*;

    use super::*;
    use crate::http::tests::error_text;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    #[expect(dead_code, reason = "only read")]
    struct Sample {
        name: String,
        max_turns: Option<u32>,
        budget: Option<f64>,
        list: Option<Vec<Inner>>,
        map: Option<BTreeMap<String, String>>,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Inner {
        path: String,
    }

    fn complaint(body: &str) -> String {
        error_text(parse::<Sample>(body.as_bytes()).unwrap_err())
    }

    #[test]
    fn complaints_name_the_place_and_the_expectation() {
        for (body, text) in [
            ("", "name: is required"),
            ("  ", "name: is required"),
            ("[]", "body: expected an object"),
            ("5", "body: expected an object"),
            ("null", "body: expected an object"),
            (r#"{"name":5}"#, "name: expected a string"),
            (r#"{"name":"a","name":"b"}"#, "name: is given twice"),
            (
                r#"{"name":"a","maxTurns":"5"}"#,
                "maxTurns: expected a whole number that is not negative",
            ),
            (
                r#"{"name":"a","maxTurns":-5}"#,
                "maxTurns: expected a whole number that is not negative",
            ),
            (r#"{"name":"a","budget":"x, expected y"}"#, "budget: expected a number"),
            (r#"{"name":"a","list":{}}"#, "list: expected an array"),
            (r#"{"name":"a","list":[{"path":"x"},{}]}"#, "list[1].path: is required"),
            (r#"{"name":"a","list":[5]}"#, "list[0]: expected an object"),
            (r#"{"name":"a","map":{"k":1}}"#, "map.k: expected a string"),
        ] {
            assert_eq!(complaint(body), text, "{body}");
        }
    }

    #[test]
    fn what_is_not_json_is_called_so() {
        for body in
            ["{", "{\"name\":}", "{\"name\":\"a\"} x", "\u{feff}{}", "{\"name\":\"\\ud800\"}"]
        {
            let text = complaint(body);
            assert!(text.starts_with("body is not valid JSON: "), "{body}: {text}");
        }
        assert!(parse::<Sample>(b"{\"name\":\"\xff\"}").is_err());
    }

    #[test]
    fn unknown_members_are_ignored_and_null_is_absent() {
        let sample: Sample = parse(br#"{"name":"a","other":[1,{"x":2}],"maxTurns":null}"#).unwrap();
        assert_eq!((sample.name.as_str(), sample.max_turns), ("a", None));
    }

    #[test]
    fn deep_and_long_nonsense_is_bounded() {
        assert!(complaint(&format!("{{\"list\":{}", "[".repeat(100_000))).len() < 400);
        assert!(complaint(&format!(r#"{{"maxTurns":"{}"}}"#, "x".repeat(1_000_000))).len() < 400);
        assert!(complaint(&format!(r#"{{"map":{{"{}":1}}}}"#, "x".repeat(1_000_000))).len() < 400);
    }

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

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_is_given_up() {
        let stalled = Body::from_stream(futures_util::stream::pending::<Result<Bytes, String>>());
        assert_eq!(status(request(Some("application/json"), stalled)).await, Err(408));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_explained(body: Vec<u8>) {
            if let Err(error) = parse::<Sample>(&body) {
                prop_assert_eq!(error.status, StatusCode::BAD_REQUEST);
            }
        }
    }
}
