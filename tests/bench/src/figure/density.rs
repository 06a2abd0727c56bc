//! What a thousand sandboxes cost, and whether one more costs more.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Api, Ash, process};

use super::{About, Outcome, Scale, bridge};
use crate::memory::Memory;
use crate::report::{Row, Unit};
use crate::stage;
use crate::stats::{self, Times};

pub(super) const ABOUT: About = About {
    title: "1,000 live sandboxes, stand-in for the CLI",
    how: "50 sessions are made and deleted one after the other, with the clocks of `create`, while \
          there is no other, and again while 1,000 are live: how much longer the second ones take, \
          median by median. While 1,000 are live sessions are made and deleted by four clients at a \
          time for 20 s: how many that is per second. Private memory is that of `bridge`, of all \
          1,000.",
    measure,
};

const SANDBOXES: usize = 1_000;

/// Sessions that are made and deleted to see how long that takes.
const SAMPLES: usize = 50;

/// Clients that make and delete sessions at a time.
const CLIENTS: usize = 4;

const SECONDS: usize = 20;

fn measure(scale: Scale) -> Result<Outcome> {
    let count = scale.of(SANDBOXES);
    let ash = stage::stub_with(stage::room_for(count))?;
    let alone = Memory::of(ash.pid()?)?;
    let first = made_and_gone(&ash.api())?;
    let sessions = stage::for_each(&vec![(); count], |()| stage::session(&ash.api()))?;
    let last = made_and_gone(&ash.api())?;
    let rate = per_second(&ash, Duration::from_secs(scale.of(SECONDS) as u64))?;
    let sandboxes = bridge::sandboxes(&ash)?;
    ensure!(sandboxes.len() == count, "{} sandboxes were found", sandboxes.len());
    let private: Vec<f64> = sandboxes.iter().map(|parts| parts.values().sum()).collect();
    let all = Memory::of(ash.pid()?)?;
    let descriptors = descriptors(&ash)?;
    stage::for_each(&sessions, |session| ash.api().purge(session))?;
    ash.finish()?;
    let slower = last.quantile(0.5) / first.quantile(0.5);
    let memory = Row::plain("private memory of each", count, Unit::Mb, stats::median(&private));
    let rows = vec![
        Row::plain("POST session, against the first", SAMPLES, Unit::Times, slower).floor(1.3),
        Row::times("POST session, nothing is live", &first),
        Row::times("POST session, 1,000 are live", &last),
        Row { p99: Some(stats::quantile(&private, 0.99)), ..memory }.floor(1.5),
        Row::plain("made and deleted", rate.0, Unit::PerSecond, rate.1).floor(80.0),
        Row::plain("memory of ashd", 1, Unit::Mb, all.resident),
    ];
    let notes = vec![
        format!("ashd: {:.2} MB resident before the first session", alone.resident),
        format!("Open descriptors with all of them live: {descriptors}"),
    ];
    Ok(Outcome { rows, notes })
}

/// How long it takes to make a session; each is deleted before the next.
fn made_and_gone(api: &Api) -> Result<Times> {
    let mut made = Times::default();
    for _ in 0..SAMPLES {
        api.purge(&stage::timed_session(api, &mut made)?)?;
    }
    Ok(made)
}

/// How many sessions were made and deleted, and how many per second.
fn per_second(ash: &Ash, time: Duration) -> Result<(usize, f64)> {
    let began = Instant::now();
    let counts = stage::for_each(&[(); CLIENTS], |()| {
        let api = ash.api();
        let mut count: usize = 0;
        while began.elapsed() < time {
            api.purge(&stage::session(&api)?)?;
            count += 1;
        }
        Ok(count)
    })?;
    let count: usize = counts.iter().sum();
    Ok((count, count as f64 / began.elapsed().as_secs_f64()))
}

/// How many descriptors each of our processes has open.
fn descriptors(ash: &Ash) -> Result<String> {
    let mut shown = vec![];
    for pid in [ash.pid()?, ash.helper("ash-launcher")?, ash.helper("ash-broker")?] {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).context("a process is gone")?;
        shown.push(format!("{} {}", process::name(pid), open.count()));
    }
    Ok(shown.join(", "))
}
