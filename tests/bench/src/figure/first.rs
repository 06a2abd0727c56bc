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
          started in the same sandbox afterwards, with a fresh home, and is given its prompt without \
          waiting for anything; its clock starts before the process does. A second later: the \
          message is sent a second after POST session has returned; against a CLI alone that was \
          started, has answered `initialize`, and was idle for a second. Each pair has a session of \
          its own. Clocks and the program that drives the CLI alone are those of `turn`.",
    measure,
};

const LATER: Duration = Duration::from_secs(1);

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
        pair(&ash, &format!("once-{number}."), Duration::ZERO, &mut at_once)?;
        pair(&ash, &format!("later-{number}."), LATER, &mut later)?;
    }
    ash.finish()?;
    let mut outcome = Outcome::default();
    at_once.tell("at once", 10.0, &mut outcome);
    later.tell("1 s later", 2.0, &mut outcome);
    Ok(outcome)
}

fn pair(ash: &Ash, word: &str, wait: Duration, pairs: &mut Pairs) -> Result<()> {
    ash.model().reset();
    let api = ash.api();
    let session = stage::session(&api)?;
    std::thread::sleep(wait);
    let sent = stage::send(&api, &session, word, false)?;
    let at = sent.at;
    sent.finish()?;
    pairs.through.add(at, stage::asked_at(ash, word)?);

    ash.model().reset();
    let mut alone = Alone::enter(ash, &session)?;
    let at = if wait.is_zero() {
        alone.start(Some(word))?
    } else {
        alone.start(None)?;
        std::thread::sleep(wait);
        alone.turn(word)?
    };
    pairs.alone.add(at, stage::asked_at(ash, word)?);
    alone.leave()?;
    api.purge(&session)
}

impl Pairs {
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
