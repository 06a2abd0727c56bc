//! What the first turn of a session costs whose CLI runs already.

use anyhow::Result;
use ash_journey::{Ash, Client as _};
use ash_modelapi::monotonic_ns;
use serde_json::json;

use super::{About, Outcome, Scale};
use crate::alone::Alone;
use crate::report::Row;
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "From the first prompt of a session to the model API, warm sandbox, real CLI",
    how: "The agent's config has `preWarmCount` 2. When /health says that so many are warm a session is \
          made, which is given one of them (`preWarmHits` tells), and when POST session has returned the \
          message is sent at once. The time is all that a client waits for, that of the CLI included; \
          with POST session, the clock starts before that request. What the CLI itself takes of it is \
          beside it: in the sandbox of another session, whose own CLI is at rest, a CLI with a fresh home \
          is started, asked the same questions as those of the pool, and given its prompt when the pool is \
          full. These take turns. Clocks and the program that drives the CLI alone are those of `turn`.",
    measure,
};

/// Sandboxes in the pool.
const WARM: u64 = 2;

/// The prompt.
const WORD: &str = "prompt.";

/// The same agent without a pool.
const OTHER: &str = "other";

/// What was measured.
#[derive(Default)]
struct Found {
    prompt: Times,
    whole: Times,
    alone: Times,
}

fn measure(scale: Scale) -> Result<Outcome> {
    let ash = stage::real()?;
    ash.api().keep_warm(stage::AGENT, WARM)?;
    ash.api().deploy(OTHER, &ash.folder(stage::AGENT, "Be brief.")?)?;
    let mut found = Found::default();
    for _ in 0..scale.of(50) {
        found.through_ashd(&ash)?;
        found.by_itself(&ash)?;
    }
    ash.finish()?;
    let rows = vec![
        Row::times("prompt to model API", &found.prompt).floor(22.0),
        Row::times("with POST session", &found.whole),
        Row::times("the CLI alone, primed", &found.alone),
    ];
    Ok(Outcome { rows, notes: vec![] })
}

impl Found {
    fn through_ashd(&mut self, ash: &Ash) -> Result<()> {
        let api = ash.api();
        let before = stage::until_full(&api, WARM)?;
        ash.model().reset();
        let begin = monotonic_ns();
        let session = stage::session(&api)?;
        let sent = stage::send(&api, &session, WORD, false)?;
        let at = sent.at;
        sent.finish()?;
        let asked = stage::asked_at(ash, WORD)?;
        self.prompt.add(at, asked);
        self.whole.add(begin, asked);
        stage::ensure_claimed(&api, before, 1)?;
        api.purge(&session)
    }

    fn by_itself(&mut self, ash: &Ash) -> Result<()> {
        let api = ash.api();
        let session = api.create(OTHER, json!({}))?;
        // The session's own CLI has come to rest.
        stage::send(&api, &session, "first", false)?.finish()?;
        let mut alone = Alone::enter(ash, &session)?;
        alone.start(None)?;
        alone.prime()?;
        stage::until_full(&api, WARM)?;
        ash.model().reset();
        self.alone.add(alone.turn(WORD)?, stage::asked_at(ash, WORD)?);
        alone.leave()?;
        api.purge(&session)
    }
}
