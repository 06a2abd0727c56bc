//! The two landlock domains, as tables.
//!
//! Landlock governs opening, executing, making and removing; looking at metadata and connecting
//! to a Unix socket by path it does not. The mount namespace decides what exists at all, this
//! decides again what may be done with it.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath,
    PathFd, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, Scope,
};

use super::ConfineError;

/// What may be done beneath a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Right {
    /// List directories, nothing else.
    List,
    /// Read.
    Read,
    /// Read and execute.
    Execute,
    /// Everything.
    Write,
    /// Use a device node: read, write, its ioctls.
    Device,
}

/// What the agent's side may do. Paths that a sandbox does not have are skipped: a rule only ever
/// adds a right.
pub const AGENT: &[(&str, Right)] = &[
    ("/", Right::List),
    ("/usr", Right::Execute),
    ("/bin", Right::Execute),
    ("/sbin", Right::Execute),
    ("/lib", Right::Execute),
    ("/lib64", Right::Execute),
    ("/opt", Right::Execute),
    ("/etc", Right::Read),
    ("/proc", Right::Read),
    ("/sys", Right::Read),
    ("/dev", Right::Read),
    ("/run", Right::Read),
    ("/workspace", Right::Write),
    ("/home/agent", Right::Write),
    ("/tmp", Right::Write),
    ("/dev/shm", Right::Write),
    ("/dev/null", Right::Device),
    ("/dev/zero", Right::Device),
    ("/dev/full", Right::Device),
    ("/dev/random", Right::Device),
    ("/dev/urandom", Right::Device),
    ("/dev/tty", Right::Device),
    ("/dev/ptmx", Right::Device),
    ("/dev/pts", Right::Device),
];

/// What every kernel must offer: without the right to move files between directories (ABI 2),
/// git and package managers fail.
const FLOOR: ABI = ABI::V2;

/// The newest ABI whose rights we know. What a kernel lacks of it is left out.
const CEILING: ABI = ABI::V6;

/// Enters the agent's domain. Its network is what the network namespace leaves of it; signals and
/// abstract sockets end at the domain's border where the kernel offers that (ABI 6).
///
/// # Errors
/// When the kernel offers less than ABI 2, or refuses.
pub fn agent() -> Result<(), ConfineError> {
    enter(|| {
        let mut domain = files()?.scope(Scope::from_all(CEILING))?.create()?;
        for (path, right) in AGENT {
            domain = allow(domain, path, *right)?;
        }
        Ok(domain)
    })
}

/// Enters the bridge's domain: no file, no network, for good. What it has open it keeps.
///
/// # Errors
/// When the kernel offers less than ABI 2, or refuses.
pub fn bridge() -> Result<(), ConfineError> {
    enter(|| {
        let network = files()?.handle_access(AccessNet::from_all(CEILING))?;
        network.scope(Scope::from_all(CEILING))?.create()
    })
}

fn enter(build: impl FnOnce() -> Result<RulesetCreated, RulesetError>) -> Result<(), ConfineError> {
    let status = build().and_then(|domain| domain.no_new_privs(false).restrict_self());
    match status {
        Ok(status) if status.ruleset != RulesetStatus::NotEnforced => Ok(()),
        Ok(_) => Err(ConfineError::Landlock("not enforced".to_owned())),
        Err(error) => Err(ConfineError::Landlock(error.to_string())),
    }
}

fn files() -> Result<Ruleset, RulesetError> {
    let floor = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(FLOOR))?;
    floor.set_compatibility(CompatLevel::BestEffort).handle_access(AccessFs::from_all(CEILING))
}

fn allow(domain: RulesetCreated, path: &str, right: Right) -> Result<RulesetCreated, RulesetError> {
    match PathFd::new(path) {
        Ok(fd) => domain.add_rule(PathBeneath::new(fd, rights(path, right))),
        Err(_) => Ok(domain),
    }
}

fn rights(path: &str, right: Right) -> BitFlags<AccessFs> {
    let all = match right {
        Right::List => AccessFs::ReadDir.into(),
        Right::Read => AccessFs::ReadFile | AccessFs::ReadDir,
        Right::Execute => AccessFs::from_read(CEILING),
        Right::Write => AccessFs::from_all(CEILING) & !BitFlags::from(AccessFs::IoctlDev),
        Right::Device => {
            AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev
        }
    };
    // Rights of directories are refused on anything else.
    if std::path::Path::new(path).is_dir() { all } else { all & AccessFs::from_file(CEILING) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_root_made_is_writable() {
        let writable =
            AGENT.iter().filter(|(_, right)| *right == Right::Write).map(|(path, _)| *path);
        let expected = ["/workspace", "/home/agent", "/tmp", "/dev/shm"];
        assert!(writable.eq(expected));
    }

    #[test]
    fn only_what_is_mounted_executable_or_writable_can_be_executed() {
        for (path, right) in AGENT {
            let executes = rights(path, *right).contains(AccessFs::Execute);
            assert_eq!(executes, matches!(right, Right::Execute | Right::Write), "{path}");
        }
    }
}
