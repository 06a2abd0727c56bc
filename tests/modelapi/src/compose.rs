//! The event sequence of one message, as the streaming API has it.
//!
//! ```text
//! message_start ( content_block_start [ping] content_block_delta* content_block_stop )*
//!               message_delta message_stop
//! ```

use serde_json::{Value, json};

use crate::id;

/// One server-sent event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// The event's name, which its data repeats as `type`.
    pub name: &'static str,
    /// The data, one line of JSON.
    pub json: String,
}

impl Event {
    /// Whether this event brings new content.
    pub fn is_delta(&self) -> bool {
        self.name == "content_block_delta"
    }
}

/// What a message is said to have cost, in tokens.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Input that no cache knew.
    pub input: u64,
    /// Input written to the cache.
    pub cache_creation: u64,
    /// Input read from the cache.
    pub cache_read: u64,
    /// Output; counted from the text if `None`.
    pub output: Option<u64>,
}

impl Usage {
    /// The API's object for it.
    pub fn to_json(self, output: u64) -> Value {
        json!({
            "input_tokens": self.input,
            "cache_creation_input_tokens": self.cache_creation,
            "cache_read_input_tokens": self.cache_read,
            "cache_creation": {
                "ephemeral_5m_input_tokens": self.cache_creation,
                "ephemeral_1h_input_tokens": 0
            },
            "output_tokens": self.output.unwrap_or(output),
            "service_tier": "standard"
        })
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Block {
    Text,
    Thinking,
}

/// Builds the events of one message; take them away with [`Composer::take`].
pub struct Composer {
    id: String,
    model: String,
    usage: Usage,
    open: Option<Block>,
    started: bool,
    new_line: bool,
    bytes: u64,
    /// The text of the open block.
    text: String,
    /// The blocks that are complete.
    content: Vec<Value>,
    queue: Vec<Event>,
}

impl Composer {
    /// A message of `model` with a new id. Nothing is queued before the first content.
    pub fn new(model: &str, usage: Usage) -> Self {
        Self {
            id: id::with_prefix("msg_01"),
            model: model.to_owned(),
            usage,
            open: None,
            started: false,
            new_line: false,
            bytes: 0,
            text: String::new(),
            content: Vec::new(),
            queue: Vec::new(),
        }
    }

    /// The message's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The tokens written so far, by the usual four bytes per token.
    pub fn output_tokens(&self) -> u64 {
        self.usage.output.unwrap_or(1 + self.bytes / 4)
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The blocks that are complete.
    pub fn content(&self) -> &[Value] {
        &self.content
    }

    /// The message as a whole, as it is answered to a request that did not ask for a stream.
    pub fn message(&self, stop_reason: &str) -> Value {
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model,
            "content": self.content, "stop_reason": stop_reason, "stop_sequence": null,
            "usage": self.usage()
        })
    }

    /// What the message costs so far.
    pub fn usage(&self) -> Value {
        self.usage.to_json(self.output_tokens())
    }

    /// The events since the last call.
    pub fn take(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.queue)
    }

    /// Queues `message_start`, unless that was done.
    pub fn start(&mut self) {
        if !std::mem::replace(&mut self.started, true) {
            let message = json!({
                "id": self.id, "type": "message", "role": "assistant", "model": self.model,
                "content": [], "stop_reason": null, "stop_sequence": null,
                "usage": self.usage.to_json(1)
            });
            self.push("message_start", &json!({"type": "message_start", "message": message}));
        }
    }

    /// Puts the next text on a line of its own if a text block is open.
    pub fn paragraph(&mut self) {
        self.new_line = self.open == Some(Block::Text);
    }

    /// One text delta, in a new block unless a text block is open.
    pub fn text(&mut self, text: &str) {
        self.ensure(Block::Text, &json!({"type": "text", "text": ""}));
        let text = if std::mem::take(&mut self.new_line) { &format!("\n{text}") } else { text };
        self.text.push_str(text);
        self.delta("text_delta", "text", text);
    }

    /// One thinking delta, in a new block unless a thinking block is open.
    pub fn think(&mut self, text: &str) {
        let empty = json!({"type": "thinking", "thinking": "", "signature": ""});
        self.ensure(Block::Thinking, &empty);
        self.text.push_str(text);
        self.delta("thinking_delta", "thinking", text);
    }

    /// A whole tool_use block; `input` is JSON text. Returns the block's id.
    pub fn tool(&mut self, name: &str, input: &str) -> String {
        self.close();
        let id = id::with_prefix("toolu_01");
        self.block_start(&json!({"type": "tool_use", "id": id, "name": name, "input": {}}));
        self.delta("input_json_delta", "partial_json", input);
        let input: Value = serde_json::from_str(input).unwrap_or_default();
        self.block_stop(json!({"type": "tool_use", "id": id, "name": name, "input": input}));
        id
    }

    /// Closes the open block and the message.
    pub fn finish(&mut self, stop_reason: &str) {
        self.close();
        let delta = json!({"stop_reason": stop_reason, "stop_sequence": null});
        let usage = self.usage();
        self.push(
            "message_delta",
            &json!({"type": "message_delta", "delta": delta, "usage": usage}),
        );
        self.push("message_stop", &json!({"type": "message_stop"}));
    }

    /// Closes the open block, if any.
    pub fn close(&mut self) {
        let text = std::mem::take(&mut self.text);
        match self.open.take() {
            None => self.start(),
            Some(Block::Text) => self.block_stop(json!({"type": "text", "text": text})),
            Some(Block::Thinking) => {
                let signature = id::with_prefix("EqQBCgIYAhIM");
                self.delta("signature_delta", "signature", &signature);
                self.block_stop(
                    json!({"type": "thinking", "thinking": text, "signature": signature}),
                );
            }
        }
    }

    fn ensure(&mut self, block: Block, empty: &Value) {
        if self.open != Some(block) {
            self.close();
            self.block_start(empty);
            self.open = Some(block);
        }
    }

    fn block_start(&mut self, block: &Value) {
        let index = self.content.len();
        let start = json!({"type": "content_block_start", "index": index, "content_block": block});
        self.push("content_block_start", &start);
        if index == 0 {
            self.push("ping", &json!({"type": "ping"}));
        }
    }

    fn block_stop(&mut self, block: Value) {
        let index = self.content.len();
        self.push("content_block_stop", &json!({"type": "content_block_stop", "index": index}));
        self.content.push(block);
    }

    /// Formats by hand: this is the hot path of the throughput tests.
    fn delta(&mut self, kind: &str, field: &str, text: &str) {
        self.bytes += text.len() as u64;
        let text = Value::from(text);
        let json = format!(
            r#"{{"type":"content_block_delta","index":{},"delta":{{"type":"{kind}","{field}":{text}}}}}"#,
            self.content.len()
        );
        self.queue.push(Event { name: "content_block_delta", json });
    }

    fn push(&mut self, name: &'static str, data: &Value) {
        self.queue.push(Event { name, json: data.to_string() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.name).collect()
    }

    #[test]
    fn the_sequence_of_a_plain_answer() {
        let mut composer = Composer::new("m", Usage::default());
        composer.text("a");
        composer.text("b");
        composer.finish("end_turn");
        assert_eq!(
            names(&composer.take()),
            [
                "message_start",
                "content_block_start",
                "ping",
                "content_block_delta",
                "content_block_delta",
                "content_block_stop",
                "message_delta",
                "message_stop"
            ]
        );
    }

    #[test]
    fn blocks_of_different_sorts_are_separate() {
        let usage = Usage { input: 7, ..Usage::default() };
        let mut composer = Composer::new("m", usage);
        composer.think("hm");
        composer.text("one");
        composer.paragraph();
        composer.text("two");
        let id = composer.tool("Bash", r#"{"command":"ls"}"#);
        composer.finish("tool_use");
        let message = composer.message("tool_use");
        assert_eq!(message["content"][0]["thinking"], "hm");
        assert!(message["content"][0]["signature"].as_str().unwrap().len() > 12);
        assert_eq!(message["content"][1], json!({"type": "text", "text": "one\ntwo"}));
        assert_eq!(message["content"][2]["id"], id.as_str());
        assert_eq!(message["content"][2]["input"]["command"], "ls");
        assert_eq!(message["stop_reason"], "tool_use");
        assert_eq!(message["usage"]["input_tokens"], 7);
    }

    #[test]
    fn awkward_text_stays_on_one_line() {
        let mut composer = Composer::new("m", Usage::default());
        composer.text("a\nb\u{2028}\"");
        assert!(composer.take().iter().all(|event| !event.json.contains('\n')));
    }
}
