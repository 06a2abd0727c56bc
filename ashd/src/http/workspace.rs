//! The workspace of a session as one archive.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{StatusCode, Uri};
use serde_json::json;

use super::batch;
use super::body;
use super::context::{At, Context, Who};
use super::error::{Answer, ApiError, json};
use super::files::SOURCE;
use super::query::Params;
use super::writing::upload;

/// The largest archive in JSON, in bytes of JSON.
const ENCODED: u64 = 134 * 1024 * 1024;

/// Sends the workspace: as it is, or `?checkpoint=` as it was; `?all=true` leaves nothing out.
pub(super) async fn read(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    uri: Uri,
) -> Answer {
    let params = Params::of(&uri)?;
    let all = params.flag("all")?.unwrap_or(false);
    let which = params.parsed("checkpoint")?;
    let bundle = context.service.bundle(&caller, id, (which, all)).await?;
    let source = bundle.origin.as_str();
    let mut response = Response::new(Body::from_stream(bundle.bytes()));
    let name = format!("attachment; filename=\"{id}.tar.gz\"");
    for (field, value) in [
        (CONTENT_TYPE, "application/gzip"),
        (CONTENT_DISPOSITION, &name),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (SOURCE, source),
    ] {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(field, value);
        }
    }
    Ok(response)
}

/// Unpacks an archive over the workspace: the body, or `bundle` of a JSON body.
pub(super) async fn write(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    request: Request,
) -> Answer {
    let service = &context.service;
    let in_json = body::is_json(request.headers());
    let limit = if in_json { ENCODED } else { context.options.bodies.upload };
    let incoming = service.receive(&caller, id, upload(&context, request, limit)).await?;
    let empty = || ApiError::invalid("Empty bundle");
    let (incoming, part) = match in_json {
        true => {
            let (incoming, part) = service.take_apart(incoming, batch::read_bundle).await?;
            let (part, size) = part?;
            (incoming, Some(part).filter(|_| size > 0).ok_or_else(empty)?.into())
        }
        false if incoming.size == 0 => return Err(empty()),
        false => (incoming, None),
    };
    let (held, live) = service.unpack(&caller, id, (incoming, part)).await?;
    let message = match live {
        true => "Workspace restored to live sandbox",
        false => "Workspace saved as snapshot",
    };
    let body = json!({ "message": message, "files": held.files, "bytes": held.bytes });
    Ok(json(StatusCode::OK, &body))
}
