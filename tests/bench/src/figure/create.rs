//! How long a session takes to be there.

use std::time::Duration;

use anyhow::Result;
use ash_journey::Api;
use ash_modelapi::monotonic_ns;

use super::{About, Outcome, Scale};
use crate::report::Row;
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "POST session until the bridge is ready, stand-in for the CLI",
    how: "Sessions are made and deleted one after the other. POST session answers when the bridge of \
          the new sandbox has, so this is the whole request, its connection included: workspace and \
          home laid out, sandbox made, bridge greeted, session on disk. DELETE is with `purge`, and \
          is done when nothing of the sandbox is left. Then the same with half a second of quiet \
          before each: moving a process into a control group waits for a grace period of RCU \
          unless one was moved just before.",
    measure,
};

/// What comes before a session that nobody expected.
const QUIET: Duration = Duration::from_millis(500);

fn measure(scale: Scale) -> Result<Outcome> {
    let ash = stage::stub()?;
    let api = ash.api();
    let (mut made, mut gone, mut alone) = (Times::default(), Times::default(), Times::default());
    for _ in 0..scale.of(500) {
        one(&api, &mut made, &mut gone)?;
    }
    for _ in 0..scale.of(100) {
        std::thread::sleep(QUIET);
        one(&api, &mut alone, &mut Times::default())?;
    }
    ash.finish()?;
    let rows = vec![
        Row::times("POST session", &made).floor(12.0).floor_p99(40.0),
        Row::times("POST session after half a second of quiet", &alone),
        Row::times("DELETE session", &gone),
    ];
    Ok(Outcome { rows, notes: vec![] })
}

fn one(api: &Api, made: &mut Times, gone: &mut Times) -> Result<()> {
    let session = stage::timed_session(api, made)?;
    let begin = monotonic_ns();
    api.purge(&session)?;
    gone.add(begin, monotonic_ns());
    Ok(())
}
