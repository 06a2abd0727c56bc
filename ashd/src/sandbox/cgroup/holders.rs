//! Who holds which agent where it is.
//!
//! More than one may at a time: whoever takes a picture of its files for a moment, and whoever lets it
//! rest. It goes on when nobody holds it any more.
//!
//! Each agent has a lock of its own, which is kept while it is written that it stops or goes on: else what
//! is written last need not be what was said last. Nobody waits for it who is about another agent. It is
//! written where it is said, also in a task, because an agent is to go on at once: the kernel only marks
//! the processes and waits for none of them. What it may wait for is its own lock of all control groups,
//! for as long as one is made or removed.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::group::is_gone;

/// How often an agent is held.
type Times = Arc<Mutex<usize>>;

/// An agent that somebody holds, or is about to.
#[derive(Debug, Default)]
struct Agent {
    known_to: usize,
    times: Times,
}

/// Who holds which agent, by the file that stops it. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders(Arc<Mutex<HashMap<PathBuf, Agent>>>);

impl Holders {
    /// Stops an agent, by this file.
    ///
    /// # Errors
    /// When the file cannot be written, or is not there.
    pub(super) fn hold(&self, path: &Path) -> io::Result<Frozen> {
        let (path, times, holders) = (path.to_owned(), self.know(path), self.clone());
        let mut frozen = Frozen { path, times, holds: false, holders };
        frozen.stop()?;
        Ok(frozen)
    }

    fn know(&self, path: &Path) -> Times {
        let mut all = self.all();
        let agent = all.entry(path.to_owned()).or_default();
        agent.known_to += 1;
        agent.times.clone()
    }

    fn forget(&self, path: &Path) {
        let mut all = self.all();
        if let Some(agent) = all.get_mut(path) {
            agent.known_to -= 1;
            if agent.known_to == 0 {
                all.remove(path);
            }
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<PathBuf, Agent>> {
        lock(&self.0)
    }
}

/// An agent that stands still. It goes on when this is dropped, unless somebody else holds it as well.
#[derive(Debug)]
pub struct Frozen {
    path: PathBuf,
    times: Times,
    holds: bool,
    holders: Holders,
}

impl Frozen {
    fn stop(&mut self) -> io::Result<()> {
        let mut times = lock(&self.times);
        fs::write(&self.path, "1")?;
        *times += 1;
        self.holds = true;
        Ok(())
    }

    fn let_go(&self) {
        let mut times = lock(&self.times);
        *times -= 1;
        if *times > 0 {
            return;
        }
        if let Err(error) = fs::write(&self.path, "0")
            && !is_gone(&error)
        {
            tracing::error!(%error, "an agent could not be let go on");
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if self.holds {
            self.let_go();
        }
        self.holders.forget(&self.path);
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place that only looks like one of control groups, and the files of two agents in it.
    fn place() -> (tempfile::TempDir, [PathBuf; 2]) {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["one", "other"].map(|name| dir.path().join(name));
        (dir, paths)
    }

    fn stands(path: &Path) -> bool {
        fs::read_to_string(path).unwrap() == "1"
    }

    #[test]
    fn an_agent_goes_on_behind_the_last_who_holds_it_and_is_forgotten() {
        let ((_dir, [path, _]), holders) = (place(), Holders::default());
        let (first, second) = (holders.hold(&path).unwrap(), holders.hold(&path).unwrap());
        drop(first);
        assert!(stands(&path) && holders.all().len() == 1);
        let third = holders.hold(&path).unwrap();
        drop(second);
        assert!(stands(&path));
        drop(third);
        assert!(!stands(&path) && holders.all().is_empty());
    }

    #[test]
    fn nobody_waits_for_another_agent() {
        let ((_dir, [one, other]), holders) = (place(), Holders::default());
        let held = holders.hold(&one).unwrap();
        let written = lock(&held.times);
        drop(holders.hold(&other).unwrap());
        assert!(stands(&one) && !stands(&other));
        drop(written);
    }

    #[test]
    fn one_that_cannot_be_stopped_is_held_by_nobody() {
        let ((_dir, [path, _]), holders) = (place(), Holders::default());
        fs::create_dir(&path).unwrap();
        assert!(holders.hold(&path).is_err() && holders.all().is_empty());
        fs::remove_dir(&path).unwrap();
        let held = holders.hold(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(holders.hold(&path).is_err());
        fs::remove_dir(&path).unwrap();
        drop(held);
        assert!(!stands(&path) && holders.all().is_empty());
    }
}
