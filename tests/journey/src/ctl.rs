//! `ashctl` as a [`Client`].

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use crate::client::{Client, Exec, Turn};
use crate::sse::{Frame, Id};
use crate::{process, programs};

/// Calls `ashctl`.
#[derive(Clone, Debug)]
pub struct Ctl {
    bus: String,
}

impl Ctl {
    /// For the daemon on this bus.
    pub(crate) fn new(bus: &str) -> Ctl {
        Ctl { bus: bus.to_owned() }
    }

    /// The command, to be given arguments.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(programs::dir()?.join("ashctl"));
        command.env_clear().env("ASH_BUS_ADDRESS", &self.bus).env("HOME", "/nonexistent");
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Runs it with `--json`; returns the document that it prints.
    ///
    /// # Errors
    /// With what it says, when it fails.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.command()?.arg("--json").args(arguments).output()?;
        if !output.status.success() {
            bail!("ashctl {}: {}", arguments.join(" "), said(&output));
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
    }

    /// Runs it for a stream.
    fn stream(&self, arguments: &[&str]) -> Result<Turn> {
        let mut command = self.command()?;
        command.arg("--json").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no standard output")?);
        let running = Arc::new(Mutex::new(Some(child.id())));
        let cut = {
            let running = running.clone();
            move || {
                let pid = running.lock().ok().and_then(|mut running| running.take());
                if let Some(pid) = pid {
                    let _ = process::signal(pid, Signal::KILL);
                }
            }
        };
        let mut done = false;
        let next = move || {
            let mut line = String::new();
            lines.read_line(&mut line)?;
            if line.is_empty() {
                return ended(&mut child, done).map(|()| None);
            }
            let frame = frame(line)?;
            done |= frame.name == "done";
            Ok(Some(frame))
        };
        Ok(Turn::read(next, cut))
    }
}

/// What it says when a stream ends early. A turn that failed makes it fail as well; that is told
/// by the frames.
fn ended(child: &mut Child, done: bool) -> Result<()> {
    let mut text = String::new();
    if let Some(stderr) = &mut child.stderr {
        stderr.read_to_string(&mut text)?;
    }
    let status = child.wait()?;
    if !done && !status.success() {
        bail!("{}", text.trim());
    }
    Ok(())
}

fn frame(raw: String) -> Result<Frame> {
    let mut line: Value = serde_json::from_str(&raw).with_context(|| raw.clone())?;
    let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let (id, name) = (text("id"), text("event"));
    let id = (!id.is_empty()).then(|| id.parse()).transpose()?;
    Ok(Frame { id, name, data: line["data"].take(), raw })
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

impl Client for Ctl {
    fn deploy(&self, agent: &str, folder: &Path) -> Result<u64> {
        let folder = folder.to_str().context("the path is not UTF-8")?;
        let made = self.json(&["deploy", folder, "--name", agent])?;
        made["version"].as_u64().with_context(|| format!("the agent has no version: {made}"))
    }

    fn create(&self, agent: &str, settings: Value) -> Result<String> {
        let settings = settings.to_string();
        let made = self.json(&["session", "create", agent, "--settings", &settings])?;
        Ok(made["id"].as_str().context("the session has no id")?.to_owned())
    }

    fn send(&self, session: &str, message: Value) -> Result<Turn> {
        let content = message["content"].as_str().context("ashctl sends text only")?;
        let when_busy = message["whenBusy"].as_str().unwrap_or("queue");
        self.stream(&["session", "send", session, content, "--when-busy", when_busy])
    }

    fn follow(&self, session: &str, after: Option<Id>) -> Result<Turn> {
        match after {
            Some(id) => self.stream(&["session", "follow", session, "--after", &id.to_string()]),
            None => self.stream(&["session", "follow", session]),
        }
    }

    fn interrupt(&self, session: &str) -> Result<bool> {
        let answer = self.json(&["session", "interrupt", session])?;
        answer["interrupted"].as_bool().context("the answer does not say whether")
    }

    fn exec(&self, session: &str, command: &str) -> Result<Exec> {
        // It ends with the code of the command: failing is no failure of its own.
        let arguments = ["--json", "session", "exec", "--timeout", "120000", session, command];
        let output = self.command()?.args(arguments).output()?;
        let ended: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let text = |name: &str| ended[name].as_str().unwrap_or_default().to_owned();
        let code = ended["exitCode"].as_i64().with_context(|| said(&output))?;
        Ok(Exec { code, stdout: text("stdout"), stderr: text("stderr") })
    }

    fn turn_to(&self, session: &str, verb: &str) -> Result<String> {
        let changed = self.json(&["session", verb, session])?;
        Ok(changed["status"].as_str().context("the session has no status")?.to_owned())
    }

    fn status(&self, session: &str) -> Result<String> {
        let shown = self.json(&["session", "info", session])?;
        Ok(shown["status"].as_str().context("the session has no status")?.to_owned())
    }

    fn messages(&self, session: &str) -> Result<Vec<(String, Value)>> {
        let messages = self.json(&["session", "messages", session])?;
        let messages = messages.as_array().cloned().unwrap_or_default();
        let message = |mut shown: Value| {
            let role = shown["role"].as_str().unwrap_or_default().to_owned();
            (role, shown["content"].take())
        };
        Ok(messages.into_iter().map(message).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_are_frames() {
        let line = json!({ "id": "3.0", "event": "done", "data": { "a": 1 } }).to_string();
        let read = frame(line).unwrap();
        assert_eq!((read.id, read.name.as_str()), (Some(Id { seq: 3, k: 0 }), "done"));
        assert!(frame("x".into()).is_err());
    }
}
