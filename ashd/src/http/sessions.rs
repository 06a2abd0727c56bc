//! `/api/sessions`, but for what flows: see [`super::streams`] and [`super::history`].

use std::borrow::Cow;

use axum::extract::{Request, State};
use http::{StatusCode, Uri};
use serde::Serialize;
use serde_json::json;

use super::context::{At, Context, Nothing, Who};
use super::create;
use super::error::{Answer, ApiError, json, json_bytes};
use super::guard::admit_scope;
use super::query::Params;
use crate::domain::Scope;
use crate::session::SessionFilter;
use crate::session::api::{ExecOutput, LARGEST_PAGE};
use crate::session::view::Shown;

/// Makes a session.
pub(super) async fn create(
    State(context): State<Context>,
    Who(caller): Who,
    request: Request,
) -> Answer {
    let body = context.read(request, |limits| limits.other).await?;
    let new = create::parse(&body)?;
    let view = context.service.create(&caller, new).await?;
    Ok(json_bytes(StatusCode::CREATED, view.json.clone()))
}

#[derive(Serialize)]
struct Many<'a> {
    sessions: Vec<Shown<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
}

/// Lists sessions, newest first.
pub(super) async fn list(State(context): State<Context>, Who(caller): Who, uri: Uri) -> Answer {
    let params = Params::of(&uri)?;
    let filter = filter(&params)?;
    let with_total = params.flag("includeTotal")?.unwrap_or(false);
    let (sessions, total) = context.service.sessions(&caller, filter).await?;
    let sessions = sessions.iter().map(Shown).collect();
    Ok(json(StatusCode::OK, &Many { sessions, total: with_total.then_some(total) }))
}

fn filter(params: &Params) -> Result<SessionFilter, ApiError> {
    let limit = params.number("limit", 1..=i64::from(LARGEST_PAGE))?;
    let offset = params.number("offset", 0..=i64::from(u32::MAX))?;
    Ok(SessionFilter {
        agent: params.parsed("agent")?,
        status: params.parsed("status")?,
        limit: limit.and_then(|limit| u32::try_from(limit).ok()),
        offset: offset.and_then(|offset| u32::try_from(offset).ok()).unwrap_or(0),
    })
}

/// Shows a session that is not in memory; the others are answered by the front.
pub(super) async fn show(State(context): State<Context>, Who(caller): Who, At(id): At) -> Answer {
    let view = context.service.session(&caller, id).await?;
    Ok(json_bytes(StatusCode::OK, view.json.clone()))
}

/// Sets a session aside.
pub(super) async fn pause(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    _: Nothing,
) -> Answer {
    let view = context.service.pause(&caller, id).await?;
    Ok(json_bytes(StatusCode::OK, view.json.clone()))
}

/// Sets a session aside and ends its sandbox.
pub(super) async fn stop(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    _: Nothing,
) -> Answer {
    let view = context.service.stop(&caller, id).await?;
    Ok(json_bytes(StatusCode::OK, view.json.clone()))
}

/// Makes a session active again.
pub(super) async fn resume(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    _: Nothing,
) -> Answer {
    let view = context.service.resume(&caller, id).await?;
    Ok(json_bytes(StatusCode::OK, view.json.clone()))
}

/// Interrupts the running turn.
pub(super) async fn interrupt(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    _: Nothing,
) -> Answer {
    let interrupted = context.service.interrupt(&caller, id).await?;
    Ok(json(StatusCode::OK, &json!({ "interrupted": interrupted })))
}

/// Ends a session for good; `?purge=true` removes what is left of it.
pub(super) async fn end(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    uri: Uri,
) -> Answer {
    let purge = Params::of(&uri)?.flag("purge")?.unwrap_or(false);
    if purge {
        admit_scope(&caller, Scope::Manage)?;
    }
    let view = context.service.end(&caller, id, purge).await?;
    Ok(json_bytes(StatusCode::OK, view.json.clone()))
}

/// Runs a command beside the turn.
pub(super) async fn exec(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    request: Request,
) -> Answer {
    let body = context.read(request, |limits| limits.other).await?;
    let command = create::parse_exec(&body)?;
    let output = context.service.exec(&caller, id, command).await?;
    Ok(json(StatusCode::OK, &Executed::from(&output)))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Executed<'a> {
    exit_code: i32,
    stdout: Cow<'a, str>,
    stderr: Cow<'a, str>,
    timed_out: bool,
    truncated: bool,
}

impl<'a> From<&'a ExecOutput> for Executed<'a> {
    fn from(output: &'a ExecOutput) -> Self {
        Self {
            exit_code: output.exit_code,
            stdout: String::from_utf8_lossy(&output.stdout),
            stderr: String::from_utf8_lossy(&output.stderr),
            timed_out: output.timed_out,
            truncated: output.truncated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Status;
    use crate::http::tests::error_text;

    fn filtered(query: &str) -> Result<SessionFilter, ApiError> {
        filter(&Params::of(&format!("/api/sessions?{query}").parse().unwrap())?)
    }

    #[test]
    fn filters_are_read() {
        let all = filtered("").unwrap();
        assert!(all.agent.is_none() && all.status.is_none() && all.limit.is_none());
        let some = filtered("agent=a&status=ended&limit=10&offset=20&x=y").unwrap();
        assert_eq!((some.agent.unwrap().as_str(), some.status), ("a", Some(Status::Ended)));
        assert_eq!((some.limit, some.offset), (Some(10), 20));
    }

    #[test]
    fn wrong_filters_are_explained() {
        for (query, text) in [
            ("limit=1001", "limit: expected a whole number from 1 to 1000"),
            ("offset=-1", "offset: expected a whole number from 0 to 4294967295"),
            ("agent=a/b", "agent: must be 1 to 255 of the characters A-Z a-z 0-9 _ -"),
        ] {
            assert_eq!(error_text(filtered(query).unwrap_err()), text);
        }
    }
}
