//! Whether a plan may be carried out. Pure: no file is looked at.
//!
//! `ashd` is trusted with much, but not with this: a plan that it was talked into must not reach
//! beyond what sandboxes are for. What is not allowed here cannot be asked for.
//!
//! The central rule is that **a target has only directories of the root above it**: mounts, files
//! and links are leaves. So nothing is ever made or mounted under a path that the agent can write,
//! where it could have planted a symbolic link for root to follow.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use ash_wire::plan::{FIXED_FDS, MAX_FILES, Mount, Plan};

use crate::argv::BRIDGE;
use crate::options::Options;

/// The most steps that a plan may have.
pub const MAX_MOUNTS: usize = 128;

/// The longest path, in bytes.
const MAX_PATH: usize = 1024;

/// The longest host name, in bytes.
const MAX_HOSTNAME: usize = 64;

/// The largest tmpfs, in bytes.
const MAX_TMPFS: u64 = 1 << 40;

/// Host paths that any sandbox may see, with everything beneath them.
const SYSTEM: [&str; 22] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/crypto-policies",
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/tls/certs",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/sys/devices/system/cpu",
];

/// Why a plan is refused.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// The sandbox's name is none.
    #[error("sandbox {0:?} is not a UUID in lower case")]
    Sandbox(String),
    /// A uid is not for sandboxes, or not for two.
    #[error("uids {0} and {1} are not two different ones of this machine's range for sandboxes")]
    Uids(u32, u32),
    /// The host name has characters that host names do not have.
    #[error("host name {0:?} has to be 1 to 64 of a-z, A-Z, 0-9, '-' and '.'")]
    Hostname(String),
    /// Too many of something.
    #[error("a plan has at most {limit} {what}, not {count}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
        /// How many there are.
        count: usize,
    },
    /// The number of descriptors does not fit the plan.
    #[error("{count} descriptors came with a plan that needs {needed}")]
    Descriptors {
        /// How many came.
        count: usize,
        /// How many are needed.
        needed: usize,
    },
    /// A path is relative, has `.` or `..`, or is not printable.
    #[error("{0:?} is not an absolute, normalised, printable path")]
    Path(String),
    /// A source is outside of what may be mounted in this way.
    #[error("{0:?} must not be mounted into a sandbox in this way")]
    Source(String),
    /// A target is taken, or lies in something that is not a directory of the root.
    #[error("{target:?} cannot be made: {above:?} is not a plain directory of the root")]
    Target {
        /// The target.
        target: String,
        /// What is in its way.
        above: String,
    },
    /// A mode has bits that files of the root never have.
    #[error("mode {mode:o} of {target:?} is not allowed")]
    Mode {
        /// The target.
        target: String,
        /// Its mode.
        mode: u32,
    },
    /// A size or limit that would mean "none".
    #[error("{what} of {value} is out of range")]
    Range {
        /// Of what.
        what: &'static str,
        /// The value.
        value: u64,
    },
}

/// Checks a plan that came with `descriptors` file descriptors.
///
/// # Errors
/// At the first thing that is not allowed.
pub fn check(plan: &Plan, descriptors: usize, options: &Options) -> Result<(), PlanError> {
    check_names(plan)?;
    check_uids(plan, options)?;
    at_most("mounts", MAX_MOUNTS, plan.mounts.len())?;
    at_most("files", MAX_FILES, plan.files.len())?;
    let needed = FIXED_FDS + plan.files.len();
    if descriptors != needed {
        return Err(PlanError::Descriptors { count: descriptors, needed });
    }
    in_range("file size limit", plan.rlimits.file_size, 1 << 50)?;
    in_range("open files limit", plan.rlimits.open_files, 1 << 20)?;
    in_range("orphan timeout", plan.orphan_timeout_s, 1 << 32)?;
    let mut root = Root::default();
    root.leaf(BRIDGE)?;
    plan.mounts.iter().try_for_each(|mount| check_mount(mount, options, &mut root))?;
    for file in &plan.files {
        check_mode(&file.target, file.mode, 0o555)?;
        root.leaf(&file.target)?;
    }
    Ok(())
}

fn check_names(plan: &Plan) -> Result<(), PlanError> {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_uuid = plan.sandbox.len() == 36
        && plan.sandbox.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => hex(byte),
        });
    if !is_uuid {
        return Err(PlanError::Sandbox(plan.sandbox.clone()));
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let name = plan.hostname.as_bytes();
    // Not at the beginning: bubblewrap would take the name for an option.
    let named = name.first().is_some_and(u8::is_ascii_alphanumeric);
    if !named || name.len() > MAX_HOSTNAME || !name.iter().all(|byte| fits(*byte)) {
        return Err(PlanError::Hostname(plan.hostname.clone()));
    }
    Ok(())
}

/// One of the CLIs by its path, or `<directory>/<version>/<program>`.
fn is_runtime(source: &Path, options: &Options) -> bool {
    let two_up = source.parent().and_then(Path::parent);
    options.runtimes.iter().any(|runtime| source == runtime)
        || options.runtime_dirs.iter().any(|directory| two_up == Some(directory))
}

fn check_uids(plan: &Plan, options: &Options) -> Result<(), PlanError> {
    let range = options.uid_base..options.uid_base + options.uid_count;
    let (bridge, agent) = (plan.bridge_uid, plan.agent_uid);
    if bridge == agent || !range.contains(&bridge) || !range.contains(&agent) {
        return Err(PlanError::Uids(bridge, agent));
    }
    Ok(())
}

fn check_mount<'a>(
    mount: &'a Mount,
    options: &Options,
    root: &mut Root<'a>,
) -> Result<(), PlanError> {
    match mount {
        Mount::ReadOnly { source, target, .. } => {
            check_path(source)?;
            let allowed = SYSTEM.iter().any(|system| Path::new(source).starts_with(system))
                || is_runtime(Path::new(source), options)
                || strictly_beneath(source, &options.broker_dir);
            allowed.then_some(()).ok_or_else(|| PlanError::Source(source.clone()))?;
            root.leaf(target)
        }
        Mount::Writable { source, target } => {
            check_path(source)?;
            if !strictly_beneath(source, &options.sessions_dir) {
                return Err(PlanError::Source(source.clone()));
            }
            root.leaf(target)
        }
        Mount::Tmpfs { target, size, mode } => {
            in_range("tmpfs size", *size, MAX_TMPFS)?;
            check_mode(target, *mode, 0o1777)?;
            root.leaf(target)
        }
        Mount::Dir { target, mode } => {
            check_mode(target, *mode, 0o755)?;
            root.directory(target)
        }
        Mount::Symlink { points_to, target } => {
            if points_to.is_empty() || points_to.len() > MAX_PATH || !printable(points_to) {
                return Err(PlanError::Path(points_to.clone()));
            }
            root.leaf(target)
        }
        Mount::Proc { target } => root.leaf(target),
        Mount::Dev { target, shm_size } => {
            in_range("shm size", *shm_size, MAX_TMPFS)?;
            root.leaf(target)
        }
    }
}

/// The root that a plan builds: directories, and leaves with nothing in them.
#[derive(Default)]
struct Root<'a> {
    leaves: BTreeSet<&'a Path>,
    directories: BTreeSet<&'a Path>,
}

impl<'a> Root<'a> {
    fn leaf(&mut self, target: &'a str) -> Result<(), PlanError> {
        self.parents(target)?;
        let path = Path::new(target);
        if self.directories.contains(path) || !self.leaves.insert(path) {
            return Err(PlanError::Target { target: target.to_owned(), above: target.to_owned() });
        }
        Ok(())
    }

    fn directory(&mut self, target: &'a str) -> Result<(), PlanError> {
        self.parents(target)?;
        let path = Path::new(target);
        if self.leaves.contains(path) {
            return Err(PlanError::Target { target: target.to_owned(), above: target.to_owned() });
        }
        self.directories.insert(path);
        Ok(())
    }

    /// Everything above a target is or becomes a directory.
    fn parents(&mut self, target: &'a str) -> Result<(), PlanError> {
        check_path(target)?;
        for parent in Path::new(target).ancestors().skip(1) {
            if self.leaves.contains(parent) {
                let above = parent.to_string_lossy().into_owned();
                return Err(PlanError::Target { target: target.to_owned(), above });
            }
            self.directories.insert(parent);
        }
        Ok(())
    }
}

fn check_path(path: &str) -> Result<(), PlanError> {
    let normal =
        Path::new(path).components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    // Components hide doubled and trailing slashes and single dots, so the text is compared too.
    let plain = Path::new(path).components().collect::<std::path::PathBuf>();
    let fits = path.starts_with('/') && path.len() > 1 && path.len() <= MAX_PATH;
    if !fits || !normal || plain.as_os_str() != path || !printable(path) {
        return Err(PlanError::Path(path.to_owned()));
    }
    Ok(())
}

fn printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

fn strictly_beneath(path: &str, directory: &Path) -> bool {
    Path::new(path).starts_with(directory) && Path::new(path) != directory
}

fn check_mode(target: &str, mode: u32, most: u32) -> Result<(), PlanError> {
    if mode & !most != 0 {
        return Err(PlanError::Mode { target: target.to_owned(), mode });
    }
    Ok(())
}

fn at_most(what: &'static str, limit: usize, count: usize) -> Result<(), PlanError> {
    if count > limit {
        return Err(PlanError::TooMany { what, limit, count });
    }
    Ok(())
}

fn in_range(what: &'static str, value: u64, most: u64) -> Result<(), PlanError> {
    if value == 0 || value > most {
        return Err(PlanError::Range { what, value });
    }
    Ok(())
}

#[cfg(test)]
#[path = "validate_tests.rs"]
pub(crate) mod tests;
