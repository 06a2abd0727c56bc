//! Keeps the key out of answers.
//!
//! What stands in front of the model API, a gateway or a proxy, is sent the real key and may show it
//! again: an error that quotes the headers of its request is enough. So what comes back is searched
//! for the key, and asterisks take its place. They are as many as it has bytes, because the answer
//! may have said its length already.
//!
//! Pieces go on as they come. Only a word that a piece ends with, as far as it may be the beginning
//! of the key, waits for the next piece. A key has no space and no line end: events end with one, so
//! nothing of them waits, and with half a line no client can begin anything. Whether the word is like
//! the key makes no difference. Else a sandbox, which has a say in what the model answers, could tell
//! by what comes late how much of the key it has guessed.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use memchr::memmem;

/// Shortest key that is looked for, in bytes. What is shorter is no secret but a word, like those that
/// gateways without keys are given, and would be missing from what the model says.
const SHORTEST: usize = 16;

/// The key that no answer may show; nothing when it is too short to be one.
pub(crate) struct Secret(Option<HeaderValue>);

impl Secret {
    pub(crate) fn new(key: &HeaderValue) -> Self {
        Self((key.len() >= SHORTEST).then(|| key.clone()))
    }

    /// Takes away the headers that show it.
    pub(crate) fn strip(&self, headers: &mut HeaderMap) {
        let Some(key) = &self.0 else { return };
        let shows = |value: &HeaderValue| memmem::find(value.as_bytes(), key.as_bytes()).is_some();
        let showing = headers.iter().filter(|(_, value)| shows(value));
        let names: Vec<HeaderName> = showing.map(|(name, _)| name.clone()).collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// Follows the body of one answer.
pub(crate) struct Redactor {
    secret: Secret,
    /// The word that the last piece ended with.
    kept: Bytes,
}

impl Redactor {
    pub(crate) fn new(secret: Secret) -> Self {
        Self { secret, kept: Bytes::new() }
    }

    /// What may go on now that this piece has come; nothing when all of it has to wait.
    pub(crate) fn pass(&mut self, piece: Bytes, is_last: bool) -> Option<Bytes> {
        let Some(key) = &self.secret.0 else { return Some(piece) };
        let mut bytes = redact(join(std::mem::take(&mut self.kept), piece), key.as_bytes());
        if !is_last {
            // The whole key would have been found.
            let word = bytes.iter().rev().take(key.len() - 1);
            let word = word.take_while(|byte| byte.is_ascii_graphic()).count();
            self.kept = bytes.split_off(bytes.len() - word);
        }
        (!bytes.is_empty()).then_some(bytes)
    }

    /// What was kept, once no further piece comes.
    pub(crate) fn rest(&mut self) -> Option<Bytes> {
        (!self.kept.is_empty()).then(|| std::mem::take(&mut self.kept))
    }

    /// How many bytes wait.
    pub(crate) fn waiting(&self) -> usize {
        self.kept.len()
    }
}

/// Copies only when there is something in front.
fn join(front: Bytes, piece: Bytes) -> Bytes {
    if front.is_empty() { piece } else { [front, piece].concat().into() }
}

/// Copies only what shows the key.
fn redact(bytes: Bytes, key: &[u8]) -> Bytes {
    let places: Vec<usize> = memmem::find_iter(&bytes, key).collect();
    if places.is_empty() {
        return bytes;
    }
    let mut redacted = bytes.to_vec();
    for place in places {
        redacted[place..place + key.len()].fill(b'*');
    }
    redacted.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "sk-ant-canary-7f3a";
    const STARS: &str = "******************";

    fn redactor(key: &'static str) -> Redactor {
        Redactor::new(Secret::new(&HeaderValue::from_static(key)))
    }

    fn pass(redactor: &mut Redactor, piece: &str) -> String {
        let passed = redactor.pass(Bytes::copy_from_slice(piece.as_bytes()), false);
        String::from_utf8(passed.unwrap_or_default().to_vec()).unwrap()
    }

    fn rest(redactor: &mut Redactor) -> String {
        String::from_utf8(redactor.rest().unwrap_or_default().to_vec()).unwrap()
    }

    #[test]
    fn lines_go_on_at_once_and_uncopied() {
        let (mut redactor, piece) = (redactor(KEY), Bytes::from_static(b"data: {}\n\n"));
        let passed = redactor.pass(piece.clone(), false).unwrap();
        assert_eq!((passed.as_ptr(), passed.len()), (piece.as_ptr(), piece.len()));
        assert_eq!((redactor.waiting(), redactor.rest()), (0, None));
    }

    #[test]
    fn a_word_at_the_end_waits_whatever_it_is() {
        for word in ["sk-ant-canary-7f3", "other-letters-123"] {
            let mut redactor = redactor(KEY);
            assert_eq!(pass(&mut redactor, &format!("the {word}")), "the ");
            assert_eq!(redactor.waiting(), word.len());
            assert_eq!(pass(&mut redactor, "\n"), format!("{word}\n"));
            // No more of a word than may be of the key.
            assert_eq!(pass(&mut redactor, &format!("xyz{word}")), "xyz");
            assert_eq!(rest(&mut redactor), word);
        }
    }

    #[test]
    fn the_last_piece_waits_for_nothing() {
        let mut redactor = redactor(KEY);
        let last = redactor.pass(Bytes::from(format!("{{{KEY}}}")), true).unwrap();
        assert_eq!((last.as_ref(), redactor.rest()), (format!("{{{STARS}}}").as_bytes(), None));
    }

    #[test]
    fn every_occurrence_is_struck_out() {
        let mut redactor = redactor(KEY);
        let said = format!("{KEY}{KEY} sk-ant-{KEY}\n");
        assert_eq!(pass(&mut redactor, &said), format!("{STARS}{STARS} sk-ant-{STARS}\n"));
    }

    #[test]
    fn a_word_that_serves_as_a_key_is_nothing_secret() {
        let mut redactor = redactor("fifteen-letters");
        assert_eq!(pass(&mut redactor, "so: fifteen-letters"), "so: fifteen-letters");
        assert_eq!(redactor.waiting(), 0);
    }

    #[test]
    fn headers_that_show_it_are_taken_away() {
        let secret = Secret::new(&HeaderValue::from_static(KEY));
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("request-id", "req_1".to_owned()),
            ("retry-after", format!("x-api-key: {KEY}")),
            ("cache-control", "no-store".to_owned()),
            ("cache-control", KEY.to_owned()),
        ] {
            headers.append(name, HeaderValue::from_str(&value).unwrap());
        }
        secret.strip(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["request-id"]);
    }

    proptest! {
        #[test]
        fn any_chunking_strikes_out_the_same(
            words in prop::collection::vec("sk-ant-canary-7f3a|sk-ant-|[a-z-]{0,4}|[ \n]", 0..20),
            lengths in prop::collection::vec(1_usize..30, 1..8),
        ) {
            let said = words.concat();
            let (mut redactor, mut heard, mut left) = (redactor(KEY), String::new(), said.as_str());
            for &length in lengths.iter().cycle() {
                let (piece, rest) = left.split_at(length.min(left.len()));
                heard += &pass(&mut redactor, piece);
                prop_assert!(redactor.waiting() < KEY.len());
                left = rest;
                if left.is_empty() {
                    break;
                }
            }
            heard += &rest(&mut redactor);
            prop_assert_eq!(heard, said.replace(KEY, STARS));
        }
    }
}
