//! The service manager, through its own program.

mod environment;

mod env_file;

pub(crate) use environment::environment;

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use tokio::process::Command;

use crate::failure::Failure;

/// The daemon's unit.
pub(crate) const DAEMON: &str = "ashd.service";

/// The broker's unit.
pub(crate) const BROKER: &str = "ash-broker.service";

/// The unit that holds the sandboxes.
pub(crate) const SANDBOXES: &str = "ash-sandboxes.service";

/// What systemd says of a unit in a word; absent when nobody can tell.
pub(crate) async fn state(unit: &str) -> Option<String> {
    let asked = Command::new("systemctl").args(["is-active", unit]).stdin(Stdio::null()).output();
    let said = String::from_utf8_lossy(&asked.await.ok()?.stdout).trim().to_owned();
    (!said.is_empty()).then_some(said)
}

/// What a unit last said of itself (`STATUS=` of sd_notify(3)), in short; absent when it said nothing.
pub(crate) async fn last_words(unit: &str) -> Option<String> {
    let show = ["show", "--property=StatusText", "--value", unit];
    let asked = Command::new("systemctl").args(show).stdin(Stdio::null()).output();
    let said = crate::text::short(&String::from_utf8_lossy(&asked.await.ok()?.stdout), 300);
    (!said.is_empty()).then_some(said)
}

/// Whether a unit runs; false when nobody can tell.
pub(crate) async fn is_active(unit: &str) -> bool {
    state(unit).await.as_deref() == Some("active")
}

/// Does something to a unit and waits for it.
pub(crate) async fn tell(verb: &[&str], unit: &str) -> Result<(), Failure> {
    let mut command = Command::new("systemctl");
    let output =
        command.args(verb).arg(unit).stdin(Stdio::null()).output().await.map_err(absent)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Failure::Failed(format!(
            "`systemctl {} {unit}` failed: {}",
            verb.join(" "),
            crate::text::short(&String::from_utf8_lossy(&output.stderr), 300)
        ))),
    }
}

/// Becomes systemctl, which may ask for a password or not. Returns only when that fails.
pub(crate) async fn become_it(verb: &str, unit: &str, may_ask: bool) -> Failure {
    if !is_running().await {
        return Failure::Failed(
            "systemd does not run this machine, and ash's services need it; ashd can be started \
             by hand, and is told by signals: SIGHUP, SIGTERM"
                .into(),
        );
    }
    let mut command = std::process::Command::new("systemctl");
    absent(command.args((!may_ask).then_some("--no-ask-password")).args([verb, unit]).exec())
}

/// Whether there is somebody for systemctl to talk to; yes when it cannot say.
async fn is_running() -> bool {
    let asked = Command::new("systemctl").arg("is-system-running").stdin(Stdio::null()).output();
    asked.await.map_or(true, |said| said.stdout.trim_ascii() != b"offline")
}

fn absent(error: io::Error) -> Failure {
    Failure::Failed(format!("systemctl cannot be run ({error}); ash's services need systemd"))
}
