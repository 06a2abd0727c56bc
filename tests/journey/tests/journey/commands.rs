//! `ashctl` beside the journey: what it prints, and how it ends.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Ash, Client, Options};

/// Runs `ashctl` as a script would.
fn run(ash: &Ash, arguments: &[&str]) -> Result<Output> {
    Ok(ash.ctl().command()?.args(arguments).output()?)
}

/// Runs it, and returns what it prints.
fn prints(ash: &Ash, arguments: &[&str]) -> Result<String> {
    let output = run(ash, arguments)?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{arguments:?}: {complaint}");
    ensure!(complaint.is_empty(), "{arguments:?} is not quiet: {complaint}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs it where it must fail, with this code and one sentence.
fn fails(ash: &Ash, arguments: &[&str], code: i32, sentence: &str) -> Result<()> {
    let output = run(ash, arguments)?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(code), "{arguments:?}: {} {complaint}", output.status);
    ensure!(complaint.contains(sentence), "{arguments:?}: {complaint}");
    ensure!(code == 2 || complaint.lines().count() == 1, "{complaint}");
    Ok(())
}

#[test]
fn people_and_scripts_get_what_they_need() -> Result<()> {
    let ash = Ash::start(Options::stub())?;
    let folder = ash.folder("my-agent", "x")?;
    let folder = folder.to_str().context("the path is not UTF-8")?;
    ensure!(prints(&ash, &["deploy", folder])?.contains("my-agent, version 1"));
    ensure!(prints(&ash, &["agent", "list"])?.contains("my-agent"));
    ensure!(prints(&ash, &["agent", "info", "my-agent"])?.contains("my-agent"));
    ensure!(prints(&ash, &["status"])?.contains("sessions"));

    let session = prints(&ash, &["session", "create", "my-agent"])?;
    let session = session.trim();
    ensure!(prints(&ash, &["session", "send", session, "[[say piped]]"])? == "piped\n");
    ensure!(
        prints(&ash, &["chat", "my-agent", "[[count 3]]", "--session", session])? == "1 2 3 \n"
    );
    ensure!(prints(&ash, &["chat", "my-agent", "[[say once]]", "--end"])? == "once\n");
    ensure!(prints(&ash, &["session", "list", "--status", "active"])?.contains(session));
    ensure!(prints(&ash, &["session", "info", session])?.contains("active"));
    ensure!(prints(&ash, &["top"])?.contains(session));
    ensure!(prints(&ash, &["session", "messages", session])?.contains("piped"));
    ensure!(prints(&ash, &["session", "info", &session[..13]])?.contains(session));
    let events = prints(&ash, &["session", "events", session, "--kind", "lifecycle"])?;
    ensure!(events.contains("\"action\":\"created\"") && !events.contains("piped"), "{events}");
    ensure!(prints(&ash, &["agent", "env", "my-agent", "A=b", "C=d"])? == "A\nC\n");
    ensure!(prints(&ash, &["agent", "env", "my-agent"])? == "A\nC\n");
    prints(&ash, &["session", "logs", session])?;
    ensure!(prints(&ash, &["session", "exec", session, "pwd"])? == "/workspace\n");
    ensure!(run(&ash, &["session", "exec", session, "exit 7"])?.status.code() == Some(7));
    ensure!(prints(&ash, &["session", "follow", session])?.is_empty(), "nothing is running");

    fails(&ash, &["session", "send", session, "[[crash]]"], 1, "ended")?;
    fails(&ash, &["session"], 2, "Usage")?;
    fails(
        &ash,
        &["session", "info", "3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b"],
        4,
        "Session not found",
    )?;
    fails(&ash, &["agent", "info", "nobody"], 4, "Agent not found")?;
    prints(&ash, &["session", "pause", session])?;
    fails(&ash, &["session", "send", session, "x"], 5, "Session is paused")?;
    fails(&ash, &["deploy", "/etc"], 5, "CLAUDE.md")?;
    ensure!(prints(&ash, &["session", "end", session, "--purge"])?.contains("ended"));
    prints(&ash, &["agent", "delete", "my-agent"])?;
    ensure!(!prints(&ash, &["agent", "list"])?.contains("my-agent"));
    ash.finish()
}

#[test]
fn a_daemon_that_is_not_there_is_said() -> Result<()> {
    let mut ash = Ash::start(Options::stub())?;
    ash.terminate()?;
    fails(&ash, &["status"], 3, "ashd is not running")?;
    fails(&ash, &["--bus", "unix:path=/nonexistent", "status"], 3, "bus")?;
    ash.finish()
}

/// The two ways see one and the same.
#[test]
fn what_one_makes_the_other_sees() -> Result<()> {
    let ash = Ash::start(Options::stub())?;
    let (api, ctl) = (ash.api(), ash.ctl());
    ctl.deploy("shared", &ash.folder("shared", "x")?)?;
    let session = api.create("shared", serde_json::json!({}))?;
    let mut turn = api.send(&session, serde_json::json!({ "content": "[[count 100 5ms]]" }))?;
    turn.deltas(5)?;
    let other = ctl.follow(&session, turn.seen[0].id)?.to_end()?;
    let turn = turn.to_end()?;
    let frames = |seen: &[ash_journey::sse::Frame]| -> Vec<_> {
        seen.iter().map(|frame| (frame.id, frame.name.clone(), frame.data.clone())).collect()
    };
    ensure!(frames(&turn.seen[1..]) == frames(&other.seen), "the streams differ");
    // HTTP has results among the messages, as its older clients expect.
    let mut by_api = api.messages(&session)?;
    by_api.retain(|(_, message)| message["type"] != "result");
    ensure!(ctl.messages(&session)? == by_api);
    ash.finish()
}
