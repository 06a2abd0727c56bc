//! What is known to be damaged, and what is kept because of it.
//!
//! Both are small files beside the packs. `damage` says which points are not whole: for whoever
//! lists them. `held` says which packs are not collected because a point could not be followed: all
//! that there were when this was noticed, for any chunk in them may be one that it needs. What is
//! written later it does not need. Losing either file loses nothing: the first is found out again,
//! and without the second more is held.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::SnapshotError;
use super::vault::Vault;
use crate::domain::Root;

/// A point that is not whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Damage {
    /// Its content.
    pub root: Root,
    /// The first file or directory of it that is damaged, as seen from the session; empty: all of it.
    pub path: String,
    /// What is wrong, a sentence.
    pub how: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => write!(f, "all of it: {}", self.how),
            path => write!(f, "{path}: {}", self.how),
        }
    }
}

/// What is known of a point's damage.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Known {
    path: String,
    how: String,
    /// Whether only reading the content told.
    deep: bool,
}

/// Damage by the hexadecimal roots of points.
pub(super) type Notes = BTreeMap<String, Known>;

/// How many points are known to be damaged, of one vault and of all. For those who must not wait: what
/// is known is kept from changing while it is written.
pub(super) struct Count {
    own: AtomicU64,
    all: Arc<AtomicU64>,
}

impl Count {
    /// None, to be added to those of all.
    pub(super) fn new(all: &Arc<AtomicU64>) -> Count {
        Count { own: AtomicU64::new(0), all: all.clone() }
    }

    pub(super) fn set(&self, now: usize) {
        let now = now as u64;
        let before = self.own.swap(now, Ordering::Relaxed);
        // Less than before wraps around, and comes out right.
        self.all.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// What is not collected, and for the sake of which points.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Held {
    roots: BTreeSet<String>,
    packs: BTreeSet<Uuid>,
}

impl Vault {
    /// What is known to be damaged of a point.
    pub fn damage(&self, root: Root) -> Option<Damage> {
        let notes = self.notes();
        let Known { path, how, .. } = notes.get(&root.to_string())?;
        Some(Damage { root, path: path.clone(), how: how.clone() })
    }

    /// How many points are known to be damaged.
    pub fn damaged(&self) -> u64 {
        self.count.own.load(Ordering::Relaxed)
    }

    /// Notes what was found of points. Only a deep look takes back what a deep look has found.
    pub(super) fn note(
        &self,
        looked_at: &[Root],
        damaged: &[Damage],
        deep: bool,
    ) -> Result<(), SnapshotError> {
        let mut notes = self.notes();
        let mut new = notes.clone();
        for root in looked_at.iter().map(Root::to_string) {
            if new.get(&root).is_some_and(|known| deep || !known.deep) {
                new.remove(&root);
            }
        }
        for Damage { root, path, how } in damaged {
            let known = Known { path: path.clone(), how: how.clone(), deep };
            new.entry(root.to_string()).or_insert(known);
        }
        if new != *notes {
            write(&self.beside("damage"), &new)?;
            *notes = new;
            self.count.set(notes.len());
        }
        Ok(())
    }

    /// Forgets what was noted of points that there are no more.
    pub(super) fn keep_notes_of(&self, points: &[Root]) -> Result<(), SnapshotError> {
        let points: BTreeSet<String> = points.iter().map(Root::to_string).collect();
        let mut notes = self.notes();
        let before = notes.len();
        notes.retain(|root, _| points.contains(root));
        self.count.set(notes.len());
        match notes.len() == before {
            true => Ok(()),
            false => write(&self.beside("damage"), &*notes),
        }
    }

    /// The packs that stay as they are, because these points cannot be followed. All that there are
    /// now are among them if one of the points is new to this.
    pub(super) fn hold(
        &self,
        lost: &[Root],
        preview: bool,
    ) -> Result<BTreeSet<Uuid>, SnapshotError> {
        let path = self.beside("held");
        let roots: BTreeSet<String> = lost.iter().map(Root::to_string).collect();
        if roots.is_empty() {
            if !preview {
                remove(&path)?;
            }
            return Ok(BTreeSet::new());
        }
        let held: Held = read(&path);
        let packs = match roots.is_subset(&held.roots) {
            true => held.packs,
            // The index may come to know of one later that cannot be used now.
            false => {
                let known = self.index().known()?;
                known.into_iter().chain(self.all_packs()?).map(|(name, _)| name).collect()
            }
        };
        if !preview {
            write(&path, &Held { roots, packs: packs.clone() })?;
        }
        Ok(packs)
    }
}

/// What the file says that notes damage.
pub(super) fn load(dir: &Path) -> Notes {
    read(&dir.join("damage"))
}

/// Reads such a file; one that is not there or makes no sense says nothing.
fn read<T: Default + for<'de> Deserialize<'de>>(path: &Path) -> T {
    let bytes = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

fn write<T: Serialize>(path: &Path, what: &T) -> Result<(), SnapshotError> {
    let bytes = serde_json::to_vec(what).map_err(std::io::Error::from)?;
    let new = path.with_extension("new");
    std::fs::write(&new, bytes)?;
    std::fs::File::open(&new)?.sync_data()?;
    Ok(std::fs::rename(&new, path)?)
}

fn remove(path: &Path) -> Result<(), SnapshotError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
