//! Files and archives as JSON has them: in base64, and read as they come in, so that no more than
//! one content is in memory at a time.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::ApiError;
use crate::domain::json;
use crate::session::api::Refusal;
use crate::session::files;
use crate::session::incoming::Parts;
use crate::session::writing::Piece;

/// The most files of one batch, the most bytes of one, and of all together.
const MOST: usize = 500;
const LARGEST: u64 = 50 * 1024 * 1024;
const TOGETHER: u64 = 100 * 1024 * 1024;

/// Characters of base64 that are decoded at a time: a multiple of four.
const PIECE: usize = 32 * 1024;

/// Reads `{"files": [{"path", "content"}], "targetPath"}` and writes each content beside it.
///
/// # Errors
/// 400 that names the place and what was expected there; 507 when the disk is full.
pub(super) fn read(body: &mut dyn Read, parts: &mut Parts<'_>) -> Result<Vec<Piece>, ApiError> {
    let failure = Cell::new(None);
    let sink = Sink { begin: &mut || parts.begin(), failure: &failure };
    let mut batch = Batch { sink, files: None, target: None, total: 0 };
    parse(body, &mut batch, &failure)?;
    let Batch { files, target, .. } = batch;
    let files = files.ok_or_else(|| ApiError::invalid("files: is required"))?;
    if files.is_empty() {
        return Err(ApiError::invalid("files: expected 1 to 500 files"));
    }
    let target = target.unwrap_or_default();
    let target = target.trim_end_matches('/');
    let target = if target == "." { "" } else { target };
    if !target.is_empty() {
        files::path(target).map_err(|_| ApiError::invalid("targetPath: Invalid file path"))?;
    }
    Ok(files.into_iter().map(|file| file.placed(target)).collect())
}

/// Reads `{"bundle": base64}` and writes it, decoded, beside the body; returns what it is called there,
/// and its bytes.
///
/// # Errors
/// As for [`read`].
pub(super) fn read_bundle(
    body: &mut dyn Read,
    parts: &mut Parts<'_>,
) -> Result<(String, u64), ApiError> {
    let member = "bundle";
    let failure = Cell::new(None);
    let sink = Sink { begin: &mut || parts.begin(), failure: &failure };
    let mut one = One { sink, member, found: None };
    parse(body, &mut one, &failure)?;
    let found = one.found.ok_or_else(|| ApiError::invalid(format!("{member}: is required")))?;
    found.map_err(|what| ApiError::invalid(format!("{member}: {what}")))
}

fn parse(
    body: &mut dyn Read,
    members: &mut impl Members,
    failure: &Cell<Option<Refusal>>,
) -> Result<(), ApiError> {
    let mut reader = serde_json::Deserializer::from_reader(body);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut reader, &mut track);
    let parsed = Object(members).deserialize(tracked);
    if let Some(refusal) = failure.take() {
        return Err(refusal.into());
    }
    let parsed = parsed.map_err(|error| json::explained(&track.path().to_string(), &error));
    parsed.and_then(|()| reader.end().map_err(|error| json::explained(".", &error)))?;
    Ok(())
}

/// Where contents go.
struct Sink<'a> {
    begin: &'a mut dyn FnMut() -> Result<(File, String), Refusal>,
    /// Why they could not go there.
    failure: &'a Cell<Option<Refusal>>,
}

/// What a content was written as, and its bytes; or what is wrong with it.
type Content = Result<(String, u64), String>;

struct Entry {
    path: String,
    content: Content,
}

impl Entry {
    fn placed(self, target: &str) -> Piece {
        let Entry { path, content } = self;
        let whole = if target.is_empty() { path.clone() } else { format!("{target}/{path}") };
        let is = |end: &str| path.rsplit('/').next() == Some(end);
        let content = match (files::path(&whole), content) {
            _ if is(".DS_Store") => Err("Skipped: .DS_Store".to_owned()),
            (Err(_), _) => Err("Invalid file path".to_owned()),
            (Ok(place), content) => content.map(|(name, size)| (place, name, size)),
        };
        Piece { path, content }
    }
}

/// An object whose members are looked at one by one.
trait Members {
    /// Takes the value of a member.
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error>;

    /// Which member is needed and has not come.
    fn missing(&self) -> Option<&'static str> {
        None
    }
}

struct Object<'a, M>(&'a mut M);

impl<'de, M: Members> DeserializeSeed<'de> for Object<'_, M> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, M: Members> Visitor<'de> for Object<'_, M> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            self.0.member(&name, &mut map)?;
        }
        match self.0.missing() {
            Some(member) => Err(serde::de::Error::missing_field(member)),
            None => Ok(()),
        }
    }
}

struct Batch<'a> {
    sink: Sink<'a>,
    files: Option<Vec<Entry>>,
    target: Option<String>,
    total: u64,
}

impl Members for Batch<'_> {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "files" if self.files.is_some() => return Err(twice("files")),
            "files" => {
                let files = map.next_value_seed(Files(self))?;
                self.files = Some(files);
            }
            "targetPath" => self.target = map.next_value()?,
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

fn twice<E: serde::de::Error>(member: &'static str) -> E {
    E::duplicate_field(member)
}

struct Files<'a, 'b>(&'a mut Batch<'b>);

impl<'de> DeserializeSeed<'de> for Files<'_, '_> {
    type Value = Vec<Entry>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Vec<Entry>, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Files<'_, '_> {
    type Value = Vec<Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Entry>, A::Error> {
        let mut files = vec![];
        loop {
            let mut one = OneFile { batch: self.0, path: None, content: None };
            if seq.next_element_seed(Object(&mut one))?.is_none() {
                return Ok(files);
            }
            let OneFile { path, content, .. } = one;
            files.extend(path.zip(content).map(|(path, content)| Entry { path, content }));
            if files.len() > MOST {
                return Err(serde::de::Error::custom("expected 1 to 500 files"));
            }
        }
    }
}

struct OneFile<'a, 'b> {
    batch: &'a mut Batch<'b>,
    path: Option<String>,
    content: Option<Content>,
}

impl Members for OneFile<'_, '_> {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "path" if self.path.is_some() => return Err(twice("path")),
            "content" if self.content.is_some() => return Err(twice("content")),
            "path" => self.path = Some(map.next_value()?),
            "content" => {
                let left = TOGETHER.saturating_sub(self.batch.total);
                let sink = &mut self.batch.sink;
                let content = map.next_value_seed(Decoded { sink, limits: Some(left) })?;
                self.batch.total += content.as_ref().map_or(0, |(_, size)| *size);
                self.content = Some(content);
            }
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }

    fn missing(&self) -> Option<&'static str> {
        match (&self.path, &self.content) {
            (None, _) => Some("path"),
            (_, None) => Some("content"),
            _ => None,
        }
    }
}

struct One<'a> {
    sink: Sink<'a>,
    member: &'static str,
    found: Option<Content>,
}

impl Members for One<'_> {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name == self.member {
            true if self.found.is_some() => return Err(twice(self.member)),
            true => {
                let seed = Decoded { sink: &mut self.sink, limits: None };
                self.found = Some(map.next_value_seed(seed)?);
            }
            false => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

/// A content: decoded into a file.
struct Decoded<'a, 'b> {
    sink: &'a mut Sink<'b>,
    /// Bytes that are left for all files of a batch; `None` for a content that is no file of one.
    limits: Option<u64>,
}

impl<'de> DeserializeSeed<'de> for Decoded<'_, '_> {
    type Value = Content;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Content, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Decoded<'_, '_> {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Content, E> {
        let padding = text.bytes().rev().take(2).filter(|byte| *byte == b'=').count() as u64;
        let size = (text.len() as u64 / 4 * 3).saturating_sub(padding);
        if self.limits.is_some() && size > LARGEST {
            return Ok(Err(format!("File too large ({size} bytes, max {LARGEST})")));
        }
        if self.limits.is_some_and(|left| size > left) {
            return Ok(Err("Batch size limit exceeded".to_owned()));
        }
        let fail = |refusal: Refusal| {
            self.sink.failure.set(Some(refusal));
            E::custom("it could not be written")
        };
        let (mut file, name) = (self.sink.begin)().map_err(fail)?;
        match decode(text.as_bytes(), &mut file) {
            Ok(size) => Ok(Ok((name, size))),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Ok(Err("expected base64 with padding".to_owned()))
            }
            Err(error) => Err(fail(Parts::failed(&error))),
        }
    }
}

/// Decodes base64 piece by piece.
fn decode(text: &[u8], to: &mut impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; PIECE];
    let mut size = 0;
    let mut pieces = text.chunks(PIECE).peekable();
    while let Some(piece) = pieces.next() {
        let wrong = || io::Error::from(io::ErrorKind::InvalidData);
        let length = STANDARD.decode_slice(piece, &mut buffer).map_err(|_| wrong())?;
        // Padding is for the end.
        if pieces.peek().is_some() && length != PIECE / 4 * 3 {
            return Err(wrong());
        }
        to.write_all(&buffer[..length])?;
        size += length as u64;
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(bytes in prop::collection::vec(any::<u8>(), 0..100_000)) {
            let mut decoded = vec![];
            let size = decode(STANDARD.encode(&bytes).as_bytes(), &mut decoded).unwrap();
            prop_assert!(size == bytes.len() as u64 && decoded == bytes);
        }

        #[test]
        fn what_is_decoded_is_what_the_whole_is(text in "[A-Da-d+/=]{0,24}") {
            let decoded = decode(text.as_bytes(), &mut io::sink()).is_ok();
            prop_assert_eq!(decoded, STANDARD.decode(&text).is_ok());
        }
    }

    #[test]
    fn padding_in_the_middle_is_refused() {
        let text = [vec![b'A'; PIECE - 2], b"==AAAA".to_vec()].concat();
        assert!(decode(&text, &mut io::sink()).is_err());
    }
}
