//! The command line. All flags of the real CLI are accepted; those that matter here are read.

/// What the stub calls itself: a version that looks like the CLI's and cannot be taken for it.
pub(crate) const VERSION: &str = "2.1.197-stub";

/// The flags that change what the stub does.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Options {
    /// `--session-id`: the id of a new session.
    pub(crate) session: Option<String>,
    /// `--resume`: the id of the session to go on with.
    pub(crate) resume: Option<String>,
    /// `--fork-session`: resume under a new id.
    pub(crate) fork: bool,
    /// `--model`.
    pub(crate) model: Option<String>,
    /// `--permission-mode`, or what another flag means by it.
    pub(crate) mode: Option<String>,
    /// Whether the mode may become bypassPermissions.
    pub(crate) may_bypass: bool,
    /// `--replay-user-messages`.
    pub(crate) replay: bool,
    /// `--include-partial-messages`.
    pub(crate) partials: bool,
    /// `--version`.
    pub(crate) version: bool,
}

impl Options {
    /// Reads `--flag=value` and `--flag value`; ignores what it does not know.
    pub(crate) fn read(arguments: impl Iterator<Item = String>) -> Self {
        let mut options = Self::default();
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            let (flag, attached) = match argument.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            match options.valued(flag) {
                Some(place) => {
                    let value =
                        attached.or_else(|| arguments.next_if(|next| !next.starts_with('-')));
                    *place = value;
                }
                None => options.switch(flag),
            }
        }
        options.may_bypass |= options.mode.as_deref() == Some("bypassPermissions");
        options
    }

    fn valued(&mut self, flag: &str) -> Option<&mut Option<String>> {
        match flag {
            "--session-id" => Some(&mut self.session),
            "--resume" | "-r" => Some(&mut self.resume),
            "--model" => Some(&mut self.model),
            "--permission-mode" => Some(&mut self.mode),
            _ => None,
        }
    }

    fn switch(&mut self, flag: &str) {
        match flag {
            "--fork-session" => self.fork = true,
            "--replay-user-messages" => self.replay = true,
            "--include-partial-messages" => self.partials = true,
            "--allow-dangerously-skip-permissions" => self.may_bypass = true,
            "--dangerously-skip-permissions" => self.mode = Some("bypassPermissions".to_owned()),
            "--version" | "-v" => self.version = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Options {
        Options::read(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn both_spellings_of_a_value() {
        assert_eq!(read("--model=m --session-id s"), read("--model m --session-id=s"));
        assert_eq!(read("--resume --verbose").resume, None);
    }

    #[test]
    fn unknown_flags_are_ignored() {
        let options = read(
            "-p --input-format stream-json --verbose --system-prompt=x --mcp-config {} \
             --include-partial-messages --no-such-flag --replay-user-messages",
        );
        assert!(options.partials && options.replay && options.session.is_none());
    }

    #[test]
    fn skipping_permissions_is_a_mode() {
        assert!(read("--dangerously-skip-permissions").may_bypass);
        assert!(!read("--permission-mode plan").may_bypass);
    }
}
