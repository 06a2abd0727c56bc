//! Attachments of sessions.

use std::borrow::Cow;

use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, StatusCode, Uri};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::context::{At, AtAttachment, Context, Who};
use super::error::{Answer, ApiError, json};
use super::files::{SOURCE, raw};
use super::query::Params;
use super::writing::upload;
use crate::domain::{self, Attachment, AttachmentId, SessionId, Tenant, Timestamp};
use crate::session::api::Refusal;
use crate::session::attachments::NewAttachment;
use crate::session::incoming::Upload;

/// Bytes of JSON around a content in base64.
const AROUND: u64 = 64 * 1024;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    id: AttachmentId,
    session_id: SessionId,
    filename: &'a str,
    mime_type: &'a str,
    size: u64,
    message_id: String,
    tenant_id: &'a Tenant,
    created_at: Timestamp,
}

impl<'a> Shown<'a> {
    fn of(attachment: &'a Attachment) -> Shown<'a> {
        let message = attachment.message.map(|message| message.as_hyphenated().to_string());
        Shown {
            id: attachment.id,
            session_id: attachment.session,
            filename: attachment.name.as_str(),
            mime_type: attachment.media.as_str(),
            size: attachment.size,
            message_id: message.unwrap_or_else(|| "unlinked".to_owned()),
            tenant_id: &attachment.tenant,
            created_at: attachment.created_at,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape<'a> {
    filename: String,
    #[serde(borrow)]
    content: Cow<'a, str>,
    mime_type: Option<String>,
    message_id: Option<String>,
}

/// Attaches a file: out of a JSON body, or, with `?filename=`, the body itself.
pub(super) async fn create(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    request: Request,
) -> Answer {
    let service = &context.service;
    let most = service.largest_attachment();
    let params = Params::of(request.uri())?;
    let (incoming, new) = match params.text("filename") {
        Some(name) => {
            let media = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let new = said(name, media, params.text("messageId"))?;
            let upload = upload(&context, request, most);
            (service.receive_attachment(&caller, id, upload).await?, new)
        }
        None => {
            let encoded = most.div_ceil(3).saturating_mul(4).saturating_add(AROUND);
            let encoded = usize::try_from(encoded).unwrap_or(usize::MAX);
            let body = context.read_up_to(request, encoded).await?;
            let (new, content) = parse(&body)?;
            drop(body);
            let announced = Some(content.len() as u64);
            let body = stream::iter([Ok::<_, Refusal>(content)]);
            let upload = Upload { body, announced, limit: most };
            (service.receive_attachment(&caller, id, upload).await?, new)
        }
    };
    let (attachment, laid) = service.attach(&caller, id, (incoming, new)).await?;
    let body = json!({ "attachment": Shown::of(&attachment), "workspacePath": laid });
    Ok(json(StatusCode::CREATED, &body))
}

/// Reads an attachment out of a JSON body.
pub(super) fn parse(body: &[u8]) -> Result<(NewAttachment, Bytes), ApiError> {
    let shape: Shape = domain::json::object("", body)?;
    let new = said(&shape.filename, shape.mime_type.as_deref(), shape.message_id.as_deref())?;
    let content = STANDARD.decode(shape.content.as_bytes());
    let content =
        content.map_err(|_| ApiError::invalid("content: expected base64 with padding"))?;
    Ok((new, content.into()))
}

fn said(name: &str, media: Option<&str>, message: Option<&str>) -> Result<NewAttachment, ApiError> {
    let invalid =
        |what: &str, error: &dyn std::fmt::Display| ApiError::invalid(format!("{what}: {error}"));
    let media = media.filter(|media| !media.is_empty());
    let message = message.map(|text| {
        let id = (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten();
        id.ok_or_else(|| ApiError::invalid("messageId: must be a UUID"))
    });
    Ok(NewAttachment {
        name: name.parse().map_err(|error| invalid("filename", &error))?,
        media: match media {
            Some(media) => media.parse().map_err(|error| invalid("mimeType", &error))?,
            None => domain::MediaType::default(),
        },
        message: message.transpose()?,
    })
}

/// Lists what is attached to a session.
pub(super) async fn list(State(context): State<Context>, Who(caller): Who, At(id): At) -> Answer {
    let attachments = context.service.attachments(&caller, id).await?;
    let attachments: Vec<_> = attachments.iter().map(Shown::of).collect();
    Ok(json(StatusCode::OK, &json!({ "attachments": attachments })))
}

/// Sends an attachment, or a part of it.
pub(super) async fn read(
    State(context): State<Context>,
    Who(caller): Who,
    AtAttachment(id): AtAttachment,
    (method, headers): (Method, HeaderMap),
    _: Uri,
) -> Answer {
    let (attachment, opened) = context.service.open_attachment(&caller, id).await?;
    let mut response = raw(attachment.name.as_str(), opened, (&method, &headers))?;
    response.headers_mut().remove(SOURCE);
    if let Ok(media) = HeaderValue::from_str(attachment.media.as_str()) {
        response.headers_mut().insert(CONTENT_TYPE, media);
    }
    Ok(response)
}

/// Removes an attachment.
pub(super) async fn remove(
    State(context): State<Context>,
    Who(caller): Who,
    AtAttachment(id): AtAttachment,
) -> Answer {
    context.service.detach(&caller, id).await?;
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::error_text;

    #[test]
    fn attachments_are_read_or_explained() {
        let (new, content) =
            parse(br#"{"filename":"../a.txt","content":"aGk=","mimeType":"text/plain"}"#).unwrap();
        assert_eq!((new.name.as_str(), new.media.as_str()), ("a.txt", "text/plain"));
        assert_eq!((content, new.message), (Bytes::from("hi"), None));
        for (body, text) in [
            ("{}", "filename: is required"),
            (r#"{"filename":"a"}"#, "content: is required"),
            (r#"{"filename":"a","content":"a b"}"#, "content: expected base64 with padding"),
            (
                r#"{"filename":"a","content":"","mimeType":"x"}"#,
                "mimeType: must be a media type like image/png, of at most 200 characters",
            ),
            (r#"{"filename":"a","content":"","messageId":"1"}"#, "messageId: must be a UUID"),
        ] {
            assert_eq!(error_text(parse(body.as_bytes()).unwrap_err()), text);
        }
        assert!(error_text(said("..", None, None).unwrap_err()).starts_with("filename: must end"));
    }
}
