//! How long a session takes to be there when its sandbox was made before.

use std::time::Duration;

use anyhow::Result;
use ash_journey::Ash;

use super::{About, Outcome, Scale};
use crate::report::Row;
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "POST session that is given a warm sandbox, stand-in for the CLI",
    how: "The agent's config has `preWarmCount` 4. When /health says that so many are warm a session is \
          made, with the clock of `create`: the whole request, its connection included. The next one \
          comes when the pool is full again. When there are 20 they are deleted, with `purge`, and a \
          second later it goes on. In a row: as many sessions as there are warm sandboxes are made one \
          behind the other. /health counts the sessions that were given a warm sandbox (`preWarmHits`): one \
          that was not fails the figure.",
    measure,
};

/// Sandboxes in the pool.
const WARM: u64 = 4;

/// Sessions that are kept until they are deleted together.
const MOST: usize = 20;

/// How long what deleting leaves to be done may take.
const QUIET: Duration = Duration::from_secs(1);

fn measure(scale: Scale) -> Result<Outcome> {
    let ash = stage::stub()?;
    ash.api().keep_warm(stage::AGENT, WARM)?;
    let (mut single, mut in_a_row) = (Times::default(), Times::default());
    claim_often(&ash, (1, scale.of(500)), &mut single)?;
    claim_often(&ash, (WARM, scale.of(50)), &mut in_a_row)?;
    ash.finish()?;
    let rows = vec![
        Row::times("POST session, the pool is full", &single).floor(1.5).floor_p99(5.0),
        Row::times(&format!("POST session, {WARM} in a row"), &in_a_row),
    ];
    Ok(Outcome { rows, notes: vec![] })
}

/// So many at once, so often.
fn claim_often(ash: &Ash, (count, rounds): (u64, usize), times: &mut Times) -> Result<()> {
    let api = ash.api();
    let mut sessions = vec![];
    for round in 1..=rounds {
        let before = stage::until_full(&api, WARM)?;
        for _ in 0..count {
            sessions.push(stage::timed_session(&api, times)?);
        }
        stage::ensure_claimed(&api, before, count)?;
        if sessions.len() >= MOST || round == rounds {
            sessions.drain(..).try_for_each(|session| api.purge(&session))?;
            std::thread::sleep(QUIET);
        }
    }
    Ok(())
}
