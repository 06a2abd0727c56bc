//! Points in time.

use std::fmt;

use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};

/// Milliseconds since the Unix epoch; written as ISO 8601 in UTC with milliseconds and `Z`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The time of the system clock.
    pub fn now() -> Self {
        Timestamp(jiff::Timestamp::now().as_millisecond())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        write!(f, "{time:.3}")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A day of the calendar.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Day(jiff::civil::Date);

impl Day {
    /// Today, by the system clock, where this machine is.
    pub fn today() -> Self {
        Day(jiff::Zoned::now().date())
    }

    /// Today, by the system clock, in a time zone that is called like this (`Asia/Tokyo`). `None` when none
    /// is that this machine knows: of other ways to name one, programs make different things.
    pub fn today_in(zone: &str) -> Option<Self> {
        let known = TimeZone::get(zone).ok()?;
        let is_its_name = known.iana_name() == Some(zone);
        is_its_name.then(|| Day::at(jiff::Timestamp::now(), known))
    }

    fn at(time: jiff::Timestamp, zone: TimeZone) -> Self {
        Day(time.to_zoned(zone).date())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_with_milliseconds_and_z() {
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp(1_795_000_000_007).to_string(), "2026-11-18T11:06:40.007Z");
    }

    #[test]
    fn a_day_is_that_of_its_time_zone() {
        let (midnight, hour) = (jiff::Timestamp::UNIX_EPOCH, jiff::SignedDuration::from_hours(1));
        let tokyo = || TimeZone::fixed(jiff::tz::offset(9));
        let day = Day::at;
        assert_eq!(day(midnight, TimeZone::UTC), day(midnight, tokyo()));
        assert_ne!(day(midnight - hour, TimeZone::UTC), day(midnight - hour, tokyo()));
        assert_eq!(day(midnight - hour, tokyo()), day(midnight, TimeZone::UTC));
    }

    #[test]
    fn of_a_time_zone_that_is_not_known_nobody_knows_the_day() {
        if jiff::tz::db().is_definitively_empty() {
            println!("SKIP this machine knows no time zones");
            return;
        }
        assert!(Day::today_in("UTC").is_some());
        for zone in ["", "utc", "JST-9", ":UTC", "Nowhere/Else", "/etc/localtime"] {
            assert_eq!(Day::today_in(zone), None, "{zone}");
        }
    }
}
