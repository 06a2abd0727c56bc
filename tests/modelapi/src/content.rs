//! The directives that make text, common to both stand-ins.

use std::borrow::Cow;
use std::time::Duration;

use crate::directive::{Directive, duration};

/// Text that breaks line readers, terminals and slicing by bytes.
const AWKWARD: &str =
    "next\u{85}line\u{2028}separator\u{2029}paragraph 👩‍👩‍👧‍👦 漢字かな交じり文 ß\u{301} \u{202e}rtl";

/// What a text directive produces, delta by delta.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Content {
    /// One delta.
    Say(String),
    /// A sentence word by word, as a model would talk.
    Sentence(String),
    /// The numbers from 1 to `count`, one delta each.
    Count {
        /// How many.
        count: u64,
        /// Pause before each.
        delay: Duration,
    },
    /// `count` deltas of `bytes` bytes each.
    Deltas {
        /// How many.
        count: u64,
        /// Size of each one's text.
        bytes: usize,
        /// Pause before each.
        delay: Duration,
    },
    /// One thinking delta.
    Think(String),
}

impl Content {
    /// Reads a text directive.
    ///
    /// `None` if the directive is of another sort. One with arguments that make no sense turns
    /// into text that says so, which a test then sees in the answer.
    pub fn read(directive: &Directive<'_>) -> Option<Self> {
        let content = match directive.name {
            "say" => Some(Self::Say(directive.args.to_owned())),
            "think" => Some(Self::Think(directive.args.to_owned())),
            "unicode" => Some(Self::Say(AWKWARD.to_owned())),
            "count" => read_count(directive),
            "deltas" => read_deltas(directive),
            _ => return None,
        };
        Some(content.unwrap_or_else(|| Self::complaint(directive)))
    }

    /// Text that says that a directive cannot be run.
    pub fn complaint(directive: &Directive<'_>) -> Self {
        Self::Say(format!("cannot run the directive {} with {:?}", directive.name, directive.args))
    }

    /// The texts of the deltas.
    pub fn pieces(&self) -> Box<dyn Iterator<Item = Cow<'_, str>> + Send + '_> {
        match self {
            Self::Say(text) | Self::Think(text) => Box::new([Cow::from(text)].into_iter()),
            Self::Sentence(text) => Box::new(text.split_inclusive(' ').map(Cow::from)),
            Self::Count { count, .. } => Box::new((1..=*count).map(|n| format!("{n} ").into())),
            Self::Deltas { count, bytes, .. } => {
                let piece = "x".repeat(*bytes);
                Box::new((0..*count).map(move |_| piece.clone().into()))
            }
        }
    }

    /// How long to wait before each delta.
    pub fn delay(&self) -> Duration {
        match self {
            Self::Say(_) | Self::Think(_) => Duration::ZERO,
            Self::Sentence(_) => Duration::from_millis(15),
            Self::Count { delay, .. } | Self::Deltas { delay, .. } => *delay,
        }
    }
}

fn read_count(directive: &Directive<'_>) -> Option<Content> {
    let mut words = directive.words();
    let count = words.next()?.parse().ok()?;
    Some(Content::Count { count, delay: read_delay(words.next())? })
}

fn read_deltas(directive: &Directive<'_>) -> Option<Content> {
    let mut words = directive.words();
    let count = words.next()?.parse().ok()?;
    let bytes = words.next()?.parse().ok()?;
    Some(Content::Deltas { count, bytes, delay: read_delay(words.next())? })
}

fn read_delay(word: Option<&str>) -> Option<Duration> {
    word.map_or(Some(Duration::ZERO), duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directive::parse;

    fn pieces(text: &str) -> Vec<String> {
        let content = Content::read(&parse(text)[0]).unwrap();
        content.pieces().map(Cow::into_owned).collect()
    }

    #[test]
    fn each_directive_makes_its_deltas() {
        assert_eq!(pieces("[[say a b]]"), ["a b"]);
        assert_eq!(pieces("[[count 3 20ms]]"), ["1 ", "2 ", "3 "]);
        assert_eq!(pieces("[[deltas 2 5]]"), ["xxxxx", "xxxxx"]);
        assert!(pieces("[[unicode]]")[0].contains('\u{2028}'));
    }

    #[test]
    fn nonsense_is_reported_in_the_text() {
        assert_eq!(pieces("[[count many]]"), [r#"cannot run the directive count with "many""#]);
        assert_eq!(pieces("[[deltas 3 4 soon]]").len(), 1);
        assert_eq!(Content::read(&parse("[[hold x]]")[0]), None);
    }
}
