//! A machine that goes down loses what was not on the disk. A session goes on with files that there were
//! at one moment, and with the conversation of that moment.

use std::fs;

use anyhow::{Result, ensure};
use ash_journey::{Client, Options, process};
use rusqlite::Connection;
use serde_json::json;

use crate::support::Talk;

/// A session with a file, and without a sandbox.
fn stopped() -> Result<Talk> {
    let talk = Talk::begin(Options::stub())?;
    talk.ask(&talk.bash("echo one > kept"))?;
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    Ok(talk)
}

/// A session whose files are only in the store, and a daemon with this fault.
fn away(fault: &str) -> Result<Talk> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ask(&talk.bash("echo one > kept"))?;
    save(&talk)?;
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    wait_at_rest(&talk)?;
    talk.ash.kill9()?;
    fs::remove_dir_all(files(&talk))?;
    talk.ash.boot_with(&[("ASH_FAULT", fault)])?;
    talk.api = talk.ash.api();
    Ok(talk)
}

/// A session whose files were brought back by a daemon that never gets to know that they are on the
/// disk, and that were changed since.
fn brought_back() -> Result<Talk> {
    let talk = away("restore.synced:stall")?;
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    talk.ask(&talk.bash("echo two > since"))?;
    ensure!(unsynced(&talk)? == 1);
    Ok(talk)
}

fn files(talk: &Talk) -> std::path::PathBuf {
    talk.ash.data_dir().join("sessions").join(&talk.session)
}

fn save(talk: &Talk) -> Result<()> {
    let path = format!("/api/sessions/{}/checkpoints", talk.session);
    talk.api.call("POST", &path, Some(&json!({})))?.expect(201).map(drop)
}

fn database(talk: &Talk) -> Result<Connection> {
    Ok(Connection::open(talk.ash.data_dir().join("ash.db"))?)
}

/// How many sessions' files were built and may not be on the disk.
fn unsynced(talk: &Talk) -> Result<u64> {
    let count = "SELECT count(build) FROM unsynced";
    Ok(database(talk)?.query_row(count, [], |row| row.get(0))?)
}

/// Waits until what a sandbox has written that is gone is on the disk.
fn wait_at_rest(talk: &Talk) -> Result<()> {
    let count = "SELECT count(*) FROM unsynced";
    let left = || Ok::<u64, anyhow::Error>(database(talk)?.query_row(count, [], |row| row.get(0))?);
    process::until("the session is at rest", || left().is_ok_and(|left| left == 0))
}

fn check_files(talk: &Talk) -> Result<()> {
    let told = talk.api.exec(&talk.session, "cat kept since")?.stdout;
    ensure!(told == "one\ntwo\n", "{told}");
    Ok(())
}

fn check_whole(talk: &Talk) -> Result<()> {
    check_files(talk)?;
    wait_synced(talk)
}

fn wait_synced(talk: &Talk) -> Result<()> {
    process::until("the files are on the disk", || unsynced(talk).is_ok_and(|left| left == 0))
}

#[test]
fn a_daemon_that_dies_before_the_disk_has_the_files_changes_nothing() -> Result<()> {
    let mut talk = brought_back()?;
    talk.crash()?;
    check_files(&talk)?;
    ensure!(!talk.ash.log().contains("the machine went down"));
    // What the disk may have told the one before, it tells nobody else.
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    save(&talk)?;
    ensure!(unsynced(&talk)? == 1);
    go_down(&mut talk)?;
    fs::write(files(&talk).join("workspace/kept"), "")?;
    go_on(&mut talk)?;
    ensure!(has_given_up(&talk), "{}", talk.ash.log());
    check_whole(&talk)?;
    talk.ash.finish()
}

#[test]
fn a_daemon_that_dies_before_it_notes_that_the_disk_has_the_files_leaves_them_as_they_are()
-> Result<()> {
    let mut talk = away("restore.synced")?;
    // It may die before it answers.
    let _ = talk.api.turn_to(&talk.session, "resume");
    talk.ash.wait_killed()?;
    ensure!(unsynced(&talk)? == 1);
    talk.boot()?;
    ensure!(talk.ask("[[exec cat kept]]")?.contains("one"));
    ensure!(unsynced(&talk)? == 1);
    talk.ash.finish()
}

/// The machine goes down: everything is killed, and another boot finds what was on the disk.
fn go_down(talk: &mut Talk) -> Result<()> {
    talk.ash.kill9()?;
    if !talk.ash.inside("bridge").is_empty() {
        talk.ash.kill_inside("bridge")?;
    }
    database(talk)?.execute("UPDATE unsynced SET boot = 'the one before'", [])?;
    Ok(())
}

/// Whether a start has given up files of this boot of the machine.
fn has_given_up(talk: &Talk) -> bool {
    talk.ash.log().contains("mended: the machine went down while session")
}

fn go_on(talk: &mut Talk) -> Result<()> {
    talk.boot()?;
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    Ok(())
}

fn read(talk: &Talk, file: &str) -> Result<String> {
    Ok(talk.api.exec(&talk.session, &format!("cat {file} 2>&1"))?.stdout)
}

#[test]
fn a_machine_that_goes_down_before_the_disk_has_the_files_loses_none() -> Result<()> {
    let mut talk = brought_back()?;
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    save(&talk)?;
    go_down(&mut talk)?;
    let workspace = files(&talk).join("workspace");
    fs::write(workspace.join("kept"), "")?;
    fs::remove_file(workspace.join("since"))?;
    go_on(&mut talk)?;
    ensure!(has_given_up(&talk), "{}", talk.ash.log());
    check_whole(&talk)?;
    talk.ash.finish()
}

/// A session and a fork of it, which a daemon with this fault has made.
fn forked(fault: &str) -> Result<Talk> {
    let mut talk = stopped()?;
    // The next one has nothing else to put on the disk.
    wait_at_rest(&talk)?;
    talk.ash.kill9()?;
    talk.ash.boot_with(&[("ASH_FAULT", fault)])?;
    talk.api = talk.ash.api();
    talk.session = talk.fork(json!({}))?;
    Ok(talk)
}

/// It is whole when it is answered, whenever the disk has it, and nothing is missing of its history.
#[test]
fn a_fork_that_the_disk_does_not_have_when_the_machine_goes_down_is_built_again() -> Result<()> {
    let mut talk = forked("restore.synced:stall")?;
    ensure!(unsynced(&talk)? == 1);
    go_down(&mut talk)?;
    fs::write(files(&talk).join("workspace/kept"), "")?;
    go_on(&mut talk)?;
    ensure!(has_given_up(&talk), "{}", talk.ash.log());
    ensure!(read(&talk, "kept")? == "one\n", "{}", read(&talk, "kept")?);
    let events = talk.api.events(&talk.session)?;
    ensure!(!events.iter().any(|event| event.to_string().contains("machine-down")), "{events:#?}");
    ensure!(talk.ask("[[history]]")?.contains("echo one"));
    talk.ash.finish()
}

/// Nobody knows what the disk has told the daemon before.
#[test]
fn a_fork_that_a_daemon_leaves_before_the_disk_has_it_is_built_again() -> Result<()> {
    let mut talk = forked("restore.synced:stall")?;
    talk.ash.kill9()?;
    fs::write(files(&talk).join("workspace/kept"), "")?;
    go_on(&mut talk)?;
    ensure!(!has_given_up(&talk) && read(&talk, "kept")? == "one\n", "{}", talk.ash.log());
    wait_synced(&talk)?;
    talk.ash.finish()
}

/// One that goes on before the disk has it is a session like any other.
#[test]
fn a_fork_that_goes_on_before_the_disk_has_it_is_saved_like_any_other() -> Result<()> {
    let mut talk = forked("restore.synced:stall")?;
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    talk.ask(&talk.bash("echo two > since"))?;
    save(&talk)?;
    go_down(&mut talk)?;
    fs::remove_file(files(&talk).join("workspace/since"))?;
    go_on(&mut talk)?;
    check_whole(&talk)?;
    talk.ash.finish()
}

/// Once the disk has a fork, its files stay as they are.
#[test]
fn a_fork_comes_to_rest() -> Result<()> {
    let mut talk = stopped()?;
    talk.session = talk.fork(json!({}))?;
    wait_at_rest(&talk)?;
    go_down(&mut talk)?;
    go_on(&mut talk)?;
    ensure!(!has_given_up(&talk) && read(&talk, "kept")? == "one\n", "{}", talk.ash.log());
    talk.ash.finish()
}

/// Nobody needs to be in doubt of what the disk has had for long.
#[test]
fn what_a_session_was_made_with_stays_under_the_daemons_behind() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    wait_synced(&talk)?;
    talk.crash()?;
    talk.ask(&talk.bash("echo one > kept"))?;
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    wait_at_rest(&talk)?;
    talk.ash.kill9()?;
    go_on(&mut talk)?;
    ensure!(read(&talk, "kept")? == "one\n", "{}", read(&talk, "kept")?);
    let events = talk.api.events(&talk.session)?;
    let told = events.iter().filter_map(|event| event["data"].as_str());
    let found: Vec<_> = told.filter(|data| data.contains(r#""from":"#)).collect();
    ensure!(found.len() == 1 && found[0].contains(r#""from":"disk""#), "{events:#?}");
    talk.ash.finish()
}

/// What history has behind the newest checkpoint stays, and the agent knows nothing of it: it is said.
#[test]
fn a_session_in_use_goes_on_where_it_was_saved_last() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ask(&talk.bash("echo one > kept"))?;
    save(&talk)?;
    talk.ash.kill9()?;
    talk.ash.boot_with(&[("ASH_FAULT", "pack.publish.before:stall")])?;
    talk.api = talk.ash.api();
    talk.ask(&talk.bash("echo two > kept; echo two > since"))?;
    go_down(&mut talk)?;
    fs::write(files(&talk).join("workspace/kept"), "")?;
    go_on(&mut talk)?;
    ensure!(has_given_up(&talk), "{}", talk.ash.log());
    ensure!(read(&talk, "kept")? == "one\n", "{}", read(&talk, "kept")?);
    ensure!(!read(&talk, "since")?.contains("two"));
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("echo one") && !told.contains("echo two"), "{told}");
    let events = talk.api.events(&talk.session)?;
    let with = |words| events.iter().filter(|event| event.to_string().contains(words)).count();
    ensure!(with("machine-down") == 1 && with("echo two") > 0, "{events:#?}");
    talk.ash.finish()
}

/// What is put there in mid-turn does not make the turn one that only the disk has.
#[test]
fn a_turn_in_which_something_is_put_is_saved_in_its_middle() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let wait = "touch begun; until [ -e go ]; do sleep 0.02; done; echo went";
    let turn = talk.send(&talk.bash(wait))?;
    let begun = files(&talk).join("workspace/begun");
    process::until("the turn runs", || begun.exists())?;
    let points = |talk: &Talk| -> Result<Vec<i64>> {
        let database = database(talk)?;
        let mut changed = database.prepare("SELECT changed FROM sessions")?;
        Ok(changed.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
    };
    talk.api.call("PUT", &talk.path("files/given"), Some(&json!("kept")))?.expect(201)?;
    ensure!(points(&talk)? == [2], "it may be in no point");
    process::until("it is in a point", || points(&talk).is_ok_and(|changed| changed != [2]))?;
    talk.api.exec(&talk.session, "touch go")?;
    ensure!(turn.to_end()?.text().contains("went"));
    talk.ash.finish()
}

#[test]
fn a_session_without_a_checkpoint_begins_with_its_agents_folder() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    go_down(&mut talk)?;
    let workspace = files(&talk).join("workspace");
    fs::write(workspace.join("CLAUDE.md"), "")?;
    fs::write(workspace.join("left"), "by nobody")?;
    go_on(&mut talk)?;
    ensure!(has_given_up(&talk), "{}", talk.ash.log());
    ensure!(read(&talk, "CLAUDE.md")?.contains("Answer briefly."));
    ensure!(!read(&talk, "left")?.contains("by nobody"));
    ensure!(talk.ask("[[say hello]]")? == "hello");
    talk.ash.finish()
}

/// What was acknowledged is on the disk, and stays.
#[test]
fn what_was_put_there_from_outside_outlives_the_machine() -> Result<()> {
    let mut talk = stopped()?;
    save(&talk)?;
    put(&talk)?;
    go_down(&mut talk)?;
    go_on(&mut talk)?;
    ensure!(!has_given_up(&talk), "{}", talk.ash.log());
    ensure!(read(&talk, "kept")? == "one\n" && read(&talk, "put")? == "from outside");
    talk.ash.finish()
}

/// What has been at rest is on the disk: nothing of it has to be built again.
#[test]
fn a_session_at_rest_stays_as_it_is() -> Result<()> {
    let mut talk = stopped()?;
    wait_at_rest(&talk)?;
    go_down(&mut talk)?;
    go_on(&mut talk)?;
    ensure!(!has_given_up(&talk) && read(&talk, "kept")? == "one\n", "{}", talk.ash.log());
    talk.ash.finish()
}

/// Also while a command runs that may change anything at any time.
#[test]
fn a_command_that_runs_keeps_no_files_that_are_torn() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    put(&talk)?;
    let (api, session) = (talk.ash.api(), talk.session.clone());
    let running = std::thread::spawn(move || api.exec(&session, "touch begun; sleep 1000"));
    let begun = files(&talk).join("workspace/begun");
    process::until("the command runs", || begun.exists())?;
    talk.ask(&talk.bash("echo one > kept"))?;
    save(&talk)?;
    go_down(&mut talk)?;
    ensure!(running.join().is_ok_and(|ran| ran.is_err()), "the command has ended");
    fs::write(files(&talk).join("workspace/kept"), "")?;
    go_on(&mut talk)?;
    ensure!(has_given_up(&talk), "{}", talk.ash.log());
    ensure!(read(&talk, "kept")? == "one\n" && read(&talk, "put")? == "from outside");
    talk.ash.finish()
}

/// One that a daemon from before this was recorded has left, and that was gone on with.
#[test]
fn a_session_that_was_gone_on_with_is_one_in_use() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ask(&talk.bash("echo one > kept"))?;
    save(&talk)?;
    talk.ash.kill9()?;
    database(&talk)?.execute("DELETE FROM unsynced", [])?;
    talk.boot()?;
    go_down(&mut talk)?;
    fs::write(files(&talk).join("workspace/kept"), "")?;
    go_on(&mut talk)?;
    ensure!(has_given_up(&talk) && read(&talk, "kept")? == "one\n", "{}", talk.ash.log());
    talk.ash.finish()
}

/// It is saved by the next daemon, if this one does not come to it.
#[test]
fn what_was_put_there_from_outside_is_saved_by_the_next_daemon() -> Result<()> {
    let mut talk = stopped()?;
    save(&talk)?;
    let points = |talk: &Talk| -> Result<usize> {
        let path = format!("/api/sessions/{}/checkpoints", talk.session);
        let all = talk.api.call("GET", &path, None)?.expect(200)?;
        Ok(all["checkpoints"].as_array().map_or(0, Vec::len))
    };
    let before = points(&talk)?;
    put(&talk)?;
    talk.ash.kill9()?;
    talk.boot()?;
    process::until("it is saved", || points(&talk).is_ok_and(|now| now > before))?;
    talk.ash.finish()
}

fn put(talk: &Talk) -> Result<()> {
    let path = format!("/api/sessions/{}/files/put", talk.session);
    talk.api.open("PUT", &path, Some(b"from outside"))?.answer()?.expect(201).map(drop)
}
