//! A session that was brought back does not wait for the disk to have its files, and loses none of
//! them.

use std::fs;

use anyhow::{Result, ensure};
use ash_journey::{Client, Options, process};
use rusqlite::Connection;
use serde_json::json;

use crate::support::Talk;

/// A session whose files are only in the store, and a daemon with this fault.
fn away(fault: &str) -> Result<Talk> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ask(&talk.bash("echo one > kept"))?;
    save(&talk)?;
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
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

fn unsynced(talk: &Talk) -> Result<u64> {
    let count = "SELECT count(*) FROM unsynced";
    Ok(database(talk)?.query_row(count, [], |row| row.get(0))?)
}

fn check_whole(talk: &Talk) -> Result<()> {
    let told = talk.api.exec(&talk.session, "cat kept since")?.stdout;
    ensure!(told == "one\ntwo\n", "{told}");
    wait_synced(talk)
}

fn wait_synced(talk: &Talk) -> Result<()> {
    process::until("the files are on the disk", || unsynced(talk).is_ok_and(|left| left == 0))
}

#[test]
fn a_daemon_that_dies_before_the_disk_has_the_files_changes_nothing() -> Result<()> {
    let mut talk = brought_back()?;
    talk.crash()?;
    check_whole(&talk)?;
    ensure!(!talk.ash.log().contains("the machine went down"));
    talk.ash.finish()
}

#[test]
fn a_daemon_that_dies_before_it_notes_that_the_disk_has_the_files_is_followed_by_one_that_does()
-> Result<()> {
    let mut talk = away("restore.synced")?;
    // It may die before it answers.
    let _ = talk.api.turn_to(&talk.session, "resume");
    talk.ash.wait_killed()?;
    ensure!(unsynced(&talk)? == 1);
    talk.boot()?;
    wait_synced(&talk)?;
    ensure!(talk.ask("[[exec cat kept]]")?.contains("one"));
    talk.ash.finish()
}

/// What a machine that loses its memory may leave of files that were not on the disk.
#[test]
fn a_machine_that_goes_down_before_the_disk_has_the_files_loses_none() -> Result<()> {
    let mut talk = brought_back()?;
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    save(&talk)?;
    talk.ash.kill9()?;
    database(&talk)?.execute("UPDATE unsynced SET boot = 'the one before'", [])?;
    let workspace = files(&talk).join("workspace");
    fs::write(workspace.join("kept"), "")?;
    fs::remove_file(workspace.join("since"))?;
    talk.boot()?;
    let log = talk.ash.log();
    ensure!(log.contains("mended: the machine went down before the files of session"), "{log}");
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    check_whole(&talk)?;
    talk.ash.finish()
}
