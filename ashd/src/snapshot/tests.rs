//! The whole store, on real trees.

mod trees;

mod anything;
mod arriving;
mod busy;
mod caches;
mod collected;
mod damaged;
mod full;
mod given;
mod healed;
mod held;
mod large;
mod limited;
mod mapped;
mod midway;
mod moving;
mod opening;
mod owned;
mod purged;
mod reading;
mod resting;
mod returned;
mod sound;
mod stuck;
mod whole;
mod written;

use std::any::Any;
use std::fs::{self, File, FileTimes, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use self::trees::{assert_same, furnish, noise, seen, settle};
use super::*;
use crate::domain::{Root, SessionId};

/// A store, and a session's directories.
struct Place {
    dir: tempfile::TempDir,
    vault: Arc<Vault>,
    session: SessionId,
}

/// What is not needed goes, whatever its age; whoever is in the way is not waited for.
const AT_ONCE: Collecting = Collecting {
    extent: Extent::Worthwhile,
    grace: Duration::ZERO,
    preview: false,
    patience: Duration::ZERO,
    patience_with_saves: Duration::ZERO,
};

static NEVER: AtomicBool = AtomicBool::new(false);

fn nobody() -> io::Result<Box<dyn Any>> {
    Ok(Box::new(()))
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        for root in ["workspace", "home"] {
            fs::create_dir_all(dir.path().join("live").join(root)).unwrap();
        }
        let vault = open(dir.path());
        Place { dir, vault, session: SessionId::random() }
    }

    fn live(&self) -> PathBuf {
        self.dir.path().join("live")
    }

    fn workspace(&self) -> PathBuf {
        self.live().join("workspace")
    }

    /// The directory of the vault.
    fn store(&self) -> PathBuf {
        self.dir.path().join("store/default")
    }

    fn packs(&self) -> Vec<PathBuf> {
        let packs = fs::read_dir(self.store().join("packs")).unwrap();
        packs.map(|entry| entry.unwrap().path()).collect()
    }

    fn try_cut(&self, hold: &Hold<'_>) -> Result<Cut, SnapshotError> {
        self.cut_as((&NEVER, Limits::default()), hold, &|_| true)
    }

    fn cut_within(&self, limits: Limits) -> Result<Cut, SnapshotError> {
        self.cut_as((&NEVER, limits), &nobody, &|_| true)
    }

    fn cut_as(
        &self,
        (cancel, limits): (&AtomicBool, Limits),
        hold: &Hold<'_>,
        tell: &Tell<'_>,
    ) -> Result<Cut, SnapshotError> {
        let paths = [self.live().join("workspace"), self.live().join("home")];
        let roots = [("workspace", paths[0].as_path()), ("home", paths[1].as_path())];
        let cutting = Cutting { limits, ..Cutting::new(self.session, &roots, cancel) };
        self.vault.cut(&cutting, hold, tell)
    }

    fn cut(&self) -> Cut {
        self.try_cut(&nobody).unwrap()
    }

    /// A cut of a file of its own, and its pack.
    fn cut_with(&self, name: &str, seed: u64) -> (Root, PathBuf) {
        let before = self.packs();
        fs::write(self.workspace().join(name), noise(seed, 200_000)).unwrap();
        let root = self.cut().root;
        let is_new = |pack: &PathBuf| !before.contains(pack);
        (root, self.packs().into_iter().find(is_new).unwrap())
    }

    /// The same, of a file that is removed then: no later point needs the pack.
    fn cut_without(&self, name: &str, seed: u64) -> PathBuf {
        let (_, pack) = self.cut_with(name, seed);
        fs::remove_file(self.workspace().join(name)).unwrap();
        pack
    }

    fn try_restore(&self, root: Root, name: &str, donor: bool) -> Result<PathBuf, SnapshotError> {
        let look = || self.vault.donor(self.session, &self.live()).unwrap();
        let donor = donor.then(look);
        let parent = self.dir.path();
        let session = SessionId::random();
        let plain = Restoring::new(session, (parent, name), &NEVER);
        let restoring = Restoring { donor: donor.as_ref(), ..plain };
        self.vault.restore(root, &restoring)?;
        Ok(parent.join(name))
    }

    fn restore(&self, root: Root, name: &str) -> PathBuf {
        self.try_restore(root, name, false).unwrap()
    }

    /// Why a point cannot be brought back.
    fn refused(&self, root: Root) -> SnapshotError {
        self.try_restore(root, "back", false).err().unwrap()
    }

    /// What none of these points needs goes at once.
    fn collect(&self, points: &[Root]) -> Collected {
        let points = || Ok::<_, SnapshotError>(points.to_vec());
        self.vault.collect(&AT_ONCE, points).unwrap().unwrap()
    }

    /// As after a restart.
    fn again(self) -> Place {
        let Place { dir, vault, session } = self;
        drop(vault);
        Place { vault: open(dir.path()), dir, session }
    }
}

fn open(dir: &Path) -> Arc<Vault> {
    Snapshots::open(&dir.join("store")).unwrap().vault(&Tenant::default()).unwrap()
}

/// The node of a directory of a point.
fn node_of(vault: &Vault, root: Root, path: &[&str]) -> chunk::ChunkId {
    path.iter().fold(Vault::top(root), |node, part| {
        match vault.entry(node, part.as_bytes()).unwrap().unwrap().what {
            node::What::Dir(child) => child,
            other => panic!("{other:?}"),
        }
    })
}
