//! Everything is saved while it is used, and comes back on another machine as it was at one moment.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Ash, Client, Options, process};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::killed::points::POINTS;
use crate::machines;
use crate::support::Talk;

/// Says what a workspace holds, in one word.
const SUM: &str =
    "find . -type f ! -path ./asked | sort | xargs sha256sum | sha256sum | cut -c 1-64";

/// Saves everything, and says what was saved.
pub(crate) fn back_up(talk: &Talk, dir: &Path) -> Result<Value> {
    talk.ash.ctl().json(&["backup", dir.to_str().context("a path that is no text")?])
}

/// `ashctl restore`, for the stage's data directory.
pub(crate) fn restore(talk: &Talk, dir: &Path, arguments: &[&str]) -> Result<Output> {
    restore_to_die(talk, dir, arguments, "")
}

/// The same with a fault asked for (`ASH_FAULT`).
fn restore_to_die(talk: &Talk, dir: &Path, arguments: &[&str], fault: &str) -> Result<Output> {
    let mut command = talk.ash.ctl().command()?;
    command.env("ASH_DATA_DIR", talk.ash.data_dir());
    command.env("ASH_CONFIG", talk.ash.scratch().join("ashd.toml"));
    command.env("ASH_FAULT", fault);
    Ok(command.arg("restore").args(arguments).arg(dir).output()?)
}

/// Restores, and goes on with the session: everything agrees.
fn come_back(talk: &mut Talk, dir: &Path) -> Result<()> {
    let restored = restore(talk, dir, &[])?;
    ensure!(restored.status.success(), "{}", said(&restored));
    talk.boot()?;
    let found = talk.ash.ctl().json(&["fsck", "--deep"])?;
    ensure!(found["differences"] == json!([]), "{found}");
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    Ok(())
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Gives the stage an empty data directory, and returns where the one of before is.
pub(crate) fn start_over(talk: &Talk, number: u32) -> Result<PathBuf> {
    let (data, old) = (talk.ash.data_dir(), talk.ash.scratch().join(format!("old-{number}")));
    fs::rename(&data, &old)?;
    fs::create_dir(&data)?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
    Ok(old)
}

fn sum(talk: &Talk, session: &str) -> Result<String> {
    let summed = talk.api.exec(session, SUM)?;
    ensure!(summed.code == 0, "{}", summed.stderr);
    Ok(summed.stdout.trim().to_owned())
}

#[test]
fn what_was_saved_in_mid_turn_goes_on_elsewhere() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let dir = talk.ash.scratch().join("backup");
    talk.ask(&talk.bash("mkdir d; head -c 3000000 /dev/urandom > d/noise; echo one > file"))?;
    talk.ask("[[say before]]")?;
    let busy = talk.session.clone();
    let attached = json!({ "filename": "note.txt", "content": "aGVsbG8=" });
    let path = format!("/api/sessions/{busy}/attachments");
    let made = talk.api.call("POST", &path, Some(&attached))?.expect(201)?;
    let attachment = made["attachment"]["id"].as_str().context("no id")?.to_owned();
    let idle = talk.api.create("hello", json!({}))?;
    talk.api.send(&idle, json!({ "content": "[[exec echo idle > file]]" }))?.to_end()?;
    ensure!(talk.api.turn_to(&idle, "stop")? == "stopped");
    let over = talk.api.create("hello", json!({}))?;
    talk.api.send(&over, json!({ "content": "[[say over]]" }))?.to_end()?;
    ensure!(talk.api.turn_to(&over, "end")? == "ended");

    // A turn that has begun, and does not end before the backup is made.
    let mut turn = talk.send("[[exec echo two > file]][[count 2000 20ms]]")?;
    while turn.next()?.context("the turn has ended")?.name != "session_start" {}
    process::until("the turn to write", || {
        talk.api.exec(&busy, "cat file").is_ok_and(|read| read.stdout == "two\n")
    })?;
    let first = back_up(&talk, &dir)?;
    ensure!(talk.api.session(&busy)?["running"] == true, "the turn was to run meanwhile");
    ensure!(first["sessions"] == 3 && first["leftOut"] == 0, "{first}");
    let (busy_sum, idle_sum) = (sum(&talk, &busy)?, "idle\n");

    // Incremental: of what is there nothing is written again.
    let again = back_up(&talk, &dir)?;
    ensure!(again["written"].as_u64() < Some(2_000_000), "{again}, after {first}");
    drop(turn);
    talk.ash.terminate()?;
    let refused = restore(&talk, &dir, &[])?;
    let text = said(&refused);
    ensure!(!refused.status.success() && text.contains("already"), "{text}");
    start_over(&talk, 1)?;
    ensure!(restore(&talk, &dir, &["--check"])?.status.success());
    ensure!(!talk.ash.data_dir().join("ash.db").exists(), "checking restores nothing");
    let restored = restore(&talk, &dir, &["--json"])?;
    ensure!(restored.status.success(), "{}", said(&restored));
    talk.boot()?;

    ensure!(talk.ash.ctl().json(&["fsck", "--deep"])?["differences"] == json!([]));
    ensure!(talk.api.turn_to(&busy, "resume")? == "active");
    ensure!(sum(&talk, &busy)? == busy_sum, "its files are others");
    ensure!(talk.api.turn_to(&idle, "resume")? == "active");
    ensure!(talk.api.exec(&idle, "cat file")?.stdout == idle_sum);
    ensure!(talk.api.session(&over)?["status"] == "ended");
    let body = talk.api.call("GET", &format!("/api/attachments/{attachment}"), None)?;
    ensure!(body.text() == "hello", "{}", body.text());
    // The turn that ran has ended, truthfully, and the conversation goes on from there.
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("[[say before]]") && told.contains("echo two"), "{told}");
    let again = talk.api.create("hello", json!({}))?;
    ensure!(talk.api.exec(&again, "echo new")?.stdout == "new\n", "the agent is there");
    talk.ash.finish()
}

/// A session that cannot be saved is in a backup as it was saved last. Whoever makes it is told.
#[test]
fn what_could_not_be_saved_is_said() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let dir = talk.ash.scratch().join("backup");
    talk.ask(&talk.bash("echo saved > file"))?;
    let other = talk.api.create("hello", json!({}))?;
    talk.api.send(&other, json!({ "content": "[[say other]]" }))?.to_end()?;
    let first = back_up(&talk, &dir)?;
    ensure!(first["stale"] == 0, "{first}");
    // There is no place for what is new; of the other one nothing is.
    let tmp = talk.ash.data_dir().join("snapshots/store/default/tmp");
    process::until("nothing to be written", || fs::remove_dir(&tmp).is_ok())?;
    talk.ask(&talk.bash("echo lost > file"))?;
    let second = back_up(&talk, &dir)?;
    ensure!(second["stale"] == 1 && second["leftOut"] == 0, "{second}");
    ensure!(talk.ash.log().contains("not saved"), "the log says which");
    talk.ash.terminate()?;
    start_over(&talk, 1)?;
    come_back(&mut talk, &dir)?;
    ensure!(talk.api.exec(&talk.session, "cat file")?.stdout == "saved\n");
    ensure!(back_up(&talk, &dir)?["stale"] == 0);
    talk.ash.finish()
}

/// What was copied to an object store after the backup happened otherwise than what happens from then
/// on: whoever imports gets the one that went on.
#[test]
fn what_is_restored_wins_over_what_was_copied_before() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let mut talk = Talk::begin(machines::shared(Options::stub(), bucket.path()))?;
    let dir = talk.ash.scratch().join("backup");
    let session = talk.session.clone();
    talk.ask(&talk.bash("echo saved > file"))?;
    machines::checkpoint(&talk.api, &session, "before")?;
    back_up(&talk, &dir)?;
    for number in 0..3 {
        talk.ask(&talk.bash(&format!("echo lost > file; echo {number}")))?;
    }
    machines::checkpoint(&talk.api, &session, "lost")?;
    talk.ash.terminate()?;
    start_over(&talk, 1)?;
    let restored = restore(&talk, &dir, &[])?;
    ensure!(restored.status.success(), "{}", said(&restored));
    talk.boot()?;
    ensure!(talk.api.turn_to(&session, "resume")? == "active");
    talk.ask("[[say otherwise]]")?;
    machines::checkpoint(&talk.api, &session, "after")?;
    talk.ask("[[say more]]")?;
    machines::checkpoint(&talk.api, &session, "last")?;

    let there = Ash::start(machines::shared(Options::stub(), bucket.path()))?;
    machines::import(&there.api(), &session, 201)?;
    ensure!(there.api().turn_to(&session, "resume")? == "active");
    ensure!(there.api().exec(&session, "cat file")?.stdout == "saved\n");
    let messages = format!("{:?}", there.api().messages(&session)?);
    ensure!(messages.contains("[[say otherwise]]") && messages.contains("[[say more]]"));
    ensure!(!messages.contains("echo lost"), "{messages}");
    there.finish()?;
    talk.ash.finish()
}

/// The machine that a backup is of lives on beside the one that was restored from it: who copies first
/// has the session, and the other one finds out.
#[test]
fn of_a_machine_and_its_backup_one_has_a_session() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let options = machines::shared(Options::stub(), bucket.path());
    let here = Talk::begin(options.clone())?;
    here.ask(&here.bash("echo saved > file"))?;
    machines::checkpoint(&here.api, &here.session, "before")?;
    let mut there = Talk::begin(options)?;
    there.ash.terminate()?;
    let dir = there.ash.scratch().join("backup");
    fs::create_dir(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
    back_up(&here, &dir)?;
    start_over(&there, 1)?;
    let restored = restore(&there, &dir, &[])?;
    ensure!(restored.status.success(), "{}", said(&restored));
    there.boot()?;
    ensure!(there.api.turn_to(&here.session, "resume")? == "active");
    machines::checkpoint(&there.api, &here.session, "there")?;
    here.api.turn_to(&here.session, "pause")?;
    here.api.turn_to(&here.session, "resume")?;
    process::until("the session has ended where the backup is of", || {
        here.api.session(&here.session).is_ok_and(|session| session["status"] == "ended")
    })?;
    ensure!(there.api.exec(&here.session, "cat file")?.stdout == "saved\n");
    ensure!(there.api.session(&here.session)?["status"] == "active");
    there.ash.finish()?;
    here.ash.finish()
}

#[test]
fn a_running_daemon_keeps_its_data_directory_to_itself() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let dir = talk.ash.scratch().join("backup");
    talk.ask("[[say hello]]")?;
    back_up(&talk, &dir)?;
    let text = said(&restore(&talk, &dir, &[])?);
    ensure!(text.contains("in use"), "{text}");

    // Others can look into this one.
    let open = talk.ash.scratch().join("open");
    fs::create_dir(&open)?;
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755))?;
    let text = back_up(&talk, &open).unwrap_err().to_string();
    ensure!(text.contains("chmod 0700"), "{text}");

    talk.ash.finish()
}

/// A restore that was killed keeps the daemon from starting, and is begun again.
#[test]
fn a_restore_that_dies_is_begun_again() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let dir = talk.ash.scratch().join("backup");
    talk.ask(&talk.bash("echo saved > file"))?;
    back_up(&talk, &dir)?;
    for (number, (point, _)) in
        (1..).zip(POINTS.iter().filter(|(point, _)| point.starts_with("fill.")))
    {
        talk.ash.terminate()?;
        start_over(&talk, number)?;
        let killed = restore_to_die(&talk, &dir, &[], point)?;
        ensure!(
            killed.status.signal() == Some(Signal::KILL.as_raw()),
            "{point}: {}",
            killed.status
        );
        let (status, log) = talk.ash.refused()?;
        ensure!(status.code() == Some(78) && log.contains("ashctl restore"), "{status}: {log}");
        come_back(&mut talk, &dir).context(*point)?;
        ensure!(talk.api.exec(&talk.session, "cat file")?.stdout == "saved\n", "{point}");
    }
    talk.ash.finish()
}

/// A backup that the daemon died in is the one before, or the new one; never half of one.
#[test]
fn a_daemon_that_dies_in_a_backup_leaves_a_whole_one() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let dir = talk.ash.scratch().join("backup");
    talk.ask(&talk.bash("echo 0 > file"))?;
    back_up(&talk, &dir)?;
    for (number, (point, _)) in
        (1..).zip(POINTS.iter().filter(|(point, _)| point.starts_with("backup.")))
    {
        talk.ash.kill9()?;
        ensure!(talk.ash.boot_to_die(point, &[])?, "{point} came too early");
        talk.api = talk.ash.api();
        if talk.api.session(&talk.session)?["status"] == "paused" {
            ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
        }
        talk.ask(&talk.bash(&format!("echo {number} > file")))?;
        ensure!(back_up(&talk, &dir).is_err(), "{point} was not passed");
        talk.ash.wait_killed()?;
        start_over(&talk, number)?;
        come_back(&mut talk, &dir).context(*point)?;
        let file = talk.api.exec(&talk.session, "cat file")?.stdout;
        let expected = if *point == "backup.published" { number } else { 0 };
        ensure!(file == format!("{expected}\n"), "{point}: {file}");
        let left = fs::read_dir(talk.ash.data_dir())?.flatten();
        let left: Vec<_> =
            left.map(|it| it.file_name().into_string().unwrap_or_default()).collect();
        ensure!(!left.iter().any(|name| name.starts_with("backup-")), "{left:?}");
        // What was there before is gone for the next point; the backup has it.
        back_up(&talk, &dir)?;
    }
    talk.ash.finish()
}

/// What a backup is made of cannot be brought onto the disk: that is said, the one before is whole, and so is the
/// next one.
#[test]
fn a_backup_that_fails_leaves_the_one_before() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let dir = talk.ash.scratch().join("backup");
    talk.ask(&talk.bash("echo before > file"))?;
    back_up(&talk, &dir)?;
    talk.ash.kill9()?;
    ensure!(talk.ash.boot_to_die("backup.content:error", &[])?, "it came too early");
    talk.api = talk.ash.api();
    talk.ask(&talk.bash("echo lost > file"))?;
    let failed = back_up(&talk, &dir).err().context("it has not failed")?.to_string();
    ensure!(failed.contains("the disk failed"), "{failed}");
    ensure!(talk.ask("[[say still here]]")? == "still here");
    for (number, expected) in [(1, "before\n"), (2, "behind\n")] {
        talk.ash.terminate()?;
        start_over(&talk, number)?;
        come_back(&mut talk, &dir)?;
        let file = talk.api.exec(&talk.session, "cat file")?.stdout;
        ensure!(file == expected, "{file} in the place of {expected}");
        talk.ask(&talk.bash("echo behind > file"))?;
        back_up(&talk, &dir)?;
    }
    talk.ash.finish()
}
