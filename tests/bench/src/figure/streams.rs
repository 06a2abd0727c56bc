//! How long deltas are under way when many streams are open, and whether any is lost.

use anyhow::{Result, ensure};
use ash_journey::Ash;

use super::{About, Outcome, Scale};
use crate::crowd::{self, Crowd};
use crate::report::{Row, Unit};
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "500 open streams, each of which gets an event every 10 ms",
    how: "Turns in which the stand-in for the CLI writes 1,000 deltas, one every 10 ms, with the \
          time (CLOCK_MONOTONIC) in front of each, so that what is measured begins where that of \
          `delta` does; a frame has 100 bytes and some. Clients follow the sessions (GET stream) \
          before the messages are sent; all of them are one thread, which compares when a line \
          is complete. Every delta that does not reach a client is counted; no turn waits for \
          others (`turns` in `[admission]`). 500 streams can be two things, and the floor is that \
          of both: 10 clients for each of 50 sessions, where 5,000 lines per second come to ashd \
          and 50,000 frames leave it; and one for each of 500 sessions, where 50,000 lines come as \
          well. There 500 stand-ins and 500 bridges want as much of the two processors as ashd \
          does, and what these are late by is counted, too.",
    measure,
};

/// Streams that are open.
const STREAMS: usize = 500;

/// Deltas of one turn, every 10 ms.
const DELTAS: usize = 1_000;

fn measure(scale: Scale) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for sessions in [50, STREAMS] {
        let (streams, deltas) = (STREAMS / sessions, scale.of(DELTAS));
        let times = open(scale.of(sessions), streams, deltas)?;
        let expected = scale.of(sessions) * streams * deltas;
        ensure!(times.n() <= expected, "{} deltas came instead of {expected}", times.n());
        let lost = Row::plain("", expected, Unit::Count, expected as f64 - times.n() as f64);
        let what = match streams {
            1 => format!("{sessions} sessions, a client each"),
            _ => format!("{sessions} sessions, {streams} clients each"),
        };
        outcome.rows.extend([
            Row::times(&format!("{what}: CLI to client"), &times).floor_p99(20.0),
            Row { what: format!("{what}: lost"), ..lost }.floor(0.0),
        ]);
    }
    Ok(outcome)
}

/// So many sessions, each with so many streams and a turn of so many deltas.
fn open(sessions: usize, streams: usize, deltas: usize) -> Result<Times> {
    let options = stage::room_for(sessions).config(stage::ALL_AT_ONCE);
    let ash = stage::stub_with(options)?;
    let sessions = stage::for_each(&vec![(); sessions], |()| stage::used_session(&ash))?;
    let mut crowd = Crowd::of(&ash)?;
    for session in &sessions {
        crowd.follow(&ash.api(), session, streams)?;
    }
    let times = turns(&ash, &sessions, &mut crowd, deltas)?;
    drop(crowd);
    stage::for_each(&sessions, |session| ash.api().purge(session))?;
    ash.finish()?;
    Ok(times)
}

fn turns(ash: &Ash, sessions: &[String], crowd: &mut Crowd, deltas: usize) -> Result<Times> {
    let text = format!("[[stamp]] [[deltas {deltas} 64 10ms]]");
    let api = ash.api();
    let sent = sessions.iter().map(|session| stage::send(&api, session, &text, false));
    let sent = sent.collect::<Result<Vec<_>>>()?;
    let mut times = Times::default();
    crowd.until(crowd.len(), |_, now, line| {
        if let Some(stamp) = crowd::stamp(line)? {
            times.add(stamp, now);
        }
        Ok(line == "event: done")
    })?;
    sent.into_iter().try_for_each(stage::Sent::finish)?;
    Ok(times)
}
