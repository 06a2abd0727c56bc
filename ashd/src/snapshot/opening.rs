//! How a tenant's vault is come by: whoever needs it first opens it. Those who need the same one wait for
//! that, and nobody else does.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::damage::{self, Count};
use super::desks::Desks;
use super::index::{INDEX, Index};
use super::opened::OpenPacks;
use super::sound::State;
use super::vault::Vault;
use super::{SnapshotError, private, scan};
use crate::domain::Tenant;

/// The way to the vault of a tenant.
pub(super) struct Door(Mutex<Behind>);

/// What is behind it.
pub(super) struct Behind {
    /// The vault, if somebody has opened it. Whoever could not has left nothing: the next one tries again.
    vault: Option<Arc<Vault>>,
    /// How many of its points are known to be damaged, open or not.
    count: Arc<Count>,
}

impl Door {
    /// To a vault of which nothing is known; what is damaged of it is added to what is of others.
    pub(super) fn new(damaged: &Arc<AtomicU64>) -> Door {
        Door(Mutex::new(Behind::new(damaged)))
    }

    /// To a vault in this directory, of which it counts what is known to be damaged.
    pub(super) fn to(dir: &Path, damaged: &Arc<AtomicU64>) -> Door {
        let door = Door::new(damaged);
        door.lock().count.set(damage::load(dir).len());
        door
    }

    /// Waits for whoever opens the vault, or removes it, and keeps others from it.
    pub(super) fn lock(&self) -> MutexGuard<'_, Behind> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Behind {
    /// Nothing that is open.
    fn new(damaged: &Arc<AtomicU64>) -> Behind {
        Behind { vault: None, count: Arc::new(Count::new(damaged)) }
    }

    /// The vault in this directory, which is opened if it is not.
    pub(super) fn open(
        &mut self,
        (dir, tenant): (&Path, &Tenant),
        share: (&Arc<OpenPacks>, &Arc<Desks>),
    ) -> Result<Arc<Vault>, SnapshotError> {
        if let Some(vault) = &self.vault {
            return Ok(vault.clone());
        }
        let vault = Arc::new(Vault::open((dir, tenant), self.count.clone(), share)?);
        self.vault = Some(vault.clone());
        Ok(vault)
    }

    /// Whether it is this one.
    pub(super) fn is(&self, vault: &Arc<Vault>) -> bool {
        self.vault.as_ref().is_some_and(|open| Arc::ptr_eq(open, vault))
    }

    /// Lets go of a vault that is not there any more: the next one gets another one. Those who have it count
    /// what is damaged of it as long as they do.
    pub(super) fn forget(&mut self, damaged: &Arc<AtomicU64>) {
        *self = Behind::new(damaged);
    }
}

impl Vault {
    /// Opens a vault, which is made when there is none, and brings it into order: from then on it is known
    /// which packs are there. What takes the longer the more is kept comes later: see
    /// [`look_through`](Self::look_through). What is open of packs it shares with others, and where it is
    /// worked.
    fn open(
        (dir, tenant): (&Path, &Tenant),
        count: Arc<Count>,
        share: (&Arc<OpenPacks>, &Arc<Desks>),
    ) -> Result<Vault, SnapshotError> {
        let [packs, scans, tmp] = ["packs", "scans", "tmp"].map(|part| dir.join(part));
        private(&packs)?;
        private(&scans)?;
        // What was being written when something ended in the middle of it is of no use.
        match std::fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => private(&tmp)?,
        }
        scan::clear(&scans)?;
        let forget = || scan::forget_all(&scans);
        let (index, agreed) = Index::open(&dir.join(INDEX), &packs, &forget)?;
        for pack in &agreed.gone {
            tracing::error!(ash_tenant = %tenant, %pack, "a pack of the snapshot store is gone");
        }
        let index = (index, State::Unknown);
        let vault = Vault::new((dir.to_owned(), tenant.clone()), index, count, share);
        // A daemon before this one may have counted as stored what is in a pack that cannot be used.
        if !agreed.useless.is_empty() {
            vault.forget_all()?;
        }
        Ok(vault)
    }
}
