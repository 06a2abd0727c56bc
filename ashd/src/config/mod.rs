//! The configuration: what the user wrote (`source`) and what the program uses ([`Config`]).
//!
//! Sources, the later ones win: defaults, `/etc/ash/ashd.toml` (or another file), the files of its
//! drop-in directory, environment variables. All keys are declared once, in `keys`: their types,
//! defaults, variables and documentation. Loading reads files and touches nothing else.

mod keys;
mod problem;
mod secret;
mod value;

mod check;
mod reference;
mod sample;
mod show;
mod source;
mod table;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;

pub use keys::{
    Admission, Bus, Config, Http, Log, Model, Pool, Retention, Sandbox, Session, Snapshots, State,
};
pub use problem::{ConfigError, Origin, Problem};
pub use secret::Secret;
pub use show::Explained;
pub use value::Size;

use keys::SECTIONS;
use source::Raw;

impl Config {
    /// Loads and checks the configuration. `file` is what the command line names; `env` is the
    /// environment.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first thing.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Config, ConfigError> {
        Self::read(file, env).map(|(config, _)| config)
    }

    /// Loads and checks; also returns what was written, and where.
    fn read(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(Config, Raw), ConfigError> {
        let mut raw = Raw::read(file, &env.into_iter().collect::<BTreeMap<_, _>>());
        let mut problems = std::mem::take(&mut raw.problems);
        let mut config = Config::initial();
        for key in table::keys() {
            let Some((origin, written)) = raw.values.get(key.path) else { continue };
            if let Err(reason) = (key.set)(&mut config, written) {
                let (origin, key) = (origin.clone(), key.path.into());
                problems.push(Problem { origin, key, reason });
            }
        }
        problems.extend(check::Check::new(&raw).run(&mut config));
        problems.sort_by(|one, other| one.origin.cmp(&other.origin));
        if problems.is_empty() { Ok((config, raw)) } else { Err(ConfigError(problems)) }
    }

    /// Refuses to listen on an address that other machines reach without any API key. `stored_keys`
    /// says whether the database has one.
    ///
    /// # Errors
    /// One problem, with the ways to mend it.
    pub fn check_exposure(&self, address: IpAddr, stored_keys: bool) -> Result<(), ConfigError> {
        if address.is_loopback() || self.http.api_key.is_some() || stored_keys {
            return Ok(());
        }
        let reason = format!(
            "{} can be reached from other machines, and there is no API key; set ASH_API_KEY, or \
             listen on 127.0.0.1",
            address
        );
        Err(ConfigError(vec![Problem { origin: Origin::Default, key: "http.host".into(), reason }]))
    }

    /// The keys whose values differ in `new` and need a restart.
    pub fn changed(&self, new: &Config) -> Vec<&'static str> {
        let differ = |key: &&table::Key| !key.traits.live && !(key.same)(self, new);
        table::keys().filter(differ).map(|key| key.path).collect()
    }

    /// Takes over what needs no restart; returns the keys that changed.
    pub fn adopt(&mut self, new: &Config) -> Vec<&'static str> {
        let mut changed = Vec::new();
        for key in table::keys().filter(|key| key.traits.live) {
            if !(key.same)(self, new) {
                (key.adopt)(self, new);
                changed.push(key.path);
            }
        }
        changed
    }

    /// The configuration reference, in Markdown.
    pub fn reference() -> String {
        reference::text()
    }

    /// A configuration file that says what there is and changes nothing.
    pub fn sample() -> String {
        sample::text()
    }
}

impl Model {
    /// The proxy on the way to the model API, if there is one and the API is not exempt.
    pub fn proxy_in_use(&self) -> Option<&Secret> {
        let (scheme, host) = check::split_url(&self.base_url)?;
        let exempt = self.no_proxy.iter().any(|rule| exempts(rule, host));
        self.proxy.as_ref().filter(|_| scheme == "https" && !exempt)
    }
}

/// Whether a rule names this host or a domain above it.
fn exempts(rule: &str, host: &str) -> bool {
    let (rule, host) = (rule.to_ascii_lowercase(), host.to_ascii_lowercase());
    let domain = rule.trim_start_matches('.');
    rule == "*" || host == domain || host.ends_with(&format!(".{domain}"))
}
