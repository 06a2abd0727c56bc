//! What a session is, seen from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use ash_journey::Api;
use serde_json::Value;

use super::files::Files;
use super::model::{End, Said, Seen, Status};

/// Everything that a session's history has ever shown, by number: what it was.
pub(super) type Numbers = BTreeMap<u64, String>;

/// Looks at a session. What its numbers mean goes into `numbers`, and must be what they meant.
pub(super) fn look(api: &Api, id: &str, numbers: &mut Numbers) -> Result<Seen> {
    let shown = api.call("GET", &format!("/api/sessions/{id}"), None)?;
    if shown.status == 404 {
        let (said, files, points, attached) = (vec![], None, BTreeSet::new(), BTreeMap::new());
        return Ok(Seen { status: Status::Gone, said, files, points, attached });
    }
    let session = shown.expect(200)?["session"].take();
    let status = status(session["status"].as_str().unwrap_or_default())?;
    let said = conversation(api, id, numbers)?;
    let (files, points) = (files(api, id)?, points(api, id)?);
    Ok(Seen { status, said, files, points, attached: attached(api, id)? })
}

pub(super) fn status(word: &str) -> Result<Status> {
    Ok(match word {
        "active" => Status::Active,
        "paused" => Status::Paused,
        "stopped" => Status::Stopped,
        "ended" => Status::Ended,
        other => bail!("it is {other:?}"),
    })
}

/// What has a number: a message, or how a turn has ended.
enum Entry {
    Said(String),
    Ended(End),
    Other,
}

fn conversation(api: &Api, id: &str, numbers: &mut Numbers) -> Result<Vec<Said>> {
    let mut entries = BTreeMap::new();
    // Messages first: what comes between the two calls is behind them.
    let page = api.call("GET", &format!("/api/sessions/{id}/messages?limit=1000"), None)?;
    let messages = page.expect(200)?["messages"].take();
    let last = messages.as_array().and_then(|all| all.last().cloned()).unwrap_or_default();
    for message in messages.as_array().context("no messages")? {
        let content = message["content"].as_str().unwrap_or_default();
        let entry = match message["role"].as_str() {
            Some("user") => Entry::Said(mark_of(content)?),
            _ => Entry::Other,
        };
        mean(numbers, message, "message", content)?;
        let fresh = entries.insert(number(message)?, entry).is_none();
        ensure!(fresh, "two messages have one number: {message}");
    }
    for event in api.events(id)? {
        let (kind, data) = (event["type"].as_str(), event["data"].as_str().unwrap_or_default());
        mean(numbers, &event, kind.unwrap_or_default(), data)?;
        let ended = match kind {
            Some("turn_complete") => {
                let data: Value = serde_json::from_str(data)?;
                Some(if data["isError"] == true { End::Cut } else { End::Result })
            }
            Some("error") => Some(End::Error),
            _ => None,
        };
        let number = number(&event)?;
        // A turn that goes on may have ended between the two calls.
        let late = ended.is_some() && number > last["sequence"].as_u64().unwrap_or(0);
        let entry = entries.entry(number).or_insert(Entry::Other);
        if let Some(ended) = ended {
            ensure!(late || !matches!(entry, Entry::Said(_)), "{event} has a message's number");
            *entry = Entry::Ended(ended);
        }
    }
    turns(entries.into_values())
}

fn turns(entries: impl Iterator<Item = Entry>) -> Result<Vec<Said>> {
    let mut said: Vec<Said> = vec![];
    for entry in entries {
        let open = said.last_mut().filter(|said| said.end == End::Open);
        match (entry, open) {
            (Entry::Other, _) => {}
            (Entry::Said(mark), None) => said.push(Said { mark, end: End::Open }),
            (Entry::Said(mark), Some(open)) => bail!("{mark} in the middle of {}", open.mark),
            (Entry::Ended(end), Some(open)) => open.end = end,
            (Entry::Ended(end), None) => bail!("{end:?} of no message"),
        }
    }
    Ok(said)
}

fn number(shown: &Value) -> Result<u64> {
    shown["sequence"].as_u64().with_context(|| format!("it has no number: {shown}"))
}

/// One number never means two things. An event can be a message and items of the timeline.
fn mean(numbers: &mut Numbers, shown: &Value, kind: &str, text: &str) -> Result<()> {
    let meaning = numbers.entry(number(shown)?).or_default();
    let line = format!("{kind} {text}\n");
    if !meaning.contains(&line) {
        let known = meaning.lines().any(|known| known.split(' ').next() == Some(kind));
        let several = ["text", "reasoning", "tool_start", "tool_result"].contains(&kind);
        ensure!(!known || several, "{} was {meaning}and is {line}", shown["sequence"]);
        meaning.push_str(&line);
    }
    Ok(())
}

/// The word of a message that only it has, from how it is kept.
fn mark_of(content: &str) -> Result<String> {
    let body: Value = serde_json::from_str(content)?;
    let prompt = body["content"].as_str().context("a message without text")?;
    Ok(prompt.split(' ').next().unwrap_or_default().to_owned())
}

/// Every file that is listed, whole; `None` when there is nothing to list any more.
fn files(api: &Api, id: &str) -> Result<Option<Files>> {
    let base = format!("/api/sessions/{id}/files");
    let listed = api.call("GET", &base, None)?;
    if [404, 410].contains(&listed.status) {
        return Ok(None);
    }
    let listed = listed.expect(200)?;
    let mut files = Files::new();
    for file in listed["files"].as_array().context("no files")? {
        let name = file["path"].as_str().context("a file without a path")?;
        let read = api.call("GET", &format!("{base}/{name}"), None)?;
        ensure!(read.status == 200, "{name} is listed and cannot be read: {}", read.text());
        ensure!(file["size"] == read.body.len(), "{file} has {} bytes", read.body.len());
        files.insert(name.to_owned(), read.text().into());
    }
    Ok(Some(files))
}

/// Everything that is attached, whole, and under which id.
fn attached(api: &Api, id: &str) -> Result<BTreeMap<Arc<str>, String>> {
    let listed = api.call("GET", &format!("/api/sessions/{id}/attachments"), None)?.expect(200)?;
    let mut attached = BTreeMap::new();
    for one in listed["attachments"].as_array().context("no attachments")? {
        let id = one["id"].as_str().context("an attachment without an id")?;
        let read = api.call("GET", &format!("/api/attachments/{id}"), None)?;
        ensure!(read.status == 200, "{one} cannot be read: {}", read.text());
        ensure!(one["size"] == read.body.len(), "{one} has {} bytes", read.body.len());
        let is_new = attached.insert(read.text().into(), id.to_owned()).is_none();
        ensure!(is_new, "{one} is there twice");
    }
    Ok(attached)
}

/// The names of checkpoints: `pN`.
fn points(api: &Api, id: &str) -> Result<BTreeSet<usize>> {
    let listed = api.call("GET", &format!("/api/sessions/{id}/checkpoints"), None)?.expect(200)?;
    let all = listed["checkpoints"].as_array().context("no checkpoints")?;
    let names = all.iter().filter_map(|point| point["name"].as_str()?.strip_prefix('p'));
    Ok(names.map(str::parse).collect::<Result<_, _>>()?)
}
