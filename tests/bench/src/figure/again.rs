//! What going on with a conversation costs beyond what the CLI itself costs.

use anyhow::Result;
use ash_journey::Ash;
use ash_modelapi::monotonic_ns;

use super::{About, Outcome, Scale};
use crate::alone::Alone;
use crate::report::{Row, Unit};
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "From a prompt to the model API after a cold resume, real CLI",
    how: "A session has had a turn and is stopped and saved. The clock starts before POST resume, which \
          is followed by the message at once. Against a CLI alone that goes on with a conversation of \
          one turn (`--resume`) and is given its prompt without waiting for anything; its clock starts \
          before the process does. It is in the sandbox of another session, whose own CLI is at rest. \
          Which of a pair comes first alternates. Clocks and the program that drives the CLI alone are \
          those of `turn`.",
    measure,
};

/// The prompt.
const WORD: &str = "prompt.";

fn measure(scale: Scale) -> Result<Outcome> {
    let ash = stage::real()?;
    let (mut through, mut alone) = (Times::default(), Times::default());
    for number in 0..scale.of(50) {
        if number % 2 == 0 {
            through_ashd(&ash, &mut through)?;
            by_itself(&ash, &mut alone)?;
        } else {
            by_itself(&ash, &mut alone)?;
            through_ashd(&ash, &mut through)?;
        }
    }
    ash.finish()?;
    let beyond = |share| through.quantile(share) - alone.quantile(share);
    let row = Row::plain("beyond the CLI alone", through.n(), Unit::Ms, beyond(0.5)).floor(15.0);
    let rows = vec![
        Row { p99: Some(beyond(0.99)), ..row },
        Row::times("through ashd", &through),
        Row::times("the CLI alone", &alone),
    ];
    let pairs = through.beyond(&alone);
    let notes = vec![format!("The median of the differences of the pairs is {pairs:.3} ms")];
    Ok(Outcome { rows, notes })
}

fn through_ashd(ash: &Ash, times: &mut Times) -> Result<()> {
    let api = ash.api();
    let session = stage::used_session(ash)?;
    stage::set_aside(&api, &session, "stop")?;
    ash.model().reset();
    let at = monotonic_ns();
    stage::verb(&api, &session, "resume")?;
    stage::send(&api, &session, WORD, false)?.finish()?;
    times.add(at, stage::asked_at(ash, WORD)?);
    api.purge(&session)
}

fn by_itself(ash: &Ash, times: &mut Times) -> Result<()> {
    let api = ash.api();
    // The session's own CLI has come to rest.
    let session = stage::used_session(ash)?;
    let mut alone = Alone::enter(ash, &session)?;
    alone.start(Some("a turn"))?;
    ash.model().reset();
    let at = alone.resume(WORD)?;
    times.add(at, stage::asked_at(ash, WORD)?);
    alone.leave()?;
    api.purge(&session)
}
