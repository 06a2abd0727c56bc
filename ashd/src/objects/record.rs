//! What is in the objects.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::session::RunningTurn;
use crate::domain::{
    Agent, AgentConfig, AgentId, AgentName, Changed, Point, PointId, Root, SandboxId, Session,
    SessionId, Settings, Status, Tenant, Timestamp, TurnId,
};

/// The newest form of a manifest that this program knows.
pub const FORMAT: u32 = 1;

/// A point, and everything that a machine needs to go on from it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Manifest {
    /// The form it is in.
    pub format: u32,
    /// The session's row.
    pub session: SessionCopy,
    /// The point's row.
    pub point: PointCopy,
    /// What was undone at that moment: the first and the last event of each stretch.
    pub undone: Vec<(u64, u64)>,
    /// The stretches of history up to the point, in order: who wrote them, first and last event.
    pub history: Vec<(u32, u64, u64)>,
    /// The packs with the point's content.
    pub packs: Vec<Uuid>,
    /// The other points up to this one that have a name. `None` in one that was made before this was
    /// noted: there is no telling then which of those that are there were forgotten since.
    #[serde(default)]
    pub named: Option<Vec<Uuid>>,
    /// The agent.
    pub agent: AgentCopy,
}

/// What another machine needs of a session's row.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SessionCopy {
    id: Uuid,
    parent: Option<Uuid>,
    agent: String,
    agent_version: u32,
    settings: Settings,
    cli_version: Option<String>,
    created_at: i64,
    last_active_at: i64,
}

/// A point's row.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PointCopy {
    id: Uuid,
    name: Option<String>,
    seq: u64,
    turn: Option<(Uuid, u64)>,
    cli_session: String,
    root: [u8; 32],
    files: u64,
    bytes: u64,
    written: u64,
    left_out: u64,
    created_at: i64,
}

/// The version of the agent that the session was made with.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct AgentCopy {
    id: Uuid,
    /// Tells folders with other files apart.
    pub digest: [u8; 32],
    /// The content of its folder.
    pub root: [u8; 32],
    /// The packs with the content of its folder.
    pub packs: Vec<Uuid>,
    env: BTreeMap<String, String>,
    config: AgentConfig,
    created_at: i64,
}

/// A version's folder.
#[derive(Clone, Debug)]
pub struct FolderCopy {
    /// Tells folders with other files apart.
    pub digest: [u8; 32],
    /// Its content.
    pub root: Root,
    /// The packs with its content.
    pub packs: Vec<Uuid>,
}

/// An object that holds nothing that makes sense; how, is what it says.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct NotRecord(pub String);

impl Manifest {
    /// As it is put into an object.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest is plain data")
    }

    /// From what was in an object.
    ///
    /// # Errors
    /// When it was made by a newer program, or makes no sense.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, NotRecord> {
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let wrong = |error: serde_json::Error| NotRecord(error.to_string());
        let Form { format } = serde_json::from_slice(bytes).map_err(wrong)?;
        if format != FORMAT {
            return Err(NotRecord(format!(
                "it is in form {format}, this ashd knows form {FORMAT}; install a newer ashd"
            )));
        }
        serde_json::from_slice(bytes).map_err(wrong)
    }

    /// The session's id.
    pub fn session_id(&self) -> Uuid {
        self.session.id
    }

    /// Whether the point has a name.
    pub fn has_name(&self) -> bool {
        self.point.name.is_some()
    }

    /// The point.
    ///
    /// # Errors
    /// When a value is none that a point can have.
    pub fn point(&self) -> Result<Point, NotRecord> {
        let copy = &self.point;
        let name = copy.name.as_deref().map(str::parse).transpose();
        Ok(Point {
            id: PointId(copy.id),
            session: SessionId(self.session.id),
            name: name.map_err(|error| NotRecord(format!("a point's name {error}")))?,
            seq: copy.seq,
            turn: copy.turn.map(|(id, user_seq)| RunningTurn { id: TurnId(id), user_seq }),
            cli_session: copy.cli_session.clone(),
            root: Root(copy.root),
            files: copy.files,
            bytes: copy.bytes,
            written: copy.written,
            left_out: copy.left_out,
            created_at: Timestamp(copy.created_at),
        })
    }

    /// The session as one that is being made here: without uids, without history.
    ///
    /// # Errors
    /// When a value is none that a session can have.
    pub fn session(&self, tenant: &Tenant) -> Result<Session, NotRecord> {
        let copy = &self.session;
        let now = Timestamp::now();
        Ok(Session {
            id: SessionId(copy.id),
            tenant: tenant.clone(),
            parent: copy.parent.map(SessionId),
            agent: self.agent_name()?,
            agent_version: copy.agent_version,
            status: Status::Starting,
            sandbox: SandboxId::random(),
            settings: copy.settings.clone(),
            cli_session: self.point.cli_session.clone(),
            cli_version: copy.cli_version.clone(),
            turn: None,
            restore: Some(PointId(self.point.id)),
            cold: false,
            changed: Changed::No,
            altered: Some(0),
            slot: None,
            last_seq: 0,
            created_at: Timestamp(copy.created_at),
            last_active_at: now,
            last_error: None,
        })
    }

    /// The agent, as its version was deployed.
    ///
    /// # Errors
    /// When a value is none that an agent can have.
    pub fn agent(&self, tenant: &Tenant) -> Result<Agent, NotRecord> {
        Ok(Agent {
            id: AgentId(self.agent.id),
            tenant: tenant.clone(),
            name: self.agent_name()?,
            version: self.session.agent_version,
            env: self.agent.env.clone(),
            config: self.agent.config.clone(),
            created_at: Timestamp(self.agent.created_at),
            updated_at: Timestamp::now(),
        })
    }

    fn agent_name(&self) -> Result<AgentName, NotRecord> {
        let name = self.session.agent.parse();
        name.map_err(|error| NotRecord(format!("the agent's name {error}")))
    }
}

impl From<&Session> for SessionCopy {
    fn from(session: &Session) -> SessionCopy {
        SessionCopy {
            id: session.id.0,
            parent: session.parent.map(|parent| parent.0),
            agent: session.agent.to_string(),
            agent_version: session.agent_version,
            settings: session.settings.clone(),
            cli_version: session.cli_version.clone(),
            created_at: session.created_at.0,
            last_active_at: session.last_active_at.0,
        }
    }
}

impl From<&Point> for PointCopy {
    fn from(point: &Point) -> PointCopy {
        PointCopy {
            id: point.id.0,
            name: point.name.as_ref().map(|name| name.as_str().to_owned()),
            seq: point.seq,
            turn: point.turn.map(|turn| (turn.id.0, turn.user_seq)),
            cli_session: point.cli_session.clone(),
            root: point.root.0,
            files: point.files,
            bytes: point.bytes,
            written: point.written,
            left_out: point.left_out,
            created_at: point.created_at.0,
        }
    }
}

impl AgentCopy {
    /// Of an agent, and of what is in its folder.
    pub fn of(agent: &Agent, folder: &FolderCopy) -> AgentCopy {
        AgentCopy {
            id: agent.id.0,
            digest: folder.digest,
            root: folder.root.0,
            packs: folder.packs.clone(),
            env: agent.env.clone(),
            config: agent.config.clone(),
            created_at: agent.created_at.0,
        }
    }
}

/// Stretches of history.
pub mod history {
    use serde::{Deserialize, Serialize};
    use uuid::Uuid;

    use super::NotRecord;
    use crate::domain::{Event, EventKind, Timestamp, TurnId};

    /// What stands before an event's body, on a line.
    #[derive(Deserialize, Serialize)]
    struct Head {
        seq: u64,
        kind: String,
        turn: Option<Uuid>,
        replaces: bool,
        at: i64,
        length: usize,
    }

    /// As it is put into an object. From which sandbox an event came is left out: it means nothing
    /// elsewhere.
    ///
    /// # Errors
    /// When there is no memory for the compressor.
    pub fn encode(events: &[Event]) -> std::io::Result<Vec<u8>> {
        let mut plain = vec![];
        for event in events {
            let head = Head {
                seq: event.seq,
                kind: event.kind.as_str().to_owned(),
                turn: event.turn.map(|turn| turn.0),
                replaces: event.replaces,
                at: event.at.0,
                length: event.body.len(),
            };
            serde_json::to_writer(&mut plain, &head)?;
            plain.push(b'\n');
            plain.extend_from_slice(&event.body);
            plain.push(b'\n');
        }
        zstd::bulk::compress(&plain, 3)
    }

    /// From what was in an object, which holds exactly these events.
    ///
    /// # Errors
    /// When it makes no sense, or has more than `limit` bytes.
    pub fn decode(
        bytes: &[u8],
        (first, last): (u64, u64),
        limit: usize,
    ) -> Result<Vec<Event>, NotRecord> {
        let wrong = |how: &str| NotRecord(how.to_owned());
        let plain = zstd::bulk::decompress(bytes, limit);
        let plain = plain.map_err(|error| NotRecord(error.to_string()))?;
        let (mut rest, mut events, mut next) = (&plain[..], vec![], first);
        while !rest.is_empty() {
            let line = memchr::memchr(b'\n', rest).ok_or_else(|| wrong("an event has no end"))?;
            let head: Head = serde_json::from_slice(&rest[..line])
                .map_err(|error| NotRecord(error.to_string()))?;
            let body = rest[line + 1..].get(..head.length);
            let body = body.ok_or_else(|| wrong("an event has no body"))?;
            rest = rest[line + 1 + head.length..].strip_prefix(b"\n").unwrap_or_default();
            let kind = EventKind::ALL.into_iter().find(|kind| kind.as_str() == head.kind);
            if head.seq != next {
                return Err(wrong("events are not in order"));
            }
            events.push(Event {
                seq: head.seq,
                kind: kind.ok_or_else(|| wrong("an event is of no kind"))?,
                turn: head.turn.map(TurnId),
                origin: None,
                replaces: head.replaces,
                body: bytes::Bytes::copy_from_slice(body),
                at: Timestamp(head.at),
            });
            next = next.saturating_add(1);
        }
        match next.checked_sub(1) == Some(last) {
            true => Ok(events),
            false => Err(wrong("events are missing")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::history;
    use super::*;
    use crate::domain::{Event, EventKind};

    fn event(seq: u64, body: &[u8]) -> Event {
        let (kind, turn) = (EventKind::Assistant, Some(TurnId::random()));
        let body = bytes::Bytes::copy_from_slice(body);
        Event {
            seq,
            kind,
            turn,
            origin: None,
            replaces: seq.is_multiple_of(2),
            body,
            at: Timestamp(7),
        }
    }

    proptest! {
        #[test]
        fn history_is_read_as_written(bodies: Vec<Vec<u8>>, first in 1u64..1000) {
            prop_assume!(!bodies.is_empty());
            let events: Vec<_> =
                bodies.iter().enumerate().map(|(at, body)| event(first + at as u64, body)).collect();
            let last = first + bodies.len() as u64 - 1;
            let bytes = history::encode(&events).unwrap();
            prop_assert_eq!(history::decode(&bytes, (first, last), 1 << 20), Ok(events));
            prop_assert!(history::decode(&bytes, (first, last + 1), 1 << 20).is_err());
            prop_assert!(history::decode(&bytes, (first + 1, last), 1 << 20).is_err());
        }

        #[test]
        fn other_bytes_are_no_history(bytes: Vec<u8>, plain: Vec<u8>) {
            prop_assert!(history::decode(&bytes, (1, 3), 1 << 20).is_err());
            let packed = zstd::bulk::compress(&plain, 3).unwrap();
            prop_assert!(history::decode(&packed, (1, 3), 1 << 20).is_err());
        }
    }

    #[test]
    fn history_is_bounded() {
        let events = [event(1, &[b'x'; 100_000])];
        let bytes = history::encode(&events).unwrap();
        assert!(history::decode(&bytes, (1, 1), 1000).is_err());
    }

    #[test]
    fn manifests_of_another_form_are_told() {
        let error = Manifest::decode(br#"{"format": 2, "points": []}"#).unwrap_err();
        let text = "it is in form 2, this ashd knows form 1; install a newer ashd";
        assert_eq!(error.to_string(), text);
        assert!(Manifest::decode(b"{").is_err());
        assert!(Manifest::decode(br#"{"format": 1}"#).is_err());
    }
}
