//! Durable events: what the history of a session is made of.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use super::{SessionId, Timestamp, TurnId};

/// Where a frame stands in a session's stream: the `k`-th frame of or after durable event `seq`.
///
/// Written `<seq>.<k>`; ordered.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EventId {
    /// Number of the durable event.
    pub seq: u64,
    /// Counts the frames of that event and those behind it, from 0.
    pub k: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.seq, self.k)
    }
}

/// Text that is no [`EventId`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("must be an event id like 12.0")]
pub struct NotEventId;

impl FromStr for EventId {
    type Err = NotEventId;

    fn from_str(text: &str) -> Result<Self, NotEventId> {
        let (seq, k) = text.split_once('.').ok_or(NotEventId)?;
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse().ok()).flatten().ok_or(NotEventId)
        };
        Ok(EventId { seq: number(seq)?, k: number(k)? })
    }
}

/// What a durable event is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum EventKind {
    /// The user's message; body `{"type":"user","content":…}`.
    User,
    /// A line of the CLI of type `assistant`.
    Assistant,
    /// A line of the CLI of type `user`: tool results.
    ToolResult,
    /// A line of the CLI of type `result`.
    Result,
    /// The turn ended without a result; body `{"error":…}`.
    Error,
    /// Something happened to the session; body `{"action":…}`.
    Lifecycle,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [EventKind; 6] = [
        EventKind::User,
        EventKind::Assistant,
        EventKind::ToolResult,
        EventKind::Result,
        EventKind::Error,
        EventKind::Lifecycle,
    ];

    /// The word in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::User => "user",
            EventKind::Assistant => "assistant",
            EventKind::ToolResult => "tool_result",
            EventKind::Result => "result",
            EventKind::Error => "error",
            EventKind::Lifecycle => "lifecycle",
        }
    }
}

/// Where an event came from: the key against doubles when the bridge sends it again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Origin {
    /// Counts the sandboxes of the session. 0 is never used.
    pub epoch: u64,
    /// The bridge's number of the event.
    pub number: u64,
}

/// A durable event about to be committed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewEvent {
    /// Its number: one more than the event before. The session's driver counts.
    pub seq: u64,
    /// What it is.
    pub kind: EventKind,
    /// The turn it belongs to.
    pub turn: Option<TurnId>,
    /// Where it came from, if from a sandbox.
    pub origin: Option<Origin>,
    /// Whether it stands for deltas of another message that were sent before it.
    pub replaces: bool,
    /// One JSON document, as bytes.
    pub body: Bytes,
    /// When it happened.
    pub at: Timestamp,
}

/// A durable event, as stored.
pub type Event = NewEvent;

/// The number of the event with this UUID, if it is one of this session.
pub fn event_of(session: SessionId, id: uuid::Uuid) -> Option<u64> {
    let mut number = [0; 8];
    for (at, byte) in number.iter_mut().enumerate() {
        *byte = session.0.as_bytes()[8 + at] ^ id.as_bytes()[8 + at];
    }
    // The topmost bits say that it is a UUID. No event has a number that needs them.
    number[0] &= 0x3f;
    let number = u64::from_be_bytes(number);
    (event_uuid(session, number) == id).then_some(number)
}

/// The UUID of an event on the HTTP wire: the session's with the event number mixed in, so that
/// it is unique and needs no room in the store.
pub fn event_uuid(session: SessionId, seq: u64) -> uuid::Uuid {
    let mut bytes = *session.0.as_bytes();
    for (byte, mix) in bytes[8..].iter_mut().zip(seq.to_be_bytes()) {
        *byte ^= mix;
    }
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_and_read() {
        let id = EventId { seq: 12, k: 3 };
        assert_eq!(id.to_string(), "12.3");
        assert_eq!("12.3".parse(), Ok(id));
        for bad in ["", "12", ".3", "12.", "+1.2", "1.2.3", "1.x", "99999999999999999999.0"] {
            assert_eq!(bad.parse::<EventId>(), Err(NotEventId), "{bad:?}");
        }
    }

    #[test]
    fn event_uuids_differ() {
        let session = SessionId::random();
        let all: std::collections::HashSet<_> =
            (0..10_000).map(|seq| event_uuid(session, seq)).collect();
        assert_eq!(all.len(), 10_000);
        assert!(all.iter().all(|id| id.get_version_num() == 4));
    }
}
