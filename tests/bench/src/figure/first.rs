//! What the first turn of a session costs beyond what the CLI itself costs.

use std::time::Duration;

use anyhow::Result;
use ash_journey::Ash;

use super::{About, Outcome, Scale};
use crate::alone::Alone;
use crate::report::{Row, Unit};
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "From the first prompt of a session to the model API, real CLI",
    how: "At once: the message is sent when POST session has returned; against a CLI alone that is \
          given its prompt without waiting for anything; its clock starts before the process does. \
          A second later: the message is sent a second after POST session has returned; against a \
          CLI alone that was started, has answered `initialize`, and was idle for a second. The CLI \
          alone has a fresh home, in the sandbox of another session, whose own CLI is at rest. Which \
          of a pair comes first alternates. Clocks and the program that drives the CLI alone are \
          those of `turn`.",
    measure,
};

const LATER: Duration = Duration::from_secs(1);

/// The prompt.
const WORD: &str = "prompt.";

/// What was measured of one way to begin.
#[derive(Default)]
struct Pairs {
    through: Times,
    alone: Times,
}

fn measure(scale: Scale) -> Result<Outcome> {
    let ash = stage::real()?;
    let (mut at_once, mut later) = (Pairs::default(), Pairs::default());
    for number in 0..scale.of(50) {
        at_once.pair(&ash, number, Duration::ZERO)?;
        later.pair(&ash, number, LATER)?;
    }
    ash.finish()?;
    let mut outcome = Outcome::default();
    at_once.tell("at once", 10.0, &mut outcome);
    later.tell("1 s later", 2.0, &mut outcome);
    Ok(outcome)
}

fn through_ashd(ash: &Ash, wait: Duration, times: &mut Times) -> Result<()> {
    ash.model().reset();
    let api = ash.api();
    let session = stage::session(&api)?;
    std::thread::sleep(wait);
    let sent = stage::send(&api, &session, WORD, false)?;
    let at = sent.at;
    sent.finish()?;
    times.add(at, stage::asked_at(ash, WORD)?);
    api.purge(&session)
}

fn by_itself(ash: &Ash, wait: Duration, times: &mut Times) -> Result<()> {
    let api = ash.api();
    let session = stage::session(&api)?;
    // The session's own CLI has come to rest.
    stage::send(&api, &session, "first", false)?.finish()?;
    ash.model().reset();
    let mut alone = Alone::enter(ash, &session)?;
    let at = if wait.is_zero() {
        alone.start(Some(WORD))?
    } else {
        alone.start(None)?;
        std::thread::sleep(wait);
        alone.turn(WORD)?
    };
    times.add(at, stage::asked_at(ash, WORD)?);
    alone.leave()?;
    api.purge(&session)
}

impl Pairs {
    fn pair(&mut self, ash: &Ash, number: usize, wait: Duration) -> Result<()> {
        if number.is_multiple_of(2) {
            through_ashd(ash, wait, &mut self.through)?;
            by_itself(ash, wait, &mut self.alone)
        } else {
            by_itself(ash, wait, &mut self.alone)?;
            through_ashd(ash, wait, &mut self.through)
        }
    }

    fn tell(&self, when: &str, floor: f64, outcome: &mut Outcome) {
        let beyond = |share| self.through.quantile(share) - self.alone.quantile(share);
        let what = format!("{when}, beyond the CLI alone");
        let row = Row::plain(&what, self.through.n(), Unit::Ms, beyond(0.5)).floor(floor);
        outcome.rows.push(Row { p99: Some(beyond(0.99)), ..row });
        outcome.rows.push(Row::times(&format!("{when}, through ashd"), &self.through));
        outcome.rows.push(Row::times(&format!("{when}, the CLI alone"), &self.alone));
        let median = self.through.beyond(&self.alone);
        outcome
            .notes
            .push(format!("{when}: the median of the differences of the pairs is {median:.3} ms"));
    }
}
