//! Whether a sandbox that nobody uses works on something by itself.
//!
//! Of an agent that runs a task in the background nobody outside has begun anything. What it does shows
//! in processor time, from one look to the next, and in requests to the model.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::SandboxId;

/// What is seen of a sandbox at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// Processor time that its agent has used, in microseconds.
    pub(super) cpu_us: u64,
    /// Whether it has requests on their way to the model.
    pub(super) is_asking: bool,
}

/// What was seen of a sandbox when it was looked at last.
#[derive(Clone, Copy)]
struct Seen {
    cpu_us: u64,
    at: Instant,
    /// When it worked on something last.
    worked_at: Option<Instant>,
}

/// What was seen of sandboxes so far.
#[derive(Default)]
pub(super) struct Watch(HashMap<SandboxId, Seen>);

impl Watch {
    /// Takes a look at a sandbox that nobody has used since then. Returns for how long nothing has
    /// happened in it; `None` at the first look, which tells nothing. Who uses more of the processors
    /// than `busy_cpus` works on something.
    pub(super) fn idle(
        &mut self,
        (sandbox, since): (SandboxId, Instant),
        reading: Reading,
        now: Instant,
        busy_cpus: f64,
    ) -> Option<Duration> {
        let Reading { cpu_us, is_asking } = reading;
        let before = self.0.remove(&sandbox).filter(|before| before.at >= since);
        let works = is_asking || before.as_ref().is_some_and(|it| it.works(cpu_us, now, busy_cpus));
        let worked_at = if works { Some(now) } else { before.as_ref().and_then(|it| it.worked_at) };
        self.0.insert(sandbox, Seen { cpu_us, at: now, worked_at });
        before.map(|_| now - worked_at.unwrap_or(since))
    }

    /// The same of one sandbox alone, to look at it beside the others.
    pub(super) fn of(&self, sandbox: SandboxId) -> Watch {
        Watch(self.0.get(&sandbox).map(|seen| (sandbox, *seen)).into_iter().collect())
    }

    /// Forgets those that are not looked at any more.
    pub(super) fn keep(&mut self, is_there: impl Fn(&SandboxId) -> bool) {
        self.0.retain(|sandbox, _| is_there(sandbox));
    }
}

impl Seen {
    /// Whether more was used since then than by one that waits.
    fn works(&self, cpu_us: u64, now: Instant, busy_cpus: f64) -> bool {
        let most = (now - self.at).as_micros() as f64 * busy_cpus;
        cpu_us.saturating_sub(self.cpu_us) as f64 > most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// Looks every five seconds at a sandbox that has used so many milliseconds by then and asks the
    /// model or not; returns for how many seconds nothing had happened, each time.
    fn looks(looks: &[(u64, bool)]) -> Vec<Option<u64>> {
        let (mut watch, sandbox, begun) = (Watch::default(), SandboxId::random(), Instant::now());
        let look = |(number, (ms, is_asking)): (u32, &(u64, bool))| {
            let reading = Reading { cpu_us: ms * 1000, is_asking: *is_asking };
            let now = begun + 5 * S * (number + 1);
            watch.idle((sandbox, begun), reading, now, 0.02).map(|idle| idle.as_secs())
        };
        (0..).zip(looks).map(look).collect()
    }

    #[test]
    fn one_look_tells_nothing() {
        assert_eq!(looks(&[(1000, false)]), [None]);
    }

    #[test]
    fn one_that_waits_uses_a_little() {
        let told = looks(&[(1000, false), (1025, false), (1050, false), (1150, false)]);
        assert_eq!(told, [None, Some(10), Some(15), Some(20)]);
    }

    #[test]
    fn one_that_computes_works_and_waits_from_then_on() {
        let told = looks(&[(0, false), (101, false), (111, false), (300, false)]);
        assert_eq!(told, [None, Some(0), Some(5), Some(0)]);
    }

    #[test]
    fn one_that_asks_the_model_works_however_little_it_computes() {
        let told = looks(&[(0, true), (0, false), (0, true), (0, false)]);
        assert_eq!(told, [None, Some(5), Some(0), Some(5)]);
    }

    #[test]
    fn what_it_did_while_it_was_used_does_not_count() {
        let (mut watch, sandbox, begun) = (Watch::default(), SandboxId::random(), Instant::now());
        let mut look = |since: u32, at: u32, ms: u64| {
            let reading = Reading { cpu_us: ms * 1000, is_asking: false };
            watch.idle((sandbox, begun + since * S), reading, begun + at * S, 0.02)
        };
        assert_eq!((look(0, 5, 0), look(0, 10, 0)), (None, Some(10 * S)));
        // A turn comes in between.
        assert_eq!((look(14, 15, 4000), look(14, 20, 4000)), (None, Some(6 * S)));
        watch.keep(|other| *other != sandbox);
        assert!(watch.0.is_empty());
    }
}
