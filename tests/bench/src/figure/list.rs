//! Whether what is asked for often takes longer when there are many sessions.

use anyhow::{Result, ensure};
use ash_journey::{Api, Ash};
use ash_modelapi::monotonic_ns;
use rusqlite::Connection;
use serde_json::Value;

use super::{About, Outcome, Scale};
use crate::report::Row;
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "With 100,000 sessions: a page of them, /health, /metrics",
    how: "A session has had a turn and has ended. ashd is ended, its row and that of its settings are \
          copied 100,000 times by SQL, under other ids and with later times, and ashd is started again. \
          Requests one after the other, each over a connection of its own, which counts; their bodies \
          are read to the end. A page are the 100 newest sessions.",
    measure,
};

const SESSIONS: usize = 100_000;

fn measure(scale: Scale) -> Result<Outcome> {
    let mut ash = stage::stub()?;
    let count = scale.of(SESSIONS);
    let session = stage::used_session(&ash)?;
    let path = format!("/api/sessions/{session}");
    ash.api().call("DELETE", &path, None)?.expect(200)?;
    ash.terminate()?;
    copy(&ash, count)?;
    ash.boot()?;
    let rows = requests(&ash.api(), scale.of(500), count)?;
    ash.finish()?;
    Ok(Outcome { rows, notes: vec![] })
}

/// Copies the only session. Columns are those that there are: but for what tells sessions apart, all
/// copies are alike, and none has events.
fn copy(ash: &Ash, count: usize) -> Result<()> {
    let mut database = Connection::open(ash.data_dir().join("ash.db"))?;
    let all = database.transaction()?;
    let sql = "SELECT group_concat(name) FROM pragma_table_info('sessions')
         WHERE name NOT IN ('key', 'id', 'sandbox', 'created_at', 'last_seq')";
    let columns: String = all.query_row(sql, [], |row| row.get(0))?;
    let sql = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
         INSERT INTO sessions (id, sandbox, created_at, last_seq, {columns})
         SELECT randomblob(16), randomblob(16), created_at + n, 0, {columns}
         FROM numbers JOIN (SELECT * FROM sessions LIMIT 1)"
    );
    all.execute(&sql, [i64::try_from(count)?])?;
    let sql = "INSERT INTO session_settings (session, settings)
         SELECT key, (SELECT settings FROM session_settings LIMIT 1) FROM sessions
         WHERE key NOT IN (SELECT session FROM session_settings)";
    ensure!(all.execute(sql, [])? == count, "not every copy has got settings");
    Ok(all.commit()?)
}

fn requests(api: &Api, rounds: usize, count: usize) -> Result<Vec<Row>> {
    let hundred = |body: &Value| body["sessions"].as_array().is_some_and(|page| page.len() == 100);
    let all = |body: &Value| body["total"] == count + 1;
    let any = |_: &Value| true;
    let (mut page, mut total) = (Times::default(), Times::default());
    let (mut health, mut metrics) = (Times::default(), Times::default());
    for _ in 0..rounds {
        get(api, "/api/sessions?limit=100", hundred, &mut page)?;
        get(api, "/api/sessions?limit=100&includeTotal=true", all, &mut total)?;
        get(api, "/health", |body| body["status"] == "ok", &mut health)?;
        get(api, "/metrics", any, &mut metrics)?;
    }
    Ok(vec![
        Row::times("a page of sessions", &page).floor(2.0),
        Row::times("a page of sessions, and how many there are", &total).floor(2.0),
        Row::times("/health", &health).floor(2.0),
        Row::times("/metrics", &metrics).floor(2.0),
    ])
}

fn get(api: &Api, path: &str, is_right: impl Fn(&Value) -> bool, times: &mut Times) -> Result<()> {
    let begin = monotonic_ns();
    let answer = api.call("GET", path, None)?;
    times.add(begin, monotonic_ns());
    ensure!(is_right(&answer.expect(200)?), "{path} says {}", answer.text());
    Ok(())
}
