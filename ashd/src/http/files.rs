//! Files of a session's workspace.

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::response::Response;
use futures_util::TryStreamExt;
use http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Uri};
use serde::Serialize;
use serde_json::json;

use super::context::{At, Context, Who};
use super::error::{Answer, ApiError, json};
use super::query::Params;
use super::range::{self, Part};
use super::tags;
use crate::domain::{SessionId, Timestamp};
use crate::session::files::{self, Opened};

/// The largest file that is shown in JSON, in bytes.
const SHOWN: u64 = 1024 * 1024;

pub(super) const SOURCE: HeaderName = HeaderName::from_static("x-ash-source");

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    path: String,
    size: u64,
    modified_at: Timestamp,
}

#[derive(Serialize)]
struct Listed {
    files: Vec<Entry>,
    source: &'static str,
    truncated: bool,
}

/// A session, and a path in its workspace.
pub(super) struct AtFile(pub(super) SessionId, pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for AtFile {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((id, path)) = path.map_err(|_| ApiError::invalid("the path cannot be decoded"))?;
        let id = id.parse().map_err(|error| ApiError::invalid(format!("id: {error}")))?;
        Ok(AtFile(id, path))
    }
}

/// Answers where a file's path is missing.
pub(super) async fn no_path() -> ApiError {
    ApiError::invalid("File path required")
}

/// Lists the files; `?includeHidden=false` leaves caches out.
pub(super) async fn list(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    uri: Uri,
) -> Answer {
    let caches = Params::of(&uri)?.flag("includeHidden")?.unwrap_or(true);
    let (listing, origin) = context.service.files(&caller, id, caches).await?;
    let files = listing.files.into_iter().map(|file| {
        let (seconds, nanoseconds) = file.modified;
        let millis =
            seconds.saturating_mul(1000).saturating_add(i64::from(nanoseconds / 1_000_000));
        Entry { path: file.path, size: file.size, modified_at: Timestamp(millis) }
    });
    let files: Vec<_> = files.collect();
    let listed = Listed { files, source: origin.as_str(), truncated: listing.cut };
    Ok(json(StatusCode::OK, &listed))
}

/// Reads a file, or a part of it; `?format=json` shows it as text.
pub(super) async fn read(
    State(context): State<Context>,
    Who(caller): Who,
    AtFile(id, path): AtFile,
    (method, headers): (Method, HeaderMap),
    uri: Uri,
) -> Answer {
    let params = Params::of(&uri)?;
    let as_json = match params.text("format") {
        None | Some("raw") => false,
        Some("json") => true,
        Some(_) => return Err(ApiError::invalid("format: must be one of raw, json")),
    };
    let opened = context.service.open_file(&caller, id, files::path(&path)?).await?;
    if as_json { shown(&path, opened).await } else { raw(&path, opened, (&method, &headers)) }
}

async fn shown(path: &str, opened: Opened) -> Answer {
    let (size, source) = (opened.size, opened.origin.as_str());
    if size > SHOWN {
        let text = format!("File too large ({size} bytes, max {SHOWN})");
        return Err(ApiError::invalid(text));
    }
    let bytes: Vec<_> = opened.bytes(0, size).try_collect().await.map_err(|_| {
        ApiError::new(StatusCode::CONFLICT, "The file changed while it was read; try again")
    })?;
    let bytes = bytes.concat();
    let content = String::from_utf8_lossy(&bytes);
    let body = json!({ "path": path, "content": content, "size": size, "source": source });
    Ok(json(StatusCode::OK, &body))
}

/// Answers a request for what was opened, by its method and headers.
pub(super) fn raw(path: &str, opened: Opened, (method, headers): (&Method, &HeaderMap)) -> Answer {
    let (size, source) = (opened.size, opened.origin.as_str());
    let etag = tags::text(&opened.tag);
    let (status, start, end) = match range::wanted(method, headers, size, &etag) {
        Part::Whole => (StatusCode::OK, 0, size),
        Part::Bytes(start, end) => (StatusCode::PARTIAL_CONTENT, start, end),
        Part::Outside => (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0),
        Part::Unchanged => (StatusCode::NOT_MODIFIED, 0, 0),
        Part::Changed => {
            let text = "The file is not as the request takes it for: it was changed since";
            return Err(ApiError::new(StatusCode::PRECONDITION_FAILED, text));
        }
    };
    let mut response = Response::new(match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => Body::from_stream(opened.bytes(start, end)),
        _ => Body::empty(),
    });
    *response.status_mut() = status;
    let range = match status {
        StatusCode::PARTIAL_CONTENT => Some(format!("bytes {start}-{}/{size}", end - 1)),
        StatusCode::RANGE_NOT_SATISFIABLE => Some(format!("bytes */{size}")),
        _ => None,
    };
    let length = (status != StatusCode::NOT_MODIFIED).then(|| (end - start).to_string());
    let name = path.rsplit('/').next().unwrap_or(path);
    let fields = [
        (CONTENT_TYPE, Some(content_type(name).to_owned())),
        (CONTENT_DISPOSITION, Some(format!("attachment; filename*=UTF-8''{}", encoded(name)))),
        (X_CONTENT_TYPE_OPTIONS, Some("nosniff".to_owned())),
        (ACCEPT_RANGES, Some("bytes".to_owned())),
        (SOURCE, Some(source.to_owned())),
        (ETAG, Some(etag)),
        (CONTENT_LENGTH, length),
        (CONTENT_RANGE, range),
    ];
    for (field, value) in fields {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            response.headers_mut().insert(field, value);
        }
    }
    Ok(response)
}

/// A name as RFC 5987 has it.
fn encoded(name: &str) -> String {
    let one = |byte: u8| match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    name.bytes().map(one).collect()
}

/// What a file is, going by the end of its name.
fn content_type(name: &str) -> &'static str {
    let end = name.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase());
    match end.as_deref().unwrap_or_default() {
        "html" => "text/html",
        "css" => "text/css",
        "js" | "mjs" => "text/javascript",
        "json" => "application/json",
        "xml" => "application/xml",
        "csv" => "text/csv",
        "md" => "text/markdown",
        "yaml" | "yml" => "text/yaml",
        "txt" | "toml" | "ts" | "tsx" | "jsx" | "py" | "rb" | "rs" | "go" | "java" | "c"
        | "cpp" | "h" | "sh" | "bash" | "zsh" | "sql" => "text/plain",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "gz" => "application/gzip",
        "tar" => "application/x-tar",
        "wasm" => "application/wasm",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use http::header::RANGE;
    use http_body_util::BodyExt;

    use super::*;
    use crate::http::tests::error_text;
    use crate::session::files::opened;

    const NAME: &str = "grüße\n.md";

    async fn asked(range: &'static str) -> (u16, Option<String>, Vec<u8>) {
        let headers = [(RANGE, HeaderValue::from_static(range))].into_iter().collect();
        let response = raw(NAME, opened(b"0123456789"), (&Method::GET, &headers)).unwrap();
        let range = response.headers().get(CONTENT_RANGE);
        let range = range.map(|value| value.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, range, body.to_vec())
    }

    #[tokio::test]
    async fn parts_are_served() {
        let part = asked("bytes=2-4").await;
        assert_eq!(part, (206, Some("bytes 2-4/10".into()), b"234".to_vec()));
        assert_eq!(asked("bytes=10-").await, (416, Some("bytes */10".into()), vec![]));
        assert_eq!(asked("bytes=0-1,3-4").await, (200, None, b"0123456789".to_vec()));
    }

    #[tokio::test]
    async fn a_whole_file_says_what_it_is() {
        let response = raw(NAME, opened(b"# x"), (&Method::GET, &HeaderMap::new())).unwrap();
        let header = |name: HeaderName| response.headers()[name].to_str().unwrap();
        assert_eq!(header(CONTENT_TYPE), "text/markdown");
        assert_eq!(header(CONTENT_LENGTH), "3");
        assert_eq!(header(SOURCE), "sandbox");
        assert_eq!(header(X_CONTENT_TYPE_OPTIONS), "nosniff");
        let name = "attachment; filename*=UTF-8''gr%C3%BC%C3%9Fe%0A.md";
        assert_eq!(header(CONTENT_DISPOSITION), name);
    }

    #[tokio::test]
    async fn text_is_shown_up_to_a_limit() {
        let body = shown("f", opened(b"a\xff")).await.unwrap().into_body();
        let body: serde_json::Value =
            serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
        let expected = json!({"path": "f", "content": "a\u{fffd}", "size": 2, "source": "sandbox"});
        assert_eq!(body, expected);
        let large = shown("f", opened(&vec![0; 1024 * 1024 + 1])).await.unwrap_err();
        assert_eq!(error_text(large), "File too large (1048577 bytes, max 1048576)");
    }
}
