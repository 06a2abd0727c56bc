//! Paths inside a tree.

use super::{TreeError, shown};

/// The longest path, in bytes.
const MAX_PATH: usize = 1024;

/// The longest name of a file, in bytes: what file systems take.
const MAX_NAME: usize = 255;

/// A path inside a tree: relative, of plain names only.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RelPath(String);

impl RelPath {
    /// Takes `a/b/c`; nothing absolute, no empty part, no `.` or `..`, no NUL.
    ///
    /// # Errors
    /// [`TreeError::Name`] with a sentence about what is wrong.
    pub fn parse(text: &str) -> Result<RelPath, TreeError> {
        match refusal(text) {
            None => Ok(RelPath(text.to_owned())),
            Some(reason) => {
                let start: Vec<u8> = text.bytes().take(MAX_NAME).collect();
                Err(TreeError::Name { path: shown(&start), reason })
            }
        }
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its names, from the top down.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }
}

fn refusal(text: &str) -> Option<&'static str> {
    if text.starts_with('/') {
        return Some("the path must be relative");
    }
    if text.len() > MAX_PATH {
        return Some("the path is longer than 1024 bytes");
    }
    if text.split('/').count() > super::MAX_DEPTH {
        return Some("the path has more than 128 parts");
    }
    text.split('/').find_map(name_refusal)
}

fn name_refusal(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("the path has an empty part"),
        "." | ".." => Some("the path must not contain . or .."),
        _ if name.len() > MAX_NAME => Some("a name is longer than 255 bytes"),
        _ if name.contains(|c: char| c.is_control()) => Some("a name has a control character"),
        _ => None,
    }
}

/// Whether a link at depth `depth` (0: in the tree's root) that says `target` stays in the tree,
/// going by the words alone.
pub(super) fn stays_inside(depth: usize, target: &[u8]) -> bool {
    let mut depth = depth;
    if target.is_empty() || target.starts_with(b"/") {
        return false;
    }
    for name in target.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if depth == 0 => return false,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_are_taken_and_others_are_not() {
        for good in ["a", "CLAUDE.md", ".claude/skills/x/SKILL.md", "a b/ü", "..a/b.."] {
            assert_eq!(RelPath::parse(good).unwrap().as_str(), good);
        }
        let long = "n".repeat(256);
        let deep = "d/".repeat(200) + "f";
        let many = format!("{}/x", vec!["n".repeat(250); 5].join("/"));
        for bad in [
            "", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\0b", "a\nb", &long, &deep, &many,
        ] {
            assert!(matches!(RelPath::parse(bad), Err(TreeError::Name { .. })), "{bad:?}");
        }
    }

    #[test]
    fn links_are_judged_by_their_words() {
        for (depth, target) in [(0, "a"), (0, "a/../b"), (1, "../a"), (2, "../../a/./b"), (0, ".")]
        {
            assert!(stays_inside(depth, target.as_bytes()), "{depth} {target}");
        }
        for (depth, target) in [(0, ".."), (0, "/a"), (1, "../../a"), (0, "a/../../b"), (0, "")] {
            assert!(!stays_inside(depth, target.as_bytes()), "{depth} {target}");
        }
    }
}
