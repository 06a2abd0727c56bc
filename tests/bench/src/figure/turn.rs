//! What a turn costs beyond what the CLI itself costs.

use std::time::Duration;

use anyhow::Result;
use ash_journey::{Api, Ash};

use super::{About, Outcome, Scale};
use crate::alone::Alone;
use crate::report::{Row, Unit};
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "From the prompt to the model API, second turn and later, real CLI",
    how: "A session is made and has its first turn. In the same sandbox, by `exec`, a second CLI is \
          started with the same arguments and environment, driven over sockets by a program of the \
          benchmark, and has its first turn as well: no ashd and no bridge are between that prompt \
          and that CLI, everything else is the same, the broker included. Then both take turns, one \
          by one, in alternating order, with a pause before each. The clock starts before the \
          connection for the HTTP request is opened, or before the line is written to the CLI, and \
          stops when the stand-in for the model API has the head of the request (CLOCK_MONOTONIC, \
          one machine). Every 25 pairs a new session is begun, so that conversations stay short.",
    measure,
};

/// Pairs of turns in one session.
const PAIRS: usize = 25;

/// Before each turn, so that what the one before left to do is done.
const PAUSE: Duration = Duration::from_millis(30);

fn measure(scale: Scale) -> Result<Outcome> {
    let ash = stage::real()?;
    let (mut through, mut alone) = (Times::default(), Times::default());
    for round in 0..scale.of(500).div_ceil(PAIRS) {
        one_session(&ash, round, &mut through, &mut alone)?;
    }
    ash.finish()?;
    let difference = through.quantile(0.5) - alone.quantile(0.5);
    let beyond = Row::plain("beyond the CLI alone", through.n(), Unit::Ms, difference);
    let beyond = Row { p99: Some(through.quantile(0.99) - alone.quantile(0.99)), ..beyond };
    let rows = vec![
        beyond.floor(1.0),
        Row::times("through ashd", &through),
        Row::times("the CLI alone", &alone),
    ];
    let pairs = through.beyond(&alone);
    let notes = vec![format!(
        "Beyond is the difference of the two medians (and of the two 99th percentiles); the median \
         of the differences of the pairs is {pairs:.3} ms"
    )];
    Ok(Outcome { rows, notes })
}

fn one_session(ash: &Ash, round: usize, through: &mut Times, alone: &mut Times) -> Result<()> {
    let api = ash.api();
    let session = stage::session(&api)?;
    stage::send(&api, &session, "first", false)?.finish()?;
    let mut other = Alone::enter(ash, &session)?;
    other.start(None)?;
    other.turn("first")?;
    for pair in 0..PAIRS {
        let word = format!("prompt-{round}-{pair}.");
        if pair % 2 == 0 {
            through_ashd(ash, &api, (&session, &word), through)?;
            by_itself(ash, &mut other, &word, alone)?;
        } else {
            by_itself(ash, &mut other, &word, alone)?;
            through_ashd(ash, &api, (&session, &word), through)?;
        }
    }
    other.leave()?;
    api.purge(&session)
}

fn through_ashd(
    ash: &Ash,
    api: &Api,
    (session, word): (&str, &str),
    times: &mut Times,
) -> Result<()> {
    ash.model().reset();
    std::thread::sleep(PAUSE);
    let sent = stage::send(api, session, word, false)?;
    let at = sent.at;
    sent.finish()?;
    times.add(at, stage::asked_at(ash, word)?);
    Ok(())
}

fn by_itself(ash: &Ash, other: &mut Alone, word: &str, times: &mut Times) -> Result<()> {
    ash.model().reset();
    std::thread::sleep(PAUSE);
    let at = other.turn(word)?;
    times.add(at, stage::asked_at(ash, word)?);
    Ok(())
}
