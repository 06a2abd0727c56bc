//! Sessions that are being made out of others, and who meets them.

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Client, Options, process};
use serde_json::{Value, json};

use crate::support::Talk;

/// The sessions that are being made.
fn starting(talk: &Talk) -> Result<Vec<Value>> {
    let listed = talk.api.call("GET", "/api/sessions?status=starting", None)?.expect(200)?;
    Ok(listed["sessions"].as_array().cloned().unwrap_or_default())
}

#[test]
fn a_fork_that_is_being_made_is_nobodys_to_change() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ask("[[say hello]]")?;
    talk.ash.kill9()?;
    talk.ash.boot_with(&[("ASH_FAULT", "restore.built:stall")])?;
    talk.api = talk.ash.api();
    let head = talk.api.head("POST", &talk.path("fork"));
    let fork = talk.api.raw(format!("{head}content-length: 0\r\n\r\n").as_bytes())?;
    process::until("the fork is being made", || starting(&talk).is_ok_and(|all| all.len() == 1))?;
    let id = starting(&talk)?[0]["id"].as_str().context("no id")?.to_owned();
    let path = format!("/api/sessions/{id}");
    let message = json!({ "content": "[[say too early]]" });
    for (method, path, body) in [
        ("POST", format!("{path}/messages"), Some(&message)),
        ("POST", format!("{path}/stop"), None),
        ("POST", format!("{path}/resume"), None),
        ("DELETE", path.clone(), None),
        ("DELETE", format!("{path}?purge=true"), None),
    ] {
        let refused = talk.api.call(method, &path, body)?.expect(409)?;
        let said = refused["error"].as_str().unwrap_or_default();
        ensure!(said.starts_with("Session is still being made"), "{method} {path}: {refused}");
    }
    // A backup has everybody saved who may be ahead of the newest point, and does not need this one.
    let dir = talk.ash.scratch().join("backup");
    let made = talk.ash.ctl().json(&["backup", dir.to_str().context("no text")?])?;
    ensure!(made["leftOut"] == 1 && made["sessions"] == 1, "{made}");
    ensure!(talk.ask("[[say alive]]")? == "alive", "nobody else waits for it");

    drop(fork);
    talk.crash()?;
    talk.api.call("GET", &path, None)?.expect(404)?;
    talk.session = talk.fork(json!({}))?;
    talk.api.turn_to(&talk.session, "resume")?;
    ensure!(talk.ask("[[history]]")?.contains("[[say alive]]"));
    talk.ash.finish()
}
