//! Whether a folder can become an agent.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::path::stays_inside;
use super::walk::{Meter, names, special, stat};
use super::{Tree, TreeError, TreeLimits, open, shown};

/// What an agent's folder must have in its root.
const INSTRUCTIONS: &str = "CLAUDE.md";

/// What a tree holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// Files, directories and links.
    pub files: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

impl Tree {
    /// Checks that the tree can become an agent: only directories, regular files, and relative
    /// links that do not lead out of it (also not through other links), with names that are
    /// text, within `limits`, and with a CLAUDE.md.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check_agent_folder(&self, limits: TreeLimits) -> Result<Summary, TreeError> {
        let summary = self.check(limits)?;
        if !self.exists_file(INSTRUCTIONS)? {
            return Err(TreeError::NoInstructions);
        }
        Ok(summary)
    }

    /// As [`check_agent_folder`](Self::check_agent_folder), but asks for no CLAUDE.md.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self, limits: TreeLimits) -> Result<Summary, TreeError> {
        let mut meter = Meter::new(limits);
        check_dir(self.fd(), self.fd(), &mut meter)?;
        Ok(Summary { files: meter.files, bytes: meter.bytes })
    }
}

fn check_dir(
    root: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    meter: &mut Meter,
) -> Result<(), TreeError> {
    for name in names(dir, meter.room()).map_err(|error| meter.at(error))? {
        meter.count()?;
        meter.within(name.to_bytes(), |meter| check_entry(root, dir, &name, meter))?;
    }
    Ok(())
}

fn check_entry(
    root: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: &CStr,
    meter: &mut Meter,
) -> Result<(), TreeError> {
    if !name.to_str().is_ok_and(|name| !name.contains(|c: char| c.is_control())) {
        let reason = "a name is not text, or has a control character";
        return Err(TreeError::Name { path: shown(meter.path()), reason });
    }
    let (kind, stat) = stat(dir, name).map_err(|error| meter.at(error))?;
    match kind {
        FileType::RegularFile => meter.add(u64::try_from(stat.st_size).unwrap_or(u64::MAX)),
        FileType::Directory => {
            let child = open::dir(dir, name.to_bytes()).map_err(|error| meter.at(error))?;
            meter.down(|meter| check_dir(root, child.as_fd(), meter))
        }
        FileType::Symlink => check_link(root, dir, name, meter),
        kind => Err(TreeError::Special { path: shown(meter.path()), what: special(kind) }),
    }
}

/// A link must stay inside by its own words, so that it still does when what it leads through is
/// replaced, and as the kernel follows it, so that other links do not lead it out.
fn check_link(
    root: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: &CStr,
    meter: &Meter,
) -> Result<(), TreeError> {
    let target = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(|error| meter.at(error))?;
    if !stays_inside(meter.depth(), target.to_bytes()) {
        return Err(TreeError::Escapes(shown(meter.path())));
    }
    follow_link(root, meter.path())
}

pub(super) fn follow_link(root: BorrowedFd<'_>, path: &[u8]) -> Result<(), TreeError> {
    followed(open::follow(root, path), path)
}

/// What is to be thought of a link that was followed as far as it leads.
fn followed(there: Result<OwnedFd, Errno>, path: &[u8]) -> Result<(), TreeError> {
    match there {
        // Nothing is there (yet): its words have been judged.
        Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        Err(Errno::XDEV) => Err(TreeError::Escapes(shown(path))),
        Err(Errno::LOOP) => Err(TreeError::Loop(shown(path))),
        // Nothing was opened on which anybody could have a lease.
        Err(Errno::AGAIN) => Err(TreeError::Unsure(shown(path))),
        Err(error) => Err(TreeError::at(&shown(path), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_link_that_cannot_be_followed_nobody_is_said_to_have_a_lease() {
        let judged = |error| followed(Err(error), b"a/link").err();
        assert!(matches!(judged(Errno::AGAIN), Some(TreeError::Unsure(path)) if path == "a/link"));
        assert!(matches!(judged(Errno::XDEV), Some(TreeError::Escapes(_))));
        assert!(judged(Errno::NOENT).is_none());
    }
}
