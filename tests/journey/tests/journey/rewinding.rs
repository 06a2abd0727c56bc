//! Going back to before a message, wherever that is in a conversation.

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Client, Options, process};
use serde_json::{Value, json};

use crate::support::{Talk, both_engines};

impl Talk {
    /// What was said to the agent: messages as the API shows them.
    fn said(&self) -> Result<Vec<Value>> {
        let path = format!("/api/sessions/{}/messages?limit=100", self.session);
        let listed = self.api.call("GET", &path, None)?.expect(200)?;
        let mut said = listed["messages"].as_array().cloned().context("no messages")?;
        said.retain(|message| message["role"] == "user");
        Ok(said)
    }

    /// Goes back to before a message; false if it is not known how it was then.
    fn rewind(&self, message: &Value) -> Result<bool> {
        let path = format!("/api/sessions/{}/rewind", self.session);
        let before = json!({ "before": message["id"] });
        let answer = self.api.call("POST", &path, Some(&before))?;
        if answer.status == 409 && answer.text().contains("no checkpoint right before") {
            return Ok(false);
        }
        answer.expect(200).map(|_| true)
    }

    /// Puts a file there.
    fn give(&self) -> Result<()> {
        let path = self.path("files/given");
        self.api.open("PUT", &path, Some(b"from outside"))?.answer()?.expect(201).map(drop)
    }

    /// The checkpoint that has what was put there, as history first says in front of a message.
    fn saved(&self) -> Result<Option<String>> {
        let events = self.api.events(&self.session)?;
        let told = events.iter().map(|event| event["data"].as_str().unwrap_or_default());
        let mut told = told.filter_map(|data| serde_json::from_str::<Value>(data).ok());
        let Some(saved) = told.find(|data| data["action"] == "saved") else { return Ok(None) };
        let saved = saved["checkpoint"].as_str().context("no checkpoint")?.to_owned();
        ensure!(self.checkpoints()?.iter().any(|point| point["id"] == *saved), "it is not there");
        Ok(Some(saved))
    }
}

/// Waits until an attempt comes to something that the daemon does not wait for any longer when the
/// machine is too slow for it at that moment: then it is false.
fn in_time(what: &str, mut attempt: impl FnMut() -> Result<bool>) -> Result<()> {
    let mut outcome = Ok(());
    process::until(what, || {
        attempt().unwrap_or_else(|error| {
            outcome = Err(error);
            true
        })
    })?;
    outcome
}

both_engines!(a_session_is_wound_back_to_before_a_message);

fn a_session_is_wound_back_to_before_a_message(options: Options) -> Result<()> {
    let talk = Talk::begin(options)?;
    for n in 1..=3 {
        talk.ask(&talk.bash(&format!("echo {n} >> log")))?;
        // The moment of a point is before the next message; this waits for it.
        talk.checkpoint(&format!("after {n}"))?;
    }
    let users = talk.said()?;
    talk.post("rewind", json!({ "before": users[2]["id"] }), 200)?;
    ensure!(talk.shell("cat log")? == "1\n2");
    ensure!(talk.prompts()?.len() == 2);
    talk.post("rewind", json!({ "before": users[1]["sequence"] }), 200)?;
    ensure!(talk.shell("cat log")? == "1");
    let refused = talk.post("rewind", json!({ "before": users[2]["sequence"] }), 400)?;
    ensure!(refused["error"] == "before: there is no message with this number", "{refused}");
    talk.ash.finish()
}

both_engines!(a_session_is_wound_back_to_how_it_was_made);

/// That is its agent's folder, and nothing said. Nobody has saved it.
fn a_session_is_wound_back_to_how_it_was_made(options: Options) -> Result<()> {
    let talk = Talk::begin(options)?;
    talk.ask(&talk.bash("echo one > made; rm CLAUDE.md"))?;
    talk.ask("[[say remember the owl]]")?;
    talk.checkpoint("before")?;
    ensure!(talk.rewind(&talk.said()?[0])?, "it is refused");
    ensure!(talk.prompts()?.is_empty(), "{:?}", talk.prompts()?);
    ensure!(talk.shell("ls")? == "CLAUDE.md", "{}", talk.shell("ls")?);
    // The commands may have changed something.
    talk.post("checkpoints", json!({}), 201)?;
    let told = talk.ask("[[history]]")?;
    ensure!(!told.contains("the owl") && !told.contains("echo one"), "{told}");

    // It goes on from there as from anywhere, and what was undone can be brought back.
    ensure!(talk.rewind(&talk.said()?[0])?, "it is refused the second time");
    ensure!(talk.prompts()?.is_empty() && talk.shell("ls")? == "CLAUDE.md");
    talk.post("checkpoints/before/restore", json!({}), 200)?;
    ensure!(talk.shell("ls; cat made")? == "made\none");
    ensure!(talk.ask("[[history]]")?.contains("the owl"));
    talk.ash.finish()
}

/// Wherever the daemon dies on the way there, the session is as it was before, or as it was made.
#[test]
fn a_way_back_to_how_it_was_made_is_gone_to_its_end() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let steps = [
        ("back.start", false),
        ("back.built", false),
        ("back.recorded", true),
        ("place.emptied", true),
        ("back.placed", true),
    ];
    for (fault, has_returned) in steps {
        talk.session = talk.api.create("hello", json!({}))?;
        talk.ask(&talk.bash("echo one > made"))?;
        let first = talk.said()?.remove(0);
        talk.ash.kill9()?;
        ensure!(talk.ash.boot_to_die(fault, &[])?, "{fault} came before the daemon was ready");
        talk.api = talk.ash.api();
        ensure!(talk.rewind(&first).is_err(), "{fault} was not passed");
        talk.ash.wait_killed()?;
        talk.boot()?;
        ensure!(talk.prompts()?.is_empty() == has_returned, "{fault}: {:?}", talk.prompts()?);
        if !has_returned {
            ensure!(talk.shell("cat made")? == "one", "behind {fault}");
            ensure!(talk.rewind(&first)?, "behind {fault}");
        }
        ensure!(talk.shell("ls")? == "CLAUDE.md", "{fault}: {}", talk.shell("ls")?);
        let told = talk.ask("[[history]]")?;
        ensure!(!told.contains("echo one"), "{fault}: {told}");
    }
    talk.ash.finish()
}

both_engines!(a_session_is_wound_back_to_before_messages_that_waited);

/// They follow at once on each other, and there is a point between any two of them all the same.
fn a_session_is_wound_back_to_before_messages_that_waited(options: Options) -> Result<()> {
    let mut talk = Talk::begin(options)?;
    in_time("points between messages that wait for each other", || {
        talk.session = talk.api.create("hello", json!({}))?;
        let send = |n: usize| talk.send(&talk.bash(&format!("echo {n} >> log")));
        let turns = (0..4).map(send).collect::<Result<Vec<_>>>()?;
        for turn in turns {
            ensure!(turn.to_end()?.errors().is_empty());
        }
        let said = talk.said()?;
        ensure!(said.len() == 4, "{said:?}");
        for n in (1..4).rev() {
            if !talk.rewind(&said[n])? {
                return Ok(false);
            }
            let log: Vec<_> = (0..n).map(|n| n.to_string()).collect();
            ensure!(talk.shell("cat log")? == log.join("\n"), "before {n}");
            ensure!(talk.prompts()?.len() == n, "before {n}: {:?}", talk.prompts()?);
        }
        ensure!(talk.rewind(&said[0])?, "it was the first");
        ensure!(talk.shell("ls")? == "CLAUDE.md", "{}", talk.shell("ls")?);
        Ok(true)
    })?;
    talk.ash.finish()
}

/// What was put there is there before the message that follows at once, also before the first.
#[test]
fn what_was_put_there_from_outside_is_there_before_a_message() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    in_time("points of what was put there", || {
        talk.session = talk.api.create("hello", json!({}))?;
        for n in 0..2 {
            let path = talk.path(&format!("files/given-{n}"));
            talk.api.open("PUT", &path, Some(b"from outside"))?.answer()?.expect(201)?;
            talk.ask(&talk.bash(&format!("touch made-{n}; rm given-{n}")))?;
        }
        let said = talk.said()?;
        let files = ["CLAUDE.md\ngiven-0", "CLAUDE.md\ngiven-1\nmade-0"];
        for (message, files) in said.iter().zip(files).rev() {
            if !talk.rewind(message)? {
                return Ok(false);
            }
            ensure!(talk.shell("ls")? == files, "{} instead of {files}", talk.shell("ls")?);
        }
        ensure!(talk.prompts()?.is_empty(), "{:?}", talk.prompts()?);
        Ok(true)
    })?;
    talk.ash.finish()
}

/// How a session was made is known as long as nothing was put there before the first message. All else
/// is known as long as it is kept.
#[test]
fn what_is_not_kept_any_more_is_not_made_up() -> Result<()> {
    let mut talk = Talk::begin(Options::stub().config("[snapshots]\nkeep = 2\n"))?;
    for is_given in [false, true] {
        talk.session = talk.api.create("hello", json!({}))?;
        if is_given {
            talk.give()?;
        }
        for n in 0..4 {
            talk.ask(&talk.bash(&format!("echo {n} > file")))?;
            talk.post("checkpoints", json!({}), 201)?;
        }
        let said = talk.said()?;
        ensure!(!talk.rewind(&said[1])?, "it is not kept");
        ensure!(talk.rewind(&said[0])? != is_given, "given: {is_given}");
        let files = if is_given { "CLAUDE.md\nfile\ngiven" } else { "CLAUDE.md" };
        ensure!(talk.shell("ls")? == files, "{}", talk.shell("ls")?);
        let child = talk.fork(json!({}))?;
        talk.session = child;
        if let Some(first) = talk.said()?.first() {
            ensure!(!talk.rewind(first)?, "its parent's points are none of its own");
        }
    }
    talk.ash.finish()
}

/// Of two points at the same place in history the session went back to the older one. It was at that
/// before the next message, also when nothing else of the way back is kept.
#[test]
fn a_session_is_wound_back_to_where_it_had_gone_back_to() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    talk.ask(&talk.bash("echo one > file"))?;
    talk.checkpoint("older")?;
    let path = talk.path("files/file");
    talk.api.open("PUT", &path, Some(b"two"))?.answer()?.expect(200)?;
    talk.checkpoint("newer")?;
    talk.post("checkpoints/older/restore", json!({}), 200)?;
    let returned = talk.checkpoints()?.remove(0);
    talk.ask("[[say hello]]")?;
    talk.checkpoint("later")?;
    let returned = returned["id"].as_str().context("no id")?;
    talk.api.call("DELETE", &talk.path(&format!("checkpoints/{returned}")), None)?.expect(200)?;
    ensure!(talk.rewind(&talk.said()?[1])?, "it is refused");
    ensure!(talk.shell("cat file")? == "one", "{}", talk.shell("cat file")?);
    talk.ash.finish()
}

/// The one point that has what was put there before a message is not kept any more: another one of the
/// same place in history, which is older, is not taken for it.
#[test]
fn a_point_without_what_was_put_there_is_no_point_before_a_message() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    in_time("a point of what was put there", || {
        talk.session = talk.api.create("hello", json!({}))?;
        talk.ask("[[say one]]")?;
        talk.checkpoint("before")?;
        talk.give()?;
        talk.ask("[[say two]]")?;
        talk.checkpoint("later")?;
        let Some(saved) = talk.saved()? else { return Ok(false) };
        talk.api.call("DELETE", &talk.path(&format!("checkpoints/{saved}")), None)?.expect(200)?;
        ensure!(!talk.rewind(&talk.said()?[1])?, "it went back to before it was put there");
        ensure!(talk.rewind(&talk.said()?[0])?, "that is how it was made");
        ensure!(talk.shell("ls")? == "CLAUDE.md", "{}", talk.shell("ls")?);
        Ok(true)
    })?;
    talk.ash.finish()
}

/// The daemon that has saved it is gone when the message comes, by force or politely. When the
/// point is not kept any more, an older one is not taken for it either.
#[test]
fn what_was_put_there_before_a_restart_is_there_before_a_message() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    for (is_killed, is_kept) in [(true, true), (false, true), (true, false)] {
        talk.session = talk.api.create("hello", json!({}))?;
        talk.ask("[[say one]]")?;
        let before = talk.checkpoint("before")?;
        talk.give()?;
        process::until("a point of what was put there", || {
            let points = talk.checkpoints().unwrap_or_default();
            points.first().is_some_and(|point| point["files"].as_u64() > before["files"].as_u64())
        })?;
        if is_killed {
            talk.crash()?;
        } else {
            talk.ash.terminate()?;
            talk.boot()?;
            ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
        }
        talk.ask("[[say two]]")?;
        talk.checkpoint("later")?;
        let saved = talk.saved()?.context("nothing is said of it")?;
        let message = talk.said()?.remove(1);
        if is_kept {
            ensure!(talk.rewind(&message)?, "it is refused");
            ensure!(talk.shell("ls")? == "CLAUDE.md\ngiven", "{}", talk.shell("ls")?);
        } else {
            let path = talk.path(&format!("checkpoints/{saved}"));
            talk.api.call("DELETE", &path, None)?.expect(200)?;
            ensure!(!talk.rewind(&message)?, "it went back to before it was put there");
        }
    }
    talk.ash.finish()
}

/// It is in no point yet when the daemon is killed.
#[test]
fn what_was_put_there_right_before_a_crash_is_there_before_a_message() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    in_time("a point of what was put there", || {
        talk.session = talk.api.create("hello", json!({}))?;
        talk.give()?;
        talk.crash()?;
        talk.ask("[[say one]]")?;
        if !talk.rewind(&talk.said()?[0])? {
            return Ok(false);
        }
        ensure!(talk.shell("ls")? == "CLAUDE.md\ngiven", "{}", talk.shell("ls")?);
        Ok(true)
    })?;
    talk.ash.finish()
}

/// A command goes on when the daemon that began it is killed, and the next one does not hear of it.
#[test]
fn what_a_command_does_behind_a_crash_is_there_before_a_message() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    in_time("a point of what the command did", || {
        talk.session = talk.api.create("hello", json!({}))?;
        let workspace = talk.ash.data_dir().join("sessions").join(&talk.session).join("workspace");
        let (api, session) = (talk.ash.api(), talk.session.clone());
        let wait = "touch begun; until [ -e go ]; do sleep 0.02; done; touch late";
        let running = std::thread::spawn(move || api.exec(&session, wait));
        process::until("the command runs", || workspace.join("begun").exists())?;
        talk.crash()?;
        ensure!(running.join().is_ok_and(|ran| ran.is_err()), "somebody heard of its end");
        process::until("what it did is saved", || {
            talk.checkpoints().is_ok_and(|points| !points.is_empty())
        })?;
        std::fs::write(workspace.join("go"), "")?;
        process::until("the command goes on", || workspace.join("late").exists())?;
        talk.ask("[[say one]]")?;
        if !talk.rewind(&talk.said()?[0])? {
            return Ok(false);
        }
        ensure!(talk.shell("ls late")? == "late", "{}", talk.shell("ls")?);
        Ok(true)
    })?;
    talk.ash.finish()
}

/// A point that never gets done holds up no message for good, and what is in none is said.
#[test]
fn messages_wait_for_a_point_only_so_long() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ash.kill9()?;
    talk.ash.boot_with(&[("ASH_FAULT", "pack.publish.before:stall")])?;
    talk.api = talk.ash.api();
    for word in ["one", "two", "three"] {
        ensure!(talk.ask(&format!("[[say {word}]]"))? == word);
    }
    talk.give()?;
    ensure!(talk.ask("[[say four]]")? == "four");
    let events = talk.api.events(&talk.session)?;
    let unsaved = events.iter().filter(|event| event.to_string().contains("unsaved"));
    let said = talk.said()?;
    let numbers: Vec<_> = unsaved.filter_map(|event| event["sequence"].as_u64()).collect();
    let last = said[3]["sequence"].as_u64().context("the message has no number")?;
    ensure!(numbers == [last - 1], "{events:#?}");
    talk.crash()?;
    ensure!(!talk.rewind(&said[3])? && !talk.rewind(&said[2])?, "nobody has saved that");
    talk.ash.finish()
}
