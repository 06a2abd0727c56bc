//! Making room: what no point needs goes.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::SnapshotError;
use super::chunk::{self, ChunkId};
use super::pack::{self, Row, Writing};
use super::scan::Scan;
use super::vault::{PACK, Vault};
use crate::domain::Root;

/// A pack smaller than this is merged with others, in bytes.
const SMALL: u64 = 8 * 1024 * 1024;

/// Small packs that may be there before they are merged.
const MANY: usize = 16;

/// How to collect.
#[derive(Clone, Copy, Debug)]
pub struct Collecting {
    /// Packs younger than this stay as they are.
    pub grace: Duration,
    /// Only say what would be done.
    pub preview: bool,
    /// How long to wait until nobody saves or brings back.
    pub patience: Duration,
}

/// What was collected.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Collected {
    /// Chunks that points need.
    pub needed: u64,
    /// Packs that were removed; what points need of them was moved.
    pub packs: u64,
    /// Bytes that this gave back.
    pub bytes: u64,
}

/// A pack, and what of it is needed.
struct Weighed {
    name: Uuid,
    bytes: u64,
    needed: Vec<Row>,
}

impl Weighed {
    fn needed_bytes(&self) -> u64 {
        self.needed.iter().map(|row| u64::from(row.stored)).sum()
    }
}

impl Vault {
    /// Removes what none of the points needs. They are asked for once nobody saves or brings back
    /// any more, and until this is done nobody does; `None` when it did not come to that in time.
    ///
    /// # Errors
    /// What `points` says. [`SnapshotError::Damaged`] when a point cannot be followed: then it is
    /// not known what is needed, and nothing is removed. When the disk fails.
    pub fn collect<E: From<SnapshotError>>(
        &self,
        how: &Collecting,
        points: impl FnOnce() -> Result<Vec<Root>, E>,
    ) -> Result<Option<Collected>, E> {
        let Some(_alone) = self.gate.alone(how.patience) else { return Ok(None) };
        let points = points()?;
        Ok(Some(self.sweep(&points, how)?))
    }

    fn sweep(&self, points: &[Root], how: &Collecting) -> Result<Collected, SnapshotError> {
        let needed = self.reach(points)?;
        let mut collected = Collected { needed: needed.len() as u64, ..Collected::default() };
        if !how.preview {
            self.forget_scans(points)?;
        }
        let old = |name: Uuid| is_older(&pack::path(&self.packs(), name), how.grace);
        let known = self.index().known()?;
        let mut weighed = vec![];
        for (name, bytes) in known.into_iter().filter(|(name, _)| old(*name)) {
            weighed.push(Weighed { name, bytes, needed: self.needed_of(name, &needed)? });
        }
        let small = weighed.iter().filter(|pack| pack.bytes < SMALL).count();
        weighed.retain(|pack| {
            pack.needed_bytes() * 2 < pack.bytes || (small > MANY && pack.bytes < SMALL)
        });
        let moved: u64 = weighed.iter().map(Weighed::needed_bytes).sum();
        collected.packs = weighed.len() as u64;
        let all: u64 = weighed.iter().map(|pack| pack.bytes).sum();
        collected.bytes = all.saturating_sub(moved);
        if !how.preview {
            self.index().flush()?;
            self.repack(&weighed)?;
            for pack in &weighed {
                self.drop_pack(pack.name)?;
            }
        }
        Ok(collected)
    }

    /// What is known of sessions' files must not name what is about to go.
    fn forget_scans(&self, points: &[Root]) -> Result<(), SnapshotError> {
        let points: HashSet<&Root> = points.iter().collect();
        for entry in std::fs::read_dir(self.scans())? {
            let path = entry?.path();
            if Scan::root_of(&path).is_none_or(|root| !points.contains(&root)) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// The chunks of a pack that are needed, and that are found nowhere else.
    fn needed_of(&self, name: Uuid, needed: &HashSet<ChunkId>) -> Result<Vec<Row>, SnapshotError> {
        let file = File::open(pack::path(&self.packs(), name))?;
        let mut rows = pack::read_table(&file, name)?;
        let index = self.index();
        rows.retain(|row| {
            let here = || index.find(row.id).is_ok_and(|at| at.is_none_or(|at| at.pack == name));
            needed.contains(&row.id) && here()
        });
        Ok(rows)
    }

    /// Moves what is needed into packs of its own.
    fn repack(&self, weighed: &[Weighed]) -> Result<(), SnapshotError> {
        let mut writing: Option<Writing> = None;
        for pack in weighed.iter().filter(|pack| !pack.needed.is_empty()) {
            let file = File::open(pack::path(&self.packs(), pack.name))?;
            for row in &pack.needed {
                let packed = pack::read(&file, row)?;
                let again = pack::read(&file, row)?;
                // Damage is not moved, and what is damaged is not removed.
                chunk::unpack(row.id, again, row.length as usize)?;
                let open = match &mut writing {
                    Some(open) => open,
                    none => none.insert(Writing::begin(&self.tmp())?),
                };
                open.add(row.id, &packed, row.length)?;
                if open.is_full(PACK) {
                    self.take_in(writing.take())?;
                }
            }
        }
        self.take_in(writing)
    }

    fn take_in(&self, writing: Option<Writing>) -> Result<(), SnapshotError> {
        let Some(writing) = writing else { return Ok(()) };
        let written = writing.finish(&self.packs())?;
        self.index().add((written.name, written.bytes), &written.rows)
    }

    fn drop_pack(&self, name: Uuid) -> Result<(), SnapshotError> {
        self.index().forget(name)?;
        self.close(name);
        Ok(std::fs::remove_file(pack::path(&self.packs(), name))?)
    }
}

fn is_older(path: &Path, grace: Duration) -> bool {
    let written = std::fs::metadata(path).and_then(|stat| stat.modified());
    let age = written.ok().and_then(|written| SystemTime::now().duration_since(written).ok());
    age.is_some_and(|age| age >= grace)
}
