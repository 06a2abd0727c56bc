//! What the launcher says on the command line.

use std::time::Duration;

/// The arguments. All are required: the launcher always gives all.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// Descriptor of the listening socket.
    pub listen_fd: u32,
    /// Descriptor of the agent's cgroup, or of `cgroup.procs` in it: from a launcher of before, or
    /// where it lies beyond this namespace.
    pub agent_cgroup_fd: u32,
    /// The sandbox's id.
    pub sandbox: String,
    /// The uid that the bridge becomes.
    pub bridge_uid: u32,
    /// The uid that the spawner becomes.
    pub agent_uid: u32,
    /// How long the sandbox lives without an `ashd`.
    pub orphan_timeout: Duration,
}

/// Why the arguments are of no use.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum OptionsError {
    /// An argument that does not exist.
    #[error("unknown argument {0:?}")]
    Unknown(String),
    /// An argument without a usable value.
    #[error("argument {0} lacks a usable value")]
    Value(String),
    /// An argument was not given.
    #[error("argument {0} is missing")]
    Missing(&'static str),
}

const NAMES: [&str; 6] = [
    "--listen-fd",
    "--agent-cgroup-fd",
    "--sandbox",
    "--bridge-uid",
    "--agent-uid",
    "--orphan-timeout",
];

impl Options {
    /// Reads the arguments, without the program's name.
    ///
    /// # Errors
    /// At the first argument that is unknown or has no usable value, or when one is missing.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, OptionsError> {
        let mut options = Options::default();
        let mut missing = NAMES.to_vec();
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| OptionsError::Value(name.clone()))?;
            options.set(&name, value)?;
            missing.retain(|known| *known != name);
        }
        missing.first().map_or(Ok(options), |name| Err(OptionsError::Missing(name)))
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), OptionsError> {
        fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, OptionsError> {
            value.parse().map_err(|_| OptionsError::Value(name.to_owned()))
        }
        match name {
            "--listen-fd" => self.listen_fd = number(name, &value)?,
            "--agent-cgroup-fd" => self.agent_cgroup_fd = number(name, &value)?,
            "--sandbox" => self.sandbox = value,
            "--bridge-uid" => self.bridge_uid = number(name, &value)?,
            "--agent-uid" => self.agent_uid = number(name, &value)?,
            "--orphan-timeout" => {
                self.orphan_timeout = Duration::from_secs(number(name, &value)?);
            }
            _ => return Err(OptionsError::Unknown(name.to_owned())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, OptionsError> {
        Options::parse(line.split(' ').map(str::to_owned))
    }

    const ALL: &str = "--listen-fd 3 --agent-cgroup-fd 4 --sandbox s --bridge-uid 7 --agent-uid 8 \
        --orphan-timeout 60";

    #[test]
    fn all_are_read() {
        let options = parse(ALL).unwrap();
        assert_eq!((options.listen_fd, options.agent_cgroup_fd), (3, 4));
        assert_eq!((options.bridge_uid, options.agent_uid), (7, 8));
        assert_eq!(options.orphan_timeout, Duration::from_secs(60));
    }

    #[test]
    fn nothing_is_optional_or_ignored() {
        let without = ALL.replace("--agent-uid 8 ", "");
        assert_eq!(parse(&without), Err(OptionsError::Missing("--agent-uid")));
        assert_eq!(parse(&format!("{ALL} --x 1")), Err(OptionsError::Unknown("--x".to_owned())));
        assert_eq!(
            parse(&ALL.replace("8", "x")),
            Err(OptionsError::Value("--agent-uid".to_owned()))
        );
    }
}
