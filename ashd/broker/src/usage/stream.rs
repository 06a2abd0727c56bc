//! A streamed answer: server-sent events, of which two kinds tell the usage.

use memchr::memchr;
use serde::Deserialize;

use super::{Counts, set_model};
use crate::control::Tokens;

/// Longest line that is looked into, in bytes.
const LINE_LIMIT: usize = 64 * 1024;

/// How much of a line tells whether it is of interest: the longer of `event:` and `data:`.
const TELLING: usize = 6;

/// Follows the lines of a stream. Text deltas, nearly all of it, are only searched for their end.
#[derive(Debug, Default)]
pub(super) struct Stream {
    line: Vec<u8>,
    skip: bool,
    event: Event,
}

/// What the current event's name says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// It has none so far.
    #[default]
    Unnamed,
    /// It tells usage.
    Telling,
    /// It does not.
    Other,
}

impl Stream {
    pub(super) fn feed(&mut self, mut bytes: &[u8], tokens: &mut Tokens) {
        while let Some(end) = memchr(b'\n', bytes) {
            self.part(&bytes[..end]);
            self.end(tokens);
            bytes = &bytes[end + 1..];
        }
        self.part(bytes);
    }

    /// Takes the next part of a line.
    fn part(&mut self, part: &[u8]) {
        let first = part.len().min(TELLING.saturating_sub(self.line.len()));
        self.keep(&part[..first]);
        if self.line.len() >= TELLING && !self.of_interest() {
            self.skip = true;
        }
        self.keep(&part[first..]);
    }

    fn keep(&mut self, part: &[u8]) {
        self.skip |= self.line.len() + part.len() > LINE_LIMIT;
        if !self.skip {
            self.line.extend_from_slice(part);
        }
    }

    fn of_interest(&self) -> bool {
        let data = self.line.starts_with(b"data:") && self.event != Event::Other;
        data || self.line.starts_with(b"event:")
    }

    /// Looks into a whole line.
    fn end(&mut self, tokens: &mut Tokens) {
        if !self.skip {
            let line = self.line.trim_ascii_end();
            if line.is_empty() {
                self.event = Event::Unnamed;
            } else if let Some(name) = line.strip_prefix(b"event:") {
                self.event = name_of(name.trim_ascii_start());
            } else if let Some(data) = line.strip_prefix(b"data:").filter(|_| self.of_interest()) {
                read(data, tokens);
            }
        }
        self.line.clear();
        self.skip = false;
    }
}

fn name_of(name: &[u8]) -> Event {
    match name {
        b"message_start" | b"message_delta" => Event::Telling,
        _ => Event::Other,
    }
}

#[derive(Deserialize)]
struct Data {
    message: Option<Message>,
    usage: Option<Counts>,
}

#[derive(Deserialize)]
struct Message {
    model: Option<String>,
    usage: Option<Counts>,
}

/// What is not understood counts nothing.
fn read(data: &[u8], tokens: &mut Tokens) {
    let Ok(data) = serde_json::from_slice::<Data>(data) else { return };
    let (model, first) = data.message.map_or((None, None), |start| (start.model, start.usage));
    if let Some(model) = model {
        set_model(tokens, model);
    }
    for counts in first.iter().chain(&data.usage) {
        counts.apply(tokens);
    }
}
