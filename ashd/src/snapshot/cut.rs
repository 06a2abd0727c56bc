//! Cutting a point: the files of a session as they are at one moment.
//!
//! 1. Everything is looked at, and what has changed since the last cut is read and stored.
//!    When that was much, and something moved meanwhile, it is done again, a few times at most.
//! 2. Everything is looked at again. When nothing has moved since it was read, the moment between
//!    the two is what the point is of. Else, and when something was changed so shortly before that
//!    its times cannot tell whether it was changed again, the agent is stopped for this second
//!    look, and what has moved is read then.
//!
//! So the agent stands still seldom, and then not for the time that it takes to read its files,
//! but to look at them. Nothing is brought to the disk before it goes on.

use std::any::Any;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::{fmt, io};

use super::assemble::Assembled;
use super::error::shown;
use super::gate::Pin;
use super::limits::Limits;
use super::look::Look;
use super::scan::Scan;
use super::vault::{Stash, Vault};
use super::{SnapshotError, deeply};
use crate::domain::{Root, SessionId};
use crate::tree::dir::SOCKET;

/// Paths of what is left out that are named.
const NAMED: usize = 20;

/// What is to be cut.
pub struct Cutting<'a> {
    /// The session.
    pub session: SessionId,
    /// Its directories, by the names that they have in the point.
    pub roots: &'a [(&'a str, &'a Path)],
    /// Set when the cut is to be given up. What was read till then is not read again by the next.
    pub cancel: &'a AtomicBool,
    /// How much there may be.
    pub limits: Limits,
}

impl<'a> Cutting<'a> {
    /// As much of it as a point can have.
    pub fn new(
        session: SessionId,
        roots: &'a [(&'a str, &'a Path)],
        cancel: &'a AtomicBool,
    ) -> Cutting<'a> {
        Cutting { session, roots, cancel, limits: Limits::default() }
    }
}

/// Stops whoever changes the files, until what is returned is dropped.
pub type Hold<'a> = dyn Fn() -> io::Result<Box<dyn Any>> + Sync + 'a;

/// What a cut says of its moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// The point is of this moment, unless this is said once more: whoever is told notes what else
    /// belongs to it. What happens to the files behind it is not in the point.
    Moment,
    /// The moment was the right one, and the files may change.
    Passed,
}

/// Whom a cut tells. False: nobody has noted the moment, and the cut is given up.
pub type Tell<'a> = dyn Fn(Stage) -> bool + Sync + 'a;

/// What was cut.
pub struct Cut {
    /// The content of the point.
    pub root: Root,
    /// Files, directories and links.
    pub files: u64,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Bytes that were written for it.
    pub written: u64,
    /// What is not in it.
    pub left_out: LeftOut,
    /// Whether the agent was stopped for it.
    pub held: bool,
    /// Keeps it from being collected until it is recorded that it is a point.
    pub pin: Pin,
}

/// What cannot be kept: sockets, device nodes, what nests too deep, too many attributes.
#[derive(Clone, Debug, Default)]
pub struct LeftOut {
    /// How many.
    pub count: u64,
    /// How many of them are sockets: in those of a sandbox that is gone nobody answers any more.
    pub sockets: u64,
    /// The first few, as seen from the session.
    pub paths: Vec<String>,
}

impl LeftOut {
    pub(super) fn add(&mut self, path: &[u8], what: &str) {
        self.count += 1;
        self.sockets += u64::from(what == SOCKET);
        if self.paths.len() < NAMED {
            self.paths.push(format!("{} ({what})", shown(path)));
        }
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.paths.join(", "))?;
        match self.count as usize - self.paths.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl Vault {
    /// Cuts a point, and tells of its moment. If the agent is stopped for it, it stands still from
    /// before the moment until it has passed.
    ///
    /// # Errors
    /// [`SnapshotError::Cancelled`], [`SnapshotError::Full`], [`SnapshotError::TooMany`],
    /// [`SnapshotError::TooLong`], and when files cannot be read or the store cannot be written.
    pub fn cut(
        &self,
        cutting: &Cutting<'_>,
        hold: &Hold<'_>,
        tell: &Tell<'_>,
    ) -> Result<Cut, SnapshotError> {
        deeply(|| self.cut_deeply(cutting, hold, tell))
    }

    fn cut_deeply(
        &self,
        cutting: &Cutting<'_>,
        hold: &Hold<'_>,
        tell: &Tell<'_>,
    ) -> Result<Cut, SnapshotError> {
        let pin = self.gate.enter_unless(cutting.cancel).ok_or(SnapshotError::Cancelled)?;
        let path = self.scan(cutting.session);
        let mut scan = Scan::load(&path);
        let is_stored = |root| self.index().counts(Vault::top(root)).unwrap_or(false);
        let is_lost = scan.root.is_some_and(|root| !is_stored(root));
        if is_lost || !pin.trusts(cutting.session, scan.root) {
            // Its newest pack is gone, and with it what counts as stored; or some of it may go.
            scan = Scan::default();
        }
        let stash = Mutex::new(Stash::new(self).of(cutting.session));
        let mut look = Look::new(cutting, &stash, &scan.files);
        let moments = look.twice(hold, tell);
        let mut done = moments.and_then(|moments| look.assembly(&moments).finish());
        // What was read is kept in any case, but belongs to no root when it was not all.
        let published = stash.lock().unwrap_or_else(PoisonError::into_inner).publish();
        let published = match published {
            Ok(bytes) => bytes,
            Err(error) => return Err(done.err().unwrap_or(error)),
        };
        let Look { read, held, .. } = look;
        // Of those whose times do not tell it cannot be told later whether they are what was read.
        let new = read.into_iter().filter(|(_, met)| met.is_sure && met.is_new);
        let mut new: Vec<_> = new.map(|(path, met)| (path, met.known)).collect();
        if let Ok(all) = &mut done {
            new.append(&mut all.new);
        }
        let root = done.as_ref().ok().map(|all| all.root);
        // Of a cut that failed nothing goes: what is known would become more with each of them.
        if root.is_none() && (scan.files.len() + new.len()) as u64 > cutting.limits.entries {
            new.clear();
        }
        let logged = match new.is_empty() && root == scan.root {
            true => 0,
            false => scan.save(&path, root, new)?,
        };
        if !pin.wrote_scan(cutting.session, root) {
            self.forget(cutting.session)?;
        }
        let Assembled { root, files, bytes, left_out, .. } = done?;
        let written = published + logged;
        Ok(Cut { root, files, bytes, written, left_out, held, pin })
    }
}
