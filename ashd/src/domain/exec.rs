//! Commands that run beside the turn.

use std::time::Duration;

use super::check::Unfit;

/// Milliseconds that a command may run when nothing is said.
const USUAL_MS: u64 = 30_000;

/// The most milliseconds that a command may run.
const LONGEST_MS: u64 = 300_000;

/// The most bytes of a command: what Linux passes to a program as one argument.
const LONGEST_COMMAND: usize = 128 * 1024 - 1;

/// A command to run beside the turn.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExecRequest {
    /// For `/bin/sh -c` in the workspace.
    pub command: String,
    /// Milliseconds until it is killed.
    pub timeout_ms: u64,
}

impl ExecRequest {
    /// The longest that a command may run.
    pub const LONGEST: Duration = Duration::from_millis(LONGEST_MS);

    /// A command and how long it may run; half a minute when nothing is said.
    ///
    /// # Errors
    /// When there is no command, or it cannot be passed to a program, or the time is out of range.
    pub fn new(command: &str, timeout_ms: Option<u64>) -> Result<ExecRequest, Unfit> {
        if command.is_empty() || command.len() > LONGEST_COMMAND {
            let expected = format!("expected 1 to {LONGEST_COMMAND} bytes");
            return Err(Unfit::value("command", expected));
        }
        if command.contains('\0') {
            return Err(Unfit::value("command", "must not contain NUL"));
        }
        let timeout_ms = timeout_ms.unwrap_or(USUAL_MS);
        if !(1..=LONGEST_MS).contains(&timeout_ms) {
            let expected = format!("expected a whole number from 1 to {LONGEST_MS}");
            return Err(Unfit::value("timeout", expected));
        }
        Ok(ExecRequest { command: command.to_owned(), timeout_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_bounds() {
        let exec = ExecRequest::new("ls", None).unwrap();
        assert_eq!((exec.command.as_str(), exec.timeout_ms), ("ls", 30_000));
        for (command, timeout, text) in [
            ("", None, "command: expected 1 to 131071 bytes"),
            (&*"x".repeat(131_072), None, "command: expected 1 to 131071 bytes"),
            ("a\0", None, "command: must not contain NUL"),
            ("x", Some(0), "timeout: expected a whole number from 1 to 300000"),
            ("x", Some(300_001), "timeout: expected a whole number from 1 to 300000"),
        ] {
            assert_eq!(ExecRequest::new(command, timeout).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn a_proxy_as_documented_waits_for_the_longest() {
        let page = include_str!("../../../docs/reverse-proxy.md");
        let (_, rest) = page.split_once("proxy_read_timeout ").unwrap();
        let (seconds, _) = rest.split_once("s;").unwrap();
        assert!(seconds.parse::<u64>().unwrap() > LONGEST_MS / 1000, "{seconds}");
    }
}
