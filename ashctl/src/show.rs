//! A turn as it is shown: text as it comes, tool calls as short lines, or frames as JSON lines.

use serde_json::Value;

use crate::failure::Failure;
use crate::out::{self, Out};
use crate::sse::Event;
use crate::{json, text};

/// Longest line about a tool call, in characters.
const LINE: usize = 100;

/// Shows the events of turns, and remembers how each turn went.
pub(crate) struct Show {
    out: Out,
    as_json: bool,
    /// Text that came in deltas and has not come in a whole message yet.
    shown: String,
    /// Whether the output stands in the middle of a line.
    in_line: bool,
    failed: Option<String>,
}

impl Show {
    /// Shows on this output.
    pub(crate) fn new(out: Out, as_json: bool) -> Self {
        Show { out, as_json, shown: String::new(), in_line: false, failed: None }
    }

    /// Shows one event.
    pub(crate) fn event(&mut self, event: &Event) -> Result<(), Failure> {
        let data = json::parsed(&event.data);
        if self.as_json {
            self.out.line(&json::frame(event))?;
        }
        match event.name.as_str() {
            "text_delta" => self.delta(data["delta"].as_str().unwrap_or_default()),
            "tool_use" => self.tool(&data),
            "message" => self.message(&data),
            "error" => {
                let sentence = data["error"].as_str().unwrap_or("the turn failed");
                self.failed = Some(sentence.to_owned());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Ends the turn's output, and says whether the turn failed.
    pub(crate) fn end(&mut self) -> Result<(), Failure> {
        self.shown.clear();
        self.line_start()?;
        match self.failed.take() {
            Some(sentence) => Err(Failure::Failed(sentence)),
            None => Ok(()),
        }
    }

    fn text(&mut self, text: &str) -> Result<(), Failure> {
        if self.as_json || text.is_empty() {
            return Ok(());
        }
        self.in_line = !text.ends_with('\n');
        self.out.write(text)
    }

    fn line_start(&mut self) -> Result<(), Failure> {
        if self.in_line { self.text("\n") } else { Ok(()) }
    }

    fn delta(&mut self, delta: &str) -> Result<(), Failure> {
        if self.shown.is_empty() {
            self.line_start()?;
        }
        self.shown.push_str(delta);
        self.text(delta)
    }

    fn tool(&mut self, call: &Value) -> Result<(), Failure> {
        if self.as_json {
            return Ok(());
        }
        if self.out.is_terminal() {
            self.line_start()?;
        }
        let name = call["name"].as_str().unwrap_or("tool");
        let about = subject(&call["input"]).unwrap_or_default();
        out::aside(&text::short(&format!("• {name} {about}"), LINE));
        Ok(())
    }

    /// A whole message: what its deltas have not shown already.
    fn message(&mut self, message: &Value) -> Result<(), Failure> {
        match message["type"].as_str() {
            Some("assistant") => {
                for block in message["message"]["content"].as_array().into_iter().flatten() {
                    self.block(block["text"].as_str().unwrap_or_default())?;
                }
                Ok(())
            }
            Some("result") if message["is_error"] == true => {
                let why = message["result"].as_str().or(message["subtype"].as_str());
                self.failed =
                    Some(format!("the turn failed: {}", why.unwrap_or("no reason given")));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn block(&mut self, whole: &str) -> Result<(), Failure> {
        if let Some(later) = self.shown.strip_prefix(whole) {
            self.shown = later.to_owned();
            return Ok(());
        }
        let shown = std::mem::take(&mut self.shown);
        match whole.strip_prefix(shown.as_str()) {
            Some(rest) if !shown.is_empty() => self.text(rest),
            _ => {
                self.line_start()?;
                self.text(whole)
            }
        }
    }
}

/// What a tool call is about: the command, the file, or whatever text comes first.
fn subject(input: &Value) -> Option<&str> {
    let input = input.as_object()?;
    let told = ["command", "file_path", "path", "pattern", "url", "query", "description"];
    let told = told.into_iter().filter_map(|key| input.get(key));
    told.chain(input.values()).find_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn shown(as_json: bool, events: &[(&str, Value)]) -> (String, Option<String>) {
        let paper = Paper::default();
        let mut show = Show::new(Out::new(Box::new(paper.clone()), false), as_json);
        for (name, data) in events {
            let event = Event { id: "1.0".into(), name: (*name).into(), data: data.to_string() };
            show.event(&event).unwrap();
        }
        let failed = show.end().err().map(|failure| failure.to_string());
        let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
        (text, failed)
    }

    fn delta(text: &str) -> (&'static str, Value) {
        ("text_delta", json!({"delta": text}))
    }

    fn whole(texts: &[&str]) -> (&'static str, Value) {
        let blocks: Vec<_> = texts.iter().map(|text| json!({"type":"text","text":text})).collect();
        ("message", json!({"type":"assistant","message":{"content":blocks}}))
    }

    #[test]
    fn text_is_shown_once_however_it_comes() {
        for events in [
            vec![delta("Hel"), delta("lo"), whole(&["Hello"])],
            vec![whole(&["Hello"])],
            vec![delta("Hel"), whole(&["Hello"])],
        ] {
            assert_eq!(shown(false, &events), ("Hello\n".into(), None));
        }
        let two = [delta("a"), delta("b"), whole(&["a"]), whole(&["b"]), delta("c"), whole(&["c"])];
        assert_eq!(shown(false, &two).0, "ab\nc\n");
        assert_eq!(shown(false, &[whole(&["a", "b"])]).0, "a\nb\n");
        assert_eq!(shown(false, &[delta("x"), whole(&["other"])]).0, "x\nother\n");
    }

    #[test]
    fn tools_and_other_messages_are_no_part_of_the_answer() {
        let tool = ("tool_use", json!({"name":"Bash","input":{"command":"ls"}}));
        let events = [tool, ("message", json!({"type":"system"})), whole(&["done\n"])];
        assert_eq!(shown(false, &events), ("done\n".into(), None));
    }

    #[test]
    fn failures_are_remembered() {
        let error = ("error", json!({"error":"it broke"}));
        assert_eq!(shown(false, &[error]), (String::new(), Some("it broke".into())));
        let result = json!({"type":"result","is_error":true,"subtype":"error_max_turns"});
        let failed = shown(false, &[("message", result)]).1;
        assert_eq!(failed.as_deref(), Some("the turn failed: error_max_turns"));
    }

    #[test]
    fn json_is_one_line_per_event() {
        let (text, _) = shown(true, &[delta("a\n"), ("done", json!({"sessionId":"x"}))]);
        assert_eq!(
            text,
            "{\"id\":\"1.0\",\"event\":\"text_delta\",\"data\":{\"delta\":\"a\\n\"}}\n\
             {\"id\":\"1.0\",\"event\":\"done\",\"data\":{\"sessionId\":\"x\"}}\n"
        );
    }

    #[test]
    fn the_subject_of_a_call_is_found() {
        assert_eq!(subject(&json!({"description":"d","command":"ls"})), Some("ls"));
        assert_eq!(subject(&json!({"n":1,"q":"x"})), Some("x"));
        assert_eq!(subject(&json!({})), None);
    }
}
