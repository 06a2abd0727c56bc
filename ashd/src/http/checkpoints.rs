//! Forks and checkpoints of sessions.

use axum::extract::{FromRequestParts, Path, Request, State};
use http::StatusCode;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::context::{At, Context, Nothing, Who};
use super::error::{Answer, ApiError, json, json_bytes};
use crate::domain::event::event_of;
use crate::domain::{self, Point, PointName, SessionId, Timestamp, Which};
use crate::session::Kept;

/// A session, and a checkpoint of it.
pub(super) struct AtCheckpoint(SessionId, Which);

impl<S: Send + Sync> FromRequestParts<S> for AtCheckpoint {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((id, which)) =
            path.map_err(|_| ApiError::invalid("the path cannot be decoded"))?;
        let id = id.parse().map_err(|error| ApiError::invalid(format!("id: {error}")))?;
        Ok(AtCheckpoint(id, self::which("checkpoint", &which)?))
    }
}

fn which(place: &str, text: &str) -> Result<Which, ApiError> {
    text.parse().map_err(|error| ApiError::invalid(format!("{place}: {error}")))
}

/// A point as API users see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    id: domain::PointId,
    session_id: SessionId,
    name: Option<&'a str>,
    /// The newest event at that moment.
    sequence: u64,
    /// Whether a turn was running.
    running: bool,
    files: u64,
    bytes: u64,
    written: u64,
    left_out: u64,
    /// What is known to be damaged of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<&'a str>,
    created_at: Timestamp,
}

impl<'a> Shown<'a> {
    fn of(point: &'a Point) -> Shown<'a> {
        Shown {
            id: point.id,
            session_id: point.session,
            name: point.name.as_ref().map(PointName::as_str),
            sequence: point.seq,
            running: point.turn.is_some(),
            files: point.files,
            bytes: point.bytes,
            written: point.written,
            left_out: point.left_out,
            damage: None,
            created_at: point.created_at,
        }
    }

    fn kept(kept: &'a Kept) -> Shown<'a> {
        Shown { damage: kept.damage.as_deref(), ..Shown::of(&kept.point) }
    }
}

/// Makes a session out of another one.
pub(super) async fn fork(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    request: Request,
) -> Answer {
    let body = context.read(request, |limits| limits.other).await?;
    let from = parse_fork(&body)?;
    let view = context.service.fork(&caller, id, from).await?;
    Ok(json_bytes(StatusCode::CREATED, view.json.clone()))
}

/// Reads from which checkpoint to fork: as it is now, when nothing is said.
///
/// # Errors
/// 400 that names the place and what was expected there.
pub(super) fn parse_fork(body: &[u8]) -> Result<Option<Which>, ApiError> {
    #[derive(Deserialize)]
    struct Shape {
        checkpoint: Option<String>,
    }
    let shape: Shape = domain::json::object("", body)?;
    shape.checkpoint.map(|text| which("checkpoint", &text)).transpose()
}

/// Takes a session over from another machine.
pub(super) async fn import(
    State(context): State<Context>,
    Who(caller): Who,
    request: Request,
) -> Answer {
    let body = context.read(request, |limits| limits.other).await?;
    let (id, point) = parse_import(&body)?;
    let view = context.service.import(&caller, id, point).await?;
    Ok(json_bytes(StatusCode::CREATED, view.json.clone()))
}

/// Reads which session to take over, and as it was at which checkpoint: at the newest, when nothing
/// is said.
///
/// # Errors
/// 400 that names the place and what was expected there.
pub(super) fn parse_import(body: &[u8]) -> Result<(SessionId, Option<domain::PointId>), ApiError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        session_id: String,
        checkpoint: Option<String>,
    }
    let shape: Shape = domain::json::object("", body)?;
    let wrong = |place: &str, error| ApiError::invalid(format!("{place}: {error}"));
    let id = shape.session_id.parse().map_err(|error| wrong("sessionId", error))?;
    let point = shape.checkpoint.as_deref().map(str::parse).transpose();
    Ok((id, point.map_err(|error| wrong("checkpoint", error))?))
}

/// Makes a checkpoint.
pub(super) async fn create(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    request: Request,
) -> Answer {
    let body = context.read(request, |limits| limits.other).await?;
    let name = parse_name(&body)?;
    let point = context.service.save(&caller, id, name).await?;
    Ok(json(StatusCode::CREATED, &json!({ "checkpoint": Shown::of(&point) })))
}

/// Reads the name of a checkpoint, if it is to have one.
///
/// # Errors
/// 400 that names the place and what was expected there.
pub(super) fn parse_name(body: &[u8]) -> Result<Option<PointName>, ApiError> {
    #[derive(Deserialize)]
    struct Shape {
        name: Option<String>,
    }
    let shape: Shape = domain::json::object("", body)?;
    let name = shape.name.map(|name| name.parse()).transpose();
    name.map_err(|error| ApiError::invalid(format!("name: {error}")))
}

/// Lists checkpoints, newest first.
pub(super) async fn list(State(context): State<Context>, Who(caller): Who, At(id): At) -> Answer {
    let points = context.service.points(&caller, id).await?;
    let shown: Vec<_> = points.iter().map(Shown::kept).collect();
    Ok(json(StatusCode::OK, &json!({ "checkpoints": shown })))
}

/// Shows a checkpoint.
pub(super) async fn show(
    State(context): State<Context>,
    Who(caller): Who,
    AtCheckpoint(id, which): AtCheckpoint,
) -> Answer {
    let kept = context.service.judged_point(&caller, id, which).await?;
    Ok(json(StatusCode::OK, &json!({ "checkpoint": Shown::kept(&kept) })))
}

/// Removes a checkpoint.
pub(super) async fn remove(
    State(context): State<Context>,
    Who(caller): Who,
    AtCheckpoint(id, which): AtCheckpoint,
) -> Answer {
    context.service.remove_point(&caller, id, which).await?;
    Ok(json(StatusCode::OK, &json!({ "ok": true })))
}

/// Brings a session back to a checkpoint.
pub(super) async fn restore(
    State(context): State<Context>,
    Who(caller): Who,
    AtCheckpoint(id, which): AtCheckpoint,
    _: Nothing,
) -> Answer {
    let view = context.service.go_back(&caller, id, which).await?;
    Ok(json_bytes(StatusCode::OK, view.json.clone()))
}

/// Brings a session back to how it was before a message.
pub(super) async fn rewind(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    request: Request,
) -> Answer {
    let body = context.read(request, |limits| limits.other).await?;
    let before = parse_rewind(id, &body)?;
    let view = context.service.rewind(&caller, id, before).await?;
    Ok(json_bytes(StatusCode::OK, view.json.clone()))
}

/// Reads before which message: its id, or its number.
///
/// # Errors
/// 400 that names the place and what was expected there.
pub(super) fn parse_rewind(session: SessionId, body: &[u8]) -> Result<u64, ApiError> {
    #[derive(Deserialize)]
    struct Shape {
        before: Value,
    }
    let shape: Shape = domain::json::object("", body)?;
    let number = match &shape.before {
        Value::Number(number) => number.as_u64().filter(|number| *number > 0),
        Value::String(id) => id.parse().ok().and_then(|id| event_of(session, id)),
        _ => None,
    };
    number.ok_or_else(|| ApiError::invalid("before: expected the id or the sequence of a message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::event_uuid;
    use crate::http::tests::error_text;

    #[test]
    fn messages_are_named_by_id_or_number() {
        let session = SessionId::random();
        let body = format!(r#"{{"before":"{}"}}"#, event_uuid(session, 77));
        assert_eq!(parse_rewind(session, body.as_bytes()).unwrap(), 77);
        assert_eq!(parse_rewind(session, br#"{"before":5}"#).unwrap(), 5);
        for (body, text) in [
            ("{}", "before: is required"),
            (r#"{"before":0}"#, "before: expected the id or the sequence of a message"),
            (r#"{"before":"x"}"#, "before: expected the id or the sequence of a message"),
        ] {
            assert_eq!(error_text(parse_rewind(session, body.as_bytes()).unwrap_err()), text);
        }
        // Of another session.
        assert!(parse_rewind(SessionId::random(), body.as_bytes()).is_err());
    }

    #[test]
    fn names_and_checkpoints_are_read() {
        assert_eq!(parse_name(b"").unwrap(), None);
        assert_eq!(parse_name(br#"{"name":"v1"}"#).unwrap().unwrap().as_str(), "v1");
        assert!(
            error_text(parse_name(br#"{"name":""}"#).unwrap_err()).starts_with("name: must be")
        );
        assert_eq!(parse_fork(b"{}").unwrap(), None);
        let which = parse_fork(br#"{"checkpoint":"v1"}"#).unwrap();
        assert_eq!(which, Some(Which::Named("v1".parse().unwrap())));
        assert_eq!(
            error_text(parse_fork(br#"{"checkpoint":5}"#).unwrap_err()),
            "checkpoint: expected a string"
        );
    }
}
