//! What a machine must have, and what it should have.
//!
//! Below the floor `ashd` does not start. Above it, every layer of protection that is missing is
//! named in a sentence.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};

/// The oldest kernel.
const KERNEL: (u32, u32) = (6, 1);

/// The oldest bubblewrap.
const BWRAP: (u32, u32) = (0, 8);

/// Why this machine cannot hold sandboxes.
#[derive(Debug, thiserror::Error)]
pub enum BelowFloor {
    /// Kernel too old.
    #[error("the kernel is {release}; ash needs Linux {}.{} or newer", KERNEL.0, KERNEL.1)]
    Kernel {
        /// What it calls itself.
        release: String,
    },
    /// No landlock, or too old.
    #[error(
        "the kernel has no landlock of ABI 2; add `landlock` to its lsm= boot parameter or use \
         Linux 6.1 or newer built with it"
    )]
    Landlock,
    /// No bubblewrap.
    #[error("{} cannot be run ({error}); install bubblewrap {}.{} or newer", path.display(), BWRAP.0, BWRAP.1)]
    NoBwrap {
        /// Where it should be.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// Bubblewrap too old.
    #[error("{} says {version:?}; install bubblewrap {}.{} or newer", path.display(), BWRAP.0, BWRAP.1)]
    OldBwrap {
        /// Which.
        path: PathBuf,
        /// What it says.
        version: String,
    },
    /// Not root.
    #[error("sandboxes can be made by root only; run ashd as root")]
    NotRoot,
    /// No CLI.
    #[error(
        "the Claude Code CLI {} cannot be used: {error}; install it with `ashctl runtime install`, \
         or name another in sandbox.claude", path.display()
    )]
    NoRuntime {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A program of the installation.
    #[error("{} cannot be used: {error}; reinstall ash or correct the path", path.display())]
    Program {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Checks the machine; `bwrap` is the bubblewrap that will be used.
///
/// # Errors
/// The first thing that is below the floor.
pub fn check(bwrap: &Path) -> Result<(), BelowFloor> {
    if !rustix::process::geteuid().is_root() {
        return Err(BelowFloor::NotRoot);
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if version(&release).is_none_or(|version| version < KERNEL) {
        return Err(BelowFloor::Kernel { release });
    }
    if !landlock_has(ABI::V2) {
        return Err(BelowFloor::Landlock);
    }
    check_bwrap(bwrap)
}

/// A sentence for each layer of protection that this kernel does not have.
pub fn missing() -> Vec<String> {
    let layers = [
        (ABI::V3, "landlock does not know truncation (ABI 3, Linux 6.2)"),
        (ABI::V4, "landlock does not know TCP (ABI 4, Linux 6.7)"),
        (ABI::V5, "landlock does not know device control (ABI 5, Linux 6.10)"),
        (ABI::V6, "landlock does not confine signals and abstract sockets (ABI 6, Linux 6.12)"),
    ];
    let missing = layers.into_iter().filter(|(abi, _)| !landlock_has(*abi));
    missing.map(|(_, sentence)| sentence.to_owned()).collect()
}

/// Whether the kernel knows everything of this ABI. Makes a rule set and drops it.
fn landlock_has(abi: ABI) -> bool {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi));
    let rules = match abi {
        ABI::V1 | ABI::V2 | ABI::V3 => rules,
        ABI::V4 | ABI::V5 => {
            rules.and_then(|r| r.handle_access(landlock::AccessNet::from_all(abi)))
        }
        _ => rules.and_then(|rules| rules.scope(Scope::from_all(abi))),
    };
    rules.and_then(Ruleset::create).is_ok()
}

fn check_bwrap(path: &Path) -> Result<(), BelowFloor> {
    let output = Command::new(path).arg("--version").env_clear().output();
    let output = output.map_err(|error| BelowFloor::NoBwrap { path: path.to_owned(), error })?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let number = said.strip_prefix("bubblewrap ").and_then(version);
    match number {
        Some(number) if number >= BWRAP => Ok(()),
        _ => Err(BelowFloor::OldBwrap { path: path.to_owned(), version: said }),
    }
}

/// The first two numbers of a version like `6.1.0-18-amd64`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// A bubblewrap that no profile is tied to: distributions tie an AppArmor profile to the path
/// `/usr/bin/bwrap` that forbids what a sandbox needs, so one from there is copied to `copy`.
///
/// # Errors
/// When it cannot be copied.
pub fn own_bwrap(bwrap: &Path, copy: &Path) -> Result<PathBuf, BelowFloor> {
    if !bwrap.starts_with("/usr/bin") && !bwrap.starts_with("/bin") {
        return Ok(bwrap.to_owned());
    }
    // Under another name first: a launcher may be running the copy that is there.
    let fresh = copy.with_extension("new");
    usable(bwrap)
        .and_then(|()| fs::copy(bwrap, &fresh))
        .and_then(|_| fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&fresh, copy))
        .map_err(|error| BelowFloor::NoBwrap { path: bwrap.to_owned(), error })?;
    Ok(copy.to_owned())
}

/// Checks that a program is there, and that the users of a sandbox could run it.
///
/// # Errors
/// When it is not a file, or not executable by everybody.
pub fn check_program(path: &Path) -> Result<(), BelowFloor> {
    usable(path).map_err(|error| BelowFloor::Program { path: path.to_owned(), error })
}

/// The CLI that `path` is or leads to.
///
/// # Errors
/// When it is not a file, or not executable by everybody.
pub fn runtime(path: &Path) -> Result<PathBuf, BelowFloor> {
    let found = fs::canonicalize(path).and_then(|found| usable(&found).map(|()| found));
    found.map_err(|error| BelowFloor::NoRuntime { path: path.to_owned(), error })
}

fn usable(path: &Path) -> io::Result<()> {
    let found = fs::metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    match found.permissions().mode() & 0o001 {
        0 => Err(io::Error::other("not everybody may execute it")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_first_two_numbers() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("0.12.1"), Some((0, 12)));
        assert!(version("0.11").unwrap() > BWRAP && version("5.15.0").unwrap() < KERNEL);
        for bad in ["", "six", "6", "6.x"] {
            assert_eq!(version(bad), None, "{bad}");
        }
    }

    #[test]
    fn layers_grow_with_the_abi() {
        let known: Vec<_> =
            [ABI::V1, ABI::V2, ABI::V3, ABI::V4, ABI::V5, ABI::V6].map(landlock_has).into();
        assert!(known.is_sorted_by(|older, newer| older >= newer), "{known:?}");
        assert!(missing().len() <= 4);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = check_bwrap(Path::new("/no/such/bwrap")).unwrap_err().to_string();
        assert!(error.contains("/no/such/bwrap") && error.contains("install"), "{error}");
        assert!(check_program(Path::new("/no/such")).is_err());
        assert!(check_program(Path::new("/")).is_err());
        assert!(check_program(Path::new("/etc/passwd")).is_err());
        assert!(check_program(Path::new("/bin/sh")).is_ok());
        let error = runtime(Path::new("/no/such")).unwrap_err().to_string();
        assert!(error.contains("ashctl runtime install"), "{error}");
    }

    #[test]
    fn a_link_to_the_cli_is_followed_once() {
        let dir = tempfile::tempdir().unwrap();
        let (program, link) = (dir.path().join("program"), dir.path().join("link"));
        fs::copy("/bin/sh", &program).unwrap();
        std::os::unix::fs::symlink("program", &link).unwrap();
        assert_eq!(runtime(&link).unwrap(), fs::canonicalize(&program).unwrap());
    }
}
