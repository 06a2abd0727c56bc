//! The services: what they were given, whether they run, who may use them.

use super::super::finding::{Finding, Grade};
use super::super::readings::{Config, Daemon, KeyFile, Readings};
use crate::systemctl::BROKER;

/// Keys of the configuration that hold or name the model API key.
const KEYS: [&str; 2] = [OF_ENVIRONMENT, "model.key_file"];

/// The one that only an environment can set.
const OF_ENVIRONMENT: &str = "model.key";

/// The key as a credential that is encrypted.
const SEALED: &str = "/etc/credstore.encrypted/ash-model-key.sealed";

/// The key as a credential that is not.
const PLAIN: &str = "/etc/credstore/ash-model-key";

/// What the broker says goes before what the files say, but a key that others can get at is told first.
pub(super) fn key(readings: &Readings) -> Finding {
    let found = stored_key(readings);
    let key = &readings.key;
    let is_open = key.encrypted.or(key.plain).is_some() && found.grade != Grade::Ok;
    if key.is_undecryptable && !is_open {
        return Finding::missing(
            found.name,
            format!("systemd cannot decrypt it on this machine: {SEALED}"),
            "run `ashctl setup --key-file FILE`, which stores it anew, and `systemctl restart \
             ash-broker`",
        );
    }
    match (key.is_at_broker, found.grade) {
        (Some(true), Grade::Warn | Grade::Missing) if !is_open => {
            Finding::ok(found.name, "the broker has one")
        }
        (Some(false), Grade::Ok) => Finding::missing(
            found.name,
            format!("the broker has none, but there is one: {}", found.detail),
            "run `systemctl restart ash-broker`, and `ashctl restart` if the configuration names \
             the key; `ashctl logs` says what is wrong with it",
        ),
        (Some(false), Grade::Warn) => no_key(found.name),
        _ => found,
    }
}

fn no_key(name: &'static str) -> Finding {
    Finding::missing(
        name,
        "there is none: no agent can answer",
        "run `ashctl setup`, or put the key into /etc/credstore/ash-model-key (root, mode 0600) \
         and restart ash-broker",
    )
}

/// Which key of the configuration gives the model API key. One that is in the environment of whoever
/// asks is none of the services'.
pub(in super::super) fn configured_key(
    config: &Config,
    is_in_environment: bool,
) -> Option<&'static str> {
    let Config::Good(values) = config else { return None };
    let is_given =
        |key: &&str| values.contains_key(*key) && (*key != OF_ENVIRONMENT || !is_in_environment);
    KEYS.into_iter().rfind(is_given)
}

/// What there is for the broker to start with. What the configuration gives goes before a credential.
fn stored_key(readings: &Readings) -> Finding {
    let name = "Model key";
    let key = &readings.key;
    if let Some(given) = configured_key(&readings.config, key.is_in_environment) {
        return Finding::ok(name, format!("by {given} of the configuration"));
    }
    if let Some(file) = key.encrypted {
        return credential(name, SEALED, file);
    }
    if let Some(file) = key.plain {
        return credential(name, PLAIN, file);
    }
    match (key.is_hidden, key.is_in_environment) {
        (false, true) => Finding::warn(
            name,
            "only ANTHROPIC_API_KEY of this shell, which the services do not see",
            "run `ashctl setup`, which stores it as a credential",
        ),
        (true, _) => Finding::warn(
            name,
            "only root can see whether there is one",
            "run `sudo ashctl doctor`",
        ),
        (false, false) => no_key(name),
    }
}

/// A key that others can read may be known already. One that is encrypted says nothing to whoever
/// reads it, and systemd-creds leaves it open to them; but nobody else may put another in its place.
fn credential(name: &'static str, path: &str, file: KeyFile) -> Finding {
    let (closed, what) = match path {
        SEALED => (0o022, "can be changed by others"),
        _ => (0o077, "is open to others"),
    };
    match file.uid == 0 && file.mode & closed == 0 {
        true => Finding::ok(name, path),
        false => Finding::missing(
            name,
            format!("{path} {what} (owner {}, mode {:04o})", file.uid, file.mode),
            format!("run `chown root:root {path} && chmod 600 {path}`; think of a new key"),
        ),
    }
}

pub(super) fn config(readings: &Readings) -> Finding {
    let name = "Configuration";
    match &readings.config {
        Config::Good(_) => Finding::ok(name, "can be used"),
        Config::Unknown => Finding::warn(
            name,
            "there is no ashd to check it",
            "install the package ashd, or put ashctl and ashd into one directory",
        ),
        Config::Closed(why) => Finding::warn(
            name,
            format!("only root can read all of it ({why})"),
            "run `sudo ashctl doctor`",
        ),
        Config::Bad(why) => Finding::missing(
            name,
            why.clone(),
            "`ashctl config check` says it again; docs/configuration.md has every key",
        ),
    }
}

pub(super) fn daemon(readings: &Readings) -> Finding {
    let name = "Daemon";
    let unit = readings.unit.as_deref().unwrap_or("unknown");
    if let Some(gone) = without_helper(name, readings).filter(|_| unit == "active") {
        return gone;
    }
    match &readings.daemon {
        Daemon::There(version, layers) if layers.is_empty() => {
            Finding::ok(name, format!("version {version} answers on the bus"))
        }
        Daemon::There(version, layers) => Finding::warn(
            name,
            format!("version {version} answers; it misses: {}", layers.join("; ")),
            "the findings above say how to get these layers",
        ),
        Daemon::Denied => Finding::ok(name, "it answers on the bus"),
        Daemon::Odd(why) => Finding::warn(
            name,
            format!("it answers, but not as this ashctl expects: {why}"),
            "install ashctl and ashd of the same version, and restart ashd",
        ),
        Daemon::NoBus(why) => Finding::warn(
            name,
            why,
            "run `systemctl start dbus`; apps reach ashd over HTTP without it",
        ),
        Daemon::Absent if unit == "active" => Finding::warn(
            name,
            "ashd runs, but is not on this bus",
            "see `ashctl logs`; `systemctl restart ashd` keeps sandboxes and turns",
        ),
        Daemon::Absent if unit == "failed" => Finding::warn(
            name,
            "ashd has failed",
            "`systemctl status ashd` says why in one sentence; then `systemctl start ashd`",
        ),
        Daemon::Absent if unit == "activating" => Finding::warn(
            name,
            "ashd is being started, or cannot be and is tried again",
            "`systemctl status ashd` says in one sentence what it lacks",
        ),
        Daemon::Absent => Finding::warn(name, "ashd does not run", "run `systemctl start ashd`"),
    }
}

/// One of the services without which the daemon is of no use, if it does not run.
fn without_helper(name: &'static str, readings: &Readings) -> Option<Finding> {
    let runs = |state: &str| matches!(state, "active" | "activating" | "reloading");
    let (unit, state) = readings.helpers.iter().find_map(|(unit, state)| {
        state.as_deref().filter(|state| !runs(state)).map(|state| (*unit, state))
    })?;
    let what = match unit {
        BROKER => "every turn fails",
        _ => "no sandbox can be made",
    };
    Some(Finding::missing(
        name,
        format!("{unit} is {state}: {what}"),
        format!(
            "`systemctl status {unit}` says why in one sentence; then `systemctl start {unit}`"
        ),
    ))
}

/// What was kept and is damaged, as far as the daemon has noticed.
pub(super) fn checkpoints(readings: &Readings) -> Finding {
    let name = "Checkpoints";
    match readings.damaged {
        Some(0) => Finding::ok(name, "none is known to be damaged"),
        Some(count) => Finding::warn(
            name,
            format!("{count} are known to be damaged"),
            "`ashctl fsck` says which, and what becomes of them; look at the disk",
        ),
        None => Finding::ok(name, "only ashd knows of damage, and it says nothing now"),
    }
}

pub(super) fn rights(readings: &Readings) -> Finding {
    let name = "Rights";
    let user = &readings.user;
    let join = "run `sudo usermod -aG ash $USER` and log in again";
    match (user.is_root, user.is_in_group, &readings.daemon) {
        (true, ..) if readings.has_polkit == Some(false) => Finding::warn(
            name,
            "polkit is not on the bus: nobody but root may do anything, nor group ash",
            "install it: `apt install polkitd`, or `dnf install polkit`",
        ),
        (true, ..) => Finding::ok(name, "root may do everything"),
        (_, true, Daemon::Denied) => Finding::missing(
            name,
            "in group ash, and refused all the same",
            "see that /usr/share/polkit-1/rules.d/50-ash.rules is there and polkit runs",
        ),
        (_, _, Daemon::Denied) => {
            Finding::missing(name, "neither root nor in group ash: ashd refuses", join)
        }
        (_, true, _) => Finding::ok(name, "in group ash: may view and run sessions"),
        (_, false, Daemon::There(..)) => Finding::ok(name, "ashd answers"),
        (_, false, _) => Finding::warn(name, "neither root nor in group ash", join),
    }
}
