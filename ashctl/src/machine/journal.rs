//! `ashctl logs`: the journal, through its own program.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::bus::Bus;
use crate::cli::Logs;
use crate::failure::Failure;
use crate::id::{is_beginning, is_whole};
use crate::systemctl::{BROKER, DAEMON, SANDBOXES};

/// Becomes journalctl. Returns only when that fails.
pub(super) async fn become_it(mut options: Logs, as_json: bool, bus: Option<&str>) -> Failure {
    if let Some(session) = options.session.take() {
        match whole(session, bus).await {
            Ok(id) => options.session = Some(id),
            Err(failure) => return failure,
        }
    }
    let arguments = match arguments(&options, as_json) {
        Ok(arguments) => arguments,
        Err(failure) => return failure,
    };
    let error = Command::new("journalctl").args(arguments).exec();
    Failure::Failed(format!("journalctl cannot be run ({error}); ash's services log to systemd"))
}

/// The id that begins like this, which the daemon knows. Without one the journal can still be asked for
/// a whole id.
async fn whole(session: String, bus: Option<&str>) -> Result<String, Failure> {
    if !is_beginning(&session) {
        return Ok(session);
    }
    let asked = async { Bus::connect(bus).await?.whole_id(&session).await };
    asked.await.map_err(|failure| match failure {
        Failure::Absent(why) => Failure::Absent(format!("{why}; a whole id can do without ashd")),
        failure => failure,
    })
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
        if !is_whole(session) {
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
        let id = "3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b";
        let rest = ["--output=json", "--follow", &format!("ASH_SESSION={id}")];
        assert_eq!(told(Some(id), true, true).unwrap(), [&units[..], &rest].concat());
        for wrong in ["", "x y", "_UID=0", "+", "3f0", &format!("{id}0")] {
            assert_eq!(told(Some(wrong), false, false).unwrap_err().code(), 2, "{wrong:?}");
        }
    }
}
