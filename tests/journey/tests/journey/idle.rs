//! Sandboxes that nobody uses rest, give way to others and end; nobody notices but the machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use ash_journey::process::until;
use ash_journey::{Client, Options, skip};
use serde_json::{Value, json};

use crate::killed::points::POINTS;
use crate::metrics::is_counted;
use crate::support::{Talk, both_engines};

/// Runs for ever beside whatever else there is, and leaves its pid.
const WORK: &str = "setsid sh -c 'while :; do :; done' >/dev/null 2>&1 & echo $! > pid";

/// When agents stand still, and when sandboxes end, in milliseconds; 0 is never.
pub(crate) fn pool(freeze: u32, end: u32) -> String {
    format!(
        "[pool]\nfreeze_after = \"{freeze}ms\"\nreclaim_after = \"0s\"\nidle_timeout = \"{end}ms\"\n"
    )
}

impl Talk {
    pub(crate) fn wait_for(&self, count: &str, number: u64) -> Result<()> {
        until(&format!("{number} of {count}"), || {
            self.api.pool(count).is_ok_and(|there| there == number)
        })
    }

    fn wait_for_more(&self, count: &str, number: u64) -> Result<()> {
        until(&format!("more than {number} of {count}"), || {
            self.api.pool(count).is_ok_and(|there| there > number)
        })
    }

    /// The control group of the session's agent.
    fn agent(&self) -> Result<PathBuf> {
        Ok(self.ash.group(&self.session)?.join("agent"))
    }

    /// How many turns have come to their end.
    fn turns(&self) -> Result<usize> {
        let events = self.api.events(&self.session)?;
        Ok(events.iter().filter(|event| event["type"] == "turn_complete").count())
    }

    /// What `ashctl top` says of the session's sandbox.
    pub(crate) fn top(&self) -> Result<Value> {
        let all = self.ash.ctl().json(&["top"])?;
        let mut rows = all.as_array().into_iter().flatten();
        let row = rows.find(|row| row["id"] == self.session.as_str());
        Ok(row.context("it is not there")?["sandbox"].clone())
    }
}

/// Whether an agent stands still.
fn stands(agent: &Path) -> bool {
    let events = fs::read_to_string(agent.join("cgroup.events"));
    events.is_ok_and(|events| events.contains("frozen 1"))
}

/// The processor time that an agent has had until now, in words of the kernel.
fn used(agent: &Path) -> Result<String> {
    let stat = fs::read_to_string(agent.join("cpu.stat"))?;
    let used = stat.lines().find(|line| line.starts_with("usage_usec "));
    Ok(used.with_context(|| format!("no time in {stat}"))?.to_owned())
}

both_engines!(an_idle_agent_stands_still_and_the_next_message_has_it_go_on);

fn an_idle_agent_stands_still_and_the_next_message_has_it_go_on(options: Options) -> Result<()> {
    let talk = Talk::begin(options.config(&pool(1000, 0)))?;
    talk.ask("[[say before]]")?;
    let (agent, bridge) = (talk.agent()?, talk.ash.inside("bridge"));
    talk.wait_for("frozen", 1)?;
    ensure!(stands(&agent) && talk.top()? == "frozen", "{}", talk.top()?);
    // What only looks at its files leaves it where it is.
    let (before, freezes) = (used(&agent)?, talk.api.pool("freezes")?);
    talk.checkpoint("while it stands still")?;
    ensure!(stands(&agent) && used(&agent)? == before, "a checkpoint had it go on");
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("[[say before]]") && used(&agent)? != before, "{told}");
    talk.wait_for_more("freezes", freezes)?;
    ensure!(stands(&agent), "it does not stand still again");
    ensure!(talk.shell("echo here")? == "here");
    ensure!(talk.ash.inside("bridge") == bridge, "it is another sandbox");
    talk.ash.finish()
}

both_engines!(an_idle_sandbox_ends_and_the_next_message_has_all_that_was);

fn an_idle_sandbox_ends_and_the_next_message_has_all_that_was(options: Options) -> Result<()> {
    let talk = Talk::begin(options.config(&pool(0, 1000)))?;
    talk.ask(&talk.bash("echo kept > file"))?;
    talk.wait_for("cooled", 1)?;
    talk.ash.none_inside("bridge")?;
    ensure!(talk.api.status(&talk.session)? == "active");
    ensure!(
        (talk.api.pool("total")?, talk.api.pool("cold")?, talk.api.pool("evictions")?) == (0, 1, 0)
    );
    ensure!(talk.top()?.is_null(), "{}", talk.top()?);
    ensure!(!talk.checkpoints()?.is_empty(), "it is not saved");
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("echo kept"), "{told}");
    ensure!(talk.shell("cat file")? == "kept");
    is_counted(&talk, "ash_wake_seconds_count{source=\"local\"}")?;

    ensure!(talk.api.turn_to(&talk.session, "pause")? == "paused");
    talk.wait_for("total", 0)?;
    ensure!(talk.api.status(&talk.session)? == "paused");
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    ensure!(talk.ask("[[say after]]")? == "after");
    talk.ash.finish()
}

#[test]
fn a_turn_that_runs_is_left_alone() -> Result<()> {
    let talk = Talk::begin(Options::stub().config(&pool(250, 500)))?;
    let wait = "touch begun; while [ ! -e go ]; do sleep 0.02; done; echo went";
    let mut turn = talk.send(&talk.bash(wait))?;
    turn.until_named("tool_use")?;
    // One that nobody uses has ended by then.
    talk.api.create("hello", json!({}))?;
    talk.wait_for("total", 1)?;
    ensure!(!stands(&talk.agent()?) && talk.top()? == "running", "{}", talk.top()?);
    ensure!(talk.shell("until [ -e begun ]; do sleep 0.02; done; touch go")?.is_empty());
    let turn = turn.to_end()?;
    ensure!(turn.errors().is_empty() && turn.text() == "tool said: went", "{}", turn.raw());
    talk.wait_for("total", 0)?;
    talk.ash.finish()
}

/// A command of somebody else's, or a task that the agent has left to itself.
#[test]
fn what_works_by_itself_is_left_alone() -> Result<()> {
    for is_agents in [false, true] {
        let talk = Talk::begin(Options::stub().config(&pool(250, 500)))?;
        match is_agents {
            true => drop(talk.ask(&talk.bash(WORK))?),
            false => drop(talk.shell(WORK)?),
        }
        let agent = talk.agent()?;
        talk.api.create("hello", json!({}))?;
        talk.wait_for("total", 1)?;
        ensure!(!stands(&agent), "of the agent's own: {is_agents}");
        ensure!(talk.shell("kill -0 $(cat pid) && echo alive; kill $(cat pid)")? == "alive");
        talk.wait_for("total", 0)?;
        talk.ash.finish()?;
    }
    Ok(())
}

/// Waits without using any processor until somebody writes to the pipe.
const WAIT: &str = "mkfifo /tmp/go && cat /tmp/go";
const GO: &str = "until [ -p /tmp/go ]; do sleep 0.02; done; echo went > /tmp/go";

both_engines!(a_task_in_the_background_is_left_alone_and_so_its_turn_comes);

/// Also by the next daemon.
fn a_task_in_the_background_is_left_alone_and_so_its_turn_comes(options: Options) -> Result<()> {
    let mut talk = Talk::begin(options.config(&pool(250, 1000)))?;
    talk.ask(&talk.background(WAIT))?;
    let (turns, agent) = (talk.turns()?, talk.agent()?);
    for _ in 0..2 {
        // One that nobody uses has ended by then.
        talk.api.create("hello", json!({}))?;
        talk.wait_for("total", 1)?;
        ensure!(!stands(&agent) && talk.top()? == "background", "{}", talk.top()?);
        talk.crash()?;
    }
    talk.shell(GO)?;
    until("its turn", || talk.turns().is_ok_and(|now| now > turns))?;
    talk.wait_for("total", 0)?;
    talk.ash.finish()
}

#[test]
fn a_task_that_never_ends_is_not_waited_for_for_ever() -> Result<()> {
    let config = format!("{}background = \"1s\"\n", pool(250, 500));
    let talk = Talk::begin(Options::stub().config(&config))?;
    talk.ask(&talk.background(WAIT))?;
    talk.wait_for("cooled", 1)?;
    ensure!(talk.ask("[[say after]]")? == "after");
    talk.ash.finish()
}

both_engines!(a_session_too_many_takes_the_place_of_one_that_waits);

fn a_session_too_many_takes_the_place_of_one_that_waits(options: Options) -> Result<()> {
    let talk = Talk::begin(options.env("ASH_MAX_SANDBOXES", 2).config(&pool(0, 0)))?;
    let say = |session: &str, what: &str| -> Result<String> {
        let turn = talk.api.send(session, json!({ "content": what }))?.to_end()?;
        ensure!(turn.errors().is_empty(), "{:?}", turn.errors());
        Ok(turn.text())
    };
    let mut sessions = vec![talk.session.clone()];
    for number in 0..3 {
        if number > 0 {
            sessions.push(talk.api.create("hello", json!({}))?);
        }
        say(&sessions[number], &format!("[[say number {number}]]"))?;
    }
    ensure!((talk.api.pool("total")?, talk.api.pool("evictions")?) == (2, 1));
    for (number, session) in sessions.iter().enumerate() {
        ensure!(talk.api.status(session)? == "active");
        let told = say(session, "[[history]]")?;
        ensure!(told.contains(&format!("number {number}")), "{told}");
    }
    ensure!(talk.api.pool("total")? == 2);

    // Of those that are used none goes.
    let begin = |session: &str| -> Result<_> {
        let mut turn = talk.api.send(session, json!({ "content": "[[count 100000 5ms]]" }))?;
        turn.deltas(3)?;
        Ok(turn)
    };
    let (one, other) = (begin(&sessions[1])?, begin(&sessions[2])?);
    let refused = talk.api.call("POST", "/api/sessions", Some(&json!({ "agent": "hello" })))?;
    ensure!(refused.status == 503, "{}", refused.text());
    ensure!(refused.header("retry-after").is_some(), "when to try again is said");
    talk.api.interrupt(&sessions[1])?;
    one.to_end()?;
    talk.api.create("hello", json!({}))?;
    talk.api.interrupt(&sessions[2])?;
    let errors = other.to_end()?.errors();
    ensure!(!errors.iter().any(|error| error.contains("sandbox")), "it was taken: {errors:?}");
    talk.ash.finish()
}

#[test]
fn the_next_daemon_has_agents_go_on() -> Result<()> {
    let mut talk = Talk::begin(Options::stub().config(&pool(250, 0)))?;
    talk.ask("[[say before]]")?;
    let (agent, bridge) = (talk.agent()?, talk.ash.inside("bridge"));
    talk.wait_for("frozen", 1)?;
    talk.ash.kill9()?;
    ensure!(stands(&agent), "nobody had it go on");
    fs::write(talk.ash.scratch().join("ashd.toml.d/test.toml"), pool(0, 0))?;
    talk.boot()?;
    until("the agent to go on", || !stands(&agent))?;
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("[[say before]]"), "{told}");
    ensure!(talk.ash.inside("bridge") == bridge, "it is another sandbox");
    talk.ash.finish()
}

#[test]
fn one_that_stands_still_can_be_ended() -> Result<()> {
    let mut talk = Talk::begin(Options::stub().config(&pool(250, 0)))?;
    talk.wait_for("frozen", 1)?;
    let freezes = talk.api.pool("freezes")?;
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    talk.ash.none_inside("bridge")?;
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    talk.wait_for_more("freezes", freezes)?;
    ensure!(stands(&talk.agent()?), "it does not stand still again");
    talk.ash.terminate()?;
    talk.ash.none_inside("bridge")?;
    talk.boot()?;
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    ensure!(talk.ask("[[say after]]")? == "after");
    talk.ash.finish()
}

/// Wherever it dies: conversation and files are there, and nothing else is.
#[test]
fn a_daemon_that_dies_on_the_way_down_loses_nothing() -> Result<()> {
    let config =
        "[pool]\nfreeze_after = \"250ms\"\nreclaim_after = \"500ms\"\nidle_timeout = \"1s\"\n";
    for (point, _) in POINTS.iter().filter(|(point, _)| point.starts_with("idle.")) {
        if *point == "idle.reclaimed" && !has_swap() {
            skip("a_daemon_that_dies_on_the_way_down_loses_nothing", "there is no swap here");
            continue;
        }
        let mut talk = Talk::begin(Options::stub().config(config))?;
        talk.ask(&talk.bash("echo kept > file"))?;
        talk.ash.kill9()?;
        if talk.ash.boot_to_die(point, &[])? {
            talk.api = talk.ash.api();
            // A sandbox that was gone before is there again; the daemon may die before it answers.
            let _ = talk.ask("[[say once more]]");
        }
        talk.ash.wait_killed().with_context(|| format!("at {point}"))?;
        fs::write(talk.ash.scratch().join("ashd.toml.d/test.toml"), pool(0, 0))?;
        talk.boot()?;
        ensure!(talk.api.status(&talk.session)? == "active", "{point}");
        ensure!(talk.ask("[[history]]")?.contains("echo kept"), "{point}");
        ensure!(talk.shell("cat file")? == "kept", "{point}");
        let found = talk.ash.ctl().json(&["fsck"])?;
        ensure!(found["differences"] == json!([]), "{point}: {found}");
        talk.ash.finish()?;
    }
    Ok(())
}

fn has_swap() -> bool {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("SwapTotal:"));
    total.is_some_and(|total| total.trim() != "0 kB")
}
