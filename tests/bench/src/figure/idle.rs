//! What clients cost that only listen, and how soon all of them hear.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use ash_journey::Ash;

use super::{About, Outcome, Scale};
use crate::crowd::{self, Crowd};
use crate::memory::Memory;
use crate::report::{Row, Unit};
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "10,000 clients that follow one idle session",
    how: "A session has had a turn and is idle; 10,000 clients follow it (GET stream), each over a \
          connection of its own, all held by one thread of the benchmark. When each of them has had a \
          ping (every 15 s) the resident memory (RSS) of ashd is compared with that of before; what the \
          kernel keeps for connections is not in it. Then a turn in which the stand-in for the CLI \
          writes a delta with the time (CLOCK_MONOTONIC) every second: for each of them it is measured \
          how long after it the last client has the whole line, and the first. The thread that reads \
          them all runs on one of the two processors.",
    measure,
};

const CLIENTS: usize = 10_000;

/// Deltas, one a second.
const DELTAS: usize = 20;

fn measure(scale: Scale) -> Result<Outcome> {
    let (ash, clients) = (stage::stub()?, scale.of(CLIENTS));
    let session = stage::used_session(&ash)?;
    let before = Memory::of(ash.pid()?)?;
    let mut crowd = Crowd::of(&ash)?;
    crowd.follow(&ash.api(), &session, clients)?;
    pinged(&mut crowd)?;
    let after = Memory::of(ash.pid()?)?;
    let (first, last) = broadcast(&ash, &session, &mut crowd)?;
    let told = Memory::of(ash.pid()?)?;
    drop(crowd);
    ash.api().purge(&session)?;
    ash.finish()?;
    let each = |now: Memory| (now.resident - before.resident) * 1e3 / clients as f64;
    let rows = vec![
        Row::plain("memory of ashd for each", clients, Unit::Kb, each(after)).floor(12.0),
        Row::plain("memory of ashd for each, after the turn", clients, Unit::Kb, each(told)),
        Row::times("an event to the last client", &last).floor(120.0),
        Row::times("an event to the first client", &first),
    ];
    let notes = vec![format!(
        "ashd: {:.2} MB resident before, {:.2} MB with all clients",
        before.resident, after.resident
    )];
    Ok(Outcome { rows, notes })
}

/// Waits until every client has had a ping.
fn pinged(crowd: &mut Crowd) -> Result<()> {
    let mut had = vec![false; crowd.len()];
    crowd.until(crowd.len(), |client, _, line| {
        Ok(line == ": ping" && !std::mem::replace(&mut had[client], true))
    })
}

/// How an event has spread.
#[derive(Clone, Copy)]
struct Spread {
    clients: usize,
    first: u64,
    last: u64,
}

/// How soon the first client and the last one has each delta.
fn broadcast(ash: &Ash, session: &str, crowd: &mut Crowd) -> Result<(Times, Times)> {
    let text = format!("[[stamp]] [[deltas {DELTAS} 64 1s]]");
    let sent = stage::send(&ash.api(), session, &text, false)?;
    let mut events: BTreeMap<u64, Spread> = BTreeMap::new();
    crowd.until(crowd.len(), |_, now, line| {
        if let Some(stamp) = crowd::stamp(line)? {
            let none = Spread { clients: 0, first: now, last: now };
            let spread = events.entry(stamp).or_insert(none);
            *spread = Spread { clients: spread.clients + 1, last: now, ..*spread };
        }
        Ok(line == "event: done")
    })?;
    sent.finish()?;
    ensure!(events.len() == DELTAS, "{} deltas came", events.len());
    let (mut first, mut last) = (Times::default(), Times::default());
    for (stamp, spread) in events {
        ensure!(spread.clients == crowd.len(), "{} clients had a delta", spread.clients);
        first.add(stamp, spread.first);
        last.add(stamp, spread.last);
    }
    Ok((first, last))
}
