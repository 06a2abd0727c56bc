//! Making room: what no point needs goes.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::chunk::{self, ChunkId};
use super::pack::{self, Row, Writing};
use super::scan::Scan;
use super::vault::{PACK, Vault};
use super::walk::{Depth, Walk};
use super::{Damage, SnapshotError, deeply};
use crate::domain::Root;
use crate::fault;

/// A pack smaller than this is merged with others, in bytes.
const SMALL: u64 = 8 * 1024 * 1024;

/// Small packs that may be there before they are merged.
const MANY: usize = 16;

/// How to collect.
#[derive(Clone, Copy, Debug)]
pub struct Collecting {
    /// Packs younger than this stay as they are, unless something was purged.
    pub grace: Duration,
    /// Only say what would be done.
    pub preview: bool,
    /// How long to wait until nobody saves or brings back.
    pub patience: Duration,
}

/// The file that says that something was purged.
const PURGED: &str = "purged";

/// What was collected.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Collected {
    /// Chunks that points need.
    pub needed: u64,
    /// Packs that were removed; what points need of them was moved.
    pub packs: u64,
    /// Bytes that this gave back.
    pub bytes: u64,
    /// Points that cannot be followed. What they may need stays.
    pub damaged: u64,
    /// Packs that stay because of them, or because something in them is damaged.
    pub held: u64,
}

/// A pack, and what of it is needed.
struct Weighed {
    name: Uuid,
    bytes: u64,
    needed: Vec<Row>,
    /// The others that are in it.
    rest: Vec<ChunkId>,
}

/// What is to go, and what came out so far.
pub(super) struct Going {
    packs: Vec<Weighed>,
    mark: Option<Vec<u8>>,
    collected: Collected,
}

/// What points need, as far as they can be followed.
struct Reached {
    needed: HashSet<ChunkId>,
    lost: Vec<Damage>,
    rotten: Vec<ChunkId>,
}

impl Weighed {
    fn needed_bytes(&self) -> u64 {
        self.needed.iter().map(|row| u64::from(row.stored)).sum()
    }
}

impl Vault {
    /// Removes what none of the points needs. They are asked for once nobody saves or brings back
    /// any more. Until it is decided what goes nobody saves, and until this is done nobody brings back;
    /// `None` when it did not come to that in time.
    ///
    /// # Errors
    /// What `points` says, and when the disk fails. A point that cannot be followed is no error: what
    /// it may need is held.
    pub fn collect<E: From<SnapshotError>>(
        &self,
        how: &Collecting,
        points: impl FnOnce() -> Result<Vec<Root>, E>,
    ) -> Result<Option<Collected>, E> {
        let Some(alone) = self.gate.alone(how.patience) else { return Ok(None) };
        // Before points are asked for: what is purged later is of another mark.
        let mark = self.purge_mark();
        let points = points()?;
        let going = self.decide(&points, how, mark)?;
        alone.let_add();
        Ok(Some(self.sweep(going, how.preview)?))
    }

    /// Finds out what goes. From then on it does not count as stored: whoever saves it again stores it
    /// again, wherever the rest of this has got to, and whether or not a daemon dies in it.
    pub(super) fn decide(
        &self,
        points: &[Root],
        how: &Collecting,
        mark: Option<Vec<u8>>,
    ) -> Result<Going, SnapshotError> {
        let Reached { needed, lost, rotten } = deeply(|| self.reach(points))?;
        let mut collected = Collected {
            needed: needed.len() as u64,
            damaged: lost.len() as u64,
            ..Collected::default()
        };
        if !how.preview {
            self.keep_notes_of(points)?;
            self.forget_scans(points)?;
            if self.note(&[], &lost, false)? {
                self.store_again(&rotten)?;
            }
        }
        let lost: Vec<Root> = lost.iter().map(|damage| damage.root).collect();
        let held = self.hold(&lost, how.preview)?;
        // What was purged goes, however little of its packs it is.
        let purged = mark.is_some();
        let old = |name: Uuid| purged || is_older(&pack::path(&self.packs(), name), how.grace);
        let known = self.index().known()?;
        let mut weighed = vec![];
        for (name, bytes) in known.into_iter().filter(|(name, _)| old(*name)) {
            match self.needed_of(name, &needed) {
                Ok((needed, rest)) if !held.contains(&name) => {
                    weighed.push(Weighed { name, bytes, needed, rest });
                }
                Ok(_) | Err(SnapshotError::Damaged { .. }) => collected.held += 1,
                Err(error) => return Err(error),
            }
        }
        let small = weighed.iter().filter(|pack| pack.bytes < SMALL).count();
        weighed.retain(|pack| {
            pack.needed_bytes() * 2 < pack.bytes
                || (small > MANY && pack.bytes < SMALL)
                || (purged && !pack.rest.is_empty())
        });
        if !how.preview {
            weighed.iter().try_for_each(|pack| self.index().disown_of(pack.name, &pack.rest))?;
        }
        Ok(Going { packs: weighed, mark, collected })
    }

    /// Moves what is needed of packs that go, and removes them.
    pub(super) fn sweep(&self, going: Going, preview: bool) -> Result<Collected, SnapshotError> {
        let Going { packs, mark, mut collected } = going;
        let sound = self.sound(packs, &mut collected)?;
        let moved: u64 = sound.iter().map(Weighed::needed_bytes).sum();
        collected.packs = sound.len() as u64;
        let all: u64 = sound.iter().map(|pack| pack.bytes).sum();
        collected.bytes = all.saturating_sub(moved);
        if !preview {
            self.index().flush()?;
            self.repack(&sound)?;
            fault::point("collect.moved");
            let names: Vec<Uuid> = sound.iter().map(|pack| pack.name).collect();
            self.index().forget(&names)?;
            fault::point("collect.forgotten");
            names.iter().try_for_each(|name| self.remove_pack(*name))?;
            if let Some(mark) = mark.filter(|_| collected.held == 0) {
                self.forget_purge(&mark)?;
            }
        }
        Ok(collected)
    }

    /// Notes that something is about to be purged: the next collecting leaves nothing of what no point
    /// needs, also when this is another daemon's.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn note_purge(&self) -> Result<(), SnapshotError> {
        let _alone = self.notes();
        // Another each time: a collecting under way has not heard of this one.
        std::fs::write(self.beside(PURGED), Uuid::new_v4().as_bytes())?;
        File::open(self.beside(PURGED))?.sync_all()?;
        Ok(File::open(self.beside(""))?.sync_all()?)
    }

    /// Whether something was purged of which something may be left.
    pub fn was_purged(&self) -> bool {
        self.beside(PURGED).exists()
    }

    fn purge_mark(&self) -> Option<Vec<u8>> {
        std::fs::read(self.beside(PURGED)).ok()
    }

    fn forget_purge(&self, mark: &[u8]) -> Result<(), SnapshotError> {
        let _alone = self.notes();
        if self.purge_mark().is_some_and(|now| now == mark) {
            std::fs::remove_file(self.beside(PURGED))?;
        }
        Ok(())
    }

    /// Every chunk that points need, as far as they can be followed, and the points that cannot.
    fn reach(&self, points: &[Root]) -> Result<Reached, SnapshotError> {
        let mut walk = Walk::new(self, Depth::Names);
        let mut lost = vec![];
        for root in points {
            lost.extend(walk.follow(*root)?.map(|wrong| wrong.of(*root)));
        }
        let rotten = std::mem::take(&mut walk.rotten).into_iter().collect();
        Ok(Reached { needed: walk.into_met(), lost, rotten })
    }

    /// The packs of which everything that is needed can be moved. Damage is not moved, and what is
    /// damaged is not removed.
    fn sound(
        &self,
        weighed: Vec<Weighed>,
        collected: &mut Collected,
    ) -> Result<Vec<Weighed>, SnapshotError> {
        let mut sound = vec![];
        for pack in weighed {
            match pack.needed.iter().try_for_each(|row| self.chunk(row.id).map(drop)) {
                Ok(()) => sound.push(pack),
                Err(SnapshotError::Damaged { .. }) => collected.held += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(sound)
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

    /// The chunks of a pack that are needed, and that are found nowhere else; and the others.
    fn needed_of(
        &self,
        name: Uuid,
        needed: &HashSet<ChunkId>,
    ) -> Result<(Vec<Row>, Vec<ChunkId>), SnapshotError> {
        let gone =
            |_| SnapshotError::Damaged { what: format!("pack {name}"), how: "it cannot be opened" };
        let file = File::open(pack::path(&self.packs(), name)).map_err(gone)?;
        let rows = pack::read_table(&file, name)?;
        let index = self.index();
        let (kept, rest): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| {
            let here = || index.find(row.id).is_ok_and(|at| at.is_none_or(|at| at.pack == name));
            needed.contains(&row.id) && here()
        });
        Ok((kept, rest.iter().map(|row| row.id).collect()))
    }

    /// Moves what is needed into packs of its own.
    fn repack(&self, weighed: &[Weighed]) -> Result<(), SnapshotError> {
        let mut writing: Option<Writing> = None;
        for pack in weighed.iter().filter(|pack| !pack.needed.is_empty()) {
            let file = File::open(pack::path(&self.packs(), pack.name))?;
            for row in &pack.needed {
                let packed = pack::read(&file, row)?;
                let again = pack::read(&file, row)?;
                // It has been looked at, a while ago.
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

    fn remove_pack(&self, name: Uuid) -> Result<(), SnapshotError> {
        let removed = std::fs::remove_file(pack::path(&self.packs(), name));
        // Behind that nobody opens it any more: its room is given back.
        self.close(name);
        Ok(removed?)
    }
}

fn is_older(path: &Path, grace: Duration) -> bool {
    let written = std::fs::metadata(path).and_then(|stat| stat.modified());
    let age = written.ok().and_then(|written| SystemTime::now().duration_since(written).ok());
    age.is_some_and(|age| age >= grace)
}
