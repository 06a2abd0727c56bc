//! How long a delta is under way.

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Api, Ash};

use super::{About, Outcome, Scale};
use crate::report::Row;
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "A delta from the CLI to an SSE client",
    how: "The stand-in for the CLI writes a text delta every 500 us, with the time (CLOCK_MONOTONIC) \
          as its first word; a client with one connection reads lines and compares, when the line is \
          complete. So what is measured begins a step before the bridge: it has the stand-in's \
          write, the bridge's wake-up and relay, ashd, and the client's wake-up. Turns of 2,000 \
          deltas, one after the other in one session.",
    measure,
};

/// Deltas of one turn.
const DELTAS: usize = 2000;

fn measure(scale: Scale) -> Result<Outcome> {
    let ash = stage::stub()?;
    let mut times = Times::default();
    let api = ash.api();
    let session = stage::session(&api)?;
    stage::send(&api, &session, "first", true)?.finish()?;
    for _ in 0..scale.of(20_000).div_ceil(DELTAS) {
        one_turn(&api, &session, &mut times)?;
    }
    finish(ash, &session)?;
    let row = Row::times("CLI to client", &times).floor(0.15).floor_p99(0.8);
    Ok(Outcome { rows: vec![row], notes: vec![] })
}

fn one_turn(api: &Api, session: &str, times: &mut Times) -> Result<()> {
    let before = times.n();
    let text = format!("[[stamp]] [[deltas {DELTAS} 64 500us]]");
    let sent = stage::send(api, session, &text, true)?;
    sent.each_line(|now, line| {
        if let Some(delta) = line.strip_prefix(r#"data: {"delta":""#) {
            let stamp = delta.split(' ').next().and_then(|stamp| stamp.parse().ok());
            times.add(stamp.with_context(|| format!("a delta without a time: {line}"))?, now);
        }
        Ok(())
    })?;
    ensure!(times.n() == before + DELTAS, "{} deltas came", times.n() - before);
    Ok(())
}

fn finish(ash: Ash, session: &str) -> Result<()> {
    ash.api().purge(session)?;
    ash.finish()
}
