//! How many spares an agent should have. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// The time over which arrivals are averaged.
const MEMORY: Duration = Duration::from_secs(60);

/// How many times as many as arrive while one is made are kept: arrivals are not even.
const MARGIN: f64 = 2.0;

/// How often something comes, averaged over the last minute or so; what is longer ago counts
/// exponentially less.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    per_s: f64,
    at: Instant,
}

impl Rate {
    pub(super) fn none(now: Instant) -> Rate {
        Rate { per_s: 0.0, at: now }
    }

    /// One has come.
    pub(super) fn note(&mut self, now: Instant) {
        self.per_s = self.per_s(now) + 1.0 / MEMORY.as_secs_f64();
        self.at = now;
    }

    /// How many come in a second.
    pub(super) fn per_s(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at);
        self.per_s * (-since.as_secs_f64() / MEMORY.as_secs_f64()).exp()
    }
}

/// What decides how many spares there should be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    /// As many as the agent's config wants at least.
    pub(super) count: u32,
    /// How many sessions of the agent that a spare could serve are made in a second.
    pub(super) per_s: f64,
    /// How long it takes to make a spare.
    pub(super) takes: Duration,
}

/// How many there should be: what was asked for, and more when they are taken faster than they can be
/// made anew.
pub(super) fn wanted(demand: Demand) -> u32 {
    if demand.count == 0 {
        return 0;
    }
    let meanwhile = (demand.per_s * demand.takes.as_secs_f64() * MARGIN).ceil();
    // A number that is too large becomes the largest.
    demand.count.max(meanwhile as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn demand(count: u32, per_s: f64) -> Demand {
        Demand { count, per_s, takes: SECOND }
    }

    #[test]
    fn what_was_asked_for_is_the_least() {
        for (demand, expected) in [
            (demand(0, 100.0), 0),
            (demand(1, 0.0), 1),
            (demand(5, 0.1), 5),
            (demand(1, 1.0), 2),
            (demand(1, 4.2), 9),
            (demand(1, f64::MAX), u32::MAX),
        ] {
            assert_eq!(wanted(demand), expected, "{demand:?}");
        }
    }

    #[test]
    fn the_rate_is_that_of_the_last_minute() {
        let begin = Instant::now();
        let mut rate = Rate::none(begin);
        assert_eq!(rate.per_s(begin), 0.0);
        let at = |seconds| begin + seconds * SECOND;
        (0..600).for_each(|second| (0..3).for_each(|_| rate.note(at(second))));
        let steady = rate.per_s(at(600));
        assert!((2.9..3.1).contains(&steady), "{steady}");
        let later = rate.per_s(at(660));
        assert!((1.0..1.2).contains(&later), "{later}");
        assert!(rate.per_s(at(1800)) < 0.001);
    }
}
