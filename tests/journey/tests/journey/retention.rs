//! What was kept long enough goes by itself, and nothing that is needed.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Client, Options, process};
use serde_json::{Value, json};

use crate::support::Talk;

fn retention(talk: &Talk) -> Result<Value> {
    Ok(talk.api.health()?["retention"].take())
}

fn wait(talk: &Talk, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<()> {
    let seen = || retention(talk).map_or(String::new(), |now| now.to_string());
    process::until(what, || retention(talk).is_ok_and(|now| is_so(&now))).with_context(seen)
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
    let fork = talk.fork(json!({}))?;
    ensure!(talk.api.turn_to(&fork, "resume")? == "active");
    ensure!(retention(&talk)?["failing"] == false);
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
        // Behind what is saved by itself.
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
    fs::remove_dir_all(talk.ash.data_dir().join("sessions").join(&talk.session))?;
    talk.boot()?;
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    ensure!(talk.api.exec(&talk.session, "cat file")?.stdout == "4\n");
    ensure!(ctl.json(&["fsck", "--deep"])?["differences"] == json!([]));
    talk.ash.finish()
}

/// Configures more, for the next daemon.
fn configure(talk: &Talk, section: &str) -> Result<()> {
    let path = talk.ash.scratch().join("ashd.toml.d/retention.toml");
    Ok(fs::write(path, format!("[retention]\nevery = \"50ms\"\n{section}\n"))?)
}

fn packs(talk: &Talk) -> Result<Vec<PathBuf>> {
    let dir = talk.ash.data_dir().join("snapshots/store/default/packs");
    Ok(fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?)
}

/// The packs that are new since.
fn packs_since(talk: &Talk, before: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut new = packs(talk)?;
    new.retain(|pack| !before.contains(pack));
    ensure!(!new.is_empty(), "nothing was saved");
    Ok(new)
}

/// The checkpoints of a session, newest first.
fn points(talk: &Talk, session: &str) -> Result<Vec<String>> {
    let listed = talk.ash.ctl().json(&["session", "checkpoint", "list", session])?;
    let all = listed.as_array().context("no list")?.iter();
    Ok(all.map(|one| one["id"].as_str().unwrap_or_default().to_owned()).collect())
}

/// Makes checkpoints of other files, and returns how many there are.
fn fill(talk: &Talk, session: &str, file: &str) -> Result<usize> {
    for number in 0..3 {
        let write = format!("[[exec head -c 3000 /dev/urandom > {file}; echo {number} >> {file}]]");
        talk.api.send(session, json!({ "content": write }))?.to_end()?;
        talk.ash.ctl().json(&["session", "checkpoint", "create", session])?;
    }
    ensure!(talk.api.turn_to(session, "stop")? == "stopped");
    // What is saved behind the end is saved by then.
    talk.ash.ctl().json(&["session", "checkpoint", "create", session])?;
    Ok(points(talk, session)?.len())
}

fn refusal(talk: &Talk) -> Result<String> {
    let path = format!("/api/sessions/{}/resume", talk.session);
    let refused = talk.api.call("POST", &path, None)?.expect(500)?;
    Ok(refused["error"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn what_a_session_with_a_damaged_checkpoint_has_to_go_back_to_stays() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let other = talk.api.create("hello", json!({}))?;
    ensure!(fill(&talk, &other, "file")? > 1);
    talk.ask(&talk.bash("echo kept > file"))?;
    talk.ash.ctl().json(&["session", "checkpoint", "create", &talk.session])?;
    let before = packs(&talk)?;
    talk.ask(&talk.bash("head -c 300000 /dev/urandom > noise"))?;
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    talk.ash.terminate()?;
    // The files are lost, and of what was saved last a byte is not what it was.
    fs::remove_dir_all(talk.ash.data_dir().join("sessions").join(&talk.session))?;
    let new = packs_since(&talk, &before)?.into_iter();
    let noise = new.max_by_key(|pack| fs::metadata(pack).map_or(0, |stat| stat.len()));
    let noise = fs::File::options().read(true).write(true).open(noise.context("no pack")?)?;
    let mut byte = [0];
    noise.read_exact_at(&mut byte, 1000)?;
    noise.write_all_at(&[byte[0] ^ 1], 1000)?;
    talk.boot()?;
    let refused = refusal(&talk)?;
    ensure!(refused.contains("the newest older one"), "{refused}");
    let there = points(&talk, &talk.session)?;
    let whole = there.iter().find(|id| refused.contains(*id)).context(refused.clone())?.clone();

    talk.ash.terminate()?;
    configure(&talk, "checkpoints = \"1ms\"\ncheckpoint_bytes = \"1\"")?;
    talk.boot()?;
    process::until("what is old to go elsewhere", || {
        points(&talk, &other).is_ok_and(|left| left.len() == 1)
    })?;
    ensure!(points(&talk, &talk.session)? == there, "it needs one of them");
    ensure!(refusal(&talk)? == refused);
    talk.ash.ctl().json(&["session", "restore", &talk.session, &whole])?;
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    ensure!(talk.api.exec(&talk.session, "cat file")?.stdout == "kept\n");
    until_the_newest_is_left(&talk)?;
    talk.ash.finish()
}

fn until_the_newest_is_left(talk: &Talk) -> Result<()> {
    let is_left = || points(talk, &talk.session).is_ok_and(|left| left.len() == 1);
    process::until("only the newest checkpoint is left", is_left)
}

#[test]
fn nothing_goes_by_its_size_while_that_gives_nothing_back() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let count = fill(&talk, &talk.session, "file")?;
    let before = packs(&talk)?;
    let damaged = talk.api.create("hello", json!({}))?;
    fill(&talk, &damaged, "other")?;
    talk.ash.terminate()?;
    // Nobody can tell any more what its checkpoints need: nothing is collected.
    packs_since(&talk, &before)?.iter().try_for_each(fs::remove_file)?;
    configure(&talk, "checkpoint_bytes = \"1\"")?;
    talk.boot()?;
    wait(&talk, "a look", |now| now["overBytes"].as_u64() > Some(0))?;
    ensure!(retention(&talk)?["failing"] == false && retention(&talk)?["removedCheckpoints"] == 0);
    ensure!(points(&talk, &talk.session)?.len() == count);
    talk.api.purge(&damaged)?;
    until_the_newest_is_left(&talk)?;
    talk.ash.finish()
}

#[test]
fn what_cannot_be_purged_keeps_nothing_else_from_going() -> Result<()> {
    let ages = "ended_sessions = \"1ms\"\nevents = \"1ms\"\ncheckpoints = \"1ms\"\n";
    let options = format!("[retention]\nevery = \"50ms\"\n{ages}");
    let talk = Talk::begin(Options::stub().config(&options))?;
    for word in ["one", "two", "three"] {
        talk.ask(&format!("[[say {word}]]"))?;
    }
    // It cannot be noted that something is purged.
    let mark = talk.ash.data_dir().join("snapshots/store/default/purged");
    fs::create_dir_all(&mark)?;
    let over = talk.api.create("hello", json!({}))?;
    talk.api.send(&over, json!({ "content": "[[say over]]" }))?.to_end()?;
    ensure!(talk.api.turn_to(&over, "end")? == "ended");
    wait(&talk, "a failure", |now| now["failing"] == true)?;
    let forgotten =
        || retention(&talk).map_or(0, |now| now["forgottenEvents"].as_u64().unwrap_or(0));
    let before = forgotten();
    talk.ask("[[say four]]")?;
    process::until("what was said to be forgotten all the same", || forgotten() > before)?;
    ensure!(retention(&talk)?["failing"] == true && retention(&talk)?["purgedSessions"] == 0);
    fs::remove_dir(&mark)?;
    wait(&talk, "it to be purged", |now| now["purgedSessions"] == 1 && now["failing"] == false)?;
    talk.ash.finish()
}
