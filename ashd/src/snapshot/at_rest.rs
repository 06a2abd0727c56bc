//! Looking at a vault that nobody has open, and changing nothing in it.
//!
//! Opening a vault brings it into order: what was not finished goes, packs that are gone are forgotten, and a
//! damaged index is made anew. Here a copy of the index is brought into agreement with the packs instead,
//! and nothing is noted of what is found. So what is damaged can be told as it is.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use uuid::Uuid;

use super::check::{BadPack, Survey};
use super::damage::Count;
use super::index::{self, Agreed, INDEX, Index};
use super::opened::{OPEN_PACKS, OpenPacks};
use super::sound::State;
use super::vault::Vault;
use super::{SnapshotError, deeply, tenants_in};
use crate::domain::{Root, Tenant};

/// Where copies lie, unless the environment says something else: they may be large.
const COPIES: &str = "/var/tmp";

/// A vault that is looked at, while no daemon runs.
pub struct AtRest {
    /// With a copy of the index.
    vault: Vault,
    /// Packs that are there and cannot be used.
    useless: Vec<BadPack>,
    /// What is wrong with the index.
    index: Option<String>,
    /// Behind the vault: it has the copy open.
    _scratch: Scratch,
}

/// A directory for a copy of an index, which nobody else enters. It goes with this.
struct Scratch(PathBuf);

impl AtRest {
    /// Every tenant that has a vault in this directory.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn tenants(vaults: &Path) -> Result<Vec<Tenant>, SnapshotError> {
        tenants_in(vaults)
    }

    /// Looks at what a tenant's vault in this directory has. There is room for a copy of its index in
    /// `TMPDIR`, or in `/var/tmp`.
    ///
    /// # Errors
    /// When the packs cannot be listed, or the index cannot be copied.
    pub fn open(vaults: &Path, tenant: &Tenant) -> Result<AtRest, SnapshotError> {
        let (dir, scratch) = (vaults.join(tenant.as_str()), Scratch::make()?);
        let (path, packs) = (scratch.0.join(INDEX), packs_of(&dir, &scratch)?);
        let mut damage = copied(&dir.join(INDEX), &path)?;
        if damage.is_none() && path.exists() {
            damage = index::damage_of(&path)?;
        }
        let looked = match &damage {
            None => Index::look(&path, &packs),
            Some(how) => Err(SnapshotError::Index(how.clone())),
        };
        let (index, agreed) = match looked {
            // Then only the packs can say what is in them.
            Err(SnapshotError::Index(how)) => {
                damage = Some(how);
                index::remove(&path)?;
                Index::look(&path, &packs)?
            }
            looked => looked?,
        };
        let Agreed { useless, .. } = agreed;
        let (open, count) = (OpenPacks::new(OPEN_PACKS), Arc::new(Count::new(&Arc::default())));
        let (whose, index) = ((dir, tenant.clone()), (index, State::Copy));
        let vault = Vault::new(whose, index, count, (&open, &Arc::default()));
        Ok(AtRest { vault, useless, index: damage, _scratch: scratch })
    }

    /// Looks at points as [`Vault::survey`] does, and notes nothing. Of packs that are gone those are told in
    /// which something of the points was: of others nobody knows whether they were removed when the machine
    /// went down.
    ///
    /// # Errors
    /// What `points` says, and when the packs cannot be read.
    pub fn survey<E: From<SnapshotError>>(
        &self,
        deep: bool,
        points: impl FnOnce() -> Result<Vec<Root>, E>,
    ) -> Result<Survey, E> {
        let points = points()?;
        Ok(deeply(|| self.look_at(&points, deep))?)
    }

    fn look_at(&self, points: &[Root], deep: bool) -> Result<Survey, SnapshotError> {
        let (mut survey, unusable) = self.vault.follow(points, deep)?;
        let mut gone: BTreeSet<Uuid> = BTreeSet::new();
        for chunk in unusable {
            gone.extend(self.vault.index().lost_with(chunk)?);
        }
        survey.packs = self.useless.clone();
        survey.packs.extend(gone.into_iter().map(BadPack::gone));
        survey.index.clone_from(&self.index);
        Ok(survey)
    }
}

/// Where the packs of a vault lie. One that was only begun has neither packs nor an index.
fn packs_of(dir: &Path, scratch: &Scratch) -> Result<PathBuf, SnapshotError> {
    let packs = dir.join("packs");
    let is_begun = packs.try_exists()? || dir.join(INDEX).try_exists()?;
    Ok(if is_begun { packs } else { scratch.0.clone() })
}

/// Copies an index; what is wrong with it when the disk does not give it back.
fn copied(from: &Path, to: &Path) -> Result<Option<String>, SnapshotError> {
    match index::copy(from, to) {
        Ok(()) => Ok(None),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::IO | Errno::UCLEAN | Errno::BADMSG) => Ok(Some(error.to_string())),
            _ => Err(error.into()),
        },
    }
}

impl Scratch {
    fn make() -> Result<Scratch, SnapshotError> {
        let parent = std::env::var_os("TMPDIR").unwrap_or_else(|| COPIES.into());
        let path = Path::new(&parent).join(format!("ash-fsck-{}", Uuid::new_v4()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left says nothing but where chunks are.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
