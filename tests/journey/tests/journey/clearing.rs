//! Files of sessions that nobody uses go from the disk, and come back when somebody wants them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use ash_journey::process::until;
use ash_journey::{Client, Options};
use rusqlite::Connection;
use serde_json::json;

use crate::killed::points::POINTS;
use crate::support::Talk;

/// For daemons that never remove files of sessions, and for those that soon do.
const NEVER: &str = "[pool]\nclear_after = \"0s\"\n";
const SOON: &str = "[pool]\nclear_after = \"1s\"\n";

/// Bytes that cannot be stored in less.
const LARGE: u64 = 8_000_000;

/// Everything that is in a workspace, and what all files have in them.
const LOOK: &str = "find . -printf '%y %m %l %p\\n' | sort; \
     find . -type f -exec sha256sum {} + | sort";

impl Talk {
    /// Where the session has its files.
    fn place(&self) -> PathBuf {
        self.ash.data_dir().join("sessions").join(&self.session)
    }

    fn database(&self) -> Result<Connection> {
        Ok(Connection::open(self.ash.data_dir().join("ash.db"))?)
    }

    /// Whether the session has uids.
    fn has_uids(&self) -> Result<bool> {
        let sql = "SELECT slot IS NOT NULL FROM sessions WHERE lower(hex(id)) = ?";
        let id = self.session.replace('-', "");
        Ok(self.database()?.query_row(sql, [id], |row| row.get(0))?)
    }

    /// Ends the sandbox, and waits until all that it has written is on the disk.
    fn stop(&self) -> Result<()> {
        ensure!(self.api.turn_to(&self.session, "stop")? == "stopped");
        let sql = "SELECT count(*) FROM unsynced";
        let left =
            || Ok::<u64, anyhow::Error>(self.database()?.query_row(sql, [], |row| row.get(0))?);
        until("the session to be at rest", || left().is_ok_and(|left| left == 0))
    }

    fn resume(&self) -> Result<()> {
        ensure!(self.api.turn_to(&self.session, "resume")? == "active");
        Ok(())
    }

    /// What the next daemon is told.
    fn configure(&self, config: &str) -> Result<()> {
        Ok(fs::write(self.ash.scratch().join("ashd.toml.d/test.toml"), config)?)
    }

    fn check_cleared(&self) -> Result<()> {
        ensure!(!self.place().exists(), "its files are there");
        ensure!(!self.has_uids()?, "it has its uids");
        self.check_sound()
    }

    /// There is nothing to be mended.
    fn check_sound(&self) -> Result<()> {
        let found = self.ash.ctl().json(&["fsck", "--deep"])?;
        ensure!(found["differences"] == json!([]), "{found}");
        Ok(())
    }
}

/// Bytes of all files beneath a directory; some may go meanwhile.
fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(stat) if stat.is_dir() => size(&entry.path()),
        Ok(stat) => stat.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

#[test]
fn a_session_at_rest_gives_its_files_back_and_has_them_again() -> Result<()> {
    let talk = Talk::begin(Options::stub().config(SOON))?;
    talk.ask(&talk.bash(&format!(
        "mkdir -p deep/er empty; head -c {LARGE} /dev/urandom > deep/er/large; echo kept > file; \
         chmod 640 file; ln -s file link; mkfifo pipe; : > empty/nothing"
    )))?;
    let before = talk.shell(LOOK)?;
    talk.checkpoint("as it was")?;
    ensure!(talk.has_uids()?);
    let taken = size(&talk.ash.data_dir());
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    talk.wait_for("cleared", 1)?;
    talk.check_cleared()?;
    ensure!(talk.api.status(&talk.session)? == "stopped");
    let left = size(&talk.ash.data_dir());
    ensure!(left + LARGE * 3 / 4 < taken, "{left} of {taken} bytes are left");
    ensure!(talk.api.pool("clearedBytes")? >= LARGE && talk.top()? == "cleared");

    // What only looks at it finds all of it, and leaves it where it is.
    let listed = talk.api.call("GET", &talk.path("files"), None)?.expect(200)?;
    ensure!(listed.to_string().contains("deep/er/large"), "{listed}");
    let read = talk.api.open("GET", &talk.path("files/file"), None)?.answer()?;
    ensure!((read.status, read.text().as_str()) == (200, "kept\n"), "{}", read.text());
    let bundle = talk.api.open("GET", &talk.path("workspace"), None)?.answer()?;
    ensure!(bundle.status == 200 && bundle.body.len() as u64 > LARGE, "{}", bundle.status);
    talk.check_cleared()?;

    talk.resume()?;
    ensure!(talk.shell(LOOK)? == before, "{}", talk.shell(LOOK)?);
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("deep/er/large"), "{told}");
    let events = talk.api.events(&talk.session)?;
    let resumed = events.iter().rfind(|event| event.to_string().contains("resumed"));
    let resumed = resumed.context("it was not resumed")?.to_string();
    ensure!(resumed.contains("store") && resumed.contains("local"), "{resumed}");
    ensure!(talk.has_uids()?);
    talk.check_sound()?;
    talk.ash.finish()
}

/// Whoever changes files of one that has none on the disk finds what was there.
#[test]
fn what_is_put_there_later_comes_to_the_rest_and_goes_with_it() -> Result<()> {
    let mut talk = Talk::begin(Options::stub().config(SOON))?;
    talk.ask(&talk.bash("echo one > file"))?;
    talk.stop()?;
    talk.wait_for("cleared", 1)?;
    talk.check_cleared()?;
    let put = talk.api.open("PUT", &talk.path("files/put"), Some(b"from outside"))?;
    put.answer()?.expect(201)?;
    ensure!(talk.place().join("workspace/file").exists() && talk.has_uids()?);
    talk.wait_for("cleared", 2)?;
    talk.check_cleared()?;
    // A copy of it has files of its own, and it can end.
    let fork = talk.fork(json!({}))?;
    let parent = std::mem::replace(&mut talk.session, fork);
    ensure!(talk.api.turn_to(&parent, "end")? == "ended");
    talk.resume()?;
    ensure!(talk.shell("cat file put")? == "one\nfrom outside");
    talk.check_sound()?;
    talk.ash.finish()
}

#[test]
fn what_no_checkpoint_has_stays() -> Result<()> {
    let mut talk = Talk::begin(Options::stub().config(NEVER))?;
    talk.ask(&talk.bash("echo one > file"))?;
    talk.stop()?;
    let changed = std::mem::replace(&mut talk.session, talk.api.create("hello", json!({}))?);
    talk.ask(&talk.bash("echo two > file"))?;
    talk.stop()?;
    let saved = std::mem::replace(&mut talk.session, changed);
    talk.ash.kill9()?;
    // Nobody is told, and nothing but a look at it tells.
    let file = talk.place().join("workspace/file");
    fs::write(&file, "changed by nobody\n")?;
    talk.configure(SOON)?;
    talk.boot()?;
    // It has been at rest for longer, and was looked at first.
    talk.wait_for("cleared", 1)?;
    ensure!(fs::read_to_string(&file)? == "changed by nobody\n" && talk.has_uids()?);
    let changed = std::mem::replace(&mut talk.session, saved);
    talk.check_cleared()?;
    talk.resume()?;
    ensure!(talk.shell("cat file")? == "two");
    talk.session = changed;
    talk.resume()?;
    ensure!(talk.shell("cat file")? == "changed by nobody");
    talk.check_sound()?;
    talk.ash.finish()
}

/// Wherever it dies: conversation and files are there, and the next one brings it to its end.
#[test]
fn a_daemon_that_dies_while_it_clears_loses_nothing() -> Result<()> {
    let own = POINTS.iter().map(|(point, _)| *point).filter(|point| point.starts_with("clear."));
    for point in own.chain(["files.aside"]) {
        let mut talk = Talk::begin(Options::stub().config(NEVER))?;
        talk.ask(&talk.bash("echo kept > file"))?;
        talk.stop()?;
        talk.ash.kill9()?;
        talk.configure(SOON)?;
        if talk.ash.boot_to_die(point, &[])? && point == "clear.returned" {
            talk.api = talk.ash.api();
            talk.wait_for("cleared", 1)?;
            // It dies before it answers.
            let _ = talk.api.turn_to(&talk.session, "resume");
        }
        talk.ash.wait_killed().with_context(|| format!("at {point}"))?;
        talk.boot()?;
        if point != "clear.recorded" {
            talk.wait_for("cleared", 1).with_context(|| format!("at {point}"))?;
        }
        talk.check_cleared().with_context(|| format!("at {point}"))?;
        ensure!(talk.api.status(&talk.session)? == "stopped", "{point}");
        talk.resume()?;
        ensure!(talk.shell("cat file")? == "kept", "{point}");
        ensure!(talk.ask("[[history]]")?.contains("echo kept"), "{point}");
        talk.check_sound().with_context(|| format!("at {point}"))?;
        talk.ash.finish()?;
    }
    Ok(())
}

/// Before the next daemon has looked at anything.
#[test]
fn what_a_daemon_leaves_half_cleared_can_be_gone_on_with() -> Result<()> {
    for point in ["clear.relied", "files.aside", "clear.removed"] {
        let mut talk = Talk::begin(Options::stub().config(NEVER))?;
        talk.ask(&talk.bash("echo kept > file"))?;
        talk.stop()?;
        talk.ash.kill9()?;
        talk.configure(SOON)?;
        talk.ash.boot_to_die(point, &[])?;
        talk.ash.wait_killed().with_context(|| format!("at {point}"))?;
        talk.configure(NEVER)?;
        talk.boot()?;
        talk.check_sound().with_context(|| format!("at {point}"))?;
        talk.resume()?;
        ensure!(talk.shell("cat file")? == "kept", "{point}");
        ensure!(talk.ask("[[history]]")?.contains("echo kept"), "{point}");
        talk.ash.finish()?;
    }
    Ok(())
}
