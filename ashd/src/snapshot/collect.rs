//! Making room: what no point needs goes.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::chunk::{self, ChunkId};
use super::index::Known;
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

/// The most chunks that are forgotten at once, if they are not of one pack: whoever saves waits for
/// that.
const TOGETHER: usize = 1 << 16;

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
    /// Packs that stay because of them, or because something in them is damaged or cannot be read.
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

    /// Its name, and every chunk that is in it.
    fn whole(&self) -> (Uuid, Vec<ChunkId>) {
        let needed = self.needed.iter().map(|row| row.id);
        (self.name, needed.chain(self.rest.iter().copied()).collect())
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
        for pack in known.into_iter().filter(|(name, _)| old(*name)) {
            let pack = if held.contains(&pack.0) { None } else { self.weigh(pack, &needed)? };
            match pack {
                Some(pack) => weighed.push(pack),
                None => collected.held += 1,
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

    /// Moves what is needed of packs that go, and removes them, a lot after the other: a disk that is
    /// nearly full has room for the next by then. Wherever this ends, the next collecting goes on.
    pub(super) fn sweep(&self, going: Going, preview: bool) -> Result<Collected, SnapshotError> {
        let Going { packs, mark, mut collected } = going;
        for lot in lots(packs) {
            let lot = self.sound(lot, &mut collected)?;
            if !preview {
                self.clear(&lot)?;
            }
            let moved: u64 = lot.iter().map(Weighed::needed_bytes).sum();
            let all: u64 = lot.iter().map(|pack| pack.bytes).sum();
            collected.packs += lot.len() as u64;
            collected.bytes += all.saturating_sub(moved);
        }
        if let Some(mark) = mark.filter(|_| !preview && collected.held == 0) {
            self.forget_purge(&mark)?;
        }
        Ok(collected)
    }

    /// Moves what is needed of packs, and removes them. When there is no room for that, fewer are
    /// tried at a time.
    fn clear(&self, packs: &[Weighed]) -> Result<(), SnapshotError> {
        match self.clear_at_once(packs) {
            Err(SnapshotError::Full) if packs.len() > 1 => {
                let (less, more) = packs.split_at(packs.len() / 2);
                self.clear(less)?;
                self.clear(more)
            }
            cleared => cleared,
        }
    }

    fn clear_at_once(&self, packs: &[Weighed]) -> Result<(), SnapshotError> {
        self.repack(packs)?;
        fault::point("collect.moved");
        let whole: Vec<_> = packs.iter().map(Weighed::whole).collect();
        self.index().forget_with(&whole)?;
        fault::point("collect.forgotten");
        packs.iter().try_for_each(|pack| self.remove_pack(pack.name))
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

    /// Which chunks of a pack are needed and found nowhere else, and which are not; `None` when it
    /// cannot be read: what is in it stays.
    fn weigh(
        &self,
        (name, bytes): Known,
        all: &HashSet<ChunkId>,
    ) -> Result<Option<Weighed>, SnapshotError> {
        let file = pack::open(&self.packs(), name);
        let rows = match file.and_then(|file| pack::read_table(&file, name)) {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(%error, "a pack of the snapshot store is not collected");
                return Ok(None);
            }
        };
        let index = self.index();
        let (mut needed, mut rest) = (vec![], vec![]);
        for row in rows {
            let is_here = || index.find(row.id).map(|at| at.is_none_or(|at| at.pack == name));
            match all.contains(&row.id) && is_here()? {
                true => needed.push(row),
                false => rest.push(row.id),
            }
        }
        Ok(Some(Weighed { name, bytes, needed, rest }))
    }

    /// Moves what is needed into packs of its own.
    fn repack(&self, weighed: &[Weighed]) -> Result<(), SnapshotError> {
        let mut writing: Option<Writing> = None;
        for pack in weighed.iter().filter(|pack| !pack.needed.is_empty()) {
            let file = pack::open(&self.packs(), pack.name)?;
            for row in &pack.needed {
                // A try that found no room may have moved it.
                if self.index().find(row.id)?.is_some_and(|at| at.pack != pack.name) {
                    continue;
                }
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

/// Which packs go together: first those of which nothing is needed, then, the least first, so many that
/// what is needed of them makes one pack.
fn lots(mut packs: Vec<Weighed>) -> Vec<Vec<Weighed>> {
    packs.sort_by_cached_key(|pack| (!pack.needed.is_empty(), pack.needed_bytes()));
    let mut lots: Vec<Vec<Weighed>> = vec![];
    let (mut bytes, mut chunks) = (0, 0);
    for pack in packs {
        let (more, rows) = (pack.needed_bytes(), pack.needed.len() + pack.rest.len());
        (bytes, chunks) = (bytes + more, chunks + rows);
        let room = bytes <= PACK && chunks <= TOGETHER;
        let free = pack.needed.is_empty();
        match lots.last_mut() {
            Some(lot) if room && lot[0].needed.is_empty() == free => lot.push(pack),
            _ => {
                (bytes, chunks) = (more, rows);
                lots.push(vec![pack]);
            }
        }
    }
    lots
}

fn is_older(path: &Path, grace: Duration) -> bool {
    let written = std::fs::metadata(path).and_then(|stat| stat.modified());
    let age = written.ok().and_then(|written| SystemTime::now().duration_since(written).ok());
    age.is_some_and(|age| age >= grace)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pack of so many bytes, of which so many are needed.
    fn pack(bytes: u64, needed: u32) -> Weighed {
        let id = ChunkId([7; 32]);
        let row = Row { id, offset: 8, stored: needed, length: needed, compressed: false };
        let needed = (needed > 0).then_some(row).into_iter().collect();
        Weighed { name: Uuid::nil(), bytes, needed, rest: vec![id; 9] }
    }

    #[test]
    fn what_takes_no_room_goes_first_and_a_pack_at_most_at_once() {
        let needed = [30, 0, 66, 3, 0, 31, 1].map(|mib| pack(PACK, mib << 20));
        let lots = lots(needed.into());
        let lots: Vec<Vec<u64>> = lots
            .iter()
            .map(|lot| lot.iter().map(|pack| pack.needed_bytes() >> 20).collect())
            .collect();
        assert_eq!(lots, [vec![0, 0], vec![1, 3, 30], vec![31], vec![66]]);
    }

    #[test]
    fn not_too_much_is_forgotten_at_once() {
        let packs = (0..TOGETHER / 3).map(|_| pack(PACK, 0)).collect();
        let lots = lots(packs);
        assert!(lots.len() > 2);
        assert!(lots.iter().all(|lot| lot.len() * 9 <= TOGETHER));
    }
}
