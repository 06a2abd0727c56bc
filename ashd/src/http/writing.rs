//! Files of a session's workspace, changed.

use axum::extract::{Request, State};
use http::header::{CONTENT_RANGE, ETAG, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, StatusCode, Uri};
use serde_json::{Value, json};

use super::batch;
use super::body;
use super::context::{At, Context, Who};
use super::error::{Answer, ApiError, json};
use super::files::AtFile;
use super::query::Params;
use super::tags;
use crate::session::api::Refusal;
use crate::session::files;
use crate::session::incoming::Upload;
use crate::session::writing::{Condition, Piece};

/// The largest batch, in bytes of JSON.
const BATCH: u64 = 200 * 1024 * 1024;

/// Puts a file: its bytes are the body.
pub(super) async fn put(
    State(context): State<Context>,
    Who(caller): Who,
    AtFile(id, path): AtFile,
    request: Request,
) -> Answer {
    let place = files::path(&path)?;
    refuse_part(request.headers())?;
    let condition = condition(request.headers());
    let upload = upload(&context, request, context.options.bodies.upload);
    let service = &context.service;
    let incoming = service.receive(&caller, id, upload).await?;
    let written = service.put_file(&caller, id, place, (incoming, condition)).await?;
    let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let body = json!({ "path": path, "size": written.size, "created": written.created });
    let mut response = json(status, &body);
    let tag = written.tag.and_then(|tag| HeaderValue::try_from(tags::text(&tag)).ok());
    if let Some(tag) = tag {
        response.headers_mut().insert(ETAG, tag);
    }
    Ok(response)
}

/// A part of a file would be taken for all of it (RFC 9110, section 14.5).
fn refuse_part(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.contains_key(CONTENT_RANGE) {
        true => Err(ApiError::invalid("Content-Range: a file can only be put whole")),
        false => Ok(()),
    }
}

/// Puts files out of a JSON body; says of each whether it was written.
pub(super) async fn batch(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    request: Request,
) -> Answer {
    if !body::is_json(request.headers()) {
        return Err(body::not_json());
    }
    let upload = upload(&context, request, BATCH);
    let service = &context.service;
    let incoming = service.receive(&caller, id, upload).await?;
    let (incoming, pieces) = service.take_apart(incoming, batch::read).await?;
    let written = service.put_files(&caller, id, (incoming, pieces?)).await?;
    let files: Vec<_> = written.iter().map(shown).collect();
    Ok(json(StatusCode::OK, &json!({ "files": files })))
}

fn shown(piece: &Piece) -> Value {
    match &piece.content {
        Ok((_, _, size)) => json!({ "path": piece.path, "written": true, "size": size }),
        Err(error) => json!({ "path": piece.path, "written": false, "error": error }),
    }
}

/// Removes a file; `?recursive=true` also a directory.
pub(super) async fn remove(
    State(context): State<Context>,
    Who(caller): Who,
    AtFile(id, path): AtFile,
    headers: HeaderMap,
    uri: Uri,
) -> Answer {
    let whole = Params::of(&uri)?.flag("recursive")?.unwrap_or(false);
    let (place, condition) = (files::path(&path)?, condition(&headers));
    context.service.remove_file(&caller, id, place, (whole, condition)).await?;
    Ok(json(StatusCode::OK, &json!({ "path": path, "deleted": true })))
}

/// The body of a request, on its way.
pub(super) fn upload(
    context: &Context,
    request: Request,
    limit: u64,
) -> Upload<impl futures_util::Stream<Item = Result<bytes::Bytes, Refusal>> + Unpin + use<>> {
    let announced = body::announced_length(request.headers());
    let patience = context.options.bodies.patience;
    Upload { body: body::stream(request.into_body(), patience), announced, limit }
}

/// What `If-Match` and `If-None-Match` say. Where something has to be as it was, a weak tag
/// is like no strong one.
fn condition(headers: &HeaderMap) -> Condition {
    let named = |field: HeaderName, read: fn(&str) -> &str| {
        let tags = tags::listed(headers, &field)?;
        let bare = |tag: &&str| read(tag).trim_matches('"').to_owned();
        Some(if tags == ["*"] { vec![] } else { tags.iter().map(bare).collect() })
    };
    Condition { is: named(IF_MATCH, |tag| tag), is_not: named(IF_NONE_MATCH, tags::opaque) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_not_taken_for_the_whole() {
        let part = HeaderValue::from_static("bytes 5-9/10");
        let refused = refuse_part(&[(CONTENT_RANGE, part)].into_iter().collect()).unwrap_err();
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        assert!(refuse_part(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn conditions_are_read() {
        let read = |values: &[&'static [u8]]| {
            let values = values.iter().map(|v| (IF_MATCH, HeaderValue::from_bytes(v).unwrap()));
            let mut headers = HeaderMap::new();
            headers.extend(values);
            condition(&headers).is
        };
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[b"*"]), Some(vec![]));
        let two = Some(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(read(&[b"\"a\", \"b\""]), two);
        assert_eq!(read(&[b"\"a\"", b"\"b\""]), two);
        assert_eq!(read(&[b"W/\"a\""]), Some(vec!["W/\"a".to_owned()]));
        assert_eq!(read(&[b"\xff"]), Some(vec![String::new()]));
    }

    #[test]
    fn a_weak_tag_counts_only_against_a_change() {
        let weak = HeaderValue::from_static("W/\"a\"");
        let headers = [(IF_MATCH, weak.clone()), (IF_NONE_MATCH, weak)].into_iter().collect();
        let Condition { is, is_not } = condition(&headers);
        assert_eq!((is, is_not), (Some(vec!["W/\"a".to_owned()]), Some(vec!["a".to_owned()])));
    }
}
