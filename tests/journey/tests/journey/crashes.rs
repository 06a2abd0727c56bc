//! Whatever is killed: a turn is driven to its end, or to a recorded, truthful failure.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ash_journey::process::until;
use ash_journey::{Client, Options, Turn, process};
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Talk, both_engines, check_ids, counted, is_long};

/// The rest of a turn whose daemon went away, as one stream with what was seen before.
pub(crate) fn rest(talk: &Talk, before: &Turn) -> Result<Turn> {
    let mut rest = talk.api.follow(&talk.session, Some(before.last_id()?))?.to_end()?;
    rest.seen = [before.seen.as_slice(), &rest.seen].concat();
    check_ids(&rest.seen)?;
    Ok(rest)
}

both_engines!(ashd_killed_in_mid_deltas);

fn ashd_killed_in_mid_deltas(options: Options) -> Result<()> {
    let mut talk = Talk::begin(options)?;
    let points: Vec<usize> =
        if is_long() { (1..200).step_by(4).collect() } else { vec![1, 30, 100] };
    for seen in points {
        let prompt = format!("behind {seen} [[count 200 5ms]]");
        let mut turn = talk.send(&prompt)?;
        turn.deltas(seen)?;
        talk.crash()?;
        let turn = rest(&talk, &turn)?;
        let deltas = turn.deltas_text();
        // A turn that has ended when its client comes back is told by its whole messages.
        let may_have_ended = seen > 100 && counted(200).starts_with(&deltas);
        ensure!(may_have_ended || deltas == counted(200), "{deltas}");
        ensure!(turn.text() == counted(200), "{}", turn.text());
        talk.check_asked_once(&prompt)?;
    }
    ensure!(talk.ask("[[say alive]]")? == "alive");
    talk.ash.finish()
}

both_engines!(ashd_killed_at_any_moment);

/// Kills that follow on a clock of their own, whatever the daemon is about: accepting, committing,
/// ending a turn, idling, or going on with one.
fn ashd_killed_at_any_moment(options: Options) -> Result<()> {
    let mut talk = Talk::begin(options)?;
    let rounds = if is_long() { 60 } else { 6 };
    for round in 0..rounds {
        let prompt = format!("round {round} [[count 20 2ms]]");
        let mut turn = talk.send(&prompt)?;
        let begun = turn.until_named("session_start").is_ok();
        std::thread::sleep(Duration::from_millis(round * 97 % 120));
        talk.crash()?;
        ensure!(begun, "a message that was sent to a living daemon was not accepted");
        while turn.next().is_ok_and(|frame| frame.is_some()) {}
        let ended = turn.seen.last().is_some_and(|frame| frame.name == "done");
        let turn = if ended { turn } else { rest(&talk, &turn)? };
        ensure!(turn.text() == counted(20) && turn.errors().is_empty(), "{}", turn.raw());
        talk.check_asked_once(&prompt)?;
    }
    talk.ash.finish()
}

/// Afterwards a session is there, with its sandbox, or nothing of it is.
#[test]
fn ashd_killed_while_a_session_is_made() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let rounds = if is_long() { 60 } else { 8 };
    for round in 0..rounds {
        let creating = talk.api.open("POST", "/api/sessions", Some(br#"{"agent":"hello"}"#))?;
        std::thread::sleep(Duration::from_millis(round * 7 % 60));
        talk.crash()?;
        drop(creating);
        let sessions = talk.api.call("GET", "/api/sessions?status=active", None)?.expect(200)?;
        let sessions = sessions["sessions"].as_array().context("no sessions")?.clone();
        // A bridge and its spawner each.
        let matches = || talk.ash.inside("bridge").len() == 2 * sessions.len();
        until("as many sandboxes as sessions", matches).with_context(|| {
            format!("round {round}: {} sessions, {:?}", sessions.len(), talk.ash.places().look())
        })?;
        for id in sessions.iter().filter_map(|session| session["id"].as_str()) {
            if id != talk.session {
                talk.api.purge(id)?;
            }
        }
    }
    ensure!(talk.ask("[[say alive]]")? == "alive");
    talk.ash.finish()
}

both_engines!(ashd_killed_in_mid_tool);

fn ashd_killed_in_mid_tool(options: Options) -> Result<()> {
    let mut talk = Talk::begin(options)?;
    let wait = "touch begun; while [ ! -e go ]; do sleep 0.02; done; echo went; touch ended";
    let prompt = talk.bash(wait);
    let mut turn = talk.send(&prompt)?;
    turn.until_named("tool_use")?;
    talk.crash()?;
    ensure!(
        talk.api.exec(&talk.session, "until [ -e begun ]; do sleep 0.02; done; touch go")?.code
            == 0
    );
    let turn = rest(&talk, &turn)?;
    ensure!(turn.named("tool_result").count() == 1, "{}", turn.raw());
    ensure!(turn.text() == "tool said: went", "{}", turn.text());
    talk.check_asked_once(&prompt)?;
    talk.ash.finish()
}

/// A turn that is stopped is recorded as over before its sandbox ends.
#[test]
fn ashd_killed_while_it_stopped_a_turn() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let mut turn = talk.send("[[deltas 3 10]][[hang]]")?;
    turn.deltas(3)?;
    talk.ash.kill9()?;
    let database = Connection::open(talk.ash.data_dir().join("ash.db"))?;
    database.execute("UPDATE sessions SET turn = NULL, turn_user_seq = NULL", [])?;
    drop(database);
    talk.boot()?;
    ensure!(talk.ash.log().contains("a turn that is over"), "{}", talk.ash.log());
    ensure!(talk.api.session(&talk.session)?["status"] == "paused");
    talk.api.turn_to(&talk.session, "resume")?;
    ensure!(talk.ask("[[say next]]")? == "next");
    talk.ash.finish()
}

both_engines!(ashd_killed_between_turns);

fn ashd_killed_between_turns(options: Options) -> Result<()> {
    let mut talk = Talk::begin(options)?;
    talk.crash()?;
    ensure!(talk.ask("[[say first]]")? == "first");
    talk.crash()?;
    ensure!(talk.ask("[[say second]]")? == "second");
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("[[say first]]"), "{told}");
    talk.ash.finish()
}

/// Only the real CLI asks a model, whose answer can be held back.
#[test]
fn ashd_killed_before_the_first_delta() -> Result<()> {
    let name = "ashd_killed_before_the_first_delta";
    let Some(options) = Options::real(name) else { return Ok(()) };
    let mut talk = Talk::begin(options)?;
    let prompt = "[[hold gate]][[count 20]]";
    let mut turn = talk.send(prompt)?;
    turn.until_named("session_start")?;
    let model = talk.ash.model();
    model.block_on(model.wait_held("gate"))?;
    talk.crash()?;
    talk.ash.model().release("gate");
    let turn = rest(&talk, &turn)?;
    ensure!(turn.text() == counted(20), "{}", turn.text());
    talk.check_asked_once(prompt)?;
    talk.ash.finish()
}

both_engines!(ashd_killed_while_messages_wait);

/// A message that waits is not accepted yet; the one that runs is.
fn ashd_killed_while_messages_wait(options: Options) -> Result<()> {
    let mut talk = Talk::begin(options)?;
    let mut first = talk.send("[[count 100 5ms]]")?;
    first.deltas(3)?;
    let message = json!({ "content": "[[say second]]", "includePartialMessages": true });
    let _waiting = talk.api.post_message(&talk.session, &message)?;
    talk.crash()?;
    ensure!(rest(&talk, &first)?.text() == counted(100));
    ensure!(talk.ask("[[say third]]")? == "third");
    talk.ash.finish()
}

both_engines!(sigterm_ends_everything_and_nothing_is_lost);

fn sigterm_ends_everything_and_nothing_is_lost(options: Options) -> Result<()> {
    let mut talk = Talk::begin(options)?;
    let idle = talk.api.create("hello", json!({}))?;
    talk.ask("[[say before]]")?;
    let mut turn = talk.send("[[count 100000 5ms]]")?;
    turn.deltas(5)?;
    let took = talk.ash.terminate()?;
    ensure!(took < Duration::from_secs(5), "ashd took {took:?} to end");
    let places = talk.ash.places();
    ensure!(process::of_uids(&places.uids).is_empty(), "processes are left");
    let turn = turn.to_end().context("the stream of the interrupted turn")?;
    ensure!(turn.errors() == ["Interrupted: the server was shut down"], "{:?}", turn.errors());

    talk.boot()?;
    for session in [&talk.session, &idle] {
        ensure!(talk.api.status(session)? == "paused");
    }
    let events = talk.api.events(&talk.session)?;
    let error = events.iter().rev().find(|event| event["type"] == "error");
    ensure!(error.is_some_and(|event| event.to_string().contains("Interrupted")), "{events:?}");
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("[[say before]]"), "{told}");
    talk.ash.finish()
}

both_engines!(the_cli_killed_in_mid_turn);

fn the_cli_killed_in_mid_turn(options: Options) -> Result<()> {
    let talk = Talk::begin(options)?;
    talk.ask("[[say before]]")?;
    let mut turn = talk.send("[[count 100000 5ms]]")?;
    turn.deltas(5)?;
    talk.ash.kill_inside("claude")?;
    let turn = turn.to_end()?;
    check_ids(&turn.seen)?;
    let errors = turn.errors();
    ensure!(errors.len() == 1 && errors[0].contains("signal 9"), "{errors:?}");
    ensure!(talk.api.status(&talk.session)? == "active");
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("[[say before]]"), "{told}");
    talk.ash.finish()
}

both_engines!(the_bridge_killed_in_mid_turn);

fn the_bridge_killed_in_mid_turn(options: Options) -> Result<()> {
    let talk = Talk::begin(options)?;
    talk.ask("[[say before]]")?;
    let mut turn = talk.send("[[count 100000 5ms]]")?;
    turn.deltas(5)?;
    talk.ash.kill_inside("bridge")?;
    let turn = turn.to_end()?;
    check_ids(&turn.seen)?;
    ensure!(turn.errors().len() == 1, "{:?}", turn.errors());
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("[[say before]]"), "{told}");
    talk.ash.finish()
}

both_engines!(the_agent_killed_while_ashd_is_away);

/// All of the agent at once, as the kernel does for want of memory: the bridge tells the daemon
/// that comes back what had been said.
fn the_agent_killed_while_ashd_is_away(options: Options) -> Result<()> {
    let mut talk = Talk::begin(options)?;
    talk.ask("[[say before]]")?;
    let mut turn = talk.send(&format!("{}[[count 100000 5ms]]", talk.bash("echo said")))?;
    turn.until_named("tool_use")?;
    talk.ash.kill9()?;
    for entry in fs::read_dir(talk.ash.places().cgroup)? {
        let agent = entry?.path().join("agent");
        if agent.is_dir() {
            fs::write(agent.join("cgroup.kill"), "1")?;
        }
    }
    while turn.next().is_ok_and(|frame| frame.is_some()) {}
    talk.boot()?;
    let turn = rest(&talk, &turn)?;
    ensure!(turn.errors() == ["The sandbox was lost while it answered"], "{:?}", turn.errors());
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("[[say before]]"), "{told}");
    talk.ash.finish()
}

both_engines!(bubblewrap_killed_in_mid_turn);

/// What it leaves outside of a sandbox only waits for the end of it.
fn bubblewrap_killed_in_mid_turn(options: Options) -> Result<()> {
    let talk = Talk::begin(options)?;
    let mut turn = talk.send("[[count 200 5ms]]")?;
    turn.deltas(5)?;
    let outside = process::children(talk.ash.helper("ash-launcher")?);
    let outside: Vec<u32> =
        outside.into_iter().filter(|pid| process::name(*pid) == "bwrap").collect();
    ensure!(outside.len() == 1, "{outside:?}");
    process::signal(outside[0], Signal::KILL)?;
    process::wait(outside[0], Duration::from_secs(10))?;
    let turn = turn.to_end()?;
    ensure!(turn.text() == counted(200) && turn.errors().is_empty(), "{}", turn.raw());
    ensure!(talk.ask("[[say still]]")? == "still");
    talk.ash.finish()
}

both_engines!(the_launcher_killed);

fn the_launcher_killed(options: Options) -> Result<()> {
    let talk = Talk::begin(options)?;
    let launcher = talk.ash.helper("ash-launcher")?;
    process::signal(launcher, Signal::KILL)?;
    process::wait(launcher, Duration::from_secs(10))?;
    ensure!(talk.ask("[[say still]]")? == "still", "sandboxes do not depend on the launcher");
    let other = talk.api.create("hello", json!({}))?;
    let turn = talk.api.send(&other, json!({ "content": "[[say new]]" }))?.to_end()?;
    ensure!(turn.text() == "new");
    talk.ash.finish()
}

/// The CLI tries again when its connection breaks; behind the same socket is the new broker.
#[test]
fn the_broker_killed_in_mid_answer() -> Result<()> {
    let Some(options) = Options::real("the_broker_killed_in_mid_answer") else { return Ok(()) };
    let talk = Talk::begin(options)?;
    let turn = talk.send("[[hold gate]][[say answered]]")?;
    let model = talk.ash.model();
    model.block_on(model.wait_held("gate"))?;
    let broker = talk.ash.helper("ash-broker")?;
    process::signal(broker, Signal::KILL)?;
    process::wait(broker, Duration::from_secs(10))?;
    model.block_on(model.wait_for(2, |request| request.is_message()))?;
    model.block_on(model.wait_held("gate"))?;
    model.release("gate");
    ensure!(turn.to_end()?.text() == "answered");
    ensure!(talk.ask("[[say next]]")? == "next");
    talk.ash.finish()
}

/// The broker dies with nobody there to start it again; the daemon that comes back does.
#[test]
fn the_broker_killed_while_ashd_is_away() -> Result<()> {
    let Some(options) = Options::real("the_broker_killed_while_ashd_is_away") else {
        return Ok(());
    };
    let mut talk = Talk::begin(options)?;
    talk.ask("[[say before]]")?;
    let broker = talk.ash.helper("ash-broker")?;
    talk.ash.kill9()?;
    process::signal(broker, Signal::KILL)?;
    process::wait(broker, Duration::from_secs(10))?;
    talk.boot()?;
    ensure!(talk.ask("[[say after]]")? == "after");
    talk.ash.finish()
}
