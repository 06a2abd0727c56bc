//! How long it takes to bring files back.

use anyhow::Result;
use ash_modelapi::monotonic_ns;

use super::{About, Outcome, Scale};
use crate::files::USUAL;
use crate::report::Row;
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "POST resume of a session whose files are only in the store, stand-in for the CLI",
    how: "A session with 200 MB in 2,000 files is stopped and saved, and its directory is removed, as \
          if the disk had lost it. POST resume builds workspace and home from the store of this \
          machine, flushes them, makes the sandbox, and answers when its bridge has. What is in the \
          store has been read before: it is in memory. Beside it, resuming when the files are where \
          they were.",
    measure,
};

fn measure(scale: Scale) -> Result<Outcome> {
    let ash = stage::stub()?;
    let api = ash.api();
    let session = stage::filled_session(&ash, scale.fill(USUAL))?;
    let directory = stage::state(&ash)?.join("sessions").join(&session);
    let (mut restored, mut in_place) = (Times::default(), Times::default());
    for _ in 0..scale.of(30) {
        for (remove, times) in [(true, &mut restored), (false, &mut in_place)] {
            stage::stop(&api, &session)?;
            if remove {
                std::fs::remove_dir_all(&directory)?;
            }
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
