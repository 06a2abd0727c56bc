//! The service manager, through its own program.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use serde_json::Value;
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

/// Whether a unit runs; not, when nobody can tell.
pub(crate) async fn is_active(unit: &str) -> bool {
    state(unit).await.as_deref() == Some("active")
}

/// The environment that a unit is given, drop-ins included; none when nobody can tell. Asked with
/// busctl, because systemctl quotes values in ways that differ with its version.
pub(crate) async fn environment(unit: &str) -> Vec<(String, String)> {
    let path = format!("/org/freedesktop/systemd1/unit/{}", unit.replace('.', "_2e"));
    let mut command = Command::new("busctl");
    command.args(["--timeout=5", "--json=short", "get-property", "org.freedesktop.systemd1"]);
    command.args([&path, "org.freedesktop.systemd1.Service", "Environment"]);
    match command.stdin(Stdio::null()).kill_on_drop(true).output().await {
        Ok(output) => assignments(&output.stdout),
        Err(_) => Vec::new(),
    }
}

/// Those in an answer like `{"type":"as","data":["NAME=value"]}`.
fn assignments(said: &[u8]) -> Vec<(String, String)> {
    let document: Value = serde_json::from_slice(said).unwrap_or_default();
    let written = document["data"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let pairs = written.filter_map(|one| one.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
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
pub(crate) fn become_it(verb: &str, unit: &str, may_ask: bool) -> Failure {
    let mut command = std::process::Command::new("systemctl");
    absent(command.args((!may_ask).then_some("--no-ask-password")).args([verb, unit]).exec())
}

fn absent(error: io::Error) -> Failure {
    Failure::Failed(format!("systemctl cannot be run ({error}); ash's services need systemd"))
}
