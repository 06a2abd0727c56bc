//! How soon many clients are answered that come at the same moment.

use std::time::Duration;

use anyhow::{Result, ensure};
use ash_journey::{Ash, Options};
use ash_modelapi::monotonic_ns;
use serde_json::json;

use super::{About, Outcome, Scale};
use crate::crowd::{self, Crowd};
use crate::report::Row;
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "50 sessions are sent a message at once, stand-in for the CLI",
    how: "All sessions are live and have had a turn. A connection for each is open; then one thread writes \
          the 50 requests, as fast as it can, and listens to all of them. No turn waits for others \
          (`turns` in `[admission]`). For each the clock starts before its request is written. The first \
          byte is that of the answer's head; the first frame is the first `event:`, `session_start`, when \
          the message is on the disk: a comment is none. `done` comes behind the commit of all that was \
          said. Between two rounds there is half a second of quiet, in which what the turns left is \
          saved.",
    measure,
};

const SESSIONS: usize = 50;

const ROUNDS: usize = 20;

/// Between two rounds, so that what the one before left to do is done.
const QUIET: Duration = Duration::from_millis(500);

/// What was measured.
#[derive(Default)]
struct Found {
    byte: Times,
    frame: Times,
    done: Times,
}

fn measure(scale: Scale) -> Result<Outcome> {
    let ash = stage::stub_with(Options::stub().config(stage::ALL_AT_ONCE))?;
    let count = scale.of(SESSIONS);
    let sessions = stage::for_each(&vec![(); count], |()| stage::used_session(&ash))?;
    let mut found = Found::default();
    for _ in 0..scale.of(ROUNDS) {
        std::thread::sleep(QUIET);
        round(&ash, &sessions, &mut found)?;
    }
    stage::for_each(&sessions, |session| ash.api().purge(session))?;
    ash.finish()?;
    let rows = vec![
        Row::times("first frame", &found.frame).floor(5.0).floor_p99(20.0),
        Row::times("first byte", &found.byte),
        Row::times("`done`", &found.done),
    ];
    Ok(Outcome { rows, notes: vec![] })
}

fn round(ash: &Ash, sessions: &[String], found: &mut Found) -> Result<()> {
    let (api, mut crowd) = (ash.api(), Crowd::of(ash)?);
    let text = json!({ "content": "a turn" });
    let requests: Vec<_> =
        sessions.iter().map(|session| crowd::message(&api, session, &text)).collect();
    for _ in sessions {
        crowd.connect()?;
    }
    let mut sent = vec![];
    for (client, request) in requests.iter().enumerate() {
        sent.push(monotonic_ns());
        crowd.send(client, request)?;
    }
    let mut answered = vec![false; sessions.len()];
    let mut begun = answered.clone();
    crowd.until(sessions.len(), |client, now, line| {
        if !std::mem::replace(&mut answered[client], true) {
            ensure!(line.starts_with("HTTP/1.1 200 "), "{line} instead of a stream");
            found.byte.add(sent[client], now);
        }
        if line.starts_with("event: ") && !std::mem::replace(&mut begun[client], true) {
            found.frame.add(sent[client], now);
        }
        if line == "event: done" {
            found.done.add(sent[client], now);
        }
        Ok(line == "event: done")
    })
}
