//! An answer in one piece: a JSON object whose members `model` and `usage` are of interest.
//!
//! It may be megabytes of text before the usage comes, so it is not parsed but followed: only these
//! two members of the outermost object are kept, up to a bound.

use memchr::memchr2;

use super::{Counts, set_model};
use crate::control::Tokens;

/// Longest member that is kept, in bytes.
const VALUE_LIMIT: usize = 16 * 1024;

/// Longest name that is compared, in bytes.
const NAME_LIMIT: usize = 16;

/// Follows the structure of a document.
#[derive(Debug, Default)]
pub(super) struct Document {
    depth: usize,
    string: bool,
    escaped: bool,
    /// The name of the current member of the outermost object, until its colon.
    name: Vec<u8>,
    place: Place,
    /// The value of the member that is being kept.
    value: Vec<u8>,
}

/// Where in the outermost object.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before a member's colon.
    #[default]
    Name,
    /// In a value of no interest.
    Other,
    Model,
    Usage,
}

impl Document {
    pub(super) fn feed(&mut self, bytes: &[u8], tokens: &mut Tokens) {
        let mut at = 0;
        while at < bytes.len() {
            at += self.uninteresting(&bytes[at..]);
            if let Some(&byte) = bytes.get(at) {
                self.byte(byte, tokens);
                at += 1;
            }
        }
    }

    /// How much of a string can be passed over at once.
    fn uninteresting(&self, bytes: &[u8]) -> usize {
        if !self.string || self.escaped || self.place != Place::Other {
            return 0;
        }
        memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len())
    }

    fn byte(&mut self, byte: u8, tokens: &mut Tokens) {
        if self.string {
            self.in_string(byte);
        } else {
            self.structure(byte, tokens);
        }
        let keeps = matches!(self.place, Place::Model | Place::Usage);
        if keeps && self.value.len() <= VALUE_LIMIT {
            self.value.push(byte);
        }
    }

    fn in_string(&mut self, byte: u8) {
        self.string = self.escaped || byte != b'"';
        self.escaped = !self.escaped && byte == b'\\';
        if self.string && self.place == Place::Name && self.name.len() <= NAME_LIMIT {
            self.name.push(byte);
        }
    }

    fn structure(&mut self, byte: u8, tokens: &mut Tokens) {
        match byte {
            b'"' => self.string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    self.end(tokens);
                }
            }
            b':' if self.depth == 1 && self.place == Place::Name => self.place = self.named(),
            b',' if self.depth == 1 => self.end(tokens),
            _ => {}
        }
    }

    fn named(&mut self) -> Place {
        match std::mem::take(&mut self.name).as_slice() {
            b"model" => Place::Model,
            b"usage" => Place::Usage,
            _ => Place::Other,
        }
    }

    /// A member of the outermost object has ended.
    fn end(&mut self, tokens: &mut Tokens) {
        // The colon was kept as well.
        let value = self.value.get(1..).unwrap_or_default();
        match self.place {
            Place::Model => {
                if let Ok(model) = serde_json::from_slice(value) {
                    set_model(tokens, model);
                }
            }
            Place::Usage => {
                if let Ok(counts) = serde_json::from_slice::<Counts>(value) {
                    counts.apply(tokens);
                }
            }
            Place::Name | Place::Other => {}
        }
        self.place = Place::Name;
        self.name.clear();
        self.value.clear();
    }
}
