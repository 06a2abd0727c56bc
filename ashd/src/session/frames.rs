//! From events and lines of the CLI to server-sent events, encoded once for all readers.
//!
//! The frames of a durable event are a pure function of the event, so that a stream that is
//! replayed from the store is the stream that was sent live. Numbering is explained at
//! [`Numbering`].

use std::borrow::Cow;
use std::io::Write as _;

use bytes::{Bytes, BytesMut, buf::BufMut as _};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::api::{Frame, FrameClass, Refusal};
use crate::domain::{Event, EventId, EventKind, SessionId};

/// Hands out the ids of frames: `<seq>.<k>`, the `k`-th frame of or behind the newest event that
/// has frames of its own. Lifecycle events have none and do not restart the count, so that a turn
/// can be rebuilt from what the bridge kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbering {
    next: EventId,
}

impl Numbering {
    /// Begins behind the newest event.
    pub(super) fn behind(seq: u64) -> Numbering {
        Numbering { next: EventId { seq, k: 0 } }
    }

    /// Goes on behind the newest event in a daemon that does not know what was shown behind it:
    /// far above any count that another one came to.
    pub(super) fn resumed(seq: u64) -> Numbering {
        Numbering { next: EventId { seq, k: 1 << 32 } }
    }

    fn begin(&mut self, seq: u64) {
        self.next = EventId { seq, k: 0 };
    }

    fn take(&mut self) -> EventId {
        let id = self.next;
        self.next.k = self.next.k.saturating_add(1);
        id
    }

    /// Leaves room for lines that the bridge had to drop: a line has at most two frames.
    pub(super) fn skip_lines(&mut self, lines: u64) {
        self.next.k = self.next.k.saturating_add(lines.saturating_mul(2));
    }
}

/// Encodes frames into one growing buffer and hands them out as slices of it.
pub(super) struct Encoder {
    session: SessionId,
    buffer: BytesMut,
}

impl Encoder {
    /// An encoder for the frames of a session.
    pub(super) fn new(session: SessionId) -> Encoder {
        Encoder { session, buffer: BytesMut::new() }
    }

    /// The frames of a durable event.
    pub(super) fn event(&mut self, event: &Event, numbering: &mut Numbering) -> Vec<Frame> {
        if event.kind == EventKind::Lifecycle {
            return vec![];
        }
        numbering.begin(event.seq);
        let mut out = Output { encoder: self, numbering, frames: vec![] };
        if event.replaces {
            out.push(FrameClass::Whole, "replaces", b"{\"partial\":true}");
        }
        match event.kind {
            EventKind::User => out.session_start(),
            EventKind::Assistant => out.assistant(&event.body),
            EventKind::ToolResult => out.tool_results(&event.body),
            EventKind::Result => out.result(&event.body, event.turn.is_some()),
            EventKind::Error => out.error(&event.body, event.turn.is_some()),
            EventKind::Lifecycle => {}
        }
        out.frames
    }

    /// The frames of a failure that could not be recorded; if it is one of a turn, they end that for its
    /// readers.
    pub(super) fn unrecorded(
        &mut self,
        refusal: &Refusal,
        ends_turn: bool,
        numbering: &mut Numbering,
    ) -> Vec<Frame> {
        let mut out = Output { encoder: self, numbering, frames: vec![] };
        out.error(&error_body(&refusal.public_text()), ends_turn);
        out.frames
    }

    /// The frames of a line that history does not keep.
    pub(super) fn line(&mut self, line: &[u8], numbering: &mut Numbering) -> Vec<Frame> {
        let mut out = Output { encoder: self, numbering, frames: vec![] };
        out.passing(line);
        out.frames
    }
}

struct Output<'a> {
    encoder: &'a mut Encoder,
    numbering: &'a mut Numbering,
    frames: Vec<Frame>,
}

impl Output<'_> {
    /// What is no object makes no frame: what is read here can also be an array, and clients, which ask
    /// the data of every frame for its members, fail at one.
    fn push(&mut self, class: FrameClass, name: &str, data: &[u8]) {
        if data.trim_ascii_start().first() != Some(&b'{') {
            return;
        }
        let id = self.numbering.take();
        let data = escape_line_breaks(data);
        let buffer = &mut self.encoder.buffer;
        buffer.reserve(data.len() + name.len() + 64);
        // Writing to a buffer in memory cannot fail.
        let _ = write!(buffer.writer(), "id: {id}\nevent: {name}\ndata: ");
        buffer.put_slice(&data);
        buffer.put_slice(b"\n\n");
        let bytes = buffer.split().freeze();
        self.frames.push(Frame { id, class, bytes });
    }

    fn session_start(&mut self) {
        let data = format!(
            "{{\"sessionId\":\"{}\",\"version\":\"{}\"}}",
            self.encoder.session,
            env!("CARGO_PKG_VERSION")
        );
        self.push(FrameClass::Whole, "session_start", data.as_bytes());
    }

    fn done(&mut self) {
        let data = format!("{{\"sessionId\":\"{}\"}}", self.encoder.session);
        self.push(FrameClass::Done, "done", data.as_bytes());
    }

    fn assistant(&mut self, line: &[u8]) {
        if let Ok(parsed) = serde_json::from_slice::<AssistantLine<'_>>(line) {
            for block in parsed.message.content {
                self.block(block);
            }
        }
        self.push(FrameClass::Whole, "message", line);
    }

    fn block(&mut self, raw: &RawValue) {
        let Ok(block) = serde_json::from_str::<Block<'_>>(raw.get()) else { return };
        match block.kind.as_ref() {
            "text" => {}
            "tool_use" => {
                let data =
                    object(&[("id", block.id), ("name", block.name), ("input", block.input)]);
                self.push(FrameClass::Whole, "tool_use", &data);
            }
            "thinking" => {
                let data = object(&[("delta", block.thinking)]);
                self.push(FrameClass::Whole, "thinking_delta", &data);
            }
            other => self.push_named(FrameClass::Whole, other, raw),
        }
    }

    fn tool_results(&mut self, line: &[u8]) {
        if let Ok(parsed) = serde_json::from_slice::<ToolResultLine<'_>>(line) {
            let blocks = parsed.blocks().into_iter();
            let blocks = blocks.filter_map(|raw| serde_json::from_str::<Block<'_>>(raw.get()).ok());
            let results: Vec<_> = blocks.filter(|block| block.kind == "tool_result").collect();
            // Of several results it does not say whose it is.
            let stdout = parsed.stdout().filter(|_| results.len() == 1);
            for block in results {
                let data = object(&[
                    ("tool_use_id", block.tool_use_id),
                    ("content", stdout.or(block.content)),
                    ("is_error", block.is_error),
                ]);
                self.push(FrameClass::Whole, "tool_result", &data);
            }
        }
        self.push(FrameClass::Whole, "message", line);
    }

    fn result(&mut self, line: &[u8], ends_turn: bool) {
        if let Ok(parsed) = serde_json::from_slice::<ResultLine<'_>>(line) {
            let data = object(&[("numTurns", parsed.num_turns), ("result", parsed.result)]);
            self.push(FrameClass::Whole, "turn_complete", &data);
        }
        self.push(FrameClass::Whole, "message", line);
        if ends_turn {
            self.done();
        }
    }

    fn error(&mut self, body: &[u8], ends_turn: bool) {
        self.push(FrameClass::Whole, "error", body);
        if ends_turn {
            self.done();
        }
    }

    fn passing(&mut self, line: &[u8]) {
        let Ok(parsed) = serde_json::from_slice::<PassingLine<'_>>(line) else { return };
        if parsed.kind != "stream_event" {
            return self.push(FrameClass::Whole, "message", line);
        }
        if let Some(delta) = parsed.event.and_then(delta_of) {
            self.delta(delta);
        }
        self.push(FrameClass::Partial, "message", line);
    }

    fn delta(&mut self, raw: &RawValue) {
        let Ok(delta) = serde_json::from_str::<Delta<'_>>(raw.get()) else { return };
        match delta.kind.as_ref() {
            "text_delta" => {
                let data = object(&[("delta", delta.text)]);
                self.push(FrameClass::Partial, "text_delta", &data);
            }
            "thinking_delta" => {
                let data = object(&[("delta", delta.thinking)]);
                self.push(FrameClass::Partial, "thinking_delta", &data);
            }
            other => self.push_named(FrameClass::Partial, other, raw),
        }
    }

    /// A frame that is named by what came out of the sandbox: only plain names pass, and none of
    /// those that mean something to a client.
    fn push_named(&mut self, class: FrameClass, name: &str, raw: &RawValue) {
        const OURS: [&str; 6] =
            ["session_start", "done", "error", "message", "turn_complete", "replaces"];
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if (1..=64).contains(&name.len()) && name.bytes().all(plain) && !OURS.contains(&name) {
            self.push(class, name, raw.get().as_bytes());
        }
    }
}

/// The delta of a `content_block_delta`.
fn delta_of(event: &RawValue) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct StreamEvent<'a> {
        #[serde(rename = "type", borrow)]
        kind: Cow<'a, str>,
        #[serde(borrow)]
        delta: Option<&'a RawValue>,
    }
    let event: StreamEvent<'_> = serde_json::from_str(event.get()).ok()?;
    event.delta.filter(|_| event.kind == "content_block_delta")
}

/// A JSON object of the fields that are there.
fn object(fields: &[(&str, Option<&RawValue>)]) -> Vec<u8> {
    let mut out = vec![b'{'];
    for (name, value) in fields {
        if let Some(value) = value {
            if out.len() > 1 {
                out.push(b',');
            }
            out.extend_from_slice(b"\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            out.extend_from_slice(value.get().as_bytes());
        }
    }
    out.push(b'}');
    out
}

/// Writes U+0085, U+2028 and U+2029 as escapes: they are line breaks to some clients' line
/// splitting, and would tear a frame apart there. In JSON they can only stand inside strings.
/// A raw line feed or carriage return cannot stand there at all; if hostile bytes contain one,
/// it becomes a space.
fn escape_line_breaks(data: &[u8]) -> Cow<'_, [u8]> {
    let breaks = |at: usize| match data[at] {
        b'\n' | b'\r' => Some((1, &b" "[..])),
        0xC2 if data.get(at + 1) == Some(&0x85) => Some((2, &b"\\u0085"[..])),
        0xE2 if data.get(at + 1) == Some(&0x80) => match data.get(at + 2) {
            Some(0xA8) => Some((3, &b"\\u2028"[..])),
            Some(0xA9) => Some((3, &b"\\u2029"[..])),
            _ => None,
        },
        _ => None,
    };
    let candidates = memchr::memchr2_iter(b'\n', b'\r', data)
        .chain(memchr::memchr2_iter(0xC2, 0xE2, data))
        .any(|at| breaks(at).is_some());
    if !candidates {
        return Cow::Borrowed(data);
    }
    let mut out = Vec::with_capacity(data.len() + 16);
    let mut at = 0;
    while at < data.len() {
        if let Some((length, escape)) = breaks(at) {
            out.extend_from_slice(escape);
            at += length;
        } else {
            out.push(data[at]);
            at += 1;
        }
    }
    Cow::Owned(out)
}

/// How a stream that has begun tells of a refusal: `error`, then `done`. They belong to no event
/// and have no id. Where a status would say when to try again, the error does.
pub(super) fn refusal(session: SessionId, refusal: &Refusal) -> Vec<Frame> {
    let frame = |class, name: &str, data: &str| {
        let bytes = format!("event: {name}\ndata: {data}\n\n").into();
        Frame { id: EventId { seq: 0, k: 0 }, class, bytes }
    };
    let mut error = serde_json::json!({ "error": refusal.public_text() });
    if let Refusal::Capacity { retry_after_s, .. } = refusal {
        error["code"] = "capacity".into();
        error["retryAfter"] = (*retry_after_s).into();
    }
    let error = error.to_string();
    let done = format!("{{\"sessionId\":\"{session}\"}}");
    vec![frame(FrameClass::Whole, "error", &error), frame(FrameClass::Done, "done", &done)]
}

/// The JSON body of an error event.
pub(super) fn error_body(text: &str) -> Bytes {
    serde_json::json!({ "error": text }).to_string().into()
}

#[derive(Deserialize)]
struct PassingLine<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct AssistantLine<'a> {
    #[serde(borrow)]
    message: Content<'a>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow)]
    content: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct ToolResultLine<'a> {
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_use_result: Option<&'a RawValue>,
}

impl<'a> ToolResultLine<'a> {
    /// The content blocks; none when the content is plain text.
    fn blocks(&self) -> Vec<&'a RawValue> {
        let parsed = self.message.map(|message| serde_json::from_str::<Content<'a>>(message.get()));
        parsed.and_then(Result::ok).map(|content| content.content).unwrap_or_default()
    }

    /// What a command printed, as the tool itself says.
    fn stdout(&self) -> Option<&'a RawValue> {
        #[derive(Deserialize)]
        struct Printed<'a> {
            #[serde(borrow)]
            stdout: Option<&'a RawValue>,
        }
        let printed = self.tool_use_result?;
        serde_json::from_str::<Printed<'a>>(printed.get()).ok()?.stdout
    }
}

#[derive(Deserialize)]
struct ResultLine<'a> {
    #[serde(borrow)]
    num_turns: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_use_id: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    is_error: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Timestamp, TurnId};

    fn event(kind: EventKind, body: &str) -> Event {
        Event {
            seq: 7,
            kind,
            turn: Some(TurnId::random()),
            origin: None,
            replaces: false,
            body: Bytes::copy_from_slice(body.as_bytes()),
            at: Timestamp(0),
        }
    }

    fn names(frames: &[Frame]) -> Vec<String> {
        let text = |frame: &Frame| String::from_utf8(frame.bytes.to_vec()).unwrap();
        let name = |text: String| text.lines().nth(1).unwrap()["event: ".len()..].to_owned();
        frames.iter().map(|frame| name(text(frame))).collect()
    }

    fn encode(event: &Event) -> Vec<Frame> {
        Encoder::new(SessionId::random()).event(event, &mut Numbering::behind(0))
    }

    #[test]
    fn a_line_passes_byte_for_byte() {
        let line = r#"{ "type":"assistant" ,"message":{"content":[{"type":"text","text":"ä"}]}}"#;
        let frames = encode(&event(EventKind::Assistant, line));
        let expected = format!("id: 7.0\nevent: message\ndata: {line}\n\n");
        assert_eq!(frames[0].bytes, expected.as_bytes());
        assert_eq!(frames.len(), 1);
    }

    #[test]
    fn line_breaks_of_other_alphabets_are_escaped() {
        let line = "{\"type\":\"x\",\"t\":\"a\u{85}b\u{2028}c\u{2029}d\u{2027}\u{e9}\"}";
        let frames =
            Encoder::new(SessionId::random()).line(line.as_bytes(), &mut Numbering::behind(3));
        let text = String::from_utf8(frames[0].bytes.to_vec()).unwrap();
        assert!(text.contains("a\\u0085b\\u2028c\\u2029d\u{2027}\u{e9}"), "{text}");
    }

    #[test]
    fn tools_and_thinking_have_frames_of_their_own() {
        let line = r#"{"type":"assistant","message":{"content":[
            {"type":"tool_use","id":"t1","name":"Bash","input":{"command":"ls"}},
            {"type":"thinking","thinking":"hm"},{"type":"done"},{"type":"server_tool_use","id":"x"}]}}"#;
        let frames = encode(&event(EventKind::Assistant, line));
        assert_eq!(names(&frames), ["tool_use", "thinking_delta", "server_tool_use", "message"]);
        let tool = r#"data: {"id":"t1","name":"Bash","input":{"command":"ls"}}"#;
        assert!(String::from_utf8_lossy(&frames[0].bytes).contains(tool));
    }

    #[test]
    fn a_tool_result_takes_its_id_from_the_message() {
        let line = r#"{"type":"user","message":{"role":"user","content":[
            {"tool_use_id":"t1","type":"tool_result","content":"hi","is_error":false}]},
            "tool_use_result":{"stdout":"hello","stderr":""}}"#;
        let frames = encode(&event(EventKind::ToolResult, line));
        let data = r#"data: {"tool_use_id":"t1","content":"hello","is_error":false}"#;
        assert!(String::from_utf8_lossy(&frames[0].bytes).contains(data));
        assert_eq!(names(&frames), ["tool_result", "message"]);
    }

    #[test]
    fn what_a_tool_printed_is_shown_of_no_other_one() {
        let block = |id: &str| {
            format!(r#"{{"type":"tool_result","tool_use_id":"{id}","content":"of {id}"}}"#)
        };
        let line = format!(
            r#"{{"type":"user","message":{{"content":[{},{}]}},"tool_use_result":{{"stdout":"whose?"}}}}"#,
            block("t1"),
            block("t2"),
        );
        let frames = encode(&event(EventKind::ToolResult, &line));
        assert_eq!(names(&frames), ["tool_result", "tool_result", "message"]);
        for (frame, id) in frames.iter().zip(["t1", "t2"]) {
            let data = format!(r#"data: {{"tool_use_id":"{id}","content":"of {id}"}}"#);
            assert!(String::from_utf8_lossy(&frame.bytes).contains(&data), "{frame:?}");
        }
    }

    #[test]
    fn a_turn_always_ends_with_done() {
        let result = event(EventKind::Result, r#"{"type":"result","num_turns":1,"result":"ok"}"#);
        assert_eq!(names(&encode(&result)), ["turn_complete", "message", "done"]);
        let error = event(EventKind::Error, r#"{"error":"gone"}"#);
        assert_eq!(names(&encode(&error)), ["error", "done"]);
        let own = Event { turn: None, ..result };
        assert_eq!(names(&encode(&own)), ["turn_complete", "message"]);
    }

    #[test]
    fn deltas_count_on_behind_their_event() {
        let mut numbering = Numbering::behind(0);
        let mut encoder = Encoder::new(SessionId::random());
        encoder.event(&event(EventKind::User, "{}"), &mut numbering);
        let delta = r#"{"type":"stream_event","event":{"type":"content_block_delta",
            "delta":{"type":"text_delta","text":"a\"b"}}}"#;
        let frames = encoder.line(delta.replace('\n', " ").as_bytes(), &mut numbering);
        assert_eq!(names(&frames), ["text_delta", "message"]);
        assert!(frames.iter().all(|frame| frame.class == FrameClass::Partial));
        assert_eq!(frames[0].id, EventId { seq: 7, k: 1 });
        assert!(String::from_utf8_lossy(&frames[0].bytes).contains(r#"data: {"delta":"a\"b"}"#));
        assert_eq!(encoder.line(b"not json", &mut numbering), vec![]);
    }

    #[test]
    fn a_count_that_a_bridge_drives_to_its_end_does_not_begin_anew() {
        let mut numbering = Numbering::behind(7);
        numbering.skip_lines(u64::MAX);
        let last = EventId { seq: 7, k: u64::MAX };
        assert_eq!([numbering.take(), numbering.take()], [last, last]);
    }

    #[test]
    fn what_is_no_object_makes_no_frame() {
        let blocks = r#"[["odd",null,null,null,null,null,null,null]]"#;
        let line = format!(r#"{{"type":"assistant","message":{{"content":{blocks}}}}}"#);
        assert_eq!(names(&encode(&event(EventKind::Assistant, &line))), ["message"]);
        assert_eq!(encode(&event(EventKind::Assistant, r#"["assistant"]"#)), vec![]);
        let passing = |line: &str| {
            Encoder::new(SessionId::random()).line(line.as_bytes(), &mut Numbering::behind(0))
        };
        assert_eq!(passing(r#"["odd",null]"#), vec![]);
        let delta = r#"{"type":"content_block_delta","delta":["odd",null,null]}"#;
        let line = format!(r#"{{"type":"stream_event","event":{delta}}}"#);
        assert_eq!(names(&passing(&line)), ["message"]);
    }

    #[test]
    fn hostile_names_make_no_frame() {
        for name in ["a\\nb", "", "done", "A", "x:y"] {
            let line = format!(
                r#"{{"type":"stream_event","event":{{"type":"content_block_delta","delta":{{"type":"{name}"}}}}}}"#
            );
            let frames =
                Encoder::new(SessionId::random()).line(line.as_bytes(), &mut Numbering::behind(0));
            assert_eq!(names(&frames), ["message"], "{name:?}");
        }
    }
}
