//! Whether a daemon that came back keeps what its predecessor has promised; looked at from outside.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use ash_journey::leftovers::Snapshot;
use ash_journey::process::until;
use ash_journey::{Api, Ash, Client, session_of};
use serde_json::{Value, json};

use super::load::{COUNTED, Deployed, Facts, Known, Said};
use crate::support::{check_ids, counted};

/// How a turn has ended, by its session's history.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Ended {
    Result(String),
    Error,
}

/// A session's history: every message, in order, and how its turn has ended.
pub(crate) type Turns = Vec<(String, Ended)>;

/// Checks everything that the clients know. With `lossy`, sandboxes were killed as well: turns may
/// have failed, and sessions been set aside.
pub(super) fn check(ash: &Ash, known: &Known, lossy: bool) -> Result<()> {
    let api = ash.api();
    check_sandboxes(ash, &api)?;
    for facts in &known.sessions {
        let Some(id) = &facts.session else { continue };
        check_session(&api, id, facts, lossy).with_context(|| format!("session {id}"))?;
    }
    let ours: Vec<&String> = known.sessions.iter().filter_map(|f| f.session.as_ref()).collect();
    for session in sessions(&api)? {
        let id = session["id"].as_str().context("a session has no id")?.to_owned();
        if let Some(parent) = session["parentSessionId"].as_str() {
            let mut all = known.sessions.iter();
            let parent = all.find(|facts| facts.session.as_deref() == Some(parent));
            let parent = parent.context("a fork of nobody")?;
            check_fork(&api, (&id, &session), parent, lossy)
                .with_context(|| format!("fork {id}"))?;
        } else if !ours.contains(&&id) {
            check_stranger(&api, &id, &session, lossy).with_context(|| format!("session {id}"))?;
        }
    }
    for fork in known.sessions.iter().filter_map(|facts| facts.fork.as_ref()) {
        api.session(fork).with_context(|| format!("fork {fork}"))?;
    }
    check_agent(&api, &known.deployed)
}

/// A fork has a beginning of its parent's conversation, and what the agent did in it.
fn check_fork(api: &Api, (id, shown): (&str, &Value), parent: &Facts, lossy: bool) -> Result<()> {
    ensure!(shown["status"] == "paused", "it is {}", shown["status"]);
    let turns = turns(api, id)?;
    for ((prompt, ended), said) in turns.iter().zip(&parent.said) {
        ensure!(*prompt == said.prompt, "{prompt} in the place of {}", said.prompt);
        let well = *ended == Ended::Result(counted(COUNTED));
        ensure!(well || lossy && *ended == Ended::Error, "{prompt} ended with {ended:?}");
    }
    ensure!(turns.len() == 1, "{} messages were there when it was made", turns.len());
    ensure!(api.turn_to(id, "resume")? == "active");
    let asked = api.exec(id, "cat asked file-0; ls spoilt")?.stdout;
    let expected = format!("{}\n{}", parent.said[0].mark, parent.files["file-0"]);
    ensure!(asked == expected, "{asked} in the place of {expected}");
    Ok(())
}

pub(crate) fn sessions(api: &Api) -> Result<Vec<Value>> {
    let listed = api.call("GET", "/api/sessions?limit=1000", None)?.expect(200)?;
    Ok(listed["sessions"].as_array().context("no sessions")?.clone())
}

/// A session that was being made: made in full, whoever knows of it, or not at all.
fn check_stranger(api: &Api, id: &str, session: &Value, lossy: bool) -> Result<()> {
    match session["status"].as_str() {
        Some("active") => {}
        Some("paused") if lossy => drop(api.turn_to(id, "resume")?),
        other => anyhow::bail!("it is {other:?}"),
    }
    ensure!(turns(api, id)?.is_empty(), "it has messages that nobody sent");
    ensure!(api.exec(id, "echo alive")?.stdout == "alive\n");
    Ok(())
}

/// There are sandboxes for sessions that may have one, and no others: bridge and spawner each. One
/// that has gone back to a checkpoint makes its own with the next message.
fn check_sandboxes(ash: &Ash, api: &Api) -> Result<()> {
    let all = sessions(api)?;
    let count = |status: &str| all.iter().filter(|session| session["status"] == status).count();
    let most = count("active") + count("paused");
    until("no sandboxes of no session", || ash.inside("bridge").len() <= 2 * most)
        .with_context(|| format!("{} of at most {most}", ash.inside("bridge").len()))
}

fn check_session(api: &Api, id: &str, facts: &Facts, lossy: bool) -> Result<()> {
    let shown = api.call("GET", &format!("/api/sessions/{id}"), None)?;
    let mut may_be = vec![Some(facts.status), facts.asked];
    // A sandbox is ended before it is recorded why.
    let leaves = matches!(facts.asked, Some("stopped" | "ended" | "gone"));
    may_be.push((leaves || lossy && may_be.contains(&Some("active"))).then_some("paused"));
    let answer = shown.json();
    let status = match shown.status {
        404 => "gone",
        _ => answer["session"]["status"].as_str().context("no status")?,
    };
    ensure!(may_be.contains(&Some(status)), "it is {status}, which is none of {may_be:?}");
    if status == "gone" {
        return Ok(());
    }
    until("no turn to run", || api.session(id).is_ok_and(|session| session["running"] == false))?;
    let turns = turns(api, id)?;
    check_conversation(&turns, &facts.said, lossy)?;
    for said in facts.said.iter().filter(|said| said.is_accepted()) {
        check_stream(api, id, said, lossy).with_context(|| format!("message {}", said.mark))?;
    }
    check_attachments(api, id)?;
    check_files(api, (id, status), facts, &turns)
}

/// What is attached can be read.
fn check_attachments(api: &Api, id: &str) -> Result<()> {
    let listed = api.call("GET", &format!("/api/sessions/{id}/attachments"), None)?.expect(200)?;
    let attachments = listed["attachments"].as_array().context("no attachments")?;
    ensure!(attachments.len() <= 2, "{listed}");
    for attachment in attachments {
        let id = attachment["id"].as_str().context("an attachment has no id")?;
        let read = api.call("GET", &format!("/api/attachments/{id}"), None)?;
        ensure!((read.status, read.text().as_str()) == (200, "hello"), "{}", read.text());
    }
    Ok(())
}

/// Every message and how it ended, after checking that numbers have no gaps and turns no overlap.
pub(crate) fn turns(api: &Api, id: &str) -> Result<Turns> {
    turns_with(api, id, |_| false)
}

/// The same of a session whose turns may be interrupted: what the CLI notes of that, right before a turn's
/// end, has a number, and is in none of the lists.
pub(crate) fn turns_and_interrupts(api: &Api, id: &str) -> Result<Turns> {
    turns_with(api, id, |next| matches!(next, Some(Err(_))))
}

/// With what is behind a number that no list has, so that it may be missing.
fn turns_with(
    api: &Api,
    id: &str,
    may_follow: impl Fn(&Option<Result<String, Ended>>) -> bool,
) -> Result<Turns> {
    let mut history: BTreeMap<u64, Option<Result<String, Ended>>> = BTreeMap::new();
    let page = api.call("GET", &format!("/api/sessions/{id}/messages?limit=1000"), None)?;
    for message in page.expect(200)?["messages"].as_array().context("no messages")? {
        let seq = message["sequence"].as_u64().context("a message has no number")?;
        let body: Value = serde_json::from_str(message["content"].as_str().unwrap_or_default())?;
        let user = message["role"] == "user";
        let text = user.then(|| Ok(body["content"].as_str().unwrap_or_default().to_owned()));
        ensure!(history.insert(seq, text).is_none(), "two messages have the number {seq}");
    }
    for event in api.events(id)? {
        let seq = event["sequence"].as_u64().context("an event has no number")?;
        let data = event["data"].as_str().unwrap_or_default();
        let ended = match event["type"].as_str() {
            Some("turn_complete") => {
                let data: Value = serde_json::from_str(data)?;
                Some(Ended::Result(data["result"].as_str().unwrap_or_default().to_owned()))
            }
            Some("error") => Some(Ended::Error),
            _ => None,
        };
        let entry = history.entry(seq).or_default();
        *entry = ended.map(Err).or(entry.take());
    }
    let newest = history.keys().next_back().copied().unwrap_or_default();
    let is_there = |number: &u64| {
        history.contains_key(number) || history.get(&(number + 1)).is_some_and(&may_follow)
    };
    let gaps: Vec<u64> = (1..=newest).filter(|number| !is_there(number)).collect();
    ensure!(gaps.is_empty(), "gaps at {gaps:?} in {:?}", history.keys());
    let (mut turns, mut open) = (Turns::new(), None);
    for entry in history.into_values().flatten() {
        match (entry, open.take()) {
            (Ok(prompt), None) => open = Some(prompt),
            (Err(ended), Some(prompt)) => turns.push((prompt, ended)),
            (Ok(prompt), Some(before)) => anyhow::bail!("{prompt} in the middle of {before}"),
            (Err(ended), None) => anyhow::bail!("{ended:?} of no message"),
        }
    }
    ensure!(open.is_none(), "{open:?} has no end");
    Ok(turns)
}

/// What was accepted is in the history, once; what was not, at most once; nothing else is.
fn check_conversation(turns: &Turns, said: &[Said], lossy: bool) -> Result<()> {
    for said in said {
        let times = turns.iter().filter(|(prompt, _)| *prompt == said.prompt).count();
        let least = usize::from(said.is_accepted());
        ensure!((least..=1).contains(&times), "{} is there {times} times", said.mark);
    }
    for (prompt, ended) in turns {
        ensure!(said.iter().any(|said| said.prompt == *prompt), "nobody said {prompt}");
        let well = *ended == Ended::Result(counted(COUNTED));
        ensure!(well || lossy && *ended == Ended::Error, "{prompt} ended with {ended:?}");
    }
    Ok(())
}

/// The stream goes on behind what was seen of it, without a gap and without a double.
fn check_stream(api: &Api, id: &str, said: &Said, lossy: bool) -> Result<()> {
    let mut seen = said.seen.clone();
    if !said.is_done() {
        let last = seen.iter().rev().find_map(|frame| frame.id);
        seen.extend(api.follow(id, last)?.to_end()?.seen.iter().cloned());
    }
    check_ids(&seen)?;
    let results = seen.iter().filter(|frame| frame.name == "turn_complete");
    let texts: Vec<_> = results.map(|frame| frame.data["result"].clone()).collect();
    let failed = seen.iter().filter(|frame| frame.name == "error").count();
    let well = texts == [counted(COUNTED)] && failed == 0;
    ensure!(well || lossy && texts.is_empty() && failed == 1, "{texts:?}, {failed} errors");
    Ok(())
}

/// The workspace has what was written, and every message has reached the agent once: never when it
/// is not in the history, at most once when it failed.
fn check_files(api: &Api, (id, status): (&str, &str), facts: &Facts, turns: &Turns) -> Result<()> {
    // What is left of a session that has ended is seen in a fork of it.
    let fork = match status {
        "ended" => {
            let made = api.call("POST", &format!("/api/sessions/{id}/fork"), None)?.expect(201)?;
            Some(session_of(&made)?)
        }
        _ => None,
    };
    let seen = fork.as_deref().unwrap_or(id);
    if fork.is_some() || ["stopped", "paused"].contains(&status) {
        ensure!(api.turn_to(seen, "resume")? == "active");
    }
    let found = look(api, seen, facts, turns);
    if let Some(fork) = &fork {
        api.purge(fork)?;
    }
    found
}

fn look(api: &Api, id: &str, facts: &Facts, turns: &Turns) -> Result<()> {
    let read = |file: &str| {
        let shown = api.exec(id, &format!("cat {file}"))?;
        ensure!(shown.code == 0, "{}", shown.stderr);
        Ok(shown.stdout)
    };
    if !facts.returned && api.exec(id, "ls spoilt")?.code == 0 {
        // It was to go back, and has not.
        return Ok(());
    }
    ensure!(api.exec(id, "ls spoilt")?.code != 0, "it has not gone back");
    for (file, text) in &facts.files {
        ensure!(read(file)? == *text, "{file} has other content than was written");
    }
    if facts.said.is_empty() || turns.is_empty() {
        return Ok(());
    }
    let asked = read("asked").unwrap_or_default();
    for said in &facts.said {
        let times = asked.lines().filter(|line| *line == said.mark).count();
        let ended = turns.iter().find(|(prompt, _)| *prompt == said.prompt).map(|(_, ended)| ended);
        let fits = match ended {
            Some(Ended::Result(_)) => times == 1,
            Some(Ended::Error) => times <= 1,
            None => times == 0,
        };
        ensure!(fits, "{} ended with {ended:?} and was asked {times} times", said.mark);
    }
    Ok(())
}

fn check_agent(api: &Api, deployed: &Deployed) -> Result<()> {
    let shown = api.call("GET", "/api/agents/extra", None)?;
    let version = match shown.status {
        404 => 0,
        _ => shown.expect(200)?["agent"]["version"].as_u64().context("no version")?,
    };
    let may_be = [Some(deployed.version), deployed.asked];
    ensure!(may_be.contains(&Some(version)), "the agent has version {version} of {may_be:?}");
    if version > 0 {
        let session = api.create("extra", json!({}))?;
        let said = api.exec(&session, "cat version")?.stdout;
        ensure!(said == version.to_string(), "version {version} is that of {said}");
    }
    Ok(())
}

/// Removes all sessions and the agent `extra`, and checks that nothing else is there than before.
pub(crate) fn clean(ash: &Ash, before: &Snapshot) -> Result<()> {
    let api = ash.api();
    for session in sessions(&api)? {
        api.purge(session["id"].as_str().context("a session has no id")?)?;
    }
    let deleted = api.call("DELETE", "/api/agents/extra", None)?;
    ensure!([200, 404].contains(&deleted.status), "{}", deleted.text());
    let difference = || ash.places().look().map_or(String::new(), |now| told(&now, before));
    until("the state of before", || difference().is_empty()).with_context(difference)
}

/// What a session needs that is up and has nothing to do.
const IDLE: [(&str, usize); 5] = [
    ("process bridge", 2),
    ("process bwrap", 1),
    ("process claude", 1),
    ("control group", 3),
    ("socket", 3),
];

/// Checks that there is what so many sessions need that are up and have nothing to do, and nothing else that was
/// not there before.
pub(super) fn check_idle(ash: &Ash, before: &Snapshot, sessions: usize) -> Result<()> {
    let idle = BTreeMap::from(IDLE.map(|(what, count)| (what.to_owned(), sessions * count)));
    let mut found = BTreeMap::new();
    let is_idle = until("idle sessions and nothing else", || {
        let now = ash.places().look();
        found = now.map(|now| kinds(&now, before)).unwrap_or_default();
        found == idle
    });
    is_idle.with_context(|| format!("{found:?} in the place of {idle:?}"))
}

/// How many there are of each kind that were not there before. Who serves all sessions is not counted,
/// nor what is in files.
fn kinds(now: &Snapshot, before: &Snapshot) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for line in now.since(before) {
        let mut words = line.split(' ');
        let kind = match words.next().unwrap_or_default() {
            "file" => continue,
            // `process 7 (claude) of uid 8`
            "process" => match words.nth(1).unwrap_or_default().trim_matches(['(', ')']) {
                "ash-launcher" | "ash-broker" => continue,
                name => format!("process {name}"),
            },
            "control" => "control group".to_owned(),
            other => other.to_owned(),
        };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// The difference, without launcher and broker: who ended the last of them is the daemon's affair.
pub(crate) fn told(now: &Snapshot, before: &Snapshot) -> String {
    let difference = now.difference(before);
    let helper = |line: &&str| line.contains("(ash-launcher)") || line.contains("(ash-broker)");
    difference.lines().filter(|line| !helper(line)).map(|line| format!("{line}\n")).collect()
}
