//! How many events per second become durable.

use std::sync::Barrier;

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Api, Ash};
use ash_modelapi::monotonic_ns;
use rusqlite::{Connection, OpenFlags};

use super::{About, Outcome, Scale};
use crate::report::{Row, Unit};
use crate::stage;
use crate::stats;

pub(super) const ABOUT: About = About {
    title: "Durable events of 300 bytes per second",
    how: "The stand-in for the CLI writes complete messages of 300 bytes as fast as it can, in one \
          session or in 20 at a time, each read by an SSE client. The clock starts before the first \
          request and stops when the last client has `done`, which ashd sends after the commit that \
          holds everything of the turn (WAL, synchronous=FULL: after its fsync). The rows in the \
          database are counted as well. Sessions have had a turn before.",
    measure,
};

/// How often each is measured.
const RUNS: usize = 5;

/// How many sessions are many.
const MANY: usize = 20;

fn measure(scale: Scale) -> Result<Outcome> {
    let ash = stage::stub()?;
    let sessions = (0..MANY).map(|_| stage::session(&ash.api())).collect::<Result<Vec<_>>>()?;
    for session in &sessions {
        stage::send(&ash.api(), session, "first", false)?.finish()?;
    }
    let mut outcome = Outcome::default();
    for (count, events) in [(1, scale.of(100_000)), (MANY, scale.of(10_000))] {
        let mut rates = vec![];
        for _ in 0..RUNS {
            rates.push(run(&ash, &sessions[..count], events)?);
        }
        let what = match count {
            1 => "one session".to_owned(),
            many => format!("{many} sessions"),
        };
        let row = Row::plain(&what, RUNS, Unit::PerSecond, stats::median(&rates));
        outcome.rows.push(row.floor(35_000.0));
        let all = rates.iter().map(|rate| format!("{rate:.0}")).collect::<Vec<_>>().join(", ");
        outcome.notes.push(format!("{what}: {events} events each, {all} per second"));
    }
    ash.finish()?;
    Ok(outcome)
}

/// Events per second.
fn run(ash: &Ash, sessions: &[String], events: usize) -> Result<f64> {
    let before = rows(ash)?;
    let barrier = Barrier::new(sessions.len());
    let spans = std::thread::scope(|scope| {
        let turn = |session| {
            barrier.wait();
            one_turn(&ash.api(), session, events)
        };
        let threads: Vec<_> =
            sessions.iter().map(|session| scope.spawn(move || turn(session))).collect();
        threads.into_iter().map(|thread| thread.join().ok()?.ok()).collect::<Option<Vec<_>>>()
    });
    let spans = spans.context("a turn failed")?;
    let begin = spans.iter().map(|span| span.0).min().unwrap_or_default();
    let end = spans.iter().map(|span| span.1).max().unwrap_or_default();
    let all = events * sessions.len();
    let written = rows(ash)? - before;
    ensure!(written >= all, "{written} events are in the database instead of {all}");
    Ok(all as f64 / ((end - begin) as f64 / 1e9))
}

/// When it began and ended.
fn one_turn(api: &Api, session: &str, events: usize) -> Result<(u64, u64)> {
    let sent = stage::send(api, session, &format!("[[events {events} 300]]"), false)?;
    let begin = sent.at;
    sent.finish()?;
    Ok((begin, monotonic_ns()))
}

/// Assistant messages in the database.
fn rows(ash: &Ash) -> Result<usize> {
    let path = ash.data_dir().join("ash.db");
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let sql = "SELECT count(*) FROM events WHERE kind = 'assistant'";
    let rows: i64 = database.query_row(sql, [], |row| row.get(0))?;
    Ok(usize::try_from(rows)?)
}
