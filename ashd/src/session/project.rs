//! What the durable events of a session look like to API users: as messages, and as a timeline.
//!
//! Bodies come from inside a sandbox. A body that has not the shape it should have yields nothing
//! in the timeline; it never yields an error.

use std::str::FromStr;

use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::domain::event::event_uuid;
use crate::domain::{Event, EventKind, SessionId, Tenant, Timestamp};

/// The kinds of events that are messages.
pub const MESSAGE_KINDS: [EventKind; 3] =
    [EventKind::User, EventKind::Assistant, EventKind::Result];

/// Whose events are shown.
#[derive(Clone, Debug)]
pub struct Whose {
    /// The session.
    pub session: SessionId,
    /// Its tenant.
    pub tenant: Tenant,
}

/// A message of the conversation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Unique.
    pub id: Uuid,
    /// The session.
    pub session_id: SessionId,
    /// Its tenant.
    pub tenant_id: Tenant,
    /// `user` or `assistant`.
    pub role: &'static str,
    /// JSON, as text: what the user sent, or a line of the CLI.
    pub content: String,
    /// The number of its event; grows, with gaps.
    pub sequence: u64,
    /// When it happened.
    pub created_at: Timestamp,
}

/// The message that an event is, if it is one.
pub fn message(whose: &Whose, event: &Event) -> Option<Message> {
    let role = match event.kind {
        EventKind::User => "user",
        EventKind::Assistant | EventKind::Result => "assistant",
        EventKind::ToolResult | EventKind::Error | EventKind::Lifecycle => return None,
    };
    Some(Message {
        id: event_uuid(whose.session, event.seq),
        session_id: whose.session,
        tenant_id: whose.tenant.clone(),
        role,
        content: text_of(event),
        sequence: event.seq,
        created_at: event.at,
    })
}

/// The kinds of timeline items.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemKind {
    /// The agent said something.
    Text,
    /// The agent thought something.
    Reasoning,
    /// A tool was called.
    ToolStart,
    /// A tool answered.
    ToolResult,
    /// A turn ended with a result.
    TurnComplete,
    /// A turn ended without one.
    Error,
    /// Something happened to the session.
    Lifecycle,
}

impl ItemKind {
    /// The only kind of event that yields such items.
    pub fn source(self) -> EventKind {
        match self {
            ItemKind::Text | ItemKind::Reasoning | ItemKind::ToolStart => EventKind::Assistant,
            ItemKind::ToolResult => EventKind::ToolResult,
            ItemKind::TurnComplete => EventKind::Result,
            ItemKind::Error => EventKind::Error,
            ItemKind::Lifecycle => EventKind::Lifecycle,
        }
    }
}

/// Text that is no [`ItemKind`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no such type of event")]
pub struct NotItemKind;

impl FromStr for ItemKind {
    type Err = NotItemKind;

    fn from_str(text: &str) -> Result<Self, NotItemKind> {
        Ok(match text {
            "text" => ItemKind::Text,
            "reasoning" => ItemKind::Reasoning,
            "tool_start" => ItemKind::ToolStart,
            "tool_result" => ItemKind::ToolResult,
            "turn_complete" => ItemKind::TurnComplete,
            "error" => ItemKind::Error,
            "lifecycle" => ItemKind::Lifecycle,
            _ => return Err(NotItemKind),
        })
    }
}

/// An item of a session's timeline.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// Unique, also among the items of one event.
    pub id: Uuid,
    /// The session.
    pub session_id: SessionId,
    /// Its tenant.
    pub tenant_id: Tenant,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: ItemKind,
    /// The number of its event; items of one event share it.
    pub sequence: u64,
    /// JSON, as text.
    pub data: String,
    /// When it happened.
    pub created_at: Timestamp,
}

/// The timeline items of an event, in order.
pub fn timeline(whose: &Whose, event: &Event) -> Vec<Item> {
    let items = contents(event).into_iter().zip(0u32..);
    items
        .map(|((kind, data), index)| Item {
            id: item_uuid(whose.session, event.seq, index),
            session_id: whose.session,
            tenant_id: whose.tenant.clone(),
            kind,
            sequence: event.seq,
            data,
            created_at: event.at,
        })
        .collect()
}

fn contents(event: &Event) -> Vec<(ItemKind, String)> {
    if matches!(event.kind, EventKind::Error | EventKind::Lifecycle) {
        let kind =
            if event.kind == EventKind::Error { ItemKind::Error } else { ItemKind::Lifecycle };
        return vec![(kind, text_of(event))];
    }
    let Ok(line) = serde_json::from_slice::<Value>(&event.body) else {
        return Vec::new();
    };
    let items = match event.kind {
        EventKind::Assistant => blocks(&line).iter().filter_map(said).collect(),
        EventKind::ToolResult => tool_results(&line),
        EventKind::Result => vec![(ItemKind::TurnComplete, completion(&line))],
        EventKind::User | EventKind::Error | EventKind::Lifecycle => Vec::new(),
    };
    items.into_iter().map(|(kind, data)| (kind, data.to_string())).collect()
}

fn blocks(line: &Value) -> &[Value] {
    line["message"]["content"].as_array().map_or(&[], Vec::as_slice)
}

fn said(block: &Value) -> Option<(ItemKind, Value)> {
    match block["type"].as_str()? {
        "text" => Some((ItemKind::Text, json!({ "text": block["text"] }))),
        "thinking" => Some((ItemKind::Reasoning, json!({ "thinking": block["thinking"] }))),
        "tool_use" => Some((
            ItemKind::ToolStart,
            json!({ "toolName": block["name"], "toolId": block["id"], "input": block["input"] }),
        )),
        _ => None,
    }
}

/// The CLI's `tool_use_result` is the tool's own output and names neither the tool nor the call:
/// the call's id and whether it failed stand in the message's block.
fn tool_results(line: &Value) -> Vec<(ItemKind, Value)> {
    let results: Vec<_> =
        blocks(line).iter().filter(|block| block["type"] == "tool_result").collect();
    let own = if results.len() == 1 { &line["tool_use_result"] } else { &Value::Null };
    results.into_iter().map(|block| (ItemKind::ToolResult, tool_result(block, own))).collect()
}

fn tool_result(block: &Value, own: &Value) -> Value {
    let mut data = Map::new();
    put(&mut data, "toolId", &block["tool_use_id"]);
    let stdout = if own["stdout"].is_string() { &own["stdout"] } else { &block["content"] };
    put(&mut data, "stdout", &plain(stdout));
    put(&mut data, "stderr", &own["stderr"]);
    put(&mut data, "isError", &block["is_error"]);
    Value::Object(data)
}

/// Tool output as text: a string stays, of an array the text blocks are joined.
fn plain(content: &Value) -> Value {
    let Some(parts) = content.as_array() else {
        return content.clone();
    };
    let texts: Vec<_> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
    Value::from(texts.join("\n"))
}

fn completion(line: &Value) -> Value {
    let mut data = Map::new();
    put(&mut data, "numTurns", &line["num_turns"]);
    put(&mut data, "result", &line["result"]);
    put(&mut data, "subtype", &line["subtype"]);
    put(&mut data, "isError", &line["is_error"]);
    Value::Object(data)
}

fn put(data: &mut Map<String, Value>, name: &str, value: &Value) {
    if !value.is_null() {
        data.insert(name.to_owned(), value.clone());
    }
}

fn text_of(event: &Event) -> String {
    String::from_utf8_lossy(&event.body).into_owned()
}

/// The first item has its event's own UUID, the others have their index mixed in.
fn item_uuid(session: SessionId, seq: u64, index: u32) -> Uuid {
    let mut bytes = *session.0.as_bytes();
    for (byte, mix) in bytes.iter_mut().zip(index.to_be_bytes()) {
        *byte ^= mix;
    }
    event_uuid(SessionId(Uuid::from_bytes(bytes)), seq)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn whose() -> Whose {
        Whose { session: SessionId::random(), tenant: Tenant::default() }
    }

    fn event(kind: EventKind, body: impl Into<Bytes>) -> Event {
        Event {
            seq: 7,
            kind,
            turn: None,
            origin: None,
            replaces: false,
            body: body.into(),
            at: Timestamp(0),
        }
    }

    fn items(kind: EventKind, body: Value) -> Vec<(ItemKind, Value)> {
        let items = timeline(&whose(), &event(kind, body.to_string()));
        items
            .into_iter()
            .map(|item| (item.kind, serde_json::from_str(&item.data).unwrap()))
            .collect()
    }

    #[test]
    fn a_message_carries_its_line_as_text() {
        let body = r#"{"type":"user","content":"hello"}"#;
        let whose = whose();
        let shown = message(&whose, &event(EventKind::User, body)).unwrap();
        assert_eq!((shown.role, shown.content.as_str(), shown.sequence), ("user", body, 7));
        assert_eq!(shown.id, event_uuid(whose.session, 7));
        for kind in EventKind::ALL {
            let is_message = message(&whose, &event(kind, "{}")).is_some();
            assert_eq!(is_message, MESSAGE_KINDS.contains(&kind), "{kind:?}");
        }
    }

    #[test]
    fn assistant_blocks_become_items() {
        let body = json!({"type": "assistant", "message": {"content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "hi"},
            {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}},
            {"type": "server_tool_use", "id": "t2"},
        ]}});
        assert_eq!(
            items(EventKind::Assistant, body),
            [
                (ItemKind::Reasoning, json!({"thinking": "hm"})),
                (ItemKind::Text, json!({"text": "hi"})),
                (
                    ItemKind::ToolStart,
                    json!({"toolName": "Bash", "toolId": "t1", "input": {"command": "ls"}})
                ),
            ]
        );
    }

    #[test]
    fn tool_results_take_the_call_from_the_block_and_the_output_from_the_tool() {
        let block = json!({"type": "tool_result", "tool_use_id": "t1", "content": "both", "is_error": true});
        let body = json!({"type": "user", "message": {"content": [block]},
            "tool_use_result": {"stdout": "out", "stderr": "err"}});
        assert_eq!(
            items(EventKind::ToolResult, body),
            [(
                ItemKind::ToolResult,
                json!({"toolId": "t1", "stdout": "out", "stderr": "err", "isError": true})
            )]
        );
    }

    #[test]
    fn tool_results_without_output_of_their_own_show_the_block() {
        let texts = json!([{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]);
        let body = json!({"message": {"content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": texts},
            {"type": "tool_result", "tool_use_id": "t2", "content": "c"},
        ]}, "tool_use_result": {"stdout": "whose?"}});
        assert_eq!(
            items(EventKind::ToolResult, body),
            [
                (ItemKind::ToolResult, json!({"toolId": "t1", "stdout": "a\nb"})),
                (ItemKind::ToolResult, json!({"toolId": "t2", "stdout": "c"})),
            ]
        );
    }

    #[test]
    fn ends_of_turns_are_shown() {
        assert_eq!(
            items(EventKind::Result, json!({"num_turns": 2, "result": "done", "usage": {}})),
            [(ItemKind::TurnComplete, json!({"numTurns": 2, "result": "done"}))]
        );
        assert_eq!(
            items(EventKind::Error, json!({"error": "lost"})),
            [(ItemKind::Error, json!({"error": "lost"}))]
        );
        assert_eq!(
            items(EventKind::Lifecycle, json!({"action": "paused"})),
            [(ItemKind::Lifecycle, json!({"action": "paused"}))]
        );
    }

    #[test]
    fn items_of_one_event_have_ids_of_their_own() {
        let block = json!({"type": "text", "text": "x"});
        let body = json!({"message": {"content": vec![block; 300]}}).to_string();
        let whose = whose();
        let items = timeline(&whose, &event(EventKind::Assistant, body));
        let ids: HashSet<_> = items.iter().map(|item| item.id).collect();
        assert_eq!(ids.len(), 300);
        assert_eq!(items[0].id, event_uuid(whose.session, 7));
        assert!(ids.iter().all(|id| id.get_version_num() == 4));
    }

    #[test]
    fn kinds_are_named_as_they_are_written() {
        for kind in [
            ItemKind::Text,
            ItemKind::Reasoning,
            ItemKind::ToolStart,
            ItemKind::ToolResult,
            ItemKind::TurnComplete,
            ItemKind::Error,
            ItemKind::Lifecycle,
        ] {
            let word = serde_json::to_value(kind).unwrap();
            assert_eq!(word.as_str().unwrap().parse(), Ok(kind));
        }
        assert_eq!("mcp_status".parse::<ItemKind>(), Err(NotItemKind));
    }

    proptest! {
        #[test]
        fn no_body_is_too_odd(body: Vec<u8>, kind in 0..6usize) {
            let event = event(EventKind::ALL[kind], body);
            timeline(&whose(), &event);
            message(&whose(), &event);
        }
    }
}
