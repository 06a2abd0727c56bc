//! Server-sent events, read strictly: what `ashd` must not send is an error.

use std::fmt;
use std::io::BufRead;
use std::str::FromStr;

use anyhow::{Context as _, Error, Result, bail, ensure};
use serde_json::Value;

/// The id of a frame: `<seq>.<k>`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Id {
    /// The durable event.
    pub seq: u64,
    /// The frame of or behind it, from 0.
    pub k: u64,
}

impl FromStr for Id {
    type Err = Error;

    fn from_str(text: &str) -> Result<Id> {
        let (seq, k) = text.split_once('.').context("an id is <seq>.<k>")?;
        Ok(Id { seq: seq.parse()?, k: k.parse()? })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.seq, self.k)
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Its place in the stream; absent for refusals, which belong to no event.
    pub id: Option<Id>,
    /// What it is.
    pub name: String,
    /// What it says.
    pub data: Value,
    /// Every byte of it.
    pub raw: String,
}

/// Reads events.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
}

impl<R: BufRead> Reader<R> {
    /// Reads from there.
    pub fn new(source: R) -> Reader<R> {
        Reader { source }
    }

    /// The next event; `None` when the stream has ended between two.
    ///
    /// # Errors
    /// When the stream breaks off inside an event, or is not as promised.
    pub fn read(&mut self) -> Result<Option<Frame>> {
        let mut frame =
            Frame { id: None, name: String::new(), data: Value::Null, raw: String::new() };
        loop {
            let begin = frame.raw.len();
            if self.source.read_line(&mut frame.raw)? == 0 {
                ensure!(frame.name.is_empty(), "the stream broke off in {:?}", frame.raw);
                return Ok(None);
            }
            let line = frame.raw[begin..].trim_end_matches('\n').to_owned();
            match line.split_once(": ").unwrap_or((&line, "")) {
                ("", "") if frame.name.is_empty() => frame.raw.clear(),
                ("", "") => return Ok(Some(frame)),
                ("", _comment) => {}
                ("id", id) => frame.id = Some(id.parse()?),
                ("event", name) => name.clone_into(&mut frame.name),
                ("data", data) => {
                    frame.data = serde_json::from_str(data).with_context(|| line.clone())?;
                }
                _ => bail!("not a line of an event: {line:?}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_comments_are_told_apart() {
        let mut reader = Reader::new(&b": ping\n\nid: 3.1\nevent: x\ndata: {\"a\":1}\n\n"[..]);
        let frame = reader.read().unwrap().unwrap();
        assert_eq!((frame.id, frame.name.as_str()), (Some(Id { seq: 3, k: 1 }), "x"));
        assert_eq!(frame.data["a"], 1);
        assert!(reader.read().unwrap().is_none());
    }

    #[test]
    fn half_an_event_is_an_error() {
        assert!(Reader::new(&b"event: x\ndata: {}"[..]).read().is_err());
        assert!(Reader::new(&b"data: x y\n\n"[..]).read().is_err());
    }
}
