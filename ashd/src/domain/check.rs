//! Checks of single values that clients give, and what is said when one does not fit.

use std::borrow::Cow;

/// The most characters of a model id.
pub const LONGEST_MODEL: usize = 100;

/// The most characters of a system prompt.
pub const LONGEST_PROMPT: usize = 1_000_000;

/// The most characters of the name of a tool, a beta, a server or a subagent.
pub const LONGEST_NAME: usize = 1000;

/// The most names in a list.
pub const MOST_NAMES: usize = 1000;

/// The most bytes of what a program gets as one argument: Linux passes 128 KiB, its flag included.
pub const LONGEST_ARGUMENT: usize = 130_000;

/// Bounds of the two halves of a complaint, in characters, whatever a client sent.
const LONGEST_PLACE: usize = 90;
const LONGEST_REASON: usize = 300;

/// What is wrong with something that a client gave: where, and what was expected there. Never the
/// value that came instead.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unfit {
    /// A value is not what it has to be.
    #[error("{place}: {expected}")]
    Value {
        /// The path to the value: `content[0].type`.
        place: String,
        /// What was expected there.
        expected: Cow<'static, str>,
    },
    /// A text is no JSON at all.
    #[error("{place} is not valid JSON: {reason}")]
    Json {
        /// Which text.
        place: String,
        /// What the reader stumbled over.
        reason: String,
    },
}

impl Unfit {
    /// A value that is not what it has to be.
    pub fn value(place: &str, expected: impl Into<Cow<'static, str>>) -> Self {
        let (place, mut expected) = (clipped(place, LONGEST_PLACE), expected.into());
        if expected.len() > LONGEST_REASON {
            expected = clipped(&expected, LONGEST_REASON).into();
        }
        Unfit::Value { place, expected }
    }

    /// A text that is no JSON.
    pub fn json(place: &str, reason: &str) -> Self {
        let (place, reason) = (clipped(place, LONGEST_PLACE), clipped(reason, LONGEST_REASON));
        Unfit::Json { place, reason }
    }
}

fn clipped(text: &str, longest: usize) -> String {
    text.chars().take(longest).collect()
}

/// The path to a member of what stands at `parent`; an empty path is the whole.
pub fn join(parent: &str, member: &str) -> String {
    match (parent, member) {
        ("", _) => member.to_owned(),
        (_, "") => parent.to_owned(),
        _ if member.starts_with('[') => format!("{parent}{member}"),
        _ => format!("{parent}.{member}"),
    }
}

/// Checks a model id.
///
/// # Errors
/// When it is not one word of at most [`LONGEST_MODEL`] characters.
pub fn model(place: &str, value: &str) -> Result<(), Unfit> {
    word(place, value, LONGEST_MODEL)
}

/// Checks a value that is one word: not empty, no spaces, no control characters.
///
/// # Errors
/// When it is not.
pub fn word(place: &str, value: &str, longest: usize) -> Result<(), Unfit> {
    if value.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Unfit::value(place, "must not contain spaces or control characters"));
    }
    line(place, value, longest)
}

/// Checks a value that is one line: not empty, no control characters.
///
/// # Errors
/// When it is not.
pub fn line(place: &str, value: &str, longest: usize) -> Result<(), Unfit> {
    if value.is_empty() {
        return Err(Unfit::value(place, "must not be empty"));
    }
    if value.chars().any(char::is_control) {
        return Err(Unfit::value(place, "must not contain control characters"));
    }
    at_most(place, value, longest)
}

/// Checks the length of a value, in characters.
///
/// # Errors
/// When it is longer.
pub fn at_most(place: &str, value: &str, longest: usize) -> Result<(), Unfit> {
    if value.len() > longest && value.chars().count() > longest {
        let expected = format!("must not be longer than {longest} characters");
        return Err(Unfit::value(place, expected));
    }
    Ok(())
}

/// Checks a list of names: at most [`MOST_NAMES`] lines, and no more than fits into an argument.
///
/// # Errors
/// When there are more, or one is no line.
pub fn names(place: &str, names: &[String]) -> Result<(), Unfit> {
    if names.len() > MOST_NAMES {
        return Err(Unfit::value(place, format!("expected at most {MOST_NAMES} names")));
    }
    let check =
        |(index, name): (usize, &String)| line(&format!("{place}[{index}]"), name, LONGEST_NAME);
    names.iter().enumerate().try_for_each(check)?;
    joined(place, names)
}

/// Checks that names fit into one argument, with commas in between.
///
/// # Errors
/// When they are longer than [`LONGEST_ARGUMENT`].
pub fn joined(place: &str, names: &[String]) -> Result<(), Unfit> {
    let bytes: usize = names.iter().map(|name| name.len() + 1).sum();
    if bytes > LONGEST_ARGUMENT {
        let expected = format!("must not be longer than {LONGEST_ARGUMENT} bytes in all");
        return Err(Unfit::value(place, expected));
    }
    Ok(())
}
