//! Text that agents wrote, made harmless for a terminal.

/// Whether a terminal might do something else than show this character: controls (a line end and
/// a tab excepted), and the marks that reorder text.
fn is_active(character: char) -> bool {
    match character {
        '\n' | '\t' => false,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        _ => character.is_control(),
    }
}

/// The character to show instead: pictures for the ASCII controls, else U+FFFD.
fn picture(character: char) -> char {
    match character {
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(character)).unwrap_or('\u{fffd}'),
        '\u{7f}' => '\u{2421}',
        _ => '\u{fffd}',
    }
}

/// The text with every active character replaced by a picture of it.
pub fn neutral(text: &str) -> String {
    text.chars().map(|each| if is_active(each) { picture(each) } else { each }).collect()
}

/// The text on one line of at most `most` characters, neutral.
pub fn short(text: &str, most: usize) -> String {
    let line = neutral(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    match line.char_indices().nth(most) {
        Some(_) => line.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
        None => line,
    }
}

/// Makes a stream of bytes neutral, whatever the pieces it comes in.
#[derive(Debug, Default)]
pub struct Neutral {
    /// The beginning of a character that is not complete yet.
    rest: Vec<u8>,
}

impl Neutral {
    /// The next piece, as text. Bytes that are not UTF-8 become U+FFFD.
    pub fn push(&mut self, piece: &[u8]) -> String {
        self.rest.extend_from_slice(piece);
        let mut text = String::new();
        let mut kept = 0;
        for chunk in self.rest.utf8_chunks() {
            text.push_str(chunk.valid());
            kept = chunk.invalid().len();
            text.push_str(if kept == 0 { "" } else { "\u{fffd}" });
        }
        if kept > 0 && is_prefix(&self.rest[self.rest.len() - kept..]) {
            text.pop();
            self.rest.drain(..self.rest.len() - kept);
        } else {
            self.rest.clear();
        }
        neutral(&text)
    }
}

/// Whether more bytes could make this a character.
fn is_prefix(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn controls_become_pictures() {
        assert_eq!(
            neutral("a\tb\n\u{1b}[2Jc\r\u{7f}\u{9b}\u{202e}"),
            "a\tb\n␛[2Jc␍␡\u{fffd}\u{fffd}"
        );
        assert_eq!(neutral("grüße 🙂"), "grüße 🙂");
    }

    #[test]
    fn short_text_is_one_line() {
        assert_eq!(short("echo hi\n  > f", 20), "echo hi > f");
        assert_eq!(short("abcdef", 4), "abc…");
        assert_eq!(short("abcd", 4), "abcd");
    }

    #[test]
    fn characters_may_be_cut() {
        let mut stream = Neutral::default();
        assert_eq!(stream.push(b"gr\xc3"), "gr");
        assert_eq!(stream.push(b"\xbc\xff\xf0\x9f"), "ü\u{fffd}");
        assert_eq!(stream.push(b"x"), "\u{fffd}x");
    }

    proptest! {
        #[test]
        fn nothing_active_is_left(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..200_usize) {
            let (first, second) = bytes.split_at(at.min(bytes.len()));
            let mut stream = Neutral::default();
            let text = stream.push(first) + &stream.push(second);
            prop_assert!(!text.chars().any(is_active));
        }

        #[test]
        fn cuts_do_not_change_valid_text(text in "\\PC{0,40}", at in any::<prop::sample::Index>()) {
            let (first, second) = text.as_bytes().split_at(at.index(text.len() + 1));
            let mut stream = Neutral::default();
            prop_assert_eq!(stream.push(first) + &stream.push(second), neutral(&text));
        }
    }
}
