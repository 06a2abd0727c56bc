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
mod opened;
mod pack;

mod gate;
mod index;
mod scan;

mod error;
mod opening;
mod sound;
mod vault;

mod cut;
mod limits;
mod look;

mod assemble;
mod crew;
mod groups;
mod read;

mod restore;
mod writers;

mod browse;
mod walk;

mod at_rest;
mod check;
mod damage;
mod travel;

mod collect;
mod decide;
mod desks;
mod purged;
mod sweep;

pub mod parsers;

pub use at_rest::AtRest;
pub use browse::{Browser, Listed, Met, Reading, Unpinned};
pub use check::{BadPack, Survey};
pub use collect::{Collected, Collecting, Extent};
pub use cut::{Cut, Cutting, Hold, LeftOut, Stage, Tell};
pub use damage::Damage;
pub use error::SnapshotError;
pub use gate::Pin;
pub use limits::Limits;
pub use opened::OPEN_PACKS;
pub use restore::{Restored, Restoring};
pub use travel::{Arriving, LARGEST_PACK};
pub use vault::Vault;
pub use writers::Donor;

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::desks::Desks;
use self::opened::OpenPacks;
use self::opening::{Behind, Door};
use crate::domain::Tenant;
use crate::fault;
use crate::tree::{TreeError, remove_all};

/// The snapshots of every tenant. Cheap to clone.
#[derive(Clone)]
pub struct Snapshots(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    /// Held for a moment, and by nobody who opens a vault.
    doors: Mutex<HashMap<Tenant, Arc<Door>>>,
    /// Points that are known to be damaged.
    damaged: Arc<AtomicU64>,
    packs: Arc<OpenPacks>,
    desks: Arc<Desks>,
}

impl Snapshots {
    /// Opens the store in a directory, which is made when there is none. No vault is opened.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(dir: &Path) -> Result<Snapshots, SnapshotError> {
        Snapshots::with(dir, OPEN_PACKS)
    }

    /// Opens the store; so many packs at most are open at a time.
    fn with(dir: &Path, most: usize) -> Result<Snapshots, SnapshotError> {
        private(dir)?;
        let damaged = Arc::default();
        let door = |tenant: Tenant| {
            let door = Door::to(&dir.join(tenant.as_str()), &damaged);
            (tenant, Arc::new(door))
        };
        let doors = Mutex::new(tenants_in(dir)?.into_iter().map(door).collect());
        let (dir, packs, desks) = (dir.to_owned(), OpenPacks::new(most), Arc::default());
        Ok(Snapshots(Arc::new(Inner { dir, doors, damaged, packs, desks })))
    }

    /// The vault of a tenant, which is made when there is none. Waits for whoever opens or removes this one.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn vault(&self, tenant: &Tenant) -> Result<Arc<Vault>, SnapshotError> {
        let door = self.door(tenant);
        let mut behind = door.lock();
        self.open_vault(tenant, &mut behind)
    }

    /// The vault of a tenant, if there is one. Waits for whoever opens or removes this one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn known_vault(&self, tenant: &Tenant) -> Result<Option<Arc<Vault>>, SnapshotError> {
        if !self.dir_of(tenant).is_dir() {
            return Ok(None);
        }
        let door = self.door(tenant);
        let mut behind = door.lock();
        // It may have been removed meanwhile.
        match self.dir_of(tenant).is_dir() {
            true => self.open_vault(tenant, &mut behind).map(Some),
            false => Ok(None),
        }
    }

    fn open_vault(
        &self,
        tenant: &Tenant,
        behind: &mut Behind,
    ) -> Result<Arc<Vault>, SnapshotError> {
        let Inner { packs, desks, .. } = &*self.0;
        behind.open((&self.dir_of(tenant), tenant), (packs, desks))
    }

    fn door(&self, tenant: &Tenant) -> Arc<Door> {
        let mut doors = self.0.doors.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Door::new(&self.0.damaged));
        doors.entry(tenant.clone()).or_insert_with(new).clone()
    }

    fn dir_of(&self, tenant: &Tenant) -> PathBuf {
        self.0.dir.join(tenant.as_str())
    }

    /// Removes the vault of a tenant, with everything in it. Whoever has it open still has it, and
    /// writes nothing that is found again.
    ///
    /// # Errors
    /// When somebody saves or brings back all the time, for as long as `patience`, or the disk fails.
    pub fn remove(&self, tenant: &Tenant, patience: Duration) -> Result<(), SnapshotError> {
        let dir = self.dir_of(tenant);
        // No tenant is called like that.
        let gone = format!("{tenant}.gone");
        remove_all(&self.0.dir, &gone).map_err(store)?;
        if dir.exists() {
            let (vault, door) = (self.vault(tenant)?, self.door(tenant));
            let busy = || SnapshotError::Store("somebody saves or brings back".to_owned());
            let _alone = vault.gate.alone(patience).ok_or_else(busy)?;
            let mut behind = door.lock();
            // Somebody else may have removed it by now.
            if behind.is(&vault) {
                std::fs::rename(&dir, self.0.dir.join(&gone))?;
                behind.forget(&self.0.damaged);
            }
            drop(behind);
            std::fs::File::open(&self.0.dir)?.sync_all()?;
            fault::point("tenant.aside");
        }
        remove_all(&self.0.dir, &gone).map_err(store)
    }

    /// Whether something of a tenant was purged of which something may be left. No vault is opened for that.
    pub fn was_purged(&self, tenant: &Tenant) -> bool {
        purged::is_marked(&self.dir_of(tenant))
    }

    /// How many points are known to be damaged, of vaults that are open and others. Waits for nobody.
    pub fn damaged(&self) -> u64 {
        self.0.damaged.load(Ordering::Relaxed)
    }

    /// Every tenant that has a vault.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn tenants(&self) -> Result<Vec<Tenant>, SnapshotError> {
        tenants_in(&self.0.dir)
    }
}

/// Every tenant that has a vault in a directory.
fn tenants_in(dir: &Path) -> Result<Vec<Tenant>, SnapshotError> {
    let mut tenants = vec![];
    for entry in std::fs::read_dir(dir)? {
        tenants.extend(entry?.file_name().to_str().and_then(|name| name.parse().ok()));
    }
    Ok(tenants)
}

/// How deep directories of a point may nest; what is deeper is left out.
pub const DEEPEST: usize = 512;

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

fn store(error: TreeError) -> SnapshotError {
    SnapshotError::Store(error.to_string())
}

/// Makes a directory that only root may enter.
fn private(dir: &Path) -> Result<(), SnapshotError> {
    Ok(DirBuilder::new().recursive(true).mode(0o700).create(dir)?)
}

#[cfg(test)]
mod tests;
