//! A sandbox that is gone has left nothing; checked by difference.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command};

use anyhow::{Context as _, Result, ensure};
use ash_journey::leftovers::Snapshot;
use ash_journey::process::{signal, until};
use ash_journey::{Ash, Client, Options};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Talk, both_engines, with_hello};

both_engines!(a_purged_session_has_left_nothing);

/// There are fewer user ids than sessions: they come back as well.
fn a_purged_session_has_left_nothing(options: Options) -> Result<()> {
    let mut talk = Talk::begin(options)?;
    talk.api.purge(&talk.session)?;
    let before = talk.ash.places().look()?;
    for round in 0..3 {
        talk.session = talk.api.create("hello", json!({}))?;
        let prompt = talk.bash(
            "mkdir -p d && mkfifo d/fifo && ln -s / d/link && sleep 1000 > /dev/null 2>&1 & echo",
        );
        talk.ask(&prompt)?;
        match round {
            0 => {}
            1 => drop(talk.api.turn_to(&talk.session, "stop")?),
            _ => talk.crash()?,
        }
        talk.api.purge(&talk.session)?;
        let after = talk.ash.places().look()?;
        if round < 2 {
            ensure!(after == before, "round {round}:\n{}", after.difference(&before));
        }
        ensure!(
            talk.api.call("GET", &format!("/api/sessions/{}", talk.session), None)?.status == 404
        );
    }
    talk.ash.finish()
}

#[test]
fn user_ids_come_back() -> Result<()> {
    let config = "[sandbox]\nuid_count = 6\n";
    let ash = with_hello(Options::stub().config(config))?;
    let api = ash.api();
    for _ in 0..6 {
        let two = [api.create("hello", json!({}))?, api.create("hello", json!({}))?];
        let third = api.call("POST", "/api/sessions", Some(&json!({ "agent": "hello" })))?;
        ensure!(third.status == 503 && third.header("retry-after").is_some(), "{}", third.text());
        for session in two {
            api.turn_to(&session, "end")?;
        }
    }
    ash.finish()
}

#[test]
fn deleting_an_agent_ends_its_sessions() -> Result<()> {
    let ash = Ash::start(Options::stub())?;
    let api = ash.api();
    let folder = ash.folder("hello", "x")?;
    api.deploy("other", &folder)?;
    api.create("other", json!({}))?;
    api.call("DELETE", "/api/agents/other", None)?.expect(200)?;
    let before = ash.places().look()?;
    api.deploy("hello", &folder)?;
    let sessions = [api.create("hello", json!({}))?, api.create("hello", json!({}))?];
    let mut turn = api.send(&sessions[0], json!({ "content": "[[count 100000 5ms]]" }))?;
    turn.deltas(3)?;
    api.call("DELETE", "/api/agents/hello", None)?.expect(200)?;
    ensure!(turn.to_end().map(|turn| turn.errors())?.len() == 1);
    for session in &sessions {
        ensure!(api.status(session)? == "ended");
    }
    let after = ash.places().look()?;
    ensure!(after.since(&before).is_empty(), "{}", after.difference(&before));
    ash.finish()
}

/// Ends what it planted.
struct Plant(Child);

impl Drop for Plant {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The test of the test: each kind of leftover is noticed.
#[test]
fn a_planted_leftover_is_noticed() -> Result<()> {
    let ash = Ash::start(Options::stub())?;
    let places = ash.places();
    let before = places.look()?;
    let notices = |what: &str| -> Result<()> {
        let after: Snapshot = places.look()?;
        let come = after.since(&before);
        ensure!(come.iter().any(|line| line.starts_with(what)), "{what} is not in {come:#?}");
        Ok(())
    };
    let uid = places.uids.end - 1;
    let sleep = Command::new("setpriv")
        .arg(format!("--reuid={uid}"))
        .args(["--clear-groups", "sleep", "1000"])
        .spawn()?;
    let planted = Plant(sleep);
    until("the planted process", || notices("process ").is_ok())?;
    drop(planted);

    fs::create_dir(places.cgroup.join("planted"))?;
    notices("control group ")?;
    fs::remove_dir(places.cgroup.join("planted"))?;

    let socket = places.run.join("bridge/planted.sock");
    drop(UnixListener::bind(&socket)?);
    notices("socket ")?;
    fs::remove_file(&socket)?;

    let mount = places.data.join("planted");
    fs::create_dir(&mount)?;
    notices("file ")?;
    let mounted = Command::new("mount").args(["-t", "tmpfs", "planted"]).arg(&mount).status()?;
    ensure!(mounted.success());
    let noticed = notices("mount ");
    ensure!(Command::new("umount").arg(&mount).status()?.success());
    noticed?;

    fs::remove_dir(&mount)?;
    ensure!(places.look()? == before, "{}", places.look()?.difference(&before));
    ash.finish()
}

/// Nothing of a session that could not be made stays.
#[test]
fn a_session_that_could_not_be_made_has_left_nothing() -> Result<()> {
    let talk = Talk::begin(Options::stub().config("[sandbox]\nready_timeout = \"1s\"\n"))?;
    // Whatever starts with a session has started.
    talk.ask("[[say warm]]")?;
    let launcher = talk.ash.helper("ash-launcher")?;
    let before = talk.ash.places().look()?;
    signal(launcher, Signal::STOP)?;
    let refused = talk.api.call("POST", "/api/sessions", Some(&json!({ "agent": "hello" })))?;
    signal(launcher, Signal::CONT)?;
    ensure!(refused.status >= 500, "{} {}", refused.status, refused.text());
    let as_before = || talk.ash.places().look().is_ok_and(|now| now == before);
    until("the state of before", as_before).with_context(|| {
        talk.ash.places().look().map_or(String::new(), |now| now.difference(&before))
    })?;
    ensure!(talk.ask("[[say fine]]")? == "fine");
    talk.ash.finish()
}
