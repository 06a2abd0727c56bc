//! What it costs to keep the real CLI of a session that is idle.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ash_journey::{Ash, process};

use super::{About, Outcome, Scale, bridge};
use crate::memory::Memory;
use crate::report::{Row, Unit};
use crate::stage;
use crate::stats::{self, Times};

pub(super) const ABOUT: About = About {
    title: "Sessions whose real CLI is kept, idle and frozen",
    how: "Ten sessions have had a turn and are idle. Of every process in the sandbox's control groups, the \
          CLI and what it has started included, the proportional memory (PSS of smaps_rollup: what is \
          shared is divided by those who share it, which most of the CLI's program is) and the private \
          pages, added up per sandbox. Then one session takes turns, half of them a second after the \
          one before, as it is, half of them when ashd has frozen its agent, which it does after two \
          seconds here (`freeze_after`) and takes back for the message. Clocks are those of `turn`.",
    measure,
};

const SESSIONS: usize = 10;

const ROUNDS: usize = 50;

/// Sandboxes that nobody uses stand still after two seconds, and nothing else becomes of them.
const POOL: &str = "[pool]\nfreeze_after = \"2s\"\nreclaim_after = \"0s\"\nidle_timeout = \"0s\"\n";

/// Before a turn of a session that does not stand still: the CLI has come to rest.
const QUIET: Duration = Duration::from_secs(1);

/// A session and the control group of its sandbox.
struct Kept {
    session: String,
    group: PathBuf,
}

fn measure(scale: Scale) -> Result<Outcome> {
    let ash = stage::cli(POOL)?;
    let sessions = (0..scale.of(SESSIONS)).map(|_| kept(&ash)).collect::<Result<Vec<_>>>()?;
    std::thread::sleep(QUIET);
    let memory = sessions.iter().map(Kept::memory).collect::<Result<Vec<_>>>()?;
    let one = sessions.first().context("there is one")?;
    let (mut warm, mut frozen) = (Times::default(), Times::default());
    for round in 0..scale.of(ROUNDS) {
        std::thread::sleep(QUIET);
        one.turn(&ash, &format!("warm-{round}."), &mut warm)?;
        one.until_frozen()?;
        one.turn(&ash, &format!("frozen-{round}."), &mut frozen)?;
    }
    sessions.iter().try_for_each(|kept| ash.api().purge(&kept.session))?;
    ash.finish()?;
    Ok(outcome(&memory, &warm, &frozen))
}

fn outcome(memory: &[Memory], warm: &Times, frozen: &Times) -> Outcome {
    let of = |pick: fn(&Memory) -> f64| stats::median(&memory.iter().map(pick).collect::<Vec<_>>());
    let later = frozen.quantile(0.5) - warm.quantile(0.5);
    let mb = |what: &str, value: f64| Row::plain(what, memory.len(), Unit::Mb, value);
    let rows = vec![
        mb("memory of each, proportional", of(|memory| memory.proportional)),
        mb("memory of each, private", of(|memory| memory.private)),
        Row::plain("prompt to model API, frozen, beyond warm", frozen.n(), Unit::Ms, later)
            .floor(5.0),
        Row::times("prompt to model API, frozen", frozen),
        Row::times("prompt to model API, warm", warm),
    ];
    let pairs = frozen.beyond(warm);
    let notes = vec![format!("The median of the differences of the pairs is {pairs:.3} ms")];
    Outcome { rows, notes }
}

/// A session that has had a turn.
fn kept(ash: &Ash) -> Result<Kept> {
    let session = stage::used_session(ash)?;
    Ok(Kept { group: ash.group(&session)?, session })
}

impl Kept {
    /// What everything in the sandbox takes together.
    fn memory(&self) -> Result<Memory> {
        let mut all = Memory::default();
        for pid in bridge::processes(&self.group)? {
            let one = Memory::of(pid)?;
            all.resident += one.resident;
            all.proportional += one.proportional;
            all.private += one.private;
        }
        Ok(all)
    }

    /// A turn with this prompt.
    fn turn(&self, ash: &Ash, word: &str, times: &mut Times) -> Result<()> {
        ash.model().reset();
        let sent = stage::send(&ash.api(), &self.session, word, false)?;
        let at = sent.at;
        sent.finish()?;
        times.add(at, stage::asked_at(ash, word)?);
        Ok(())
    }

    /// Waits until the agent stands still.
    fn until_frozen(&self) -> Result<()> {
        let events = self.group.join("agent/cgroup.events");
        process::until("an agent to stand still", || {
            let events = fs::read_to_string(&events).unwrap_or_default();
            events.lines().any(|line| line == "frozen 1")
        })
    }
}
