//! What is wrong with what others wrote, in a sentence that is not longer for it.

use std::fmt::{self, Display, Write};

/// The most that is kept of a text, in bytes.
pub const LONGEST: usize = 512;

/// The beginning of what an error says, at most [`LONGEST`] bytes. An error about JSON quotes the
/// string that it met, escaped: that is up to six times as long as what was sent.
pub fn brief(error: &impl Display) -> String {
    let mut kept = Kept(String::new());
    // It fails when there is more than fits.
    let _ = write!(kept, "{error}");
    kept.0
}

struct Kept(String);

impl Write for Kept {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = text.floor_char_boundary(LONGEST - self.0.len());
        self.0.push_str(&text[..fits]);
        if fits == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_words_stay_and_long_ones_are_cut_between_characters() {
        assert_eq!(brief(&"short"), "short");
        let long = brief(&format_args!("x{}{}", "é".repeat(LONGEST), "more"));
        assert_eq!(long, format!("x{}", "é".repeat(LONGEST / 2 - 1)));
    }

    #[test]
    fn a_string_that_was_not_expected_is_not_quoted_whole() {
        let json = format!("\"{}\"", "\u{7f}".repeat(100_000));
        let error = serde_json::from_str::<bool>(&json).unwrap_err();
        assert!(error.to_string().len() > 6 * 100_000);
        assert_eq!(brief(&error).len(), LONGEST);
    }
}
