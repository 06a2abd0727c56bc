//! From the arguments of calls to requests. What is not understood is refused, not ignored.

use std::collections::BTreeMap;
use std::str::FromStr;

use ash_dbus::Error;
use ash_dbus::value::{self, FollowOptions};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::domain::{
    AgentConfig, ConfigChange, EventKind, Message, PointName, Settings, TurnRequest, Unfit, Which,
    check, json,
};
use crate::session::SessionFilter;
use crate::session::api::{LARGEST_PAGE, Reading, USUAL_PAGE};

type Result<T> = std::result::Result<T, Error>;

/// A word of the domain: a name, an id, a status.
pub(super) fn word<T: FromStr<Err: std::fmt::Display>>(what: &str, text: &str) -> Result<T> {
    text.parse().map_err(|error| Error::Invalid(format!("{what} {error}")))
}

/// The settings of a session about to be made.
pub(super) fn settings(json: &str) -> Result<Settings> {
    known("settings", json, &Settings::MEMBERS)?;
    Ok(Settings::read("settings", json.as_bytes())?)
}

/// A change of an agent's config.
pub(super) fn config(json: &str) -> Result<ConfigChange> {
    let members = json::object("config", json.as_bytes())?;
    Ok(ConfigChange::new("config", members)?)
}

/// The config of an agent that is about to be deployed.
pub(super) fn whole_config(json: &str) -> Result<AgentConfig> {
    let members = json::object("config", json.as_bytes())?;
    Ok(AgentConfig::new("config", members)?)
}

/// The name of a checkpoint; empty: it has none.
pub(super) fn point_name(text: &str) -> Result<Option<PointName>> {
    (!text.is_empty()).then(|| word("name", text)).transpose()
}

/// A checkpoint, by its id or its name.
pub(super) fn which(text: &str) -> Result<Which> {
    word("checkpoint", text)
}

/// Which key is meant.
pub(super) fn key_id(text: &str) -> Result<Uuid> {
    Uuid::try_parse(text).map_err(|_| Error::Invalid("id must be the id of a key, a UUID".into()))
}

/// A message and how its sender reads the answer.
pub(super) fn message(content: &str, options: &str) -> Result<(TurnRequest, Reading)> {
    known("options", options, &Message::OPTIONS)?;
    let Message { request, partial } = Message::read_parts(content, options)?;
    Ok((request, Reading { after: None, partial, until_done: true }))
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
    let limit = filter.limit.unwrap_or(LARGEST_PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return Err(Error::Invalid(format!("limit must be 1 to {LARGEST_PAGE}")));
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
        0 => Ok(USUAL_PAGE),
        1..=LARGEST_PAGE => Ok(limit),
        _ => {
            Err(Error::Invalid(format!("limit must be 1 to {LARGEST_PAGE}, or 0 for {USUAL_PAGE}")))
        }
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

/// Refuses members that nobody would read.
fn known(what: &str, json: &str, members: &[&str]) -> Result<()> {
    let given: BTreeMap<String, &RawValue> = json::object(what, json.as_bytes())?;
    match given.keys().find(|name| !members.contains(&name.as_str())) {
        Some(name) => {
            let text = format!("is not known; known are {}", members.join(", "));
            Err(Unfit::value(&check::join(what, name), text).into())
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{EventId, WhenBusy};

    fn refusal<T>(result: Result<T>) -> String {
        match result {
            Ok(_) => "accepted".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_kind_of_event_is_documented() {
        let page = include_str!("../../../docs/dbus.md");
        let row = page.lines().find(|line| line.starts_with("| `Events`")).unwrap();
        for kind in EventKind::ALL {
            assert!(row.contains(&format!("`{}`", kind.as_str())), "{}", kind.as_str());
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
        for (content, options, want) in [
            ("hello", "", "content is not valid JSON: "),
            ("\"\"", "", "content: must not be empty"),
            ("null", "", "content: expected a string or an array"),
            (r#"[{"type":"text","text":"a"},{"type":"x"}]"#, "", "content[1].type: expected "),
            ("\"x\"", "[]", "options: expected an object"),
            ("\"x\"", r#"{"maxturns":1}"#, "options.maxturns: is not known; known are "),
            ("\"x\"", r#"{"content":"y"}"#, "options.content: is not known"),
            ("\"x\"", r#"{"maxTurns":0}"#, "options.maxTurns: expected a whole number from 1 up"),
            ("\"x\"", r#"{"thinking":{"type":"no"}}"#, "options.thinking.type: expected one of"),
        ] {
            let said = refusal(message(content, options));
            assert!(said.starts_with(want), "{content:.40} {options}: {said}");
        }
    }

    #[test]
    fn settings_are_read() {
        assert_eq!(settings("").unwrap(), Settings::default());
        assert_eq!(settings(r#"{"model":"m"}"#).unwrap().model.as_deref(), Some("m"));
        let said = refusal(settings(r#"{"model":""}"#));
        assert_eq!(said, "settings.model: must not be empty");
        let said = refusal(settings(r#"{"extraEnv":{"LD_PRELOAD":"x"}}"#));
        assert!(said.starts_with("settings.extraEnv: LD_PRELOAD is reserved"), "{said}");
        let said = refusal(settings(r#"{"agent":"x"}"#));
        assert!(said.starts_with("settings.agent: is not known; known are model"), "{said}");
    }

    #[test]
    fn changes_of_a_config_are_read() {
        assert!(config("").unwrap().is_empty());
        assert!(!config(r#"{"model":null,"mine":[1]}"#).unwrap().is_empty());
        assert_eq!(refusal(config("[]")), "config: expected an object");
        let said = refusal(config(r#"{"systemPrompt":"x"}"#));
        assert_eq!(said, "config.systemPrompt: expected `replace` or `append`");
    }

    #[test]
    fn whole_configs_are_read() {
        let config = whole_config(r#"{"model":"m","mine":[1],"gone":null}"#).unwrap();
        assert_eq!(config.to_json(), r#"{"mine":[1],"model":"m"}"#);
        assert_eq!(refusal(whole_config("[]")), "config: expected an object");
        assert_eq!(refusal(whole_config(r#"{"model":""}"#)), "config.model: must not be empty");
    }

    #[test]
    fn readings_lists_and_limits_are_read() {
        let after = FollowOptions { after: Some("4.2".into()), ..Default::default() };
        assert_eq!(reading(&after).unwrap().after, Some(EventId { seq: 4, k: 2 }));
        let bad = FollowOptions { after: Some("x".into()), ..Default::default() };
        assert_eq!(refusal(reading(&bad)), "after must be an event id like 12.0");
        let of = |limit| value::SessionFilter { limit, ..Default::default() };
        assert_eq!(filter(of(None)).unwrap().limit, Some(LARGEST_PAGE));
        assert_eq!(refusal(filter(of(Some(0)))), "limit must be 1 to 1000");
        assert_eq!(limit(0).unwrap(), 100);
        assert!(limit(1001).is_err());
        assert_eq!(kinds(&["user".into()]).unwrap(), [EventKind::User]);
        assert!(refusal(kinds(&["x".into()])).contains("tool_result"));
    }
}
