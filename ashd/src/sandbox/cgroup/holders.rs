//! Who holds which agent where it is.
//!
//! More than one may at a time: whoever takes a picture of its files for a moment, and whoever lets it
//! rest. It goes on when nobody holds it any more.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::group::is_gone;

/// How often each agent is held, by the file that stops it. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders(Arc<Mutex<HashMap<PathBuf, usize>>>);

impl Holders {
    /// Stops an agent, by this file.
    ///
    /// # Errors
    /// When the file cannot be written, or is not there.
    pub(super) fn hold(&self, path: &Path) -> io::Result<Frozen> {
        let mut held = self.held();
        fs::write(path, "1")?;
        *held.entry(path.to_owned()).or_default() += 1;
        Ok(Frozen { path: path.to_owned(), holders: self.clone() })
    }

    /// Whoever holds this is alone in saying whether an agent stops or goes on.
    fn held(&self) -> MutexGuard<'_, HashMap<PathBuf, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An agent that stands still. It goes on when this is dropped, unless somebody else holds it as well.
#[derive(Debug)]
pub struct Frozen {
    path: PathBuf,
    holders: Holders,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let mut held = self.holders.held();
        if let Some(times) = held.get_mut(&self.path).filter(|times| **times > 1) {
            *times -= 1;
            return;
        }
        held.remove(&self.path);
        if let Err(error) = fs::write(&self.path, "0")
            && !is_gone(&error)
        {
            tracing::error!(%error, "an agent could not be let go on");
        }
    }
}
