//! What the first turn of a session costs whose CLI runs already.

use anyhow::Result;
use ash_journey::Ash;
use ash_modelapi::monotonic_ns;

use super::{About, Outcome, Scale};
use crate::report::Row;
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "From the first prompt of a session to the model API, warm sandbox, real CLI",
    how: "The agent's config has `preWarmCount` 2. When /health says that so many are warm a session is \
          made, which is given one of them (`preWarmHits` tells), and when POST session has returned the \
          message is sent at once. Against nothing: the time is all that a client waits for, that of the \
          CLI included. Clocks are those of `turn`; with POST session, the clock starts before that \
          request. The pool replaces what it has given away, with the same two processors.",
    measure,
};

/// Sandboxes in the pool.
const WARM: u64 = 2;

/// The prompt.
const WORD: &str = "prompt.";

fn measure(scale: Scale) -> Result<Outcome> {
    let ash = stage::cli("")?;
    ash.api().keep_warm(stage::AGENT, WARM)?;
    let (mut prompt, mut whole) = (Times::default(), Times::default());
    for _ in 0..scale.of(50) {
        one(&ash, &mut prompt, &mut whole)?;
    }
    ash.finish()?;
    let rows = vec![
        Row::times("prompt to model API", &prompt).floor(22.0),
        Row::times("with POST session", &whole),
    ];
    Ok(Outcome { rows, notes: vec![] })
}

fn one(ash: &Ash, prompt: &mut Times, whole: &mut Times) -> Result<()> {
    let api = ash.api();
    let before = stage::until_full(&api, WARM)?;
    ash.model().reset();
    let begin = monotonic_ns();
    let session = stage::session(&api)?;
    let sent = stage::send(&api, &session, WORD, false)?;
    let at = sent.at;
    sent.finish()?;
    let asked = stage::asked_at(ash, WORD)?;
    prompt.add(at, asked);
    whole.add(begin, asked);
    stage::ensure_claimed(&api, before, 1)?;
    api.purge(&session)
}
