//! How long it takes to bring files back.

use std::time::Duration;

use anyhow::Result;
use ash_modelapi::monotonic_ns;

use super::{About, Outcome, Scale};
use crate::files::USUAL;
use crate::report::Row;
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "POST resume of a session whose files are only in the store, stand-in for the CLI",
    how: "A session with 200 MB in 2,000 files is stopped and saved, and its directory is moved away, as \
          if the disk had lost it (moved, not removed: ext4 without a journal, which this machine may \
          have, looks long for inodes that were freed within the last minute; so a minute is waited \
          for first). POST resume builds workspace and home from the store of this machine, makes the \
          sandbox, and answers when its bridge has; that the files are on the disk it does not wait \
          for. What is in the store has been read before: it is in memory. Before each the disk has \
          written what it had to: one after the other they come to more than it can write. Beside it, \
          resuming when the files are where they were.",
    measure,
};

/// How long ext4 without a journal gives nobody an inode that was freed (`recently_deleted`,
/// fs/ext4/ialloc.c), and a little: the figure before has freed many.
const FREED: Duration = Duration::from_secs(65);

fn measure(scale: Scale) -> Result<Outcome> {
    std::thread::sleep(FREED);
    let ash = stage::stub()?;
    let api = ash.api();
    let session = stage::filled_session(&ash, scale.fill(USUAL))?;
    let state = stage::state(&ash)?;
    let directory = state.join("sessions").join(&session);
    let (mut restored, mut in_place) = (Times::default(), Times::default());
    for round in 0..scale.of(30) {
        for (is_lost, times) in [(true, &mut restored), (false, &mut in_place)] {
            stage::set_aside(&api, &session, "stop")?;
            if is_lost {
                std::fs::rename(&directory, state.join(format!("lost-{round}")))?;
            }
            rustix::fs::sync();
            let begin = monotonic_ns();
            stage::verb(&api, &session, "resume")?;
            times.add(begin, monotonic_ns());
        }
    }
    ash.finish()?;
    let rows = vec![
        Row::times("from the store", &restored).floor(400.0),
        Row::times("files in their place", &in_place),
    ];
    Ok(Outcome { rows, notes: vec![] })
}
