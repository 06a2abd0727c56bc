//! Rules about single files.

use std::path::Path;

use crate::table::{MACHINE_PATH, MAX_LINES, NEVER_SAID};
use crate::tokens;

/// What a Rust source has that it must not have, one sentence each: unsafe code outside its crate,
/// tests that never run, silenced lints, too many lines.
pub fn check_source(path: &Path, text: &str, may_be_unsafe: bool) -> Vec<String> {
    let tokens = match tokens::parse(text) {
        Ok(tokens) => tokens,
        Err(error) => return vec![format!("{} {error}", path.display())],
    };
    let at = |lines: Vec<usize>, what: &'static str| {
        let path = path.display().to_string();
        lines.into_iter().map(move |line| format!("{path}:{line}: {what}"))
    };
    let mut wrong = Vec::new();
    if !may_be_unsafe {
        wrong.extend(at(tokens::keyword(&tokens, "unsafe"), "unsafe code outside its one crate"));
    }
    wrong.extend(at(tokens::attributes(&tokens, "ignore"), "a test that is never run"));
    wrong.extend(at(tokens::attributes(&tokens, "allow"), "allow instead of expect"));
    let lines = text.lines().count() - tokens::test_lines(&tokens::split_tests(tokens).1);
    if lines > MAX_LINES && !is_test(path) {
        wrong.push(format!("{}: {lines} lines, at most {MAX_LINES}", path.display()));
    }
    wrong
}

/// What any text says that it must not say.
pub fn check_words(path: &Path, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate().flat_map(|(index, line)| {
        let said = NEVER_SAID.iter().filter(|(word, _)| line.contains(word));
        let mut wrong: Vec<String> =
            said.map(|(word, why)| format!("says {word}: {why}")).collect();
        if names_machine(line) {
            wrong.push(format!("names {MACHINE_PATH}, which is a directory of one machine"));
        }
        wrong.into_iter().map(move |what| format!("{}:{}: {what}", path.display(), index + 1))
    });
    lines.collect()
}

/// Whether a source holds nothing but tests.
fn is_test(path: &Path) -> bool {
    path.ends_with("tests.rs") || path.components().skip(1).any(|part| part.as_os_str() == "tests")
}

/// Whether a line has that directory as a whole path or at the beginning of one.
fn names_machine(line: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || "_-./".contains(c);
    line.match_indices(MACHINE_PATH).any(|(at, found)| {
        let before = line[..at].chars().next_back();
        let after = line[at + found.len()..].chars().next();
        !before.is_some_and(part_of_word)
            && !after.is_some_and(|c| c.is_alphanumeric() || "_-".contains(c))
    })
}
