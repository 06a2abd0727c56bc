//! Points: a conversation and its workspace, saved as they were at one moment.

use std::fmt;
use std::str::FromStr;

use super::id::PointId;
use super::session::RunningTurn;
use super::{SessionId, Timestamp};

/// What a snapshot's content is called: a hash of it.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Root(pub [u8; 32]);

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One point of a session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Point {
    /// Stays the same for ever.
    pub id: PointId,
    /// Whose conversation and workspace it holds.
    pub session: SessionId,
    /// The name that somebody gave it; one that `ashd` made by itself has none.
    pub name: Option<PointName>,
    /// The newest event at that moment.
    pub seq: u64,
    /// The turn that was running, if one was.
    pub turn: Option<RunningTurn>,
    /// The CLI's id of the conversation at that moment.
    pub cli_session: String,
    /// The content of workspace and home.
    pub root: Root,
    /// Files, directories and links.
    pub files: u64,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Bytes that were written to keep it; what other points have as well is not kept twice.
    pub written: u64,
    /// Sockets, device nodes and the like, which are in no point.
    pub left_out: u64,
    /// When it was saved. Of two with the same events the one that was saved later has the later time,
    /// whatever became of the clock.
    pub created_at: Timestamp,
}

impl Point {
    /// The same point, behind the one that was the newest till now.
    pub fn behind(mut self, newest: Option<&Point>) -> Point {
        if let Some(newest) = newest.filter(|newest| newest.seq == self.seq) {
            let next = Timestamp(newest.created_at.0.saturating_add(1));
            self.created_at = self.created_at.max(next);
        }
        self
    }

    /// The same content as a point of a session that goes on from it, at a number of its history.
    /// Nothing has to be written for it.
    pub fn again(&self, session: SessionId, seq: u64) -> Point {
        Point {
            id: PointId::random(),
            session,
            name: None,
            seq,
            turn: None,
            written: 0,
            created_at: Timestamp::now(),
            ..self.clone()
        }
    }
}

#[cfg(test)]
impl Point {
    /// One of nobody's, without files and a name, whose id is told by its event.
    pub(crate) fn example(seq: u64) -> Point {
        Point {
            id: PointId(uuid::Uuid::from_u128(seq.into())),
            session: SessionId(uuid::Uuid::nil()),
            name: None,
            seq,
            turn: None,
            cli_session: String::new(),
            root: Root([0; 32]),
            files: 0,
            bytes: 0,
            written: 0,
            left_out: 0,
            created_at: Timestamp(0),
        }
    }
}

/// The name of a point: 1 to 100 characters, none of them a control character, none at an end a
/// space.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PointName(String);

impl PointName {
    /// The most characters.
    const LONGEST: usize = 100;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Text that is no [`PointName`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("must be 1 to 100 characters, without control characters and without spaces at the ends")]
pub struct NotPointName;

impl FromStr for PointName {
    type Err = NotPointName;

    fn from_str(text: &str) -> Result<Self, NotPointName> {
        let length = (1..=Self::LONGEST).contains(&text.chars().count());
        let plain = !text.chars().any(char::is_control) && text.trim() == text;
        if length && plain { Ok(PointName(text.to_owned())) } else { Err(NotPointName) }
    }
}

/// Which point of a session is meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Which {
    /// The one with this id.
    Id(PointId),
    /// The one with this name.
    Named(PointName),
    /// The newest that was saved before this event, or at it.
    Upto(u64),
    /// The newest.
    Newest,
}

impl FromStr for Which {
    type Err = NotPointName;

    /// An id, or else a name.
    fn from_str(text: &str) -> Result<Self, NotPointName> {
        match text.parse() {
            Ok(id) => Ok(Which::Id(id)),
            Err(_) => text.parse().map(Which::Named),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_lines() {
        for good in ["a", "before the migration", "ä", &"x".repeat(100)] {
            assert_eq!(good.parse::<PointName>().map(|name| name.0), Ok(good.to_owned()));
        }
        for bad in ["", " a", "a ", "a\nb", &"x".repeat(101)] {
            assert_eq!(bad.parse::<PointName>(), Err(NotPointName), "{bad:?}");
        }
    }

    #[test]
    fn one_with_the_same_events_is_later_than_the_one_before() {
        let at = |seq, at| Point { created_at: Timestamp(at), ..Point::example(seq) };
        let behind = |point: Point, newest| point.behind(Some(&newest)).created_at.0;
        assert_eq!(behind(at(3, 500), at(3, 900)), 901, "the clock stepped back");
        assert_eq!(behind(at(3, 500), at(3, 500)), 501);
        assert_eq!(behind(at(3, 500), at(3, 100)), 500);
        assert_eq!(behind(at(4, 500), at(3, 900)), 500, "its events tell which is newer");
        assert_eq!(at(3, 500).behind(None).created_at.0, 500);
    }

    #[test]
    fn what_looks_like_an_id_is_one() {
        let id = PointId::random();
        assert_eq!(id.to_string().parse(), Ok(Which::Id(id)));
        assert_eq!("v1".parse(), Ok(Which::Named("v1".parse().unwrap())));
        assert_eq!(Root([0xab; 32]).to_string(), "ab".repeat(32));
    }
}
