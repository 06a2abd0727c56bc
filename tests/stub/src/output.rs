//! What goes out: lines on standard output.

use std::io::{self, BufWriter, Stdout, Write};

use ash_modelapi::compose::Event;
use ash_modelapi::id;
use serde_json::{Value, json};

/// Standard output, buffered until [`Output::flush`].
pub(crate) struct Output {
    out: BufWriter<Stdout>,
    session: String,
}

impl Output {
    /// Standard output for the lines of a session.
    pub(crate) fn new(session: &str) -> Self {
        Self { out: BufWriter::with_capacity(64 * 1024, io::stdout()), session: session.to_owned() }
    }

    /// A line that belongs to the session.
    pub(crate) fn line(&mut self, mut line: Value) -> io::Result<()> {
        line["session_id"] = self.session.as_str().into();
        if line["uuid"].is_null() {
            line["uuid"] = id::uuid().into();
        }
        self.bare(&line)
    }

    /// A line that does not, such as an answer to a control request.
    pub(crate) fn bare(&mut self, line: &Value) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")
    }

    /// A partial message. Formatted by hand: this is the hot path of the throughput tests.
    pub(crate) fn event(&mut self, event: &Event) -> io::Result<()> {
        writeln!(
            self.out,
            r#"{{"type":"stream_event","event":{},"session_id":"{}","parent_tool_use_id":null,"uuid":"{}"}}"#,
            event.json,
            self.session,
            id::uuid()
        )
    }

    /// A complete content block of a message.
    pub(crate) fn assistant(&mut self, message: &Value) -> io::Result<()> {
        self.line(json!({"type": "assistant", "message": message, "parent_tool_use_id": null,
            "request_id": id::with_prefix("req_011C")}))
    }

    /// Bytes that are no line, or not one of the protocol.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Sends what is buffered.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
