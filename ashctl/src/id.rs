//! Ids on the command line. Of each the first characters do, when no other one begins so.

use crate::failure::Failure;

/// Characters of an id.
const WHOLE: usize = 36;

/// Characters of it that are enough to look for the rest.
const ENOUGH: usize = 4;

/// Ids that are named when more than one may be meant.
const NAMED: usize = 5;

/// What has an id.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Session,
    /// May have a name as well, which stands for it like its id.
    Checkpoint,
    Key,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Session => "session",
            Kind::Checkpoint => "checkpoint",
            Kind::Key => "key",
        }
    }

    /// The command that lists them.
    fn list(self) -> &'static str {
        match self {
            Kind::Session => "ashctl session list",
            Kind::Checkpoint => "ashctl session checkpoint list",
            Kind::Key => "ashctl key list",
        }
    }

    /// That there is none.
    fn none(self, beginning: &str) -> String {
        let (name, list) = (self.name(), self.list());
        match self {
            Kind::Checkpoint => {
                format!("no {name} is called {beginning} or has an id that begins so; see `{list}`")
            }
            _ => format!("no {name}'s id begins with {beginning}; see `{list}`"),
        }
    }

    /// That it is not known which of several is meant.
    fn several(self, beginning: &str, found: &[String]) -> String {
        let named = &found[..found.len().min(NAMED)];
        let more = match found.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "the ids of several {}s begin with {beginning}: {}{more}; give more of the one you mean",
            self.name(),
            named.join(", ")
        )
    }
}

/// Whether this looks like a whole id.
pub(crate) fn is_whole(id: &str) -> bool {
    id.len() == WHOLE && is_of_ids(id)
}

/// Whether this can be how an id begins, and says enough to look for the rest.
pub(crate) fn is_beginning(id: &str) -> bool {
    (ENOUGH..WHOLE).contains(&id.len()) && is_of_ids(id)
}

fn is_of_ids(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// The only one of these ids that begins like this.
///
/// # Errors
/// When none begins so, or more than one.
pub(crate) fn only(
    beginning: &str,
    ids: impl IntoIterator<Item = String>,
    kind: Kind,
) -> Result<String, Failure> {
    let small = beginning.to_ascii_lowercase();
    let found: Vec<String> = ids.into_iter().filter(|id| id.starts_with(&small)).collect();
    match &found[..] {
        [only] => Ok(only.clone()),
        [] => Err(Failure::NotFound(kind.none(beginning))),
        several => Err(Failure::NotFound(kind.several(beginning, several))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [&str; 3] = [
        "3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b",
        "3f0c6a53-0c3e-4b1e-9a57-2f1f0e9d8c7b",
        "4f0c6a53-0c3e-4b1e-9a57-2f1f0e9d8c7b",
    ];

    fn found(beginning: &str, kind: Kind) -> Result<String, String> {
        only(beginning, IDS.map(str::to_owned), kind).map_err(|failure| {
            assert_eq!(failure.code(), 4);
            failure.to_string()
        })
    }

    #[test]
    fn what_begins_so_and_nothing_else_does_is_meant() {
        assert_eq!(found("4f0c", Kind::Session).as_deref(), Ok(IDS[2]));
        assert_eq!(found("3F0C6A53-", Kind::Key).as_deref(), Ok(IDS[1]));
        let sentence = "no key's id begins with 5f0c; see `ashctl key list`";
        assert_eq!(found("5f0c", Kind::Key), Err(sentence.into()));
        let sentence = "no checkpoint is called 5f0c or has an id that begins so; \
                        see `ashctl session checkpoint list`";
        assert_eq!(found("5f0c", Kind::Checkpoint), Err(sentence.into()));
        let sentence = format!(
            "the ids of several checkpoints begin with 3f0c: {}, {}; give more of the one you mean",
            IDS[0], IDS[1]
        );
        assert_eq!(found("3f0c", Kind::Checkpoint), Err(sentence));
    }

    #[test]
    fn words_are_no_ids() {
        assert!(is_whole(IDS[0]) && !is_whole(&IDS[0][..35]) && !is_whole(&"x".repeat(36)));
        assert!(is_beginning("3f0c") && is_beginning("3F0C6A52-0c") && is_beginning(&IDS[0][..35]));
        for no in ["3f0", "", "release", "before 2.0", IDS[0]] {
            assert!(!is_beginning(no), "{no}");
        }
    }
}
