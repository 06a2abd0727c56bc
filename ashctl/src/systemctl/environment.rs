//! The environment that systemd gives to a unit: what the unit says, and the files that it names.

use std::io;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use super::env_file;
use crate::failure::Failure;
use crate::file::open_regular;
use crate::out;

/// The environment that a unit is given, drop-ins included, in the order in which later variables
/// win; none when nobody can tell. Asked with busctl, because systemctl quotes values in ways that
/// differ with its version.
///
/// # Errors
/// When a file is missing without which systemd does not start the unit.
pub(crate) async fn environment(unit: &str) -> Result<Vec<(String, String)>, Failure> {
    let path = format!("/org/freedesktop/systemd1/unit/{}", unit.replace('.', "_2e"));
    let mut command = Command::new("busctl");
    command.args(["--timeout=5", "--json=short", "get-property", "org.freedesktop.systemd1"]);
    command.args([&path, "org.freedesktop.systemd1.Service", "Environment", "EnvironmentFiles"]);
    let said = match command.stdin(Stdio::null()).kill_on_drop(true).output().await {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(_) => return Ok(Vec::new()),
    };
    let mut lines = said.lines();
    let mut variables = assignments(lines.next().unwrap_or_default());
    for (path, may_be_missing) in files(lines.next().unwrap_or_default()) {
        variables.extend(file(unit, &path, may_be_missing)?);
    }
    Ok(variables)
}

/// Those in an answer like `{"type":"as","data":["NAME=value"]}`.
fn assignments(said: &str) -> Vec<(String, String)> {
    let document: Value = serde_json::from_str(said).unwrap_or_default();
    let written = document["data"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let pairs = written.filter_map(|one| one.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Those in an answer like `{"type":"a(sb)","data":[["/etc/default/ashd",true]]}`, and whether each
/// may be missing, as `-` before its path says.
fn files(said: &str) -> Vec<(String, bool)> {
    let document: Value = serde_json::from_str(said).unwrap_or_default();
    let written = document["data"].as_array().into_iter().flatten();
    let file = |one: &Value| Some((one[0].as_str()?.to_owned(), one[1].as_bool()?));
    written.filter_map(file).collect()
}

/// What a file sets. What cannot be looked at from here is said, and may be all right for systemd.
fn file(unit: &str, path: &str, may_be_missing: bool) -> Result<Vec<(String, String)>, Failure> {
    let unseen = |why: &str| {
        out::note(&format!("ashctl: {path}, an EnvironmentFile= of {unit}, is left out: {why}"));
    };
    if path.contains(['*', '?', '[']) {
        unseen("it is a pattern; name its files one by one to have them looked at");
        return Ok(Vec::new());
    }
    match open_regular(Path::new(path)).and_then(io::read_to_string) {
        Ok(text) => return Ok(env_file::parse(&text)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => unseen(&error.to_string()),
        Err(_) if may_be_missing => {}
        Err(_) => {
            return Err(Failure::Misconfigured(format!(
                "{path} is missing, an EnvironmentFile= without which {unit} does not start; make \
                 it, or put - before its path in the unit"
            )));
        }
    }
    Ok(Vec::new())
}
