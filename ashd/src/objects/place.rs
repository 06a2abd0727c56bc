//! What objects are called.
//!
//! ```text
//! <tenant>/packs/<pack>                                     chunks of files
//! <tenant>/sessions/<session>/owner/<generation>            who has the session, or that it was purged
//! <tenant>/sessions/<session>/points/<generation>-<event>-<time>-<point>    a point
//! <tenant>/sessions/<session>/events/<generation>-<first>-<last>            a stretch of history
//! ```
//!
//! Numbers have so many digits that names sort as they do.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::domain::{PointId, SessionId, Tenant};

/// The name of an object, or of what several begin with.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// Everything of a tenant.
    Tenant(&'a Tenant),
    /// Every pack of a tenant.
    Packs(&'a Tenant),
    /// A pack.
    Pack(&'a Tenant, Uuid),
    /// Every session of a tenant.
    Sessions(&'a Tenant),
    /// Everything of a session.
    Session(&'a Tenant, SessionId),
    /// Everybody who has had the session.
    Owners(&'a Tenant, SessionId),
    /// Who has the session since this generation.
    Owner(&'a Tenant, SessionId, u32),
    /// Every point of a session.
    Points(&'a Tenant, SessionId),
    /// A point of a session.
    Point(&'a Tenant, SessionId, ManifestName),
    /// All history of a session.
    Events(&'a Tenant, SessionId),
    /// A stretch of a session's history.
    History(&'a Tenant, SessionId, HistoryName),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tenant(tenant) => write!(f, "{tenant}"),
            Place::Packs(tenant) => write!(f, "{tenant}/packs"),
            Place::Pack(tenant, pack) => write!(f, "{tenant}/packs/{pack}"),
            Place::Sessions(tenant) => write!(f, "{tenant}/sessions"),
            Place::Session(tenant, id) => write!(f, "{tenant}/sessions/{id}"),
            Place::Owners(tenant, id) => write!(f, "{tenant}/sessions/{id}/owner"),
            Place::Owner(tenant, id, generation) => {
                write!(f, "{tenant}/sessions/{id}/owner/{generation:08x}")
            }
            Place::Points(tenant, id) => write!(f, "{tenant}/sessions/{id}/points"),
            Place::Point(tenant, id, name) => write!(f, "{tenant}/sessions/{id}/points/{name}"),
            Place::Events(tenant, id) => write!(f, "{tenant}/sessions/{id}/events"),
            Place::History(tenant, id, name) => write!(f, "{tenant}/sessions/{id}/events/{name}"),
        }
    }
}

/// The name of a point: the newer, the greater.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ManifestName {
    /// Whose it is: what an owner of before still writes counts for nothing.
    pub generation: u32,
    /// The newest event.
    pub seq: u64,
    /// When it was saved, in milliseconds since the epoch.
    pub at: u64,
    /// The point.
    pub point: PointId,
}

impl fmt::Display for ManifestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ManifestName { generation, seq, at, point } = self;
        write!(f, "{generation:08x}-{seq:016x}-{at:016x}-{point}")
    }
}

/// The name of a stretch of history.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct HistoryName {
    /// Who wrote it.
    pub generation: u32,
    /// The first event.
    pub first: u64,
    /// The last event.
    pub last: u64,
}

impl fmt::Display for HistoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:016x}-{:016x}", self.generation, self.first, self.last)
    }
}

/// Text that is no name of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotName;

impl FromStr for ManifestName {
    type Err = NotName;

    fn from_str(text: &str) -> Result<Self, NotName> {
        let mut parts = text.splitn(4, '-');
        let (generation, seq) = (part(parts.next(), 8)?, part(parts.next(), 16)?);
        let at = part(parts.next(), 16)?;
        let point = parts.next().and_then(|id| id.parse().ok()).ok_or(NotName)?;
        let generation = u32::try_from(generation).map_err(|_| NotName)?;
        Ok(ManifestName { generation, seq, at, point })
    }
}

impl FromStr for HistoryName {
    type Err = NotName;

    fn from_str(text: &str) -> Result<Self, NotName> {
        let mut parts = text.splitn(3, '-');
        let generation = u32::try_from(part(parts.next(), 8)?).map_err(|_| NotName)?;
        let (first, last) = (part(parts.next(), 16)?, part(parts.next(), 16)?);
        Ok(HistoryName { generation, first, last })
    }
}

/// A number of so many digits, as it is written.
fn part(text: Option<&str>, digits: usize) -> Result<u64, NotName> {
    let text = text.filter(|text| text.len() == digits).ok_or(NotName)?;
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    plain.then(|| u64::from_str_radix(text, 16).ok()).flatten().ok_or(NotName)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_are_read_as_written_and_sort_as_they_mean(
            one: (u32, u64, u64, u128), other: (u32, u64, u64, u128),
        ) {
            let name = |(generation, seq, at, point): (u32, u64, u64, u128)| ManifestName {
                generation, seq, at, point: PointId(Uuid::from_u128(point)),
            };
            let (one, other) = (name(one), name(other));
            prop_assert_eq!(one.to_string().parse(), Ok(one));
            prop_assert_eq!(one.cmp(&other), one.to_string().cmp(&other.to_string()));
            let stretch = HistoryName { generation: one.generation, first: one.seq, last: one.at };
            prop_assert_eq!(stretch.to_string().parse(), Ok(stretch));
        }

        #[test]
        fn what_others_put_there_is_no_name(text: String) {
            let name = text.parse::<ManifestName>();
            prop_assert!(name.is_err() || name.is_ok_and(|name| name.to_string() == text));
        }
    }

    #[test]
    fn places_are_distinct() {
        let (tenant, session) = (Tenant::default(), SessionId(Uuid::nil()));
        let history = HistoryName { generation: 1, first: 1, last: 255 };
        assert_eq!(
            Place::History(&tenant, session, history).to_string(),
            "default/sessions/00000000-0000-0000-0000-000000000000/events/\
             00000001-0000000000000001-00000000000000ff"
        );
    }
}
