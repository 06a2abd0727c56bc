//! Checks of single values that end up in command lines, and of environments.

use std::collections::BTreeMap;

use super::error::ApiError;
use crate::session::environment;

/// The most characters of a model id.
pub(super) const LONGEST_MODEL: usize = 100;

/// The most characters of a system prompt.
pub(super) const LONGEST_PROMPT: usize = 1_000_000;

/// Checks a value that is one word: not empty, no spaces, no control characters.
///
/// # Errors
/// 400 that names `place`.
pub(super) fn word(place: &str, value: &str, longest: usize) -> Result<(), ApiError> {
    if value.chars().any(|c| c.is_control() || c.is_whitespace()) {
        let text = format!("{place}: must not contain spaces or control characters");
        return Err(ApiError::invalid(text));
    }
    line(place, value, longest)
}

/// Checks a value that is one line: not empty, no control characters.
///
/// # Errors
/// 400 that names `place`.
pub(super) fn line(place: &str, value: &str, longest: usize) -> Result<(), ApiError> {
    if value.is_empty() {
        return Err(ApiError::invalid(format!("{place}: must not be empty")));
    }
    if value.chars().any(char::is_control) {
        return Err(ApiError::invalid(format!("{place}: must not contain control characters")));
    }
    at_most(place, value, longest)
}

/// Checks the length of a value, in characters.
///
/// # Errors
/// 400 that names `place`.
pub(super) fn at_most(place: &str, value: &str, longest: usize) -> Result<(), ApiError> {
    if value.len() > longest && value.chars().count() > longest {
        let text = format!("{place}: must not be longer than {longest} characters");
        return Err(ApiError::invalid(text));
    }
    Ok(())
}

/// Checks an environment that is set from outside.
///
/// # Errors
/// 400 that names `place` and the variable.
pub(super) fn environment(place: &str, env: &BTreeMap<String, String>) -> Result<(), ApiError> {
    env.iter().try_for_each(|(name, value)| {
        environment::check(name, value)
            .map_err(|reason| ApiError::invalid(format!("{place}: {reason}")))
    })
}
