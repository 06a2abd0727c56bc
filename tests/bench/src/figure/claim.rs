//! How long a session takes to be there when its sandbox was made before.

use anyhow::Result;
use ash_journey::{Api, Ash};
use ash_modelapi::monotonic_ns;

use super::{About, Outcome, Scale};
use crate::report::Row;
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "POST session that is given a warm sandbox, stand-in for the CLI",
    how: "The agent's config has `preWarmCount` 4. When /health says that so many are warm a session is \
          made, with the clock of `create`: the whole request, its connection included. It is deleted, \
          with `purge`, and the next one comes when the pool is full again. In a row: as many sessions \
          as there are warm sandboxes are made one behind the other, while the pool makes new ones \
          beside them. /health counts the sessions that were given a warm sandbox (`preWarmHits`): one \
          that was not fails the figure.",
    measure,
};

/// Sandboxes in the pool.
const WARM: usize = 4;

fn measure(scale: Scale) -> Result<Outcome> {
    let ash = stage::stub()?;
    stage::keep_warm(&ash, WARM)?;
    let (mut single, mut in_a_row) = (Times::default(), Times::default());
    for _ in 0..scale.of(500) {
        claim(&ash, 1, &mut single)?;
    }
    for _ in 0..scale.of(50) {
        claim(&ash, WARM, &mut in_a_row)?;
    }
    ash.finish()?;
    let rows = vec![
        Row::times("POST session, the pool is full", &single).floor(1.5).floor_p99(5.0),
        Row::times(&format!("POST session, {WARM} in a row"), &in_a_row),
    ];
    Ok(Outcome { rows, notes: vec![] })
}

fn claim(ash: &Ash, count: usize, times: &mut Times) -> Result<()> {
    let api = ash.api();
    let before = stage::until_warm(&api, WARM)?;
    let sessions = (0..count).map(|_| timed(&api, times)).collect::<Result<Vec<_>>>()?;
    stage::ensure_claimed(&api, before, count as u64)?;
    sessions.iter().try_for_each(|session| api.purge(session))
}

fn timed(api: &Api, times: &mut Times) -> Result<String> {
    let begin = monotonic_ns();
    let session = stage::session(api)?;
    times.add(begin, monotonic_ns());
    Ok(session)
}
