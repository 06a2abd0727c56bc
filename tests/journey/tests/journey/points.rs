//! A session is a conversation and a workspace at one moment: saved, brought back, made into two.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Client, Options, process, session_of};
use serde_json::{Value, json};

use crate::killed::points::POINTS;
use crate::support::{Talk, both_engines};

/// A session beside the one that a talk is about.
impl Talk {
    pub(crate) fn post(&self, what: &str, body: Value, status: u16) -> Result<Value> {
        let path = format!("/api/sessions/{}/{what}", self.session);
        self.api.call("POST", &path, Some(&body))?.expect(status).context(path)
    }

    pub(crate) fn fork(&self, body: Value) -> Result<String> {
        let made = self.post("fork", body, 201)?;
        let shown = &made["session"];
        ensure!(shown["status"] == "paused", "{shown}");
        ensure!(shown["parentSessionId"].as_str() == Some(&self.session), "{shown}");
        session_of(&made)
    }

    pub(crate) fn checkpoint(&self, name: &str) -> Result<Value> {
        Ok(self.post("checkpoints", json!({ "name": name }), 201)?["checkpoint"].take())
    }

    pub(crate) fn checkpoints(&self) -> Result<Vec<Value>> {
        let path = format!("/api/sessions/{}/checkpoints", self.session);
        let listed = self.api.call("GET", &path, None)?.expect(200)?;
        Ok(listed["checkpoints"].as_array().cloned().unwrap_or_default())
    }

    /// What a command says that runs in the session's workspace.
    pub(crate) fn shell(&self, command: &str) -> Result<String> {
        Ok(self.api.exec(&self.session, command)?.stdout.trim().to_owned())
    }

    pub(crate) fn prompts(&self) -> Result<Vec<String>> {
        let messages = self.api.messages(&self.session)?.into_iter();
        let prompts = messages.filter(|(role, _)| role == "user");
        Ok(prompts
            .map(|(_, body)| body["content"].as_str().unwrap_or_default().to_owned())
            .collect())
    }
}

pub(crate) fn resume(talk: &Talk) -> Result<()> {
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    Ok(())
}

both_engines!(a_fork_goes_its_own_way);

fn a_fork_goes_its_own_way(options: Options) -> Result<()> {
    let mut talk = Talk::begin(options)?;
    talk.ask(&talk.bash("echo one > shared; mkfifo pipe; ln -s shared link; chmod 640 shared"))?;
    talk.ask("[[say remember the owl]]")?;
    let parent = talk.session.clone();
    let child = talk.fork(json!({}))?;

    talk.session.clone_from(&child);
    ensure!(talk.prompts()?.len() == 2, "its history is its parent's");
    resume(&talk)?;
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("remember the owl"), "{told}");
    ensure!(talk.shell("cat link; stat -c %a shared; stat -c %F pipe")? == "one\n640\nfifo");
    talk.ask(&talk.bash("echo two > shared"))?;
    ensure!(talk.ask("[[history]]")?.contains("remember the owl"), "also with its own transcript");

    talk.session.clone_from(&parent);
    ensure!(talk.shell("cat shared")? == "one");
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("remember the owl") && !told.contains("echo two"), "{told}");
    let ids: Vec<_> = [&parent, &child]
        .iter()
        .map(|session| talk.api.session(session).map(|shown| shown["sandboxId"].clone()))
        .collect::<Result<_>>()?;
    ensure!(ids[0] != ids[1]);
    // The parent goes; the child does not notice.
    talk.api.purge(&parent)?;
    talk.session = child;
    ensure!(talk.shell("cat shared")? == "two");
    talk.ash.finish()
}

both_engines!(a_fork_in_mid_turn_says_so_and_the_parent_goes_on);

fn a_fork_in_mid_turn_says_so_and_the_parent_goes_on(options: Options) -> Result<()> {
    let mut talk = Talk::begin(options)?;
    talk.ask("[[say before]]")?;
    let mut turn = talk.send("[[count 300 5ms]]")?;
    turn.deltas(10)?;
    let child = talk.fork(json!({}))?;
    let turn = turn.to_end()?;
    ensure!(turn.errors().is_empty(), "the parent's turn is not disturbed: {:?}", turn.errors());

    talk.session = child;
    let events = talk.api.events(&talk.session)?;
    let interrupted = events.iter().filter(|event| event["type"] == "error").count();
    ensure!(interrupted == 1, "{events:#?}");
    resume(&talk)?;
    ensure!(talk.ask("[[say after]]")? == "after");
    ensure!(talk.ask("[[history]]")?.contains("before"));
    talk.ash.finish()
}

both_engines!(a_checkpoint_brings_both_back);

fn a_checkpoint_brings_both_back(options: Options) -> Result<()> {
    let talk = Talk::begin(options)?;
    talk.ask(&talk.bash("mkdir -p a/b; echo one > a/b/file; echo gone > later; touch a/empty"))?;
    let made = talk.checkpoint("before it went wrong")?;
    ensure!(made["running"] == false && made["files"].as_u64() > Some(4), "{made}");
    talk.ask(&talk.bash("rm -r a later; echo new > other"))?;
    talk.ask("[[say a bad idea]]")?;
    let newest = talk.api.events(&talk.session)?.pop().context("no events")?;

    let path = "checkpoints/before%20it%20went%20wrong/restore";
    let shown = talk.post(path, json!({}), 200)?;
    ensure!(shown["session"]["status"] == "active", "{shown}");
    ensure!(
        talk.shell("cat a/b/file later; ls; ls a")? == "one\ngone\nCLAUDE.md\na\nlater\nb\nempty"
    );
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("mkdir -p") && !told.contains("a bad idea"), "{told}");
    ensure!(talk.prompts()?.len() == 2, "what is undone is not shown: {:?}", talk.prompts()?);
    // Numbers go on.
    let restored = talk.api.events(&talk.session)?;
    let body = |event: &Value| event["data"].as_str().unwrap_or_default().contains("restored");
    let restored = restored.iter().find(|event| body(event)).context("nothing tells of it")?;
    ensure!(restored["sequence"].as_u64() > newest["sequence"].as_u64(), "{restored} {newest}");

    // What was undone was saved, and can be brought back as well.
    let undone = talk.checkpoints()?;
    let bad = undone
        .iter()
        .rfind(|point| point["sequence"].as_u64() >= newest["sequence"].as_u64())
        .context("what was undone was not saved")?;
    let id = bad["id"].as_str().unwrap_or_default();
    talk.post(&format!("checkpoints/{id}/restore"), json!({}), 200)?;
    ensure!(talk.shell("ls; cat other")? == "CLAUDE.md\nother\nnew");
    ensure!(talk.ask("[[history]]")?.contains("a bad idea"));
    talk.ash.finish()
}

both_engines!(files_that_are_lost_come_back_from_the_store);

fn files_that_are_lost_come_back_from_the_store(options: Options) -> Result<()> {
    let mut talk = Talk::begin(options)?;
    talk.ask(
        &talk.bash("echo kept > file; head -c 3000000 /dev/urandom > noise; sha256sum noise > sum"),
    )?;
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    // What is saved in the background is saved before the daemon goes.
    talk.ash.terminate()?;
    fs::remove_dir_all(talk.ash.data_dir().join("sessions").join(&talk.session))?;
    talk.boot()?;
    resume(&talk)?;
    let found = talk.shell("cat file; sha256sum -c sum")?;
    ensure!(found == "kept\nnoise: OK", "{found}");
    ensure!(talk.ask("[[history]]")?.contains("kept"));
    let events = talk.api.events(&talk.session)?;
    let resumed = events.iter().filter_map(|event| event["data"].as_str());
    let resumed = resumed.filter(|data| data.contains(r#""from":"store""#)).count();
    ensure!(resumed == 1, "{events:#?}");
    talk.ash.finish()
}

/// Its sandbox starts while the files come back: whatever fails of the two, and wherever the daemon
/// dies, nothing of either is left, and the next attempt has all of it.
#[test]
fn files_come_back_while_the_sandbox_starts() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ask(&talk.bash("echo kept > file"))?;
    let dies = ["restore.built", "place.filled", "resume.launched"];
    let dies = dies.map(|point| (point.to_owned(), true));
    let fails = ["restore.built", "spawn.launch.before", "spawn.greeted", "place.filled"];
    let fails = fails.map(|point| (format!("{point}:error"), false));
    for (fault, dies) in dies.into_iter().chain(fails) {
        talk.api.turn_to(&talk.session, "stop")?;
        talk.ash.terminate()?;
        fs::remove_dir_all(talk.ash.data_dir().join("sessions").join(&talk.session))?;
        ensure!(talk.ash.boot_to_die(&fault, &[])?, "{fault} came before the daemon was ready");
        talk.api = talk.ash.api();
        let path = format!("/api/sessions/{}/resume", talk.session);
        let asked = talk.api.call("POST", &path, None);
        if dies {
            ensure!(asked.is_err(), "{fault} was not passed");
            talk.ash.wait_killed()?;
            talk.boot()?;
        } else {
            let status = asked?.status;
            // What fails while nothing is made yet is simply done again.
            ensure!(status >= 500 || fault.starts_with("restore"), "{fault}: {status}");
        }
        talk.api.turn_to(&talk.session, "resume")?;
        ensure!(talk.shell("cat file")? == "kept", "behind {fault}");
        let sandboxes = talk.api.health()?;
        ensure!(sandboxes["activeSandboxes"] == 1, "behind {fault}: {sandboxes}");
    }
    talk.ash.finish()
}

#[test]
fn an_ended_session_can_be_forked_and_purged() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ask(&talk.bash("echo left > file"))?;
    ensure!(talk.api.turn_to(&talk.session, "end")? == "ended");
    let ended = talk.session.clone();
    ensure!(!talk.ash.data_dir().join("sessions").join(&ended).exists());
    let left = talk.checkpoints()?;
    let id = left[0]["id"].as_str().context("nothing is left")?;
    let path = format!("/api/sessions/{ended}/checkpoints/{id}");
    let refused = talk.api.call("DELETE", &path, None)?.expect(409)?;
    ensure!(refused["error"].as_str().is_some_and(|text| text.contains("all that is left")));
    talk.post("checkpoints/x/restore", json!({}), 410)?;
    let child = talk.fork(json!({}))?;
    talk.api.purge(&ended)?;
    talk.session = child;
    resume(&talk)?;
    ensure!(talk.shell("cat file")? == "left");
    talk.ash.finish()
}

/// A daemon dies when a session has gone back and its files have not. Whoever comes first brings them
/// back, also when that is not the session itself.
#[test]
fn files_that_are_still_to_come_back_are_not_saved_as_they_were() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    for way in ["fork", "end", "back"] {
        talk.session = talk.api.create("hello", json!({}))?;
        talk.ask(&talk.bash("echo one > file"))?;
        talk.checkpoint("one")?;
        talk.ask(&talk.bash("echo two > file"))?;
        talk.ash.kill9()?;
        ensure!(talk.ash.boot_to_die("back.recorded", &[])?);
        talk.api = talk.ash.api();
        let path = format!("/api/sessions/{}/checkpoints/one/restore", talk.session);
        ensure!(talk.api.call("POST", &path, None).is_err(), "it was not on its way back");
        talk.ash.wait_killed()?;
        talk.boot()?;
        match way {
            "end" => ensure!(talk.api.turn_to(&talk.session, "end")? == "ended"),
            "back" => {
                talk.post("checkpoints/one/restore", json!({}), 200)?;
                // What was there is the newest that was saved before.
                let id = talk.checkpoints()?[1]["id"].as_str().unwrap_or_default().to_owned();
                talk.post(&format!("checkpoints/{id}/restore"), json!({}), 200)?;
            }
            _ => {}
        }
        talk.session = talk.fork(json!({}))?;
        resume(&talk)?;
        ensure!(talk.shell("cat file")? == "one", "{way}: {}", talk.shell("cat file")?);
    }
    talk.ash.finish()
}

/// Whichever of its files are gone when the daemon dies: what is kept is all of them.
#[test]
fn what_is_left_of_an_ended_session_is_whole() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let mut ended = 0;
    for passage in 1.. {
        talk.session = talk.api.create("hello", json!({}))?;
        talk.ask(&talk.bash("for n in 1 2 3; do echo $n > file-$n; done"))?;
        talk.ash.kill9()?;
        let fault = format!("tree.removing:{passage}");
        ensure!(talk.ash.boot_to_die(&fault, &[])?, "nothing is removed by a daemon that starts");
        talk.api = talk.ash.api();
        let path = format!("/api/sessions/{}", talk.session);
        if talk.api.call("DELETE", &path, None).is_ok() {
            break;
        }
        talk.ash.wait_killed()?;
        talk.boot()?;
        // Before its own files, what its sandbox was made of goes.
        if talk.api.status(&talk.session)? != "ended" {
            talk.api.purge(&talk.session)?;
            continue;
        }
        ended += 1;
        talk.session = talk.fork(json!({}))?;
        resume(&talk)?;
        ensure!(talk.shell("cat file-*")? == "1\n2\n3", "passage {passage}");
        ensure!(talk.ask("[[history]]")?.contains("file-$n"), "passage {passage}");
    }
    ensure!(ended >= 3, "only {ended} times it was its files that were removed");
    // It is still waiting for a passage to die at.
    talk.crash()?;
    talk.ash.finish()
}

/// Bytes of everything that is kept of sessions.
fn kept(talk: &Talk) -> u64 {
    let packs = talk.ash.data_dir().join("snapshots/store/default/packs");
    let packs = fs::read_dir(packs).into_iter().flatten().flatten();
    packs.filter_map(|pack| pack.metadata().ok()).map(|pack| pack.len()).sum()
}

#[test]
fn what_is_purged_leaves_the_disk() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let first = talk.session.clone();
    talk.ask(&talk.bash("head -c 4000000 /dev/urandom > noise"))?;
    talk.checkpoint("noise")?;
    ensure!(kept(&talk) > 4_000_000, "{}", kept(&talk));
    talk.session = talk.api.create("hello", json!({}))?;
    talk.ask(&talk.bash("echo other > file"))?;
    talk.checkpoint("other")?;
    talk.api.purge(&first)?;
    process::until("the disk to have its room again", || kept(&talk) < 1_000_000)?;
    // What others have kept is there.
    talk.ask(&talk.bash("rm file"))?;
    talk.post("checkpoints/other/restore", json!({}), 200)?;
    ensure!(talk.shell("cat file")? == "other");
    talk.ash.finish()
}

/// Content that two sessions share is moved when one of them is purged, and outlives a daemon that dies
/// on the way.
#[test]
fn a_daemon_that_dies_while_it_collects_loses_nothing() -> Result<()> {
    for (point, _) in POINTS.iter().filter(|(point, _)| point.starts_with("collect.")) {
        let mut talk = Talk::begin(Options::stub())?;
        talk.ask(&talk.bash("head -c 300000 /dev/urandom > kept; sha256sum kept > sum"))?;
        talk.ask(&talk.bash("head -c 3000000 /dev/urandom > own"))?;
        talk.checkpoint("parent")?;
        let (parent, child) = (talk.session.clone(), talk.fork(json!({}))?);
        talk.ash.kill9()?;
        ensure!(talk.ash.boot_to_die(point, &[])?, "{point} came before anything was purged");
        talk.api = talk.ash.api();
        // Its caller may not hear of it any more.
        let _ = talk.api.purge(&parent);
        talk.ash.wait_killed()?;
        talk.boot()?;
        talk.session = child;
        let found = talk.ash.ctl().json(&["fsck", "--deep"])?;
        ensure!(found["differences"] == json!([]), "{point}: {found}");
        resume(&talk)?;
        talk.ash.kill9()?;
        talk.ash.kill_inside("bridge")?;
        fs::remove_dir_all(talk.ash.data_dir().join("sessions").join(&talk.session))?;
        talk.boot()?;
        resume(&talk)?;
        ensure!(talk.shell("sha256sum -c sum")? == "kept: OK", "{point}");
        talk.ash.finish()?;
    }
    Ok(())
}

#[test]
fn only_so_many_points_are_kept() -> Result<()> {
    let talk = Talk::begin(Options::stub().config("[snapshots]\nkeep = 3\n"))?;
    for n in 0..6 {
        talk.ask(&talk.bash(&format!("echo {n} > file")))?;
        talk.post("checkpoints", json!({}), 201)?;
    }
    talk.checkpoint("named")?;
    let points = talk.checkpoints()?;
    let named = points.iter().filter(|point| !point["name"].is_null()).count();
    ensure!((points.len(), named) == (4, 1), "{points:#?}");
    talk.ash.finish()
}

#[test]
fn the_oldest_point_that_is_kept_can_be_gone_back_to() -> Result<()> {
    let talk = Talk::begin(Options::stub().config("[snapshots]\nkeep = 2\n"))?;
    for n in 0..3 {
        talk.ask(&talk.bash(&format!("echo {n} > file")))?;
        talk.post("checkpoints", json!({}), 201)?;
    }
    // What is saved on the way back is one more.
    let files = talk.ash.data_dir().join("sessions").join(&talk.session).join("workspace");
    fs::write(files.join("file"), "not saved yet")?;
    let oldest = talk.checkpoints()?.pop().context("no checkpoint")?;
    let id = oldest["id"].as_str().context("no id")?;
    talk.post(&format!("checkpoints/{id}/restore"), json!({}), 200)?;
    ensure!(talk.shell("cat file")? == "1");
    // Two, and the one that was gone back to, until the next is saved.
    ensure!(talk.checkpoints()?.len() == 3);
    talk.ash.finish()
}

#[test]
fn a_turn_that_was_not_saved_is_saved_by_the_next_daemon() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ash.kill9()?;
    ensure!(talk.ash.boot_to_die("pack.publish.before", &[])?, "it died before it was ready");
    talk.api = talk.ash.api();
    // It may die before it has told all of the answer.
    let _ = talk.ask(&talk.bash("echo one > file"));
    talk.ash.wait_killed()?;
    talk.boot()?;
    let newest = talk.api.events(&talk.session)?.pop().context("no events")?;
    let sequence = newest["sequence"].as_u64();
    process::until("a point of the turn", || {
        talk.checkpoints().is_ok_and(|points| {
            points.first().is_some_and(|point| point["sequence"].as_u64() >= sequence)
        })
    })?;
    talk.ash.finish()
}

#[test]
fn wrong_wishes_are_refused() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    talk.checkpoint("one")?;
    for (what, body, status, text) in [
        ("checkpoints", json!({ "name": "one" }), 409, "name: another checkpoint"),
        ("checkpoints", json!({ "name": "" }), 400, "name: must be 1 to 100"),
        ("fork", json!({ "checkpoint": "two" }), 404, "Checkpoint not found"),
        ("checkpoints/two/restore", json!({}), 404, "Checkpoint not found"),
        ("rewind", json!({ "before": 99 }), 400, "before: there is no message"),
        ("rewind", json!({}), 400, "before: is required"),
    ] {
        let refused = talk.post(what, body, status)?;
        let said = refused["error"].as_str().unwrap_or_default();
        ensure!(said.starts_with(text), "{what}: {said}");
    }
    let mut turn = talk.send("[[count 100000 5ms]]")?;
    turn.deltas(3)?;
    let refused = talk.post("checkpoints/one/restore", json!({}), 409)?;
    let said = refused["error"].as_str().unwrap_or_default();
    ensure!(said.starts_with("Session is busy with another message; "), "{refused}");
    talk.api.interrupt(&talk.session)?;
    turn.to_end()?;
    let path = format!("/api/sessions/{}/checkpoints/one", talk.session);
    talk.api.call("DELETE", &path, None)?.expect(200)?;
    talk.api.call("DELETE", &path, None)?.expect(404)?;
    // Without its name the newest one is what the session is brought back from.
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    let newest = talk.checkpoint("newest")?;
    let path = |which: &str| format!("/api/sessions/{}/checkpoints/{which}", talk.session);
    talk.api.call("DELETE", &path("newest"), None)?.expect(200)?;
    let left = talk.checkpoints()?.remove(0);
    ensure!(left["id"] == newest["id"] && left["name"].is_null(), "{left}");
    let id = newest["id"].as_str().context("no id")?;
    let refused = talk.api.call("DELETE", &path(id), None)?.expect(409)?;
    ensure!(refused["error"].as_str().is_some_and(|text| text.contains("newest")), "{refused}");
    talk.ash.finish()
}

/// A daemon that is killed while a fork is made, or anything else, leaves nothing half-made.
#[test]
fn points_outlive_the_daemon() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ask(&talk.bash("echo one > file"))?;
    talk.checkpoint("one")?;
    talk.ask(&talk.bash("echo two > file"))?;
    talk.crash()?;
    ensure!(talk.checkpoints()?.iter().any(|point| point["name"] == "one"));
    talk.post("checkpoints/one/restore", json!({}), 200)?;
    ensure!(talk.shell("cat file")? == "one");
    talk.ash.finish()
}
