//! What is counted and measured, as a scraper reads it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use ash_journey::process::until;
use ash_journey::{Client as _, Options, skip};
use serde_json::json;

use crate::support::Talk;

/// All of it, as a program of this machine gets it that has no key.
fn scrape(talk: &Talk) -> Result<String> {
    let answer = talk.api.with("authorization", "").call("GET", "/metrics", None)?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    let form = answer.header("content-type");
    ensure!(form == Some("text/plain; version=0.0.4; charset=utf-8"), "{form:?}");
    Ok(answer.text())
}

/// What a series says; none when nothing was counted there.
fn value(text: &str, series: &str) -> Option<f64> {
    let mut found = text.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.next()?.parse().ok()
}

/// Waits until a series says what is wanted: a turn is counted behind the last that its readers hear of it.
fn comes(talk: &Talk, series: &str, is_wanted: impl Fn(f64) -> bool) -> Result<()> {
    let mut last = None;
    let comes = until(series, || {
        last = scrape(talk).ok().and_then(|text| value(&text, series));
        last.is_some_and(&is_wanted)
    });
    comes.with_context(|| format!("{series} is {last:?}"))
}

fn comes_to(talk: &Talk, series: &str, number: f64) -> Result<()> {
    let comes = comes(talk, series, |found| (found - number).abs() < 1e-9);
    comes.with_context(|| format!("it is not {number}"))
}

/// Waits until something was counted in a series.
pub(crate) fn is_counted(talk: &Talk, series: &str) -> Result<()> {
    comes(talk, series, |found| found > 0.0)
}

#[test]
fn what_sessions_do_is_counted_and_measured() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    ensure!(talk.ask("[[say one]]")? == "one");
    for (verb, status) in
        [("pause", "paused"), ("resume", "active"), ("stop", "stopped"), ("resume", "active")]
    {
        ensure!(talk.api.turn_to(&talk.session, verb)? == status, "{verb}");
    }
    talk.api.session(&talk.session)?;
    ensure!(talk.ask("[[say two]]")? == "two");
    for (series, number) in [
        ("ash_turn_seconds_count{outcome=\"result\"}", 2.0),
        ("ash_turn_seconds_count{outcome=\"failed\"}", 0.0),
        ("ash_queue_wait_seconds_count", 2.0),
        ("ash_first_event_seconds_count", 2.0),
        ("ash_time_to_model_seconds_count", 0.0),
        ("ash_spawn_seconds_count", 2.0),
        ("ash_spawn_phase_seconds_count{phase=\"lay_out\"}", 1.0),
        ("ash_spawn_phase_seconds_count{phase=\"prepare\"}", 2.0),
        ("ash_spawn_phase_seconds_count{phase=\"grant\"}", 2.0),
        ("ash_spawn_phase_seconds_count{phase=\"launch\"}", 2.0),
        ("ash_spawn_phase_seconds_count{phase=\"greet\"}", 2.0),
        ("ash_resume_total{path=\"warm\"}", 1.0),
        ("ash_resume_total{path=\"cold\"}", 1.0),
        ("ash_resume_cold_total{source=\"local\"}", 1.0),
        ("ash_resume_seconds_count{path=\"warm\",source=\"none\"}", 1.0),
        ("ash_resume_seconds_count{path=\"cold\",source=\"local\"}", 1.0),
        ("ash_wake_seconds_count{source=\"local\"}", 0.0),
        ("ash_sandboxes_lost_total", 0.0),
        ("ash_active_sessions", 1.0),
        ("ash_sessions{status=\"active\"}", 1.0),
        ("ash_active_sandboxes", 1.0),
        ("ash_pool_sandboxes{state=\"waiting\"}", 1.0),
        ("ash_http_requests_total{method=\"POST\",route=\"/api/agents\",status=\"2xx\"}", 1.0),
        (
            "ash_http_requests_total{method=\"GET\",route=\"/api/sessions/{id}\",status=\"2xx\"}",
            1.0,
        ),
        (
            "ash_http_request_seconds_count{method=\"POST\",route=\"/api/sessions/{id}/messages\"}",
            2.0,
        ),
    ] {
        comes_to(&talk, series, number)?;
    }
    for series in [
        "ash_cli_ready_seconds_count",
        "ash_cost_usd_total",
        "ash_commit_seconds_count",
        "ash_commit_operations_sum",
        "ash_pool_max_capacity",
        "ash_turn_seconds_sum{outcome=\"result\"}",
    ] {
        is_counted(&talk, series)?;
    }
    let text = scrape(&talk)?;
    // What tenants, agents and sessions are called is nobody's business here.
    for name in [&*talk.session, "hello", "default", talk.ash.key()] {
        ensure!(!text.contains(name), "{name} is in {text}");
    }
    talk.ash.finish()
}

/// Asks the broker from within the sandbox, as curl is told to.
fn asked(talk: &Talk, arguments: &str) -> Result<String> {
    let curl = "curl -sS --unix-socket /run/ash/model/api.sock";
    let told = talk.api.exec(&talk.session, &format!("{curl} {arguments} 2>&1"))?;
    Ok(told.stdout)
}

#[test]
fn calls_of_the_model_and_refusals_are_counted() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let prompt = "[[usage in=40 out=7]][[say hi]]";
    let body = json!({
        "model": "m", "max_tokens": 9, "messages": [{ "role": "user", "content": prompt }]
    });
    let form = "-H 'content-type: application/json'";
    let said = asked(&talk, &format!("{form} -d '{body}' http://x/v1/messages"))?;
    ensure!(said.contains("hi"), "{said}");
    asked(&talk, "http://x/v1/files")?;
    // Whoever passes a request on needs a key, and so does everybody elsewhere.
    let passed_on = talk.api.with("authorization", "").with("x-forwarded-for", "127.0.0.1");
    ensure!(passed_on.call("GET", "/metrics", None)?.status == 401);
    let keyless = talk.api.with("authorization", "Bearer wrong");
    ensure!(keyless.call("GET", "/api/agents", None)?.status == 401);
    let keyed = talk.api.with("x-forwarded-for", "127.0.0.1");
    ensure!(keyed.call("GET", "/metrics", None)?.status == 200);
    for (series, number) in [
        ("ash_broker_request_seconds_count{status=\"2xx\"}", 1.0),
        ("ash_tokens_total{kind=\"input\"}", 40.0),
        ("ash_tokens_total{kind=\"output\"}", 7.0),
        ("ash_denied_total{reason=\"key\"}", 2.0),
        ("ash_http_requests_total{method=\"GET\",route=\"none\",status=\"4xx\"}", 2.0),
        // The broker is asked for it every ten seconds.
        ("ash_denied_total{reason=\"broker\"}", 1.0),
    ] {
        comes_to(&talk, series, number)?;
    }
    // The broker stays, and knows of the first one, too.
    talk.crash()?;
    asked(&talk, "http://x/v1/files http://x/v1/files")?;
    comes_to(&talk, "ash_denied_total{reason=\"broker\"}", 2.0)?;
    talk.ash.finish()
}

/// Only the real CLI asks a model.
#[test]
fn it_is_measured_how_soon_the_model_is_asked() -> Result<()> {
    let test = "metrics::it_is_measured_how_soon_the_model_is_asked";
    let Some(options) = Options::real(test) else { return Ok(()) };
    let talk = Talk::begin(options)?;
    ensure!(talk.ask("[[say hello]]")? == "hello");
    comes_to(&talk, "ash_time_to_model_seconds_count", 1.0)?;
    talk.ash.finish()
}

#[test]
fn promtool_finds_nothing_wrong() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    ensure!(talk.ask("[[say one]]")? == "one");
    let text = scrape(&talk)?;
    talk.ash.finish()?;
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    let Ok(mut child) = promtool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() else {
        skip("promtool_finds_nothing_wrong", "promtool is not installed");
        return Ok(());
    };
    // It reads everything before it says anything.
    child.stdin.take().context("no input")?.write_all(text.as_bytes())?;
    let done = child.wait_with_output()?;
    let told = [done.stdout, done.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    ensure!(done.status.success() && told.trim().is_empty(), "{}: {told}\n{text}", done.status);
    Ok(())
}
