//! What flows: a message and its answer, and the stream of a session.

use axum::extract::{Request, State};
use axum::response::Response;
use http::HeaderMap;

use super::context::{At, Context, Who};
use super::error::{Answer, ApiError};
use super::query::Params;
use super::sse;
use crate::domain::{EventId, Message};
use crate::session::Subscription;
use crate::session::api::Reading;

/// Sends a message; the answer streams until the turn's end.
pub(super) async fn send(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    request: Request,
) -> Answer {
    let body = context.read(request, |limits| limits.message).await?;
    let message = Message::read(&body)?;
    drop(body);
    let reading = Reading { after: None, partial: message.partial, until_done: true };
    let subscription = context.service.send(&caller, id, message.request, reading).await?;
    Ok(respond(&context, subscription))
}

/// Follows a session's stream, behind the last frame that the client saw.
pub(super) async fn follow(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    request: Request,
) -> Answer {
    let reading = reading(&Params::of(request.uri())?, request.headers())?;
    let subscription = context.service.follow(&caller, id, reading).await?;
    Ok(respond(&context, subscription))
}

/// A browser that connects again asks for the same URL, with the newest id in the header: the
/// header counts more than `?after=`.
fn reading(params: &Params, headers: &HeaderMap) -> Result<Reading, ApiError> {
    let after = match headers.get("last-event-id") {
        Some(id) => Some(
            id.to_str()
                .unwrap_or_default()
                .parse::<EventId>()
                .map_err(|error| ApiError::invalid(format!("Last-Event-ID: {error}")))?,
        ),
        None => params.parsed("after")?,
    };
    let until_done = match params.text("until") {
        None => false,
        Some("done") => true,
        Some(_) => return Err(ApiError::invalid("until: expected done")),
    };
    let partial = params.flag("includePartialMessages")?.unwrap_or(true);
    Ok(Reading { after, partial, until_done })
}

fn respond(context: &Context, subscription: Subscription) -> Response {
    sse::response(subscription, context.options.ping_every, &context.shutdown)
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;
    use crate::http::tests::error_text;

    fn read(query: &str, header: Option<&str>) -> Result<Reading, String> {
        let uri: Uri = format!("/x?{query}").parse().unwrap();
        let mut headers = HeaderMap::new();
        if let Some(id) = header {
            headers.insert("last-event-id", id.parse().unwrap());
        }
        reading(&Params::of(&uri).unwrap(), &headers).map_err(error_text)
    }

    #[test]
    fn a_place_in_the_stream_is_read() {
        let plain = Reading { after: None, partial: true, until_done: false };
        assert_eq!(read("", None), Ok(plain));
        let after = |seq, k| Some(EventId { seq, k });
        let asked = read("after=3.1&until=done&includePartialMessages=false", None);
        assert_eq!(asked, Ok(Reading { after: after(3, 1), partial: false, until_done: true }));
        assert_eq!(read("after=3.1", Some("4.0")), Ok(Reading { after: after(4, 0), ..plain }));
    }

    #[test]
    fn a_wrong_place_is_explained() {
        let text = "must be an event id like 12.0";
        assert_eq!(read("after=3", None), Err(format!("after: {text}")));
        assert_eq!(read("", Some("x")), Err(format!("Last-Event-ID: {text}")));
        assert_eq!(read("until=end", None), Err("until: expected done".into()));
    }
}
