//! What comes in: lines on standard input, read by a thread of their own so that a running turn
//! can be interrupted.

use std::io::{self, BufRead};
use std::process::Output;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use serde_json::Value;

/// Something for the stub to react to.
#[derive(Debug)]
pub(crate) enum Input {
    /// A user message.
    Prompt(Prompt),
    /// A control request of the host.
    Control { id: Value, request: Value },
    /// The host's answer to a request of ours.
    Answer { id: Value, response: Value },
    /// A line that ends the real CLI, with what it says then.
    Fatal(String),
    /// The end of standard input.
    Closed,
    /// A command has ended.
    Executed { call: Value, output: io::Result<Output> },
    /// A command in the background has ended.
    TaskEnded { task: String, output: io::Result<Output> },
}

/// A user message.
#[derive(Clone, Debug)]
pub(crate) struct Prompt {
    /// The message's content as it came.
    pub(crate) content: Value,
    /// The host's id for it, if any.
    pub(crate) uuid: Option<String>,
}

impl Prompt {
    /// The texts of the message.
    pub(crate) fn text(&self) -> String {
        match &self.content {
            Value::Array(blocks) => {
                let texts = blocks.iter().filter_map(|block| block["text"].as_str());
                texts.collect::<Vec<_>>().join("\n")
            }
            other => other.as_str().unwrap_or_default().to_owned(),
        }
    }
}

/// Starts the reader. The sender is for other threads that have something to say.
pub(crate) fn listen() -> (Sender<Input>, Receiver<Input>) {
    let (sender, receiver) = channel();
    let inbox = sender.clone();
    thread::spawn(move || {
        for line in io::stdin().lock().split(b'\n') {
            let Ok(line) = line else { break };
            if let Some(input) = parse(&line)
                && inbox.send(input).is_err()
            {
                return;
            }
        }
        // Nobody listens any more: the program is ending.
        let _ = inbox.send(Input::Closed);
    });
    (sender, receiver)
}

/// Reads one line as the CLI does: what it ignores is `None`, what kills it is `Fatal`.
fn parse(line: &[u8]) -> Option<Input> {
    if line.is_empty() {
        return None;
    }
    let Ok(message) = serde_json::from_slice::<Value>(line) else {
        return Some(unparsable(line, "SyntaxError: JSON Parse error"));
    };
    match message["type"].as_str()? {
        "user" => Some(parse_user(line, &message)),
        "control_request" if !message["request"].is_object() => {
            Some(unparsable(line, "TypeError: undefined is not an object"))
        }
        "control_request" => Some(Input::Control {
            id: message["request_id"].clone(),
            request: message["request"].clone(),
        }),
        "control_response" => {
            let response = &message["response"];
            let (id, response) = (response["request_id"].clone(), response["response"].clone());
            Some(Input::Answer { id, response })
        }
        _ => None,
    }
}

fn parse_user(line: &[u8], message: &Value) -> Input {
    match message["message"]["role"].as_str() {
        Some("user") => Input::Prompt(Prompt {
            content: message["message"]["content"].clone(),
            uuid: message["uuid"].as_str().map(str::to_owned),
        }),
        Some(role) => Input::Fatal(format!("Error: Expected message role 'user', got '{role}'")),
        None => unparsable(line, "TypeError: undefined is not an object"),
    }
}

fn unparsable(line: &[u8], why: &str) -> Input {
    let line = String::from_utf8_lossy(line);
    Input::Fatal(format!("Error parsing streaming input line: {line}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_lines_end_or_are_ignored_as_in_the_real_one() {
        for fatal in ["hello", r#"{"type":"user"}"#, r#"{"type":"control_request"}"#] {
            assert!(matches!(parse(fatal.as_bytes()), Some(Input::Fatal(_))), "{fatal}");
        }
        for ignored in ["", "[]", r#"{"type":"keep_alive"}"#, r#"{"a":1}"#] {
            assert!(parse(ignored.as_bytes()).is_none(), "{ignored}");
        }
    }

    #[test]
    fn a_prompt_is_a_string_or_blocks() {
        let line = br#"{"type":"user","uuid":"u","message":{"role":"user","content":
            [{"type":"text","text":"a"},{"type":"image"},{"type":"text","text":"b"}]}}"#;
        let Some(Input::Prompt(prompt)) = parse(line) else { panic!() };
        assert_eq!((prompt.text().as_str(), prompt.uuid.as_deref()), ("a\nb", Some("u")));
    }
}
