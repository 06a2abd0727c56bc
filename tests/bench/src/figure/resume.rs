//! How long a session takes to be active again.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use anyhow::Result;
use ash_journey::{Api, Ash};
use ash_modelapi::monotonic_ns;

use super::{About, Outcome, Scale};
use crate::files::USUAL;
use crate::report::Row;
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "POST resume until it is answered, stand-in for the CLI",
    how: "Warm: a session is paused, so that its sandbox lives, and resumed when it has been saved as \
          it was then, or while that may still be under way, 10 ms after the pause. Cold: it is \
          stopped, so that it has none, and resumed when it has been saved; POST resume answers when \
          the bridge of the new sandbox has. The files are where they were: next to none, or 200 MB \
          in 2,000 files; these take turns. Connections included. Then the same with half a second \
          of quiet before each, as for `create`. A warm resume is on the disk before it is answered: \
          beside it stands what 8 kB cost that are written over in a file of the same disk, and synced \
          (fdatasync), as late after the pause.",
    measure,
};

/// Between a pause and a resume that hardly waits.
const PAUSE: Duration = Duration::from_millis(10);

/// What comes before a resume that nobody expected.
const QUIET: Duration = Duration::from_millis(500);

fn measure(scale: Scale) -> Result<Outcome> {
    let ash = stage::stub()?;
    let small = stage::used_session(&ash)?;
    let filled = stage::filled_session(&ash, scale.fill(USUAL))?;
    let (mut warm, mut warm_soon) = (Times::default(), Times::default());
    for _ in 0..scale.of(500) {
        stage::set_aside(&ash.api(), &small, "pause")?;
        resume(&ash.api(), &small, &mut warm)?;
    }
    let disk = writes(&ash, &small, scale.of(500))?;
    for _ in 0..scale.of(100) {
        stage::verb(&ash.api(), &small, "pause")?;
        std::thread::sleep(PAUSE);
        resume(&ash.api(), &small, &mut warm_soon)?;
    }
    let (mut cold, mut cold_filled, mut alone) =
        (Times::default(), Times::default(), Times::default());
    let api = ash.api();
    for _ in 0..scale.of(200) {
        one(&api, &small, Duration::ZERO, &mut cold)?;
        one(&api, &filled, Duration::ZERO, &mut cold_filled)?;
    }
    for _ in 0..scale.of(50) {
        one(&api, &filled, QUIET, &mut alone)?;
    }
    ash.finish()?;
    let rows = vec![
        Row::times("warm", &warm).floor(0.5),
        Row::times("a write of 8 kB in its place", &disk),
        Row::times("warm, 10 ms after the pause", &warm_soon),
        Row::times("cold, small workspace", &cold).floor(12.0),
        Row::times("cold, 200 MB", &cold_filled).floor(15.0),
        Row::times("cold, 200 MB, after half a second of quiet", &alone),
    ];
    Ok(Outcome { rows, notes: vec![] })
}

/// What a small write costs when a session has been set aside.
fn writes(ash: &Ash, session: &str, n: usize) -> Result<Times> {
    let file = File::options().write(true).create_new(true).open(ash.data_dir().join("written"))?;
    let block = [7; 8192];
    file.write_all_at(&block, 0)?;
    file.sync_all()?;
    let mut times = Times::default();
    for _ in 0..n {
        stage::set_aside(&ash.api(), session, "pause")?;
        let begin = monotonic_ns();
        file.write_all_at(&block, 0)?;
        file.sync_data()?;
        times.add(begin, monotonic_ns());
        stage::verb(&ash.api(), session, "resume")?;
    }
    Ok(times)
}

fn one(api: &Api, session: &str, quiet: Duration, times: &mut Times) -> Result<()> {
    stage::set_aside(api, session, "stop")?;
    std::thread::sleep(quiet);
    resume(api, session, times)
}

fn resume(api: &Api, session: &str, times: &mut Times) -> Result<()> {
    let begin = monotonic_ns();
    stage::verb(api, session, "resume")?;
    times.add(begin, monotonic_ns());
    Ok(())
}
