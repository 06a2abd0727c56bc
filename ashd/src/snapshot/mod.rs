//! Snapshots: the files of a session at one moment, kept as content.
//!
//! What is kept is cut into chunks that are named by their hashes ([`chunk`]), so that what two
//! points, two sessions or two agents have in common is there once. Directories are nodes that name
//! chunks and other nodes ([`node`]); the node of the topmost directory is the root of a point.
//! Chunks lie in packs ([`pack`]), which never change once they have their names; an index
//! ([`index`]) says where, and can be made again from the packs.
//!
//! Every tenant has a vault of its own: nothing is shared across tenants, so that nobody can find
//! out what another one has, and all of one tenant can be deleted.
//!
//! What makes a point is not here: whoever cuts one records its root in the database, and holds on
//! to the [`Pin`] until then. Everything here blocks.

mod chunk;
mod node;
mod pack;

mod gate;
mod index;
mod scan;

mod error;
mod vault;

mod cut;
mod look;
mod read;

mod restore;

mod browse;
mod walk;

mod check;
mod collect;
mod damage;
mod travel;

pub mod parsers;

pub use browse::{Browser, Listed, Reading, Unpinned};
pub use check::{BadPack, Survey};
pub use collect::{Collected, Collecting};
pub use cut::{Cut, Cutting, Hold, LeftOut, Stage, Tell};
pub use damage::Damage;
pub use error::SnapshotError;
pub use gate::Pin;
pub use restore::{Donor, Restored, Restoring};
pub use travel::{Arriving, LARGEST_PACK};
pub use vault::Vault;

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::Tenant;

/// The snapshots of every tenant. Cheap to clone.
#[derive(Clone)]
pub struct Snapshots(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    vaults: Mutex<HashMap<Tenant, Arc<Vault>>>,
}

impl Snapshots {
    /// Opens the store in a directory, which is made when there is none.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(dir: &Path) -> Result<Snapshots, SnapshotError> {
        private(dir)?;
        Ok(Snapshots(Arc::new(Inner { dir: dir.to_owned(), vaults: Mutex::default() })))
    }

    /// The vault of a tenant, which is made when there is none.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn vault(&self, tenant: &Tenant) -> Result<Arc<Vault>, SnapshotError> {
        let mut vaults = self.0.vaults.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(vault) = vaults.get(tenant) {
            return Ok(vault.clone());
        }
        let vault = Arc::new(Vault::open(&self.0.dir.join(tenant.as_str()))?);
        vaults.insert(tenant.clone(), vault.clone());
        Ok(vault)
    }

    /// How many points of vaults that are open are known to be damaged.
    pub fn damaged(&self) -> u64 {
        let vaults = self.0.vaults.lock().unwrap_or_else(PoisonError::into_inner);
        vaults.values().map(|vault| vault.damaged()).sum()
    }

    /// Every tenant that has a vault.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn tenants(&self) -> Result<Vec<Tenant>, SnapshotError> {
        let mut tenants = vec![];
        for entry in std::fs::read_dir(&self.0.dir)? {
            tenants.extend(entry?.file_name().to_str().and_then(|name| name.parse().ok()));
        }
        Ok(tenants)
    }
}

/// How deep directories may nest; what is deeper is left out.
const DEEPEST: usize = 512;

/// The stack of a thread that goes that deep, in bytes. What it does not need costs nothing.
const STACK: usize = 32 << 20;

/// Does something on a thread that can go as deep as directories nest.
fn deeply<T: Send>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send,
) -> Result<T, SnapshotError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("snapshot".into()).stack_size(STACK);
        let panicked =
            |_| SnapshotError::Store("it failed in a way that nobody foresaw".to_owned());
        thread.spawn_scoped(scope, work)?.join().map_err(panicked)?
    })
}

/// Makes a directory that only root may enter.
fn private(dir: &Path) -> Result<(), SnapshotError> {
    Ok(DirBuilder::new().recursive(true).mode(0o700).create(dir)?)
}

#[cfg(test)]
mod tests;
