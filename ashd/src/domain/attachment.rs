//! Attachments: files that somebody gave to a conversation.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use uuid::Uuid;

use super::id::AttachmentId;
use super::{SessionId, Tenant, Timestamp};

/// One attachment of a session. Its content is beside the database.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attachment {
    /// Stays the same for ever.
    pub id: AttachmentId,
    /// Whose conversation it belongs to.
    pub session: SessionId,
    /// Whose session that is.
    pub tenant: Tenant,
    /// The message that it belongs to, as the client calls it.
    pub message: Option<Uuid>,
    /// What it is called.
    pub name: FileName,
    /// What it is.
    pub media: MediaType,
    /// Bytes.
    pub size: u64,
    /// When it came.
    pub created_at: Timestamp,
}

/// The name of a file: 1 to 200 bytes, no slash, no control character, neither `.` nor `..`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct FileName(String);

/// Text that names no file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("must end with a name of 1 to 200 bytes, without control characters, neither `.` nor `..`")]
pub struct NotFileName;

impl FileName {
    /// The most bytes: leaves room for a number, where files of one name meet.
    const LONGEST: usize = 200;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name with a number, in front of what says which kind of file it is: `a-2.txt`.
    pub fn numbered(&self, number: u32) -> String {
        match self.0.rsplit_once('.') {
            Some((stem, end)) if !stem.is_empty() => format!("{stem}-{number}.{end}"),
            _ => format!("{}-{number}", self.0),
        }
    }
}

impl FromStr for FileName {
    type Err = NotFileName;

    /// Takes the last name of a path.
    fn from_str(text: &str) -> Result<Self, NotFileName> {
        let name = text.rsplit('/').next().unwrap_or_default();
        let fits = (1..=Self::LONGEST).contains(&name.len()) && name != "." && name != "..";
        let plain = !name.chars().any(char::is_control);
        if fits && plain { Ok(FileName(name.to_owned())) } else { Err(NotFileName) }
    }
}

/// What a file is: `image/png`, `text/plain; charset=utf-8`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct MediaType(String);

/// Text that is no [`MediaType`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("must be a media type like image/png, of at most 200 characters")]
pub struct NotMediaType;

impl MediaType {
    /// The most bytes.
    const LONGEST: usize = 200;

    /// The type as text: fit for a header.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Of what nothing is known but that it is bytes.
impl Default for MediaType {
    fn default() -> Self {
        MediaType("application/octet-stream".to_owned())
    }
}

impl FromStr for MediaType {
    type Err = NotMediaType;

    fn from_str(text: &str) -> Result<Self, NotMediaType> {
        let (essence, rest) = text.split_once(';').unwrap_or((text, ""));
        let word = |word: &str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b);
            !word.is_empty() && word.bytes().all(fits)
        };
        let named = essence.trim_end().split_once('/').is_some_and(|(a, b)| word(a) && word(b));
        let plain = rest.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        let fits = text.len() <= Self::LONGEST;
        if named && plain && fits { Ok(MediaType(text.to_owned())) } else { Err(NotMediaType) }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_last_of_a_path() {
        for (text, name) in [("a.txt", "a.txt"), ("/etc/passwd", "passwd"), ("../x y", "x y")] {
            assert_eq!(text.parse::<FileName>().map(|name| name.0), Ok(name.to_owned()));
        }
        for bad in ["", "/", "a/", "..", "a/.", "a\nb", "a\0", &"n".repeat(201)] {
            assert_eq!(bad.parse::<FileName>(), Err(NotFileName), "{bad:?}");
        }
    }

    #[test]
    fn numbers_stand_before_the_end() {
        for (name, numbered) in
            [("a.txt", "a-2.txt"), ("a.tar.gz", "a.tar-2.gz"), ("a", "a-2"), (".env", ".env-2")]
        {
            assert_eq!(name.parse::<FileName>().unwrap().numbered(2), numbered);
        }
    }

    #[test]
    fn media_types_are_fit_for_a_header() {
        for good in ["image/png", "text/plain; charset=utf-8", "application/vnd.x+json"] {
            assert_eq!(good.parse::<MediaType>().map(|media| media.0), Ok(good.to_owned()));
        }
        let long = format!("a/{}", "b".repeat(200));
        for bad in ["", "text", "/", "a/", "a/b\r\nx: y", "a b/c", "a/b; \u{e4}", &long] {
            assert_eq!(bad.parse::<MediaType>(), Err(NotMediaType), "{bad:?}");
        }
    }
}
