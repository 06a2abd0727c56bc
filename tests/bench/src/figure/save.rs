//! How long it takes to save a session behind a turn, and what that writes.

use std::time::Duration;

use anyhow::{Context as _, Result};
use ash_journey::{Api, Ash};

use super::{About, Outcome, Scale};
use crate::files::{self, Fill, LARGE, USUAL};
use crate::report::{Row, Unit};
use crate::stage;
use crate::stats::{self, Times};

pub(super) const ABOUT: About = About {
    title: "A checkpoint behind a turn, stand-in for the CLI",
    how: "One file of a workspace is written anew; 30 ms later a message is sent, whose turn writes \
          into the transcript up to its end. The clock starts when the client has `done` and stops \
          when GET checkpoints, asked every half millisecond, shows one that is not older: recorded, \
          with all that it needs on the disk. Written are the bytes of the pack and of the record of \
          what is known, without those of the changed file. In alternating order the same is done in \
          a session whose workspace holds nothing else: how much later `done` comes with the large \
          one is what saving costs a turn.",
    measure,
};

/// How long before the turn the file is changed.
const BEFORE: Duration = Duration::from_millis(30);

/// What was measured of one workspace.
#[derive(Default)]
struct Measured {
    turn: Times,
    saved: Times,
    /// Thousands of bytes beside the changed file.
    written: Vec<f64>,
}

fn measure(scale: Scale) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    sizes(scale, USUAL, ("200 MB / 2,000 files", 100, 50.0), &mut outcome)?;
    sizes(scale, LARGE, ("2 GB / 20,000 files", 50, 120.0), &mut outcome)?;
    Ok(outcome)
}

fn sizes(
    scale: Scale,
    fill: Fill,
    (what, rounds, floor): (&str, usize, f64),
    outcome: &mut Outcome,
) -> Result<()> {
    let ash = stage::stub()?;
    let fill = scale.fill(fill);
    let one_file = Fill { files: 1, bytes: fill.bytes / fill.files };
    let sessions = [stage::filled_session(&ash, fill)?, stage::filled_session(&ash, one_file)?];
    let mut measured = [Measured::default(), Measured::default()];
    for round in 0..scale.of(rounds) {
        for turn in 0..2 {
            let which = (round + turn) % 2;
            let number = if which == 0 { round * 7 % fill.files } else { 0 };
            measured[which].one(&ash, &sessions[which], (number, round))?;
        }
    }
    ash.finish()?;
    let [large, small] = measured;
    let n = large.saved.n();
    let later = large.turn.quantile(0.5) - small.turn.quantile(0.5);
    let written = Row::plain("", n, Unit::Kb, stats::median(&large.written)).floor(65.536);
    outcome.rows.extend([
        Row::times(&format!("{what}: saved after `done`"), &large.saved).floor(floor),
        Row::plain(&format!("{what}: `done` later"), n, Unit::Ms, later).floor(0.1),
        Row {
            what: format!("{what}: written beside the file"),
            p99: Some(stats::quantile(&large.written, 0.99)),
            ..written
        },
        Row::times(&format!("{what}: one file alone, saved after `done`"), &small.saved),
    ]);
    let pairs = large.turn.beyond(&small.turn);
    outcome.notes.push(format!(
        "{what}: a turn takes {:.3} ms; the median of the differences of the pairs is {pairs:.3} ms",
        large.turn.quantile(0.5)
    ));
    Ok(())
}

impl Measured {
    fn one(&mut self, ash: &Ash, session: &str, (file, round): (usize, usize)) -> Result<()> {
        let api: Api = ash.api();
        let seed = 1_000_000 + round as u64;
        let changed = files::change(&stage::workspace(ash, session)?, file, seed)?;
        std::thread::sleep(BEFORE);
        let sent = stage::send(&api, session, "a turn", false)?;
        let begin = sent.at;
        let done = sent.done()?;
        let point = stage::saved(&api, session, done.sequence)?;
        self.saved.add(done.at, ash_modelapi::monotonic_ns());
        self.turn.add(begin, done.at);
        let written = point["written"].as_f64().context("a checkpoint says not what it wrote")?;
        self.written.push((written - changed as f64) / 1e3);
        Ok(())
    }
}
