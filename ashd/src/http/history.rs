//! What happened in a session: messages, timeline, logs.

use axum::extract::State;
use http::{StatusCode, Uri};
use serde::Serialize;
use serde_json::json;

use super::context::{At, Context, Who};
use super::error::{Answer, ApiError, json};
use super::query::Params;
use crate::domain::{Event, EventKind, SessionId};
use crate::session::EventRange;
use crate::session::api::{Caller, LARGEST_PAGE, LogLine, USUAL_PAGE};
use crate::session::project::{self, Item, ItemKind, Message, Whose};

/// Which part of a session's history is wanted.
struct Part {
    caller: Caller,
    id: SessionId,
    after: u64,
    limit: usize,
}

impl Part {
    fn of(caller: Caller, id: SessionId, params: &Params, usual: i64) -> Result<Self, ApiError> {
        let limit = params.number("limit", 1..=i64::from(LARGEST_PAGE))?.unwrap_or(usual);
        let after = params.number("after", 0..=i64::MAX)?.unwrap_or(0);
        Ok(Part { caller, id, after: after.unsigned_abs(), limit: limit as usize })
    }

    fn whose(&self) -> Whose {
        Whose { session: self.id, tenant: self.caller.tenant.clone() }
    }

    /// Reads events until they have yielded a page, or there are no more, or the page is large. The
    /// entries of one event stay together, so that a reader can go on behind the last number it
    /// saw.
    async fn read<T>(
        self,
        context: &Context,
        kinds: &[EventKind],
        entries: impl Fn(&Event) -> Vec<T>,
    ) -> Result<Vec<T>, ApiError> {
        let step = self.limit as u32;
        let mut page = Page { entries: Vec::new(), limit: self.limit };
        let (mut after, mut bytes) = (self.after, 0);
        loop {
            let range = EventRange { after, limit: step, kinds: kinds.to_vec(), undone: false };
            let events = context.service.history(&self.caller, self.id, range).await?;
            let fits = events.iter().all(|event| page.take(entries(event)));
            bytes += events.iter().map(|event| event.body.len()).sum::<usize>();
            match events.last() {
                Some(last) if fits && !page.is_large(bytes) => after = last.seq,
                _ => return Ok(page.entries),
            }
        }
    }
}

/// Bytes of events after which a page ends, full or not.
const LARGE_PAGE: usize = 32 * 1024 * 1024;

struct Page<T> {
    entries: Vec<T>,
    limit: usize,
}

impl<T> Page<T> {
    /// Whether it ends with what these bytes of events have yielded. Not when that is nothing: a
    /// reader would take it for the end of history, and know no number to go on behind.
    fn is_large(&self, bytes: usize) -> bool {
        bytes >= LARGE_PAGE && !self.entries.is_empty()
    }

    /// False when the page is full; then nothing is taken.
    fn take(&mut self, more: Vec<T>) -> bool {
        let fits = self.entries.is_empty() || self.entries.len() + more.len() <= self.limit;
        let fits = fits && self.entries.len() < self.limit;
        if fits {
            self.entries.extend(more);
        }
        fits
    }
}

#[derive(Serialize)]
struct Messages {
    messages: Vec<Message>,
}

/// Lists messages in order.
pub(super) async fn messages(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    uri: Uri,
) -> Answer {
    let part = Part::of(caller, id, &Params::of(&uri)?, i64::from(USUAL_PAGE))?;
    let whose = part.whose();
    let entries = |event: &Event| project::message(&whose, event).into_iter().collect();
    let messages = part.read(&context, &project::MESSAGE_KINDS, entries).await?;
    Ok(json(StatusCode::OK, &Messages { messages }))
}

#[derive(Serialize)]
struct Events {
    events: Vec<Item>,
}

/// Lists the items of the timeline in order; `?type=` picks one type of them.
pub(super) async fn events(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    uri: Uri,
) -> Answer {
    let params = Params::of(&uri)?;
    let part = Part::of(caller, id, &params, 200)?;
    let wanted = params.text("type").map(str::parse::<ItemKind>).transpose();
    let Ok(wanted) = wanted else {
        // There are none of a type that does not exist, but the session must.
        context.service.session(&part.caller, part.id).await?;
        return Ok(json(StatusCode::OK, &Events { events: Vec::new() }));
    };
    let kinds: Vec<_> = wanted.map(ItemKind::source).into_iter().collect();
    let whose = part.whose();
    let entries = |event: &Event| {
        let mut items = project::timeline(&whose, event);
        items.retain(|item| wanted.is_none_or(|wanted| wanted == item.kind));
        items
    };
    let events = part.read(&context, &kinds, entries).await?;
    Ok(json(StatusCode::OK, &Events { events }))
}

/// Lists log lines of the session's sandboxes.
pub(super) async fn logs(
    State(context): State<Context>,
    Who(caller): Who,
    At(id): At,
    uri: Uri,
) -> Answer {
    let after = Params::of(&uri)?.number("after", -1..=i64::MAX)?.unwrap_or(-1);
    let logs: Vec<LogLine> = context.service.logs(&caller, id, after).await?;
    Ok(json(StatusCode::OK, &json!({ "logs": logs, "source": "sandbox" })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_keeps_the_entries_of_an_event_together() {
        let mut page = Page { entries: Vec::new(), limit: 3 };
        assert!(page.take(vec![1, 2]));
        assert!(page.take(vec![]));
        assert!(!page.take(vec![3, 4]));
        assert_eq!(page.entries, [1, 2]);
        assert!(page.take(vec![3]));
        assert!(!page.take(vec![]));
    }

    #[test]
    fn a_large_page_ends_when_it_shows_something() {
        let mut page = Page { entries: Vec::new(), limit: 3 };
        assert!(page.take(vec![]) && !page.is_large(LARGE_PAGE));
        assert!(page.take(vec![1]) && page.is_large(LARGE_PAGE));
        assert!(!page.is_large(LARGE_PAGE - 1));
    }

    #[test]
    fn an_event_larger_than_a_page_is_a_page() {
        let mut page = Page { entries: Vec::new(), limit: 3 };
        assert!(page.take(vec![1, 2, 3, 4]));
        assert!(!page.take(vec![5]));
    }
}
