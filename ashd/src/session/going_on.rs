//! What the history of a session that goes on from a point has next.

use serde::Deserialize;
use serde_json::{Value, json};

use super::frames;
use crate::domain::{Event, EventKind, NewEvent, Point, PointId, Timestamp};

/// What a conversation is made of.
pub(super) const SPOKEN: [EventKind; 5] = [
    EventKind::User,
    EventKind::Assistant,
    EventKind::ToolResult,
    EventKind::Result,
    EventKind::Error,
];

/// That files were changed by others than turns right before a message, or may have been, and which point
/// has them as they were then, if any has.
pub(super) fn changed(point: Option<PointId>) -> Value {
    match point {
        Some(point) => json!({ "action": "saved", "checkpoint": point }),
        None => json!({ "action": "unsaved" }),
    }
}

/// Whether a point that this happened behind lacks something of it: what was said, be it forgotten, or
/// what was done to the files.
pub(super) fn is_missed(event: &Event) -> bool {
    told(event).is_none_or(|told| ["forgotten", "unsaved"].contains(&told.action))
}

/// The point that a session was at, when an event says so: it had gone back to it, or had been saved in
/// it; none: it had gone back to how it was made.
pub(super) fn was_at(event: &Event) -> Option<Option<PointId>> {
    let told = told(event).filter(|told| ["restored", "saved"].contains(&told.action));
    told.map(|told| told.checkpoint)
}

/// What is told of something that happened to a session.
#[derive(Deserialize)]
struct Told<'a> {
    action: &'a str,
    checkpoint: Option<PointId>,
}

fn told(event: &Event) -> Option<Told<'_>> {
    let is_told = event.kind == EventKind::Lifecycle;
    is_told.then(|| serde_json::from_slice(&event.body).ok()).flatten()
}

/// Behind number `after`: the end of the turn that was running at the point, in words, and where the
/// session comes from.
pub(super) fn events(
    point: &Point,
    (after, at): (u64, Timestamp),
    interrupted: &str,
    from: &Value,
) -> Vec<NewEvent> {
    let mut events = vec![];
    let mut push = |kind, turn, body| {
        let seq = after + events.len() as u64 + 1;
        events.push(NewEvent { seq, kind, turn, origin: None, replaces: false, body, at });
    };
    if let Some(turn) = point.turn {
        push(EventKind::Error, Some(turn.id), frames::error_body(interrupted));
    }
    push(EventKind::Lifecycle, None, from.to_string().into());
    events
}

/// That the session itself went back to the point.
pub(super) fn restored(point: &Point) -> Value {
    json!({
        "action": "restored",
        "checkpoint": point.id,
        "name": point.name.as_ref().map(|name| name.as_str()),
        "sequence": point.seq,
    })
}

/// Number `seq`: that the machine went down, and that the agent knows nothing of what history has behind
/// a point, or of anything.
pub(super) fn gone_down(point: Option<&Point>, seq: u64) -> NewEvent {
    let body = json!({
        "action": "restored",
        "checkpoint": point.map(|point| point.id),
        "name": point.and_then(|point| point.name.as_ref()).map(|name| name.as_str()),
        "sequence": point.map_or(0, |point| point.seq),
        "reason": "machine-down",
    });
    let (kind, body) = (EventKind::Lifecycle, body.to_string().into());
    let at = Timestamp::now();
    NewEvent { seq, kind, turn: None, origin: None, replaces: false, body, at }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, body: impl Into<bytes::Bytes>) -> NewEvent {
        let (body, at) = (body.into(), Timestamp(0));
        NewEvent { seq: 1, kind, turn: None, origin: None, replaces: false, body, at }
    }

    #[test]
    fn history_says_where_a_session_was() {
        let id = PointId(uuid::Uuid::from_u128(7));
        let said = |body: String| was_at(&event(EventKind::Lifecycle, body));
        assert_eq!(said(changed(Some(id)).to_string()), Some(Some(id)));
        assert_eq!(said(changed(None).to_string()), None);
        assert_eq!(said(format!(r#"{{"action":"restored","checkpoint":"{id}"}}"#)), Some(Some(id)));
        assert_eq!(said(r#"{"action":"restored","checkpoint":null}"#.into()), Some(None));
        assert_eq!(said(format!(r#"{{"action":"imported","checkpoint":"{id}"}}"#)), None);
        assert_eq!(said("?".into()), None);
        let other =
            event(EventKind::User, format!(r#"{{"action":"restored","checkpoint":"{id}"}}"#));
        assert_eq!(was_at(&other), None);
    }

    #[test]
    fn what_a_session_went_through_is_not_missed_and_all_else_is() {
        for kind in SPOKEN {
            assert!(is_missed(&event(kind, r#"{"action":"created"}"#)), "{kind:?}");
        }
        let is_missed = |body| is_missed(&event(EventKind::Lifecycle, body));
        for body in [
            r#"{"action":"created","agentName":"a"}"#,
            r#"{"action":"restored"}"#,
            r#"{"action":"saved"}"#,
        ] {
            assert!(!is_missed(body), "{body}");
        }
        for body in [r#"{"action":"unsaved"}"#, r#"{"action":"forgotten"}"#, "{}", "?"] {
            assert!(is_missed(body), "{body}");
        }
    }
}
