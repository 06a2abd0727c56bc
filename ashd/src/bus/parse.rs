//! From the arguments of calls to requests. What is not understood is refused, not ignored.

use std::collections::BTreeMap;
use std::str::FromStr;

use ash_dbus::Error;
use ash_dbus::value::{self, FollowOptions};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::domain::{EventKind, Settings, TurnOptions, TurnRequest, WhenBusy};
use crate::session::SessionFilter;
use crate::session::api::Reading;

type Result<T> = std::result::Result<T, Error>;

const MAX_TEXT: usize = 500_000;
const MAX_BLOCKS: usize = 20;
const MAX_MODEL: usize = 100;
const MAX_PROMPT: usize = 1_000_000;
const MAX_ROWS: u32 = 1000;

/// The keys of a session's settings.
const SETTINGS: [&str; 10] = [
    "model",
    "systemPrompt",
    "permissionMode",
    "allowedTools",
    "disallowedTools",
    "betas",
    "subagents",
    "initialAgent",
    "mcpServers",
    "extraEnv",
];

/// The keys of a message's options.
const OPTIONS: [&str; 8] = [
    "includePartialMessages",
    "whenBusy",
    "model",
    "maxTurns",
    "maxBudgetUsd",
    "effort",
    "thinking",
    "outputFormat",
];

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SendOptions {
    include_partial_messages: bool,
    when_busy: WhenBusy,
}

/// A word of the domain: a name, an id, a status.
pub(super) fn word<T: FromStr<Err: std::fmt::Display>>(what: &str, text: &str) -> Result<T> {
    text.parse().map_err(|error| Error::Invalid(format!("{what} {error}")))
}

/// The settings of a session about to be made.
pub(super) fn settings(json: &str) -> Result<Settings> {
    let settings: Settings = object("settings", json, &SETTINGS)?;
    within("settings.model", settings.model.as_deref(), MAX_MODEL)?;
    within("settings.systemPrompt", settings.system_prompt.as_deref(), MAX_PROMPT)?;
    Ok(settings)
}

/// A message and how its sender reads the answer.
pub(super) fn message(content: &str, options: &str) -> Result<(TurnRequest, Reading)> {
    let delivery: SendOptions = object("options", options, &OPTIONS)?;
    let options: TurnOptions = object("options", options, &OPTIONS)?;
    within("options.model", options.model.as_deref(), MAX_MODEL)?;
    let content = checked_content(content)?;
    let reading =
        Reading { after: None, partial: delivery.include_partial_messages, until_done: true };
    Ok((TurnRequest { content, options, when_busy: delivery.when_busy }, reading))
}

/// How a follower reads.
pub(super) fn reading(options: &FollowOptions) -> Result<Reading> {
    let after = options.after.as_deref().map(|id| word("after", id)).transpose()?;
    Ok(Reading {
        after,
        partial: options.include_partial_messages.unwrap_or_default(),
        until_done: options.until_done.unwrap_or_default(),
    })
}

/// Which sessions to list.
pub(super) fn filter(filter: value::SessionFilter) -> Result<SessionFilter> {
    let limit = filter.limit.unwrap_or(MAX_ROWS);
    if !(1..=MAX_ROWS).contains(&limit) {
        return Err(Error::Invalid(format!("limit must be 1 to {MAX_ROWS}")));
    }
    Ok(SessionFilter {
        agent: filter.agent.map(|name| word("agent", &name)).transpose()?,
        status: filter.status.map(|status| word("status", &status)).transpose()?,
        limit: Some(limit),
        offset: filter.offset.unwrap_or_default(),
    })
}

/// How many rows of history to read.
pub(super) fn limit(limit: u32) -> Result<u32> {
    match limit {
        0 => Ok(100),
        1..=MAX_ROWS => Ok(limit),
        _ => Err(Error::Invalid(format!("limit must be 1 to {MAX_ROWS}, or 0 for 100"))),
    }
}

/// Which kinds of events to read.
pub(super) fn kinds(names: &[String]) -> Result<Vec<EventKind>> {
    let kind = |name: &String| {
        let known = EventKind::ALL.into_iter().find(|kind| kind.as_str() == name);
        known.ok_or_else(|| {
            let all = EventKind::ALL.map(EventKind::as_str).join(", ");
            Error::Invalid(format!("kinds must be of {all}"))
        })
    };
    names.iter().map(kind).collect()
}

fn checked_content(json: &str) -> Result<Box<RawValue>> {
    let invalid = |why: String| Error::Invalid(format!("content {why}"));
    match serde_json::from_str(json).map_err(|error| invalid(format!("is not JSON: {error}")))? {
        serde_json::Value::String(text) if text.is_empty() => {
            return Err(invalid("must not be empty".into()));
        }
        serde_json::Value::String(text) if text.chars().count() > MAX_TEXT => {
            return Err(invalid(format!("must have at most {MAX_TEXT} characters")));
        }
        serde_json::Value::String(_) => {}
        serde_json::Value::Array(blocks) => checked_blocks(&blocks).map_err(invalid)?,
        _ => return Err(invalid("must be a string or an array of content blocks".into())),
    }
    serde_json::from_str(json).map_err(|error| invalid(format!("is not JSON: {error}")))
}

fn checked_blocks(blocks: &[serde_json::Value]) -> std::result::Result<(), String> {
    if blocks.is_empty() || blocks.len() > MAX_BLOCKS {
        return Err(format!("must have 1 to {MAX_BLOCKS} blocks"));
    }
    let known = |block: &serde_json::Value| {
        matches!(block["type"].as_str(), Some("text" | "image" | "document"))
    };
    match blocks.iter().position(|block| !known(block)) {
        Some(at) => Err(format!("[{at}].type must be text, image or document")),
        None => Ok(()),
    }
}

/// A JSON object with no keys but these; empty text stands for the empty object.
fn object<T: Default + DeserializeOwned>(what: &str, json: &str, keys: &[&str]) -> Result<T> {
    if json.is_empty() {
        return Ok(T::default());
    }
    let invalid = |why: String| Error::Invalid(format!("{what}{why}"));
    let given: BTreeMap<String, &RawValue> = serde_json::from_str(json)
        .map_err(|error| invalid(format!(" must be a JSON object: {error}")))?;
    if let Some(key) = given.keys().find(|key| !keys.contains(&key.as_str())) {
        return Err(invalid(format!(".{key} is not known; known are {}", keys.join(", "))));
    }
    let mut source = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut source)
        .map_err(|error| invalid(format!(".{}: {}", error.path(), error.inner())))
}

fn within(what: &str, text: Option<&str>, most: usize) -> Result<()> {
    match text {
        Some(text) if text.chars().count() > most => {
            Err(Error::Invalid(format!("{what} must have at most {most} characters")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::EventId;

    fn refusal<T>(result: Result<T>) -> String {
        match result {
            Ok(_) => "accepted".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn messages_are_read() {
        let options = r#"{"includePartialMessages":true,"whenBusy":"reject","maxTurns":3}"#;
        let (request, reading) = message(r#""hello""#, options).unwrap();
        assert_eq!(request.content.get(), r#""hello""#);
        assert_eq!(request.options.max_turns, Some(3));
        assert_eq!(request.when_busy, WhenBusy::Reject);
        assert!(reading.partial && reading.until_done);
        assert!(message(r#"[{"type":"text","text":"x"}]"#, "").is_ok());
    }

    #[test]
    fn bad_messages_are_refused_with_the_place() {
        let long = format!("\"{}\"", "x".repeat(MAX_TEXT + 1));
        let many = format!("[{}]", vec![r#"{"type":"text"}"#; MAX_BLOCKS + 1].join(","));
        for (content, options, want) in [
            ("hello", "", "content is not JSON"),
            ("\"\"", "", "content must not be empty"),
            ("{}", "", "content must be a string or an array"),
            ("[]", "", "content must have 1 to 20 blocks"),
            (&many, "", "content must have 1 to 20 blocks"),
            (&long, "", "content must have at most 500000"),
            (r#"[{"type":"text"},{"type":"x"}]"#, "", "content [1].type must be"),
            ("\"x\"", "[]", "options must be a JSON object"),
            ("\"x\"", r#"{"maxturns":1}"#, "options.maxturns is not known"),
            ("\"x\"", r#"{"thinking":{"type":"no"}}"#, "options.thinking.type: "),
        ] {
            let said = refusal(message(content, options));
            assert!(said.starts_with(want), "{content:.40} {options}: {said}");
        }
    }

    #[test]
    fn settings_are_read() {
        assert_eq!(settings("").unwrap(), Settings::default());
        assert_eq!(settings(r#"{"model":"m"}"#).unwrap().model.as_deref(), Some("m"));
        let long = format!(r#"{{"model":"{}"}}"#, "m".repeat(101));
        assert_eq!(refusal(settings(&long)), "settings.model must have at most 100 characters");
        assert!(refusal(settings(r#"{"extraEnv":[]}"#)).starts_with("settings.extraEnv: "));
        let every = SETTINGS.map(|key| format!("\"{key}\":null")).join(",");
        assert!(!refusal(settings(&format!("{{{every}}}"))).contains("is not known"));
    }

    #[test]
    fn readings_lists_and_limits_are_read() {
        let after = FollowOptions { after: Some("4.2".into()), ..Default::default() };
        assert_eq!(reading(&after).unwrap().after, Some(EventId { seq: 4, k: 2 }));
        let bad = FollowOptions { after: Some("x".into()), ..Default::default() };
        assert_eq!(refusal(reading(&bad)), "after must be an event id like 12.0");
        let of = |limit| value::SessionFilter { limit, ..Default::default() };
        assert_eq!(filter(of(None)).unwrap().limit, Some(MAX_ROWS));
        assert_eq!(refusal(filter(of(Some(0)))), "limit must be 1 to 1000");
        assert_eq!(limit(0).unwrap(), 100);
        assert!(limit(1001).is_err());
        assert_eq!(kinds(&["user".into()]).unwrap(), [EventKind::User]);
        assert!(refusal(kinds(&["x".into()])).contains("tool_result"));
    }
}
