//! Sessions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{AgentName, PointId, SandboxId, SessionId, Settings, Tenant, Timestamp, TurnId};

/// One conversation with one agent version.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Stays the same for ever.
    pub id: SessionId,
    /// Whose it is.
    pub tenant: Tenant,
    /// The session that it was forked from.
    pub parent: Option<SessionId>,
    /// The agent it talks to.
    pub agent: AgentName,
    /// The version of the agent that it was made with.
    pub agent_version: u32,
    /// Where it is in its life.
    pub status: Status,
    /// Its newest sandbox, alive or not.
    pub sandbox: SandboxId,
    /// What it was created with.
    pub settings: Settings,
    /// The CLI's own id of the conversation; `/clear` changes it.
    pub cli_session: String,
    /// The version of the CLI that it was made with, once known.
    pub cli_version: Option<String>,
    /// The turn that is running as far as the store knows.
    pub turn: Option<RunningTurn>,
    /// The point that workspace and home have to be brought back to before they are used again.
    pub restore: Option<PointId>,
    /// Whether its sandbox was ended on purpose, and nothing was lost with it.
    pub cold: bool,
    /// What of its files may be in no point, and no turn will save.
    pub changed: Changed,
    /// The newest event when files were first changed by others than turns, or may have been: until
    /// then they came of the agent's folder. 0 where that is not known, or not so.
    pub altered: Option<u64>,
    /// Its place in the range of leased uids, while it has one.
    pub slot: Option<u32>,
    /// The newest event's number; 0 before the first.
    pub last_seq: u64,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time of the newest turn's beginning or end.
    pub last_active_at: Timestamp,
    /// Why the newest turn failed, or why the session is in error; a sentence for its user.
    pub last_error: Option<String>,
}

impl Session {
    /// Whether it is being made out of something that is there: of another session, or of a copy.
    pub fn is_arriving(&self) -> bool {
        self.status == Status::Starting && (self.parent.is_some() || self.restore.is_some())
    }

    /// Whether its files were those of its agent's folder when the first message, with this number, came.
    pub fn began_unaltered(&self, message: u64) -> bool {
        self.altered.is_none_or(|altered| altered >= message)
    }
}

/// A turn that was begun and has no recorded end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RunningTurn {
    /// The turn.
    pub id: TurnId,
    /// The event number of its user message.
    pub user_seq: u64,
}

/// What of a session's files may be in no point, and no turn will save. The order is that of how much.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Changed {
    /// Nothing.
    #[default]
    No,
    /// What commands may have done.
    Maybe,
    /// What was acknowledged, and is on the disk; or what could not be saved.
    Kept,
}

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Being made.
    Starting,
    /// Takes messages.
    Active,
    /// Set aside by the user or by the end of the daemon; its sandbox may be alive.
    Paused,
    /// Set aside, its sandbox ended.
    Stopped,
    /// Over; history stays readable.
    Ended,
    /// Broken; can be resumed.
    Error,
}

impl Status {
    /// Every status.
    pub const ALL: [Status; 6] = [
        Status::Starting,
        Status::Active,
        Status::Paused,
        Status::Stopped,
        Status::Ended,
        Status::Error,
    ];

    /// The word on the wire and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Starting => "starting",
            Status::Active => "active",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
            Status::Ended => "ended",
            Status::Error => "error",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that is no [`Status`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("must be one of starting, active, paused, stopped, ended, error")]
pub struct NotStatus;

impl FromStr for Status {
    type Err = NotStatus;

    fn from_str(text: &str) -> Result<Self, NotStatus> {
        Status::ALL.into_iter().find(|status| status.as_str() == text).ok_or(NotStatus)
    }
}

/// How many sessions there are of each status.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SessionCounts([u64; Status::ALL.len()]);

impl SessionCounts {
    /// How many have a status.
    pub fn of(&self, status: Status) -> u64 {
        self.0[status as usize]
    }

    /// How many there are.
    pub fn all(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// What there is of one status is added up.
impl FromIterator<(Status, u64)> for SessionCounts {
    fn from_iter<T: IntoIterator<Item = (Status, u64)>>(counted: T) -> Self {
        let mut counts = SessionCounts::default();
        for (status, sessions) in counted {
            counts.0[status as usize] += sessions;
        }
        counts
    }
}

/// What a commit changes in a session's row; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionChange {
    /// New status.
    pub status: Option<Status>,
    /// New sandbox.
    pub sandbox: Option<SandboxId>,
    /// New conversation id of the CLI.
    pub cli_session: Option<String>,
    /// Version of the CLI.
    pub cli_version: Option<String>,
    /// `Some(None)`: no turn is running any more.
    pub turn: Option<Option<RunningTurn>>,
    /// `Some(None)`: workspace and home are what they have to be.
    pub restore: Option<Option<PointId>>,
    /// Whether its sandbox was ended on purpose.
    pub cold: Option<bool>,
    /// What of its files may be in no point.
    pub changed: Option<Changed>,
    /// `Some(None)`: the uids are given back.
    pub slot: Option<Option<u32>>,
    /// New settings.
    pub settings: Option<Settings>,
    /// New time of last activity.
    pub last_active_at: Option<Timestamp>,
    /// `Some(None)`: what had failed does not matter any more.
    pub last_error: Option<Option<String>>,
}

impl SessionChange {
    /// Changes nothing.
    pub fn none() -> Self {
        SessionChange::default()
    }

    /// Changes the status only.
    pub fn status(status: Status) -> Self {
        SessionChange { status: Some(status), ..SessionChange::default() }
    }

    /// Carries the change out on a session in memory, as the store does on its row: behind the events
    /// of the same commit.
    pub fn apply(&self, session: &mut Session) {
        fn set<T: Clone>(field: &mut T, new: &Option<T>) {
            if let Some(new) = new {
                field.clone_from(new);
            }
        }
        set(&mut session.status, &self.status);
        set(&mut session.sandbox, &self.sandbox);
        set(&mut session.cli_session, &self.cli_session);
        if self.cli_version.is_some() {
            session.cli_version.clone_from(&self.cli_version);
        }
        set(&mut session.turn, &self.turn);
        set(&mut session.restore, &self.restore);
        set(&mut session.cold, &self.cold);
        set(&mut session.changed, &self.changed);
        if self.changed > Some(Changed::No) {
            session.altered.get_or_insert(session.last_seq);
        }
        set(&mut session.slot, &self.slot);
        set(&mut session.settings, &self.settings);
        set(&mut session.last_active_at, &self.last_active_at);
        set(&mut session.last_error, &self.last_error);
    }
}

#[cfg(test)]
impl Session {
    /// One for tests, with the ids of a number.
    pub(crate) fn example(n: u128) -> Session {
        let id = uuid::Uuid::from_u128(n);
        Session {
            id: SessionId(id),
            tenant: Tenant::default(),
            agent: "agent".parse().unwrap(),
            agent_version: 1,
            status: Status::Active,
            sandbox: SandboxId(id),
            settings: Settings::default(),
            cli_session: String::new(),
            cli_version: None,
            parent: None,
            restore: None,
            cold: false,
            changed: Changed::No,
            altered: None,
            last_error: None,
            turn: None,
            slot: None,
            last_seq: 0,
            created_at: Timestamp(0),
            last_active_at: Timestamp(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_the_first_change_is_known() {
        let mut session = Session { last_seq: 3, ..Session::example(1) };
        assert!(session.began_unaltered(2));
        let change = |changed| SessionChange { changed: Some(changed), ..SessionChange::none() };
        change(Changed::No).apply(&mut session);
        assert_eq!(session.altered, None);
        change(Changed::Maybe).apply(&mut session);
        session.last_seq = 9;
        change(Changed::Kept).apply(&mut session);
        assert_eq!(session.altered, Some(3), "only the first counts");
        assert!(session.began_unaltered(2) && session.began_unaltered(3));
        assert!(!session.began_unaltered(4));
    }

    #[test]
    fn statuses_round_trip() {
        for status in Status::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        assert_eq!("live".parse::<Status>(), Err(NotStatus));
    }
}
