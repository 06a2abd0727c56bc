//! Which sandboxes take a step down the ladder. Pure: no clock, no I/O.

use std::cmp::Reverse;
use std::time::Duration;

use super::Times;
use crate::domain::SessionId;

/// The pause between two looks, at least and at most.
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(5);

/// A sandbox is looked at so many times before its next step is due: what it does in between shows only
/// from one look to the other.
const LOOKS: u32 = 3;

/// How far down the ladder a sandbox is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::session) enum Rung {
    /// Its agent runs.
    Awake,
    /// Its agent stands still.
    Frozen,
    /// And has given its memory back.
    Reclaimed,
    /// It stands still, and its memory could not be given back: that is not tried again.
    Kept,
}

/// What a sandbox that nobody uses is to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::session) enum Step {
    /// Its agent stands still until somebody wants it.
    Freeze,
    /// Its agent's memory is given back.
    Reclaim,
    /// It is saved and ended.
    Cool,
    /// The same before its time: another one needs its room.
    GiveWay,
}

/// A sandbox that may take a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Candidate {
    pub(super) session: SessionId,
    pub(super) rung: Rung,
    /// How long nothing has happened in it. None: something does, or nobody can tell.
    pub(super) idle: Option<Duration>,
}

impl Candidate {
    /// Whether it works on something: that has happened at this very look.
    pub(super) fn works(&self) -> bool {
        self.idle.is_some_and(|idle| idle.is_zero())
    }
}

/// The steps that are due, those first that save most, and of each kind those first that nobody has
/// used for longest; of each no more than may be.
pub(super) fn due(candidates: &[Candidate], times: &Times) -> Vec<(SessionId, Step)> {
    let mut idle: Vec<_> = candidates.iter().filter_map(|one| Some((one.idle?, one))).collect();
    idle.sort_by_key(|(idle, _)| Reverse(*idle));
    let of_kind = |step: Step| {
        let takes =
            idle.iter().filter(move |(idle, one)| times.next(one.rung, *idle) == Some(step));
        takes.take(times.at_once).map(move |(_, one)| (one.session, step))
    };
    [Step::Cool, Step::Reclaim, Step::Freeze].into_iter().flat_map(of_kind).collect()
}

/// Those that nobody uses, in the order in which they make room for others: first those that stand still
/// already, and of each sort first those that nobody has used for longest.
pub(super) fn leaving(candidates: &[Candidate]) -> Vec<SessionId> {
    let rest = candidates.iter().filter(|one| !one.works());
    let mut idle: Vec<_> = rest.filter_map(|one| Some((one.idle?, one))).collect();
    idle.sort_by_key(|(idle, one)| (one.rung == Rung::Awake, Reverse(*idle)));
    idle.into_iter().map(|(_, one)| one.session).collect()
}

impl Times {
    /// Without what is never done however it is configured.
    pub(super) fn feasible(self, has_swap: bool) -> Times {
        // Without swap the kernel would only drop what has to be read again, and nobody takes memory from
        // an agent that runs.
        let is_feasible = has_swap && self.freeze.is_some();
        Times { reclaim: self.reclaim.filter(|_| is_feasible), ..self }
    }

    /// The step of a sandbox that is as far down and has done nothing for so long.
    fn next(&self, rung: Rung, idle: Duration) -> Option<Step> {
        let is_over = |after: Option<Duration>| after.is_some_and(|after| idle >= after);
        match rung {
            _ if is_over(self.cool) => Some(Step::Cool),
            Rung::Awake if is_over(self.freeze) => Some(Step::Freeze),
            Rung::Frozen if is_over(self.reclaim) => Some(Step::Reclaim),
            Rung::Awake | Rung::Frozen | Rung::Reclaimed | Rung::Kept => None,
        }
    }

    /// Whether a sandbox is to be looked at, because its next step is due or soon will be.
    pub(super) fn is_near(&self, rung: Rung, idle: Duration) -> bool {
        self.next(rung, idle + self.pace() * LOOKS).is_some()
    }

    /// How long to wait before the next look.
    pub(super) fn pace(&self) -> Duration {
        let shortest = [self.freeze, self.reclaim, self.cool].into_iter().flatten().min();
        shortest.map_or(LONGEST, |shortest| (shortest / 4).clamp(SHORTEST, LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn times() -> Times {
        let (freeze, reclaim, cool) = (Some(60 * S), Some(300 * S), Some(1800 * S));
        Times { freeze, reclaim, cool, at_once: 2, busy_cpus: 0.02, ..Times::default() }
    }

    /// One for each of these, in order.
    fn candidates(all: &[(Rung, Option<u32>)]) -> Vec<Candidate> {
        let candidate = |(rung, idle): &(Rung, Option<u32>)| {
            let idle = idle.map(|seconds| S * seconds);
            Candidate { session: SessionId::random(), rung: *rung, idle }
        };
        all.iter().map(candidate).collect()
    }

    #[test]
    fn each_takes_the_step_that_is_due() {
        use Rung::{Awake, Frozen, Kept, Reclaimed};
        for (rung, idle, expected) in [
            (Awake, None, None),
            (Awake, Some(59), None),
            (Awake, Some(60), Some(Step::Freeze)),
            // One after the other.
            (Awake, Some(300), Some(Step::Freeze)),
            (Awake, Some(1800), Some(Step::Cool)),
            (Frozen, None, None),
            (Frozen, Some(299), None),
            (Frozen, Some(300), Some(Step::Reclaim)),
            (Frozen, Some(1800), Some(Step::Cool)),
            (Kept, Some(1799), None),
            (Kept, Some(1800), Some(Step::Cool)),
            (Reclaimed, Some(1799), None),
            (Reclaimed, Some(1800), Some(Step::Cool)),
        ] {
            let one = candidates(&[(rung, idle)]);
            let steps: Vec<_> = expected.map(|step| (one[0].session, step)).into_iter().collect();
            assert_eq!(due(&one, &times()), steps, "{rung:?} {idle:?}");
        }
    }

    #[test]
    fn what_is_switched_off_is_not_waited_for() {
        use Rung::{Awake, Frozen, Reclaimed};
        let all = candidates(&[(Awake, Some(9999)), (Frozen, Some(9999)), (Reclaimed, Some(9999))]);
        let steps = |times: Times| due(&all, &times).into_iter().map(|(_, step)| step).collect();
        let steps: [Vec<Step>; 4] = [
            steps(Times { cool: None, ..times() }),
            steps(Times { cool: None, freeze: None, ..times() }),
            steps(Times { cool: None, reclaim: None, ..times() }),
            steps(Times::default()),
        ];
        let expected: [&[Step]; 4] =
            [&[Step::Reclaim, Step::Freeze], &[Step::Reclaim], &[Step::Freeze], &[]];
        assert_eq!(steps, expected);
    }

    #[test]
    fn no_more_go_at_once_than_may_and_those_first_that_wait_longest() {
        use Rung::{Awake, Frozen};
        let idle = [61, 70, 65, 62].map(|idle| (Awake, Some(idle)));
        let all = candidates(&[&idle[..], &[(Frozen, Some(300)), (Awake, Some(2000))]].concat());
        let of = |place: usize, step| (all[place].session, step);
        let expected =
            [of(5, Step::Cool), of(4, Step::Reclaim), of(1, Step::Freeze), of(2, Step::Freeze)];
        assert_eq!(due(&all, &times()), expected);
    }

    #[test]
    fn those_that_stand_still_make_room_first_and_none_that_works() {
        use Rung::{Awake, Frozen, Reclaimed};
        let all = candidates(&[
            (Awake, Some(2000)),
            (Reclaimed, Some(400)),
            (Awake, None),
            (Frozen, Some(500)),
            (Awake, Some(3000)),
            (Frozen, None),
            (Awake, Some(0)),
        ]);
        let expected = [3, 1, 4, 0].map(|place| all[place].session);
        assert_eq!(leaving(&all), expected);
        assert_eq!(leaving(&[]), []);
    }

    #[test]
    fn memory_is_given_back_into_swap_and_by_those_that_stand_still() {
        let times = times();
        assert_eq!(times.feasible(true), times);
        let never = Times { reclaim: None, ..times };
        assert_eq!(times.feasible(false), never);
        let awake = Times { freeze: None, ..times };
        assert_eq!(awake.feasible(true), Times { freeze: None, ..never });
    }

    #[test]
    fn it_is_looked_often_enough_for_the_first_step() {
        let pace = |freeze, cool| Times { freeze, cool, ..Times::default() }.pace();
        assert_eq!(pace(None, None), 5 * S);
        assert_eq!(pace(Some(60 * S), Some(1800 * S)), 5 * S);
        assert_eq!(pace(None, Some(4 * S)), S);
        assert_eq!(pace(Some(S / 100), None), S / 4);
        let times = times();
        assert!(!times.is_near(Rung::Awake, 44 * S) && times.is_near(Rung::Awake, 45 * S));
        assert!(!times.is_near(Rung::Reclaimed, 1784 * S));
    }
}
