//! The versions of the Claude Code CLI on this machine: `runtime/<version>/claude` in the directory
//! of our programs, and the link `claude` to the one that is used.

mod error;
mod fetch;
mod probe;
mod shelf;

pub(crate) use error::RuntimeError;
pub(crate) use shelf::{Installed, Shelf};

use std::path::{Path, PathBuf};

/// The version that this ash is tried with. The only place that says it; `scripts/lib.sh` has to
/// agree.
pub(crate) const PINNED: &str = "2.1.197";

/// Where a program to install comes from.
pub(crate) enum Source<'a> {
    /// A version, through npm.
    Npm(&'a str),
    /// A file of this machine, whatever version it is.
    File(&'a Path),
}

/// Installs a version and uses it if it is the first. Returns the version, and whether it was there
/// already.
///
/// # Errors
/// When it cannot be had, does not run in a sandbox, or cannot be put in its place.
pub(crate) async fn install(
    shelf: &Shelf,
    source: Source<'_>,
) -> Result<(String, bool), RuntimeError> {
    need_root()?;
    if let Source::Npm(version) = source {
        shelf::check_version(version)?;
        if shelf.has(version) {
            return Ok((version.to_owned(), true));
        }
    }
    let bwrap = probe::bwrap(shelf.libexec())?;
    let place = shelf.begin_when_free().await?;
    let (wanted, name) = match source {
        Source::Npm(version) => {
            place.take(&fetch::fetch(version, place.scratch()).await?)?;
            (Some(version), PathBuf::from(format!("version {version} from npm")))
        }
        Source::File(path) => {
            place.take(path)?;
            (None, path.to_owned())
        }
    };
    // What is asked is the copy that will be used, not the file that somebody may still change.
    let version = probe::version(&bwrap, &place.program(), &name).await?;
    if let Some(wanted) = wanted.filter(|wanted| *wanted != version) {
        let wanted = wanted.to_owned();
        return Err(RuntimeError::OtherVersion { wanted, said: version });
    }
    let was_there = shelf.has(&version);
    if !was_there {
        place.keep(&version)?;
    }
    if shelf.used()?.is_none() {
        shelf.choose(&version)?;
    }
    Ok((version, was_there))
}

/// What is installed belongs to root, and only root can make a sandbox of our kind.
pub(crate) fn need_root() -> Result<(), RuntimeError> {
    match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => Err(RuntimeError::NotRoot),
    }
}

#[cfg(test)]
mod tests {
    use super::PINNED;

    #[test]
    fn the_scripts_fetch_the_pinned_version() {
        let lib = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/lib.sh");
        let text = std::fs::read_to_string(lib).unwrap();
        let said = text.lines().find_map(|line| line.strip_prefix("CLI_VERSION="));
        assert_eq!(said, Some(PINNED));
    }
}
