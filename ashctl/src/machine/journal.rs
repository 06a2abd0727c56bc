//! `ashctl logs`: the journal, through its own program.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::cli::Logs;
use crate::failure::Failure;
use crate::systemctl::{BROKER, DAEMON, SANDBOXES};

/// Becomes journalctl. Returns only when that fails.
pub(super) fn become_it(options: &Logs, as_json: bool) -> Failure {
    let arguments = match arguments(options, as_json) {
        Ok(arguments) => arguments,
        Err(failure) => return failure,
    };
    let error = Command::new("journalctl").args(arguments).exec();
    Failure::Failed(format!("journalctl cannot be run ({error}); ash's services log to systemd"))
}

/// What journalctl is told. Only our units may speak for a session: anybody can set the field.
fn arguments(options: &Logs, as_json: bool) -> Result<Vec<String>, Failure> {
    let units = [DAEMON, BROKER, SANDBOXES].map(|unit| format!("--unit={unit}"));
    let mut arguments = units.to_vec();
    if as_json {
        arguments.push("--output=json".into());
    }
    if options.follow {
        arguments.push("--follow".into());
    }
    if let Some(lines) = options.lines {
        arguments.push(format!("--lines={lines}"));
    }
    if let Some(session) = &options.session {
        let is_id = |each: char| each.is_ascii_hexdigit() || each == '-';
        if session.is_empty() || !session.chars().all(is_id) {
            let sentence = format!("{session:?} is no id of a session; see `ashctl session list`");
            return Err(Failure::Usage(sentence));
        }
        arguments.push(format!("ASH_SESSION={session}"));
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(session: Option<&str>, follow: bool, as_json: bool) -> Result<Vec<String>, Failure> {
        arguments(&Logs { session: session.map(str::to_owned), follow, lines: None }, as_json)
    }

    #[test]
    fn the_journal_is_asked_for_our_units() {
        let units = ["--unit=ashd.service", "--unit=ash-broker.service"];
        let units = [&units[..], &["--unit=ash-sandboxes.service"]].concat();
        assert_eq!(told(None, false, false).unwrap(), units);
        let rest = ["--output=json", "--follow", "ASH_SESSION=3f0c-1"];
        assert_eq!(told(Some("3f0c-1"), true, true).unwrap(), [&units[..], &rest].concat());
        for wrong in ["", "x y", "_UID=0", "+"] {
            assert_eq!(told(Some(wrong), false, false).unwrap_err().code(), 2, "{wrong:?}");
        }
    }
}
