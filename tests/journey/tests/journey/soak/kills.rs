//! What is killed, and behind which deed.

use std::fmt;
use std::ops::Range;
use std::sync::mpsc::Receiver;

use anyhow::Result;
use ash_journey::{Ash, process};
use rustix::process::Signal;

use super::shared::Shared;
use crate::random::Random;

/// How much is killed in a round, at least and at most.
const KILLS: Range<usize> = 3..6;

/// Whom it meets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Victim {
    Daemon,
    Launcher,
    Broker,
    /// The bridge of a sandbox, or the process that starts everything in there.
    Bridge,
    /// A CLI, also one of a sandbox that is kept warm.
    Cli,
}

/// The daemon comes last.
const VICTIMS: [Victim; 5] =
    [Victim::Launcher, Victim::Broker, Victim::Bridge, Victim::Cli, Victim::Daemon];

/// Something is killed when so many deeds are done.
pub(super) struct Kill {
    behind: usize,
    victim: Victim,
    /// Which of several.
    which: usize,
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} behind {}", self.victim, self.which, self.behind)
    }
}

/// What is killed in a round of so many deeds, in the order in which it is; a daemon that may die does.
pub(super) fn plan(dice: &mut Random, deeds: usize, may_die: bool) -> Vec<Kill> {
    let victims = VICTIMS.len() - usize::from(!may_die);
    let count = KILLS.start + dice.below(KILLS.len());
    let mut kills: Vec<Kill> = (0..count)
        .map(|number| {
            let (victim, behind) = (dice.below(victims), 1 + dice.below(deeds));
            let is_daemon = may_die && number == 0;
            let victim = if is_daemon { Victim::Daemon } else { VICTIMS[victim] };
            Kill { behind, victim, which: dice.below(100) }
        })
        .collect();
    kills.sort_by_key(|kill| kill.behind);
    kills
}

/// Counts what clients have done, to its end, and kills in between.
pub(super) fn carry_out(
    kills: Vec<Kill>,
    ash: &mut Ash,
    shared: &Shared,
    done: &Receiver<()>,
) -> Result<()> {
    let mut next = kills.into_iter().peekable();
    for (behind, ()) in (1..).zip(done.iter()) {
        while let Some(kill) = next.next_if(|kill| kill.behind <= behind) {
            kill.strike(ash, shared)?;
        }
    }
    Ok(())
}

impl Kill {
    fn strike(&self, ash: &mut Ash, shared: &Shared) -> Result<()> {
        match self.victim {
            Victim::Daemon => {
                ash.kill9()?;
                ash.boot()?;
                shared.next_daemon(ash.address());
            }
            Victim::Launcher => {
                shared.kills_helper();
                self.pick(&ash.helpers("ash-launcher"));
            }
            Victim::Broker => {
                shared.kills_helper();
                self.pick(&ash.helpers("ash-broker"));
            }
            Victim::Bridge => {
                shared.kills_inside();
                self.pick(&ash.inside("bridge"));
            }
            Victim::Cli => {
                shared.kills_inside();
                self.pick(&ash.inside("claude"));
            }
        }
        Ok(())
    }

    /// Kills one of these, if there is any.
    fn pick(&self, pids: &[u32]) {
        if let Some(pid) = pids.get(self.which % pids.len().max(1)) {
            // It may have gone by itself.
            let _ = process::signal(*pid, Signal::KILL);
        }
    }
}

#[test]
fn a_daemon_dies_where_it_may_and_nowhere_else() {
    for seed in 0..50 {
        let daemons = |may_die| {
            let kills = plan(&mut Random::new(seed), 72, may_die);
            assert!(KILLS.contains(&kills.len()));
            assert!(kills.iter().all(|kill| (1..=72).contains(&kill.behind)));
            assert!(kills.is_sorted_by_key(|kill| kill.behind));
            kills.iter().filter(|kill| kill.victim == Victim::Daemon).count()
        };
        assert_eq!((daemons(true) > 0, daemons(false)), (true, 0));
    }
}
