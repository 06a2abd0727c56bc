//! What an agent may use of the machine is enforced by the kernel; what comes of it is told
//! truthfully, and concerns nobody else.

use anyhow::{Result, ensure};
use ash_journey::process::until;
use ash_journey::{Client as _, Options, skip};
use serde_json::json;

use crate::metrics::is_counted;
use crate::support::{Talk, both_engines};

const MEMORY: &str = "perl -e '$x = q(x) x 2_000_000_000; print length $x'";
const BOMB: &str = "perl -e 'fork while 1'";

/// With these limits, if this machine can enforce any.
fn begin(test: &str, options: Options, limits: &str) -> Result<Option<Talk>> {
    let talk = Talk::begin(options.config(&format!("[sandbox]\n{limits}\n")))?;
    if !talk.ash.has_limits() {
        skip(test, "control groups version 2 have no cpu, memory and pids controllers here");
        talk.ash.finish()?;
        return Ok(None);
    }
    Ok(Some(talk))
}

both_engines!(a_turn_that_runs_out_of_memory_fails_and_the_next_one_works);

fn a_turn_that_runs_out_of_memory_fails_and_the_next_one_works(options: Options) -> Result<()> {
    let test = "a_turn_that_runs_out_of_memory_fails_and_the_next_one_works";
    let Some(talk) = begin(test, options, "memory = \"512MiB\"")? else { return Ok(()) };
    let other = talk.api.create("hello", json!({}))?;
    let others = talk.ash.inside("bridge");
    talk.ask("[[say before]]")?;
    let turn = talk.send(&talk.bash(MEMORY))?.to_end()?;
    let errors = turn.errors();
    let truth = ["The sandbox ran out of memory and was ended"];
    ensure!(errors == truth, "{errors:?}: {}", turn.raw());
    ensure!(talk.api.status(&talk.session)? == "active");
    is_counted(&talk, "ash_oom_kills_total{reason=\"sandbox\"}")?;
    is_counted(&talk, "ash_sandboxes_lost_total")?;
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("[[say before]]"), "{told}");

    let left = talk.ash.inside("bridge").into_iter().filter(|pid| others.contains(pid)).count();
    ensure!(left == 2, "{left} of the other session's two processes are left");
    let turn = talk.api.send(&other, json!({ "content": "[[say unmoved]]" }))?.to_end()?;
    ensure!(turn.text() == "unmoved", "another session suffers: {}", turn.raw());
    talk.ash.finish()
}

/// Between turns there is nothing to fail: the next message finds a new sandbox.
#[test]
fn a_command_that_runs_out_of_memory_ends_alone() -> Result<()> {
    let test = "a_command_that_runs_out_of_memory_ends_alone";
    let Some(talk) = begin(test, Options::stub(), "memory = \"128MiB\"")? else { return Ok(()) };
    talk.ask("[[say before]]")?;
    let exec = format!("/api/sessions/{}/exec", talk.session);
    let answer = talk.api.call("POST", &exec, Some(&json!({ "command": MEMORY })))?;
    ensure!(answer.status >= 500 && answer.text().contains("memory"), "{}", answer.text());
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("[[say before]]"), "{told}");
    talk.ash.finish()
}

both_engines!(a_fork_bomb_is_held_and_the_session_can_be_stopped);

fn a_fork_bomb_is_held_and_the_session_can_be_stopped(options: Options) -> Result<()> {
    let test = "a_fork_bomb_is_held_and_the_session_can_be_stopped";
    let Some(talk) = begin(test, options, "pids = 100")? else { return Ok(()) };
    let mut turn = talk.send(&talk.bash(BOMB))?;
    turn.until_named("tool_use")?;
    until("the bomb", || talk.ash.inside("perl").len() > 20)?;
    let other = talk.api.create("hello", json!({}))?;
    ensure!(talk.ash.inside("perl").len() <= 100);
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    ensure!(talk.ash.inside("perl").is_empty(), "the bomb goes on");
    let turn = turn.to_end()?;
    ensure!(turn.errors() == ["The session was stopped while it answered"], "{:?}", turn.errors());
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    ensure!(talk.ask("[[say after]]")? == "after");
    let turn = talk.api.send(&other, json!({ "content": "[[say unmoved]]" }))?.to_end()?;
    ensure!(turn.text() == "unmoved", "another session suffers: {}", turn.raw());
    talk.ash.finish()
}
