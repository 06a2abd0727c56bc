//! The command line.

use std::path::PathBuf;
use std::time::Duration;

/// What the launcher was told at its start.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// Where it listens.
    pub socket: PathBuf,
    /// The bubblewrap that it runs.
    pub bwrap: PathBuf,
    /// The bridge, which every sandbox gets as [`BRIDGE`](crate::argv::BRIDGE).
    pub bridge: PathBuf,
    /// Writable mounts come from beneath here.
    pub sessions_dir: PathBuf,
    /// Brokers' sockets are beneath here.
    pub broker_dir: PathBuf,
    /// Executables of CLIs.
    pub runtimes: Vec<PathBuf>,
    /// Directories with executables of CLIs in them, each in a directory named for its version.
    pub runtime_dirs: Vec<PathBuf>,
    /// The first uid that sandboxes may have.
    pub uid_base: u32,
    /// How many there are.
    pub uid_count: u32,
    /// After how long without client and sandbox it ends.
    pub exit_when_unused: Option<Duration>,
    /// Whether it is a service of its own, in whose control group the sandboxes live.
    pub service: bool,
}

/// Why the command line is of no use.
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

const REQUIRED: [&str; 7] = [
    "--socket",
    "--bwrap",
    "--bridge",
    "--sessions-dir",
    "--broker-dir",
    "--uid-base",
    "--uid-count",
];

/// Has no value.
const SERVICE: &str = "--service";

impl Options {
    /// Reads the arguments, without the program's name.
    ///
    /// # Errors
    /// At the first argument that is unknown or has no usable value, or when one is missing.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, OptionsError> {
        let mut options = Options::default();
        let mut missing = REQUIRED.to_vec();
        while let Some(name) = args.next() {
            if name == SERVICE {
                options.service = true;
                continue;
            }
            let value = args.next().ok_or_else(|| OptionsError::Value(name.clone()))?;
            options.set(&name, &value)?;
            missing.retain(|known| *known != name);
        }
        if let Some(name) = missing.first() {
            return Err(OptionsError::Missing(name));
        }
        if options.runtimes.is_empty() && options.runtime_dirs.is_empty() {
            return Err(OptionsError::Missing("--runtime or --runtime-dir"));
        }
        match options.uid_base.checked_add(options.uid_count) {
            Some(_) if options.uid_base > 0 => Ok(options),
            _ => Err(OptionsError::Value("--uid-base".to_owned())),
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), OptionsError> {
        let unusable = || OptionsError::Value(name.to_owned());
        let path =
            || Some(PathBuf::from(value)).filter(|path| path.is_absolute()).ok_or_else(unusable);
        let number = || value.parse::<u32>().map_err(|_| unusable());
        match name {
            "--socket" => self.socket = path()?,
            "--bwrap" => self.bwrap = path()?,
            "--bridge" => self.bridge = path()?,
            "--sessions-dir" => self.sessions_dir = path()?,
            "--broker-dir" => self.broker_dir = path()?,
            "--runtime" => self.runtimes.push(path()?),
            "--runtime-dir" => self.runtime_dirs.push(path()?),
            "--uid-base" => self.uid_base = number()?,
            "--uid-count" => self.uid_count = number()?,
            "--exit-when-unused" => {
                self.exit_when_unused = Some(Duration::from_secs(number()?.into()));
            }
            _ => return Err(OptionsError::Unknown(name.to_owned())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "--socket /s --bwrap /b --bridge /br --sessions-dir /se --broker-dir /bd \
        --runtime /r1 --runtime /r2 --uid-base 1879048192 --uid-count 100";

    fn parse(line: &str) -> Result<Options, OptionsError> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn all_are_read() {
        let options = parse(&format!("{ALL} --exit-when-unused 5")).unwrap();
        assert_eq!(options.runtimes, [PathBuf::from("/r1"), PathBuf::from("/r2")]);
        assert_eq!(options.exit_when_unused, Some(Duration::from_secs(5)));
        assert!(!options.service);
        let options = parse(&format!("--service {ALL} --runtime-dir /rd")).unwrap();
        assert!(options.service);
        assert_eq!(options.runtime_dirs, [PathBuf::from("/rd")]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let bad = |line: String| parse(&line).unwrap_err();
        assert_eq!(bad(ALL.replace("--bwrap /b", "")), OptionsError::Missing("--bwrap"));
        let none = ALL.replace("--runtime /r1 --runtime /r2", "");
        assert!(matches!(bad(none), OptionsError::Missing(_)));
        assert_eq!(bad(ALL.replace("/br", "br")), OptionsError::Value("--bridge".to_owned()));
        assert_eq!(bad(format!("{ALL} --y z")), OptionsError::Unknown("--y".to_owned()));
        let root = ALL.replace("1879048192", "0");
        assert_eq!(bad(root), OptionsError::Value("--uid-base".to_owned()));
        let over = ALL.replace("--uid-count 100", "--uid-count 4294967295");
        assert_eq!(bad(over), OptionsError::Value("--uid-base".to_owned()));
    }
}
