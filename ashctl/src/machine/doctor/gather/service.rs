//! The services, and what they were given.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::super::readings::{Config, Daemon, Key, KeyFile};
use super::{PATIENCE, first_line};
use crate::bus::Bus;
use crate::failure::Failure;
use crate::machine::program;
use crate::systemctl::BROKER;

/// Whom ashd asks about everybody who is not root.
const POLKIT: &str = "org.freedesktop.PolicyKit1";

/// Asks `ashd` what it would run with.
pub(in super::super) async fn config() -> Config {
    let Some(ashd) = program::ashd() else { return Config::Unknown };
    let variables = match program::unit_environment().await {
        Ok(variables) => variables,
        Err(failure) => return Config::Bad(failure.to_string()),
    };
    let mut command = Command::new(ashd);
    command.envs(variables);
    command.args(["config", "show", "--json"]).stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) => output,
        _ => return Config::Unknown,
    };
    match (output.status.code(), serde_json::from_slice(&output.stdout)) {
        (Some(0), Ok(values)) => Config::Good(values_of(&values)),
        // An older one does not know the question.
        (Some(2), _) => Config::Unknown,
        _ => {
            let is_root = rustix::process::geteuid().is_root();
            unusable(problems(&String::from_utf8_lossy(&output.stderr)), is_root)
        }
    }
}

/// A file that is for root alone is not wrong for that.
fn unusable(why: String, is_root: bool) -> Config {
    let is_closed = |problem: &str| problem.ends_with("Permission denied (os error 13)");
    match !is_root && why.split("; ").any(is_closed) {
        true => Config::Closed(why),
        false => Config::Bad(why),
    }
}

/// The values that are set, by key.
fn values_of(document: &Value) -> BTreeMap<String, String> {
    let entries = document.as_array().into_iter().flatten();
    let values = entries.filter_map(|entry| {
        Some((entry["key"].as_str()?.to_owned(), entry["value"].as_str()?.to_owned()))
    });
    values.collect()
}

/// What is wrong, on one line.
fn problems(said: &str) -> String {
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<_> = lines.map(|line| line.trim_start_matches("ashd: ")).collect();
    match lines[..] {
        [] => "ashd says nothing about it".into(),
        [only] => only.into(),
        [_, ref problems @ ..] => problems.join("; "),
    }
}

/// A value of the configuration, if it is known and set.
pub(super) fn value<'a>(config: &'a Config, key: &str) -> Option<&'a str> {
    match config {
        Config::Good(values) => values.get(key).map(String::as_str),
        _ => None,
    }
}

pub(super) fn key(etc: &Path) -> Key {
    let file = |path: &str| match fs::metadata(etc.join(path)) {
        Ok(found) => Ok(Some(KeyFile { mode: found.mode() & 0o7777, uid: found.uid() })),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(()),
        Err(_) => Ok(None),
    };
    let plain = file("credstore/ash-model-key");
    let encrypted = file("credstore.encrypted/ash-model-key.sealed");
    Key {
        is_at_broker: None,
        is_hidden: plain.is_err() || encrypted.is_err(),
        plain: plain.ok().flatten(),
        encrypted: encrypted.ok().flatten(),
        is_undecryptable: false,
        is_in_environment: has_key_in_environment(),
    }
}

/// Whether whoever asks has a key in the environment, which `ashd config` then takes for its own.
pub(in super::super) fn has_key_in_environment() -> bool {
    std::env::var_os("ANTHROPIC_API_KEY").is_some_and(|key| !key.is_empty())
}

/// Whether the broker did not start because its key cannot be decrypted (EXIT_CREDENTIALS of
/// systemd.exec(5)).
pub(super) async fn is_undecryptable() -> bool {
    let show = ["show", "--property=ExecMainStatus", "--value", BROKER];
    first_line("systemctl", &show).await.as_deref() == Some("243")
}

/// Whether the clock is synchronised, as timedated or timesyncd says.
pub(super) async fn clock() -> Option<bool> {
    if Path::new("/run/systemd/timesync/synchronized").exists() {
        return Some(true);
    }
    let show = ["show", "--property=NTPSynchronized", "--value"];
    match first_line("timedatectl", &show).await.as_deref() {
        Some("yes") => Some(true),
        Some("no") => Some(false),
        _ => None,
    }
}

/// What the daemon says of itself.
#[derive(Default)]
pub(super) struct Said {
    /// Whether it answers, and what it misses.
    pub(super) daemon: Daemon,
    /// Whether it knows of a model API key.
    pub(super) model_key: Option<bool>,
    /// Checkpoints that it knows to be damaged.
    pub(super) damaged: Option<u64>,
}

/// Asks the daemon.
pub(super) async fn daemon(address: Option<&str>) -> Said {
    let asked = async {
        let bus = Bus::connect(address).await.map_err(|failure| (false, failure))?;
        let version = bus.manager.version().await;
        let version = version.map_err(|error| (true, Failure::from(error)))?;
        let health = bus.manager.status().await;
        let health = health.map_err(|error| (true, Failure::from(error)))?;
        Ok((version, health))
    };
    let daemon = match timeout(PATIENCE, asked).await {
        Err(_) => Daemon::NoBus("the message bus does not answer".into()),
        Ok(Ok((version, health))) => {
            return Said {
                daemon: Daemon::There(version, health.missing),
                model_key: health.model_key,
                damaged: Some(health.damaged_checkpoints),
            };
        }
        Ok(Err((false, failure))) => Daemon::NoBus(failure.to_string()),
        Ok(Err((true, Failure::Absent(_)))) => Daemon::Absent,
        Ok(Err((true, Failure::Denied(_)))) => Daemon::Denied,
        Ok(Err((true, failure))) => Daemon::Odd(failure.to_string()),
    };
    Said { daemon, ..Said::default() }
}

/// Whether polkit is on the bus, or starts when it is asked.
pub(super) async fn polkit(address: Option<&str>) -> Option<bool> {
    let asked = async { Bus::connect(address).await.ok()?.has(POLKIT).await.ok() };
    timeout(PATIENCE, asked).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_that_are_set_are_known() {
        let document = json!([
            {"key": "state.data_dir", "value": "/srv/ash", "origin": "/etc/ash/ashd.toml:3"},
            {"key": "model.key_file", "value": null, "origin": "default"},
        ]);
        let config = Config::Good(values_of(&document));
        assert_eq!(value(&config, "state.data_dir"), Some("/srv/ash"));
        assert_eq!(value(&config, "model.key_file"), None);
        assert_eq!(value(&Config::Unknown, "state.data_dir"), None);
    }

    #[test]
    fn what_is_for_root_alone_is_not_wrong() {
        let closed = "a.toml:1: model.key_file: /k cannot be read: Permission denied (os error 13)";
        let is_closed =
            |why: &str, is_root| matches!(unusable(why.into(), is_root), Config::Closed(_));
        assert!(is_closed(closed, false) && !is_closed(closed, true));
        assert!(!is_closed("a.toml:1: x: wrong", false));
    }

    #[test]
    fn problems_stand_on_one_line() {
        let said = "ashd: the configuration cannot be used\n  a.toml:1: x: wrong\n  b: worse\n";
        assert_eq!(problems(said), "a.toml:1: x: wrong; b: worse");
        assert_eq!(problems("ashd: no\n"), "no");
        assert_eq!(problems(""), "ashd says nothing about it");
    }
}
