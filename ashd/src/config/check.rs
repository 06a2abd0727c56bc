//! What follows from other values, and what does not go together.

use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ash_broker::file::open_regular;
use sha2::{Digest, Sha256};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

use super::problem::{Origin, Problem};
use super::source::Raw;
use super::value::{Value, Written};
use super::{Config, Secret};

/// The data directory for which sockets are in `/run/ash`.
const DATA_DIR: &str = "/var/lib/ash";

/// Where packages put the daemon's own programs.
const LIBEXEC_DIR: &str = "/usr/lib/ash";

/// The address of a Unix socket holds 107 bytes; up to 59 come below the run directory: names of
/// directories, the id of a sandbox.
const MAX_RUN_DIR: usize = 48;

/// Where the broker's service finds the model API key.
const CREDENTIAL: &str = "/etc/credstore/ash-model-key";

/// Larger key files are something else.
const MAX_KEY_FILE: u64 = 16 * 1024;

/// Longer nobody waits for an answer.
const MAX_PATIENCE: Duration = Duration::from_secs(60 * 60);

/// User ids below belong to people, services and other containers.
const FIRST_UID: u32 = 524_288;

/// Completes a configuration, and collects what is wrong with it.
pub(super) struct Check<'a> {
    raw: &'a Raw,
    problems: Vec<Problem>,
}

impl<'a> Check<'a> {
    pub(super) fn new(raw: &'a Raw) -> Self {
        Check { raw, problems: Vec::new() }
    }

    /// Everything, in order; returns what is wrong.
    pub(super) fn run(mut self, config: &mut Config) -> Vec<Problem> {
        derive(config);
        self.names(config);
        self.rates(config);
        self.run_dir(config);
        self.uids(config);
        self.sandbox(config);
        self.admission(config);
        self.model(config);
        self.model_key(config);
        self.authorities(config);
        self.snapshots(config);
        self.retention(config);
        self.pool(config);
        if config.sandbox.services {
            self.credential(Path::new(CREDENTIAL));
        }
        self.level(config);
        self.problems
    }

    fn refuse(&mut self, key: &str, reason: impl Into<String>) {
        let origin = self.raw.values.get(key).map_or(Origin::Default, |(origin, _)| origin.clone());
        self.problems.push(Problem { origin, key: key.into(), reason: reason.into() });
    }

    /// What browsers and clients never send would never be matched.
    fn names(&mut self, config: &Config) {
        for origin in &config.http.allowed_origins {
            let bare = split_url(origin).is_some() && origin.matches('/').count() == 2;
            if origin != "*" && !bare {
                let reason = format!("{origin:?} must be like https://app.example.com, or *");
                self.refuse("http.allowed_origins", reason);
            }
        }
        for host in &config.http.allowed_hosts {
            if host.contains(['/', ':', ' ', '*']) {
                let reason = format!("{host:?} must be a name like ash.example.com, without port");
                self.refuse("http.allowed_hosts", reason);
            }
        }
    }

    fn rates(&mut self, config: &Config) {
        if config.http.rate_window.as_secs() == 0 {
            self.refuse("http.rate_window", "must be 1s or longer; 0 as a limit switches it off");
        }
    }

    fn admission(&mut self, config: &Config) {
        if config.admission.patience > MAX_PATIENCE {
            self.refuse("admission.patience", "must be 1h or shorter");
        }
    }

    fn retention(&mut self, config: &Config) {
        if config.snapshots.collect_every.is_zero() {
            let reason = "must be longer than 0s; with a long time, like 365d, it is hardly done";
            self.refuse("snapshots.collect_every", reason);
        }
        if config.retention.every.is_zero() {
            self.refuse("retention.every", "must be longer than 0s; 0s as an age removes nothing");
        }
    }

    fn pool(&mut self, config: &Config) {
        if config.pool.per_tick == 0 {
            self.refuse("pool.per_tick", "must be 1 or more; 0s as a time leaves a step out");
        }
    }

    fn run_dir(&mut self, config: &Config) {
        let length = config.state.run_dir.as_os_str().len();
        if length > MAX_RUN_DIR {
            let reason = format!(
                "has {length} bytes; sockets below it would have no address; choose one of at \
                 most {MAX_RUN_DIR} bytes"
            );
            self.refuse("state.run_dir", reason);
        }
    }

    fn uids(&mut self, config: &Config) {
        let (base, count) = (config.sandbox.uid_base, config.sandbox.uid_count);
        if base < FIRST_UID {
            self.refuse("sandbox.uid_base", format!("must be {FIRST_UID} or above"));
        }
        // The last two numbers mean "nobody" to the kernel.
        if count < 4 || base.checked_add(count).is_none_or(|end| end > u32::MAX - 1) {
            self.refuse("sandbox.uid_count", "must be 4 or more, and end below 4294967294");
        }
    }

    /// None of these means "no limit" with 0: no session would ever begin.
    fn sandbox(&mut self, config: &Config) {
        let sandbox = &config.sandbox;
        for (key, number, of_what) in [
            ("sandbox.max", u64::from(sandbox.max), "sandboxes"),
            ("sandbox.memory", sandbox.memory.0, "memory"),
            ("sandbox.pids", u64::from(sandbox.pids), "processes"),
            ("sandbox.tmpfs", sandbox.tmpfs.0, "room for files"),
            ("sandbox.file_size", sandbox.file_size.0, "room for files"),
        ] {
            if number == 0 {
                self.refuse(key, format!("must be above 0; without {of_what} no session begins"));
            }
        }
        for (key, time) in [
            ("sandbox.ready_timeout", sandbox.ready_timeout),
            ("sandbox.cli_timeout", sandbox.cli_timeout),
        ] {
            if time.is_zero() {
                self.refuse(key, "must be longer than 0s; in no time nothing starts");
            }
        }
        // It is told in whole seconds.
        if sandbox.orphan_timeout.as_secs() == 0 {
            let reason = "must be 1s or longer; sandboxes are to outlive a restart of the daemon";
            self.refuse("sandbox.orphan_timeout", reason);
        }
    }

    fn model(&mut self, config: &Config) {
        let Some((scheme, host)) = split_url(&config.model.base_url) else {
            return self.refuse("model.base_url", "must be a URL like https://api.anthropic.com");
        };
        if config.model.base_url.contains('@') {
            self.refuse("model.base_url", "must hold no user name or password");
        }
        if scheme == "http" && !is_loopback(host) {
            let reason = "would send the API key in clear over the network; use https://";
            self.refuse("model.base_url", reason);
        }
        let proxy = config.model.proxy.as_ref().map(|proxy| split_url(proxy.expose()));
        if proxy.is_some_and(|parts| parts.is_none_or(|(scheme, _)| scheme != "http")) {
            self.refuse("model.proxy", "must be a URL like http://proxy.example.com:3128");
        }
    }

    /// Reads the key from its file, unless the environment has it.
    fn model_key(&mut self, config: &mut Config) {
        let Some(path) = &config.model.key_file else { return };
        match read_key(path) {
            Ok(key) if config.model.key.is_none() => config.model.key = Some(key),
            Ok(_) => {}
            Err(reason) => self.refuse("model.key_file", reason),
        }
    }

    /// The broker gets the file open, and could not say which it was.
    fn authorities(&mut self, config: &Config) {
        let Some(path) = &config.model.ca_file else { return };
        if let Err(error) = open_regular(path) {
            self.refuse("model.ca_file", unreadable(path)(error));
        }
    }

    /// Reads the key of the copies, and sees to it that there is one: copies that anybody can read
    /// are not made.
    fn snapshots(&mut self, config: &mut Config) {
        let snapshots = &mut config.snapshots;
        if let Some(path) = &snapshots.key_file {
            match read_key(path) {
                Ok(key) if snapshots.key.is_none() => snapshots.key = Some(key),
                Ok(_) => {}
                Err(reason) => return self.refuse("snapshots.key_file", reason),
            }
        }
        let digits = |key: &Secret| {
            let text = key.expose();
            text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let make = "`openssl rand -hex 32` makes one";
        match &snapshots.key {
            Some(key) if !digits(key) => {
                self.refuse("snapshots.key", format!("must be 64 hexadecimal digits; {make}"));
            }
            None if !snapshots.url.is_empty() => {
                let reason = format!(
                    "what goes to an object store is sealed, and there is no key; set \
                     ASH_SNAPSHOT_KEY or snapshots.key_file; {make}"
                );
                self.refuse("snapshots.url", reason);
            }
            _ => {}
        }
    }

    /// The broker cannot see who else can read where its key came from.
    fn credential(&mut self, path: &Path) {
        if let Ok(found) = path.metadata()
            && let Err(reason) = private(path, &found)
        {
            let key = "model.key".into();
            self.problems.push(Problem { origin: Origin::Credential, key, reason });
        }
    }

    fn level(&mut self, config: &Config) {
        let level = &config.log.level;
        // The filter would take a misspelt level for the name of a part, and fall silent.
        let misspelt = |word: &str| !word.contains('=') && word.parse::<LevelFilter>().is_err();
        if EnvFilter::try_new(level).is_err() || level.split(',').any(misspelt) {
            self.refuse("log.level", "must be like info or info,ashd=debug");
        }
    }
}

fn derive(config: &mut Config) {
    let state = &mut config.state;
    if state.run_dir.as_os_str().is_empty() {
        state.run_dir = run_dir(&state.data_dir);
    }
    if state.libexec_dir.as_os_str().is_empty() {
        state.libexec_dir = libexec_dir();
    }
    let sandbox = &mut config.sandbox;
    if sandbox.claude.as_os_str().is_empty() {
        sandbox.claude = state.libexec_dir.join("claude");
    }
    if sandbox.bwrap.as_os_str().is_empty() {
        let ours = state.libexec_dir.join("bwrap");
        sandbox.bwrap = if ours.exists() { ours } else { "/usr/bin/bwrap".into() };
    }
}

/// A daemon that was built and started by hand has its programs beside it, one that was installed
/// has them below the same prefix.
fn libexec_dir() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|ashd| Some(ashd.parent()?.to_owned()));
    let below = beside.as_ref().and_then(|dir| Some(dir.parent()?.join("lib/ash")));
    let complete =
        [beside, below].into_iter().flatten().find(|dir| dir.join("ash-bridge").exists());
    complete.unwrap_or_else(|| LIBEXEC_DIR.into())
}

/// Short, and another one for each data directory.
fn run_dir(data_dir: &Path) -> PathBuf {
    if data_dir == Path::new(DATA_DIR) {
        return "/run/ash".into();
    }
    let hash = Sha256::digest(canonical(data_dir).as_os_str().as_bytes());
    let name: String = hash[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("/run/ash-{name}").into()
}

/// Without symbolic links, as far as the path exists.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => canonical(parent).join(name),
        _ => path.to_owned(),
    })
}

fn read_key(path: &Path) -> Result<Secret, String> {
    let file = open_regular(path).map_err(unreadable(path))?;
    private(path, &file.metadata().map_err(unreadable(path))?)?;
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_KEY_FILE).read_to_string(&mut text).map_err(unreadable(path))?;
    let key = Secret::read(&Written::Text(text.trim().into()));
    key.map_err(|reason| format!("the key in {} {reason}", path.display()))
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> String {
    move |error| format!("{} cannot be read: {error}", path.display())
}

/// Refuses a key's file that others can read.
fn private(path: &Path, found: &Metadata) -> Result<(), String> {
    match found.permissions().mode() & 0o077 {
        0 => Ok(()),
        _ => Err(format!("others can read it; run: chmod 600 {}", path.display())),
    }
}

/// Scheme and host of a web address.
pub(super) fn split_url(url: &str) -> Option<(&str, &str)> {
    let uri_ok = url.bytes().all(|b| b.is_ascii_graphic());
    let (scheme, rest) = url.split_once("://").filter(|_| uri_ok)?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let address = authority.rsplit('@').next()?;
    let host = match address.strip_prefix('[') {
        Some(six) => six.split(']').next()?,
        None => address.split(':').next()?,
    };
    (matches!(scheme, "http" | "https") && !host.is_empty()).then_some((scheme, host))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_credential_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ash-model-key");
        let reasons = |path: &Path| {
            let raw = Raw::read(None, &std::collections::BTreeMap::new());
            let mut check = Check::new(&raw);
            check.credential(path);
            check.problems.into_iter().map(|problem| problem.reason).collect::<String>()
        };
        assert_eq!(reasons(&path), "");
        fs::write(&path, "key").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(reasons(&path).contains("chmod 600"), "{}", reasons(&path));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(reasons(&path), "");
    }
}
