//! What was kept long enough goes by itself, and nothing that is needed.

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Client, Options, process};
use serde_json::{Value, json};

use crate::support::Talk;

fn health(talk: &Talk) -> Result<Value> {
    Ok(talk.api.call("GET", "/health", None)?.expect(200)?["retention"].take())
}

fn wait(talk: &Talk, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<()> {
    let seen = || health(talk).map_or(String::new(), |now| now.to_string());
    process::until(what, || health(talk).is_ok_and(|now| is_so(&now))).with_context(seen)
}

#[test]
fn sessions_that_ended_and_what_was_said_long_ago_go() -> Result<()> {
    let options = "[retention]\nevery = \"50ms\"\nended_sessions = \"1ms\"\nevents = \"1ms\"\n";
    let talk = Talk::begin(Options::stub().config(options))?;
    let over = talk.api.create("hello", json!({}))?;
    talk.api.send(&over, json!({ "content": "[[say over]]" }))?.to_end()?;
    talk.api.turn_to(&over, "end")?;
    wait(&talk, "the ended session to be purged", |now| now["purgedSessions"] == 1)?;
    ensure!(talk.api.call("GET", &format!("/api/sessions/{over}"), None)?.status == 404);

    for word in ["one", "two", "three"] {
        talk.ask(&format!("[[say {word}]]"))?;
    }
    let said = || Ok::<_, anyhow::Error>(format!("{:?}", talk.api.messages(&talk.session)?));
    process::until("what was said first to be forgotten", || {
        said().is_ok_and(|said| !said.contains("[[say one]]"))
    })?;
    let said = said()?;
    ensure!(said.contains("[[say two]]") && said.contains("[[say three]]"), "{said}");
    // The agent itself remembers, and goes on.
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("[[say one]]"), "{told}");
    let fork = talk.api.call("POST", &format!("/api/sessions/{}/fork", talk.session), None)?;
    let fork = fork.expect(201)?["session"]["id"].as_str().context("no id")?.to_owned();
    ensure!(talk.api.turn_to(&fork, "resume")? == "active");
    ensure!(health(&talk)?["failing"] == false);
    talk.ash.finish()
}

#[test]
fn checkpoints_go_until_they_fit_but_for_the_newest_and_named_ones() -> Result<()> {
    let options = "[retention]\nevery = \"50ms\"\ncheckpoint_bytes = \"1\"\n";
    let mut talk = Talk::begin(Options::stub().config(options))?;
    let ctl = talk.ash.ctl();
    talk.ask(&talk.bash("echo 1 > file"))?;
    ctl.json(&["session", "checkpoint", "create", &talk.session, "named"])?;
    for number in 2..5 {
        talk.ask(&talk.bash(&format!("echo {number} > file")))?;
        // By itself it is saved only when no other turn begins at once.
        ctl.json(&["session", "checkpoint", "create", &talk.session])?;
    }
    let points = || -> Result<Vec<String>> {
        let listed = ctl.json(&["session", "checkpoint", "list", &talk.session])?;
        let all = listed.as_array().context("no list")?.iter();
        Ok(all.map(|one| one["name"].as_str().unwrap_or_default().to_owned()).collect())
    };
    process::until("two checkpoints to be left", || {
        points().is_ok_and(|left| left == ["", "named"])
    })
    .with_context(|| format!("{:?}", points()))?;
    wait(&talk, "it to be said that they do not fit", |now| {
        now["overBytes"].as_u64() > Some(0) && now["removedCheckpoints"].as_u64() > Some(0)
    })?;
    let status = talk.ash.ctl().command()?.arg("status").output()?;
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    ensure!(status.contains("over: checkpoints take"), "{status}");
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    // What is saved behind the end of a sandbox must not be what is removed here.
    talk.ash.terminate()?;
    std::fs::remove_dir_all(talk.ash.data_dir().join("sessions").join(&talk.session))?;
    talk.boot()?;
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    ensure!(talk.api.exec(&talk.session, "cat file")?.stdout == "4\n");
    ensure!(ctl.json(&["fsck", "--deep"])?["differences"] == json!([]));
    talk.ash.finish()
}
