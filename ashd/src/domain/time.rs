//! Points in time.

use std::fmt;

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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_with_milliseconds_and_z() {
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp(1_795_000_000_007).to_string(), "2026-11-18T11:06:40.007Z");
    }
}
