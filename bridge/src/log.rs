//! The events that `ashd` has not finished with.
//!
//! Events are numbered from 1 without gaps and kept until they are acknowledged *and* the end of
//! their turn is: an `ashd` that was killed in mid-turn asks for the turn from its beginning, also
//! when it has ended meanwhile. Above the
//! budget acknowledged events go first, then deltas, oldest first; complete lines never go. If
//! that is not enough the log is [full](Log::is_full), and the CLI has to wait.

use std::collections::VecDeque;
use std::rc::Rc;

use ash_wire::frame::Kind;

/// Bytes that a log may hold before it drops.
pub const BUDGET: usize = 64 * 1024 * 1024;

/// What an event costs besides its body.
const OVERHEAD: usize = 64;

/// An event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its number.
    pub number: u64,
    /// Line, delta or notice.
    pub kind: Kind,
    /// Its body. Shared, so that sending it needs no copy.
    pub body: Rc<[u8]>,
}

impl Event {
    fn cost(&self) -> usize {
        self.body.len() + OVERHEAD
    }
}

/// The log.
#[derive(Debug)]
pub struct Log {
    events: VecDeque<Event>,
    cost: usize,
    budget: usize,
    last: u64,
    acknowledged: u64,
    /// The first event of the turn that runs, or whose end is not acknowledged.
    turn: Option<u64>,
    /// The last event of that turn, once it is over.
    ended: Option<u64>,
}

impl Log {
    /// An empty log that may hold `budget` bytes.
    pub fn new(budget: usize) -> Log {
        Log {
            events: VecDeque::new(),
            cost: 0,
            budget,
            last: 0,
            acknowledged: 0,
            turn: None,
            ended: None,
        }
    }

    /// The number of the newest event, 0 if there was none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The number of the newest event that is kept, 0 if none is.
    pub fn newest_kept(&self) -> u64 {
        self.events.back().map_or(0, |event| event.number)
    }

    /// Bytes held.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Whether what may not be dropped is over the budget.
    pub fn is_full(&self) -> bool {
        self.cost > self.budget
    }

    /// Whether there is room again after the log was full.
    pub fn has_room(&self) -> bool {
        self.cost <= self.goal()
    }

    /// Adds an event.
    pub fn push(&mut self, kind: Kind, body: &[u8]) {
        self.last += 1;
        let event = Event { number: self.last, kind, body: body.into() };
        self.cost += event.cost();
        self.events.push_back(event);
        if self.is_full() {
            self.shed();
        }
    }

    /// From the next event on, a turn runs.
    pub fn turn_begins(&mut self) {
        self.ended = None;
        self.turn.get_or_insert(self.last + 1);
    }

    /// No turn runs any more.
    pub fn turn_ends(&mut self) {
        if self.turn.is_some() {
            self.ended.get_or_insert(self.last);
        }
        self.trim();
    }

    /// Everything up to `number` is on disk. A number that was never given is cut down to the
    /// last.
    pub fn acknowledge(&mut self, number: u64) {
        self.acknowledged = self.acknowledged.max(number.min(self.last));
        self.trim();
        self.drop_acknowledged();
    }

    /// Whether there is an event, other than a delta, that was not acknowledged.
    pub fn owes(&self) -> bool {
        let mut open =
            self.events.iter().rev().take_while(|event| event.number > self.acknowledged);
        open.any(|event| event.kind != Kind::Delta)
    }

    /// The first kept event with at least this number.
    pub fn from(&self, number: u64) -> Option<&Event> {
        let index = self.events.partition_point(|event| event.number < number);
        self.events.get(index)
    }

    /// Drops from the front what is acknowledged and of no unfinished turn.
    fn trim(&mut self) {
        if self.ended.is_some_and(|ended| self.acknowledged >= ended) {
            self.turn = None;
            self.ended = None;
        }
        let unfinished = self.turn.unwrap_or(u64::MAX).min(self.acknowledged + 1);
        while let Some(event) = self.events.front().filter(|event| event.number < unfinished) {
            self.cost -= event.cost();
            self.events.pop_front();
        }
    }

    /// Makes room.
    fn shed(&mut self) {
        self.drop_acknowledged();
        self.drop_while_above(|event| event.kind == Kind::Delta);
    }

    fn drop_acknowledged(&mut self) {
        let acknowledged = self.acknowledged;
        self.drop_while_above(|event| event.number <= acknowledged);
    }

    /// What dropping comes down to: an eighth below the budget, so that it is not done for every
    /// event.
    fn goal(&self) -> usize {
        self.budget - self.budget / 8
    }

    fn drop_while_above(&mut self, may_go: impl Fn(&Event) -> bool) {
        let (goal, mut cost) = (self.goal(), self.cost);
        if cost <= goal {
            return;
        }
        self.events.retain(|event| {
            let goes = cost > goal && may_go(event);
            cost -= if goes { event.cost() } else { 0 };
            !goes
        });
        self.cost = cost;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Line(usize),
        Delta(usize),
        Acknowledge(u64),
        TurnBegins,
        TurnEnds,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0usize..900).prop_map(Step::Line),
            (0usize..900).prop_map(Step::Line),
            (0usize..300).prop_map(Step::Delta),
            (0usize..300).prop_map(Step::Delta),
            (0u64..200).prop_map(Step::Acknowledge),
            Just(Step::TurnBegins),
            Just(Step::TurnEnds),
        ]
    }

    fn kept(log: &Log) -> Vec<u64> {
        log.events.iter().map(|event| event.number).collect()
    }

    proptest! {
        #[test]
        fn keeps_what_it_must_and_counts_right(steps in proptest::collection::vec(step(), 0..300)) {
            let budget = 4000;
            let mut log = Log::new(budget);
            let (mut lines, mut acknowledged) = (Vec::new(), 0);
            for step in steps {
                match step {
                    Step::Line(size) => {
                        log.push(Kind::Line, &vec![b'l'; size]);
                        lines.push(log.last());
                    }
                    Step::Delta(size) => log.push(Kind::Delta, &vec![b'd'; size]),
                    Step::Acknowledge(number) => {
                        acknowledged = acknowledged.max(number.min(log.last()));
                        log.acknowledge(number);
                    }
                    Step::TurnBegins => log.turn_begins(),
                    Step::TurnEnds => log.turn_ends(),
                }
                let kept = kept(&log);
                prop_assert!(kept.is_sorted());
                prop_assert_eq!(log.cost(), log.events.iter().map(Event::cost).sum::<usize>());
                // Unacknowledged lines are never lost.
                for line in lines.iter().filter(|line| **line > acknowledged) {
                    prop_assert!(kept.contains(line), "line {} of {:?}", line, kept);
                }
                // Over the budget only with what may not go.
                if log.is_full() {
                    let may_go = |event: &Event| event.number <= acknowledged || event.kind == Kind::Delta;
                    prop_assert!(!log.events.iter().any(may_go));
                }
                // Once everything is acknowledged there is room, turn or no turn.
                if acknowledged == log.last() {
                    prop_assert!(log.has_room());
                }
                // Without a turn nothing acknowledged stays.
                if log.turn.is_none() {
                    prop_assert!(kept.iter().all(|number| *number > acknowledged));
                }
            }
        }

        #[test]
        fn within_the_budget_a_turn_is_kept_whole(sizes in proptest::collection::vec(0usize..50, 1..20), ack in 0u64..40) {
            let mut log = Log::new(10_000);
            log.push(Kind::Line, b"before");
            log.turn_begins();
            for size in &sizes {
                log.push(Kind::Delta, &vec![0; *size]);
            }
            log.acknowledge(ack);
            let turn = kept(&log).into_iter().filter(|number| *number > 1).count();
            prop_assert_eq!(turn, sizes.len());
            log.push(Kind::Notice, b"end");
            log.turn_ends();
            let turn = kept(&log).into_iter().filter(|number| *number > 1).count();
            prop_assert_eq!(turn, sizes.len() + 1, "its end is not acknowledged");
            log.acknowledge(log.last());
            prop_assert_eq!(kept(&log), Vec::<u64>::new());
        }
    }

    #[test]
    fn resending_starts_at_the_first_kept() {
        let mut log = Log::new(1000);
        for _ in 0..5 {
            log.push(Kind::Line, b"x");
        }
        log.acknowledge(2);
        assert_eq!(log.from(0).map(|event| event.number), Some(3));
        assert_eq!(log.from(4).map(|event| event.number), Some(4));
        assert!(log.from(6).is_none());
    }
}
