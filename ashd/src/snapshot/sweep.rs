//! Moving what is needed of packs that go, and removing them.
//!
//! Nobody is kept out meanwhile. What is moved is on the disk and in the index before the pack that it was
//! in is forgotten there, and that comes before it is removed: whoever reads from it has it open, or finds
//! what it looks for in its new place.

use std::fs::File;
use std::io;

use uuid::Uuid;

use super::SnapshotError;
use super::chunk::{self, ChunkId, Packed};
use super::collect::Collected;
use super::decide::{Going, Weighed};
use super::gate::Collector;
use super::pack::{self, Row, Writing};
use super::vault::{PACK, Vault};
use crate::fault;

/// The most chunks that are forgotten at once, if they are not of one pack: whoever saves waits for
/// that.
const TOGETHER: usize = 1 << 16;

impl Weighed {
    /// Its name, and every chunk that is in it.
    fn whole(&self) -> (Uuid, Vec<ChunkId>) {
        let needed = self.needed.iter().chain(&self.twice);
        (self.name, needed.chain(&*self.rest).map(|row| row.id).collect())
    }

    fn count(&self) -> usize {
        self.needed.len() + self.twice.len() + self.rest.len()
    }
}

impl Going {
    /// What would come of it.
    pub(super) fn preview(mut self) -> Collected {
        for pack in &self.packs {
            self.collected.add(pack);
        }
        self.collected
    }
}

impl Collected {
    /// Counts a pack that was removed.
    fn add(&mut self, pack: &Weighed) {
        self.packs += 1;
        self.bytes += pack.bytes.saturating_sub(pack.needed_bytes());
    }
}

/// Says, when it is dropped, that nothing is about to go any more: what is still there counts as stored.
pub(super) struct Over<'v>(pub(super) &'v Vault);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.index().set_going(Default::default());
    }
}

impl Vault {
    /// Moves what is needed of packs that go, and removes them, a lot after the other: a disk that is
    /// nearly full has room for the next by then. Wherever this ends, the next collecting goes on; `None`
    /// when somebody waited for that.
    pub(super) fn sweep(
        &self,
        going: Going,
        collector: &Collector,
    ) -> Result<Option<Collected>, SnapshotError> {
        let _over = Over(self);
        let Going { packs, mut collected } = going;
        for lot in lots(packs) {
            if collector.is_in_the_way() {
                return Ok(None);
            }
            self.clear(&lot, &mut collected)?;
        }
        Ok(Some(collected))
    }

    /// Moves what is needed of packs, and removes them. When there is no room for that, fewer are
    /// tried at a time.
    fn clear(&self, packs: &[Weighed], collected: &mut Collected) -> Result<(), SnapshotError> {
        match self.clear_at_once(packs, collected) {
            Err(SnapshotError::Full) if packs.len() > 1 => {
                let (less, more) = packs.split_at(packs.len() / 2);
                self.clear(less, collected)?;
                self.clear(more, collected)
            }
            cleared => cleared,
        }
    }

    fn clear_at_once(
        &self,
        packs: &[Weighed],
        collected: &mut Collected,
    ) -> Result<(), SnapshotError> {
        let _moving = self.moving();
        // Somebody may have come who needs one of them as it is.
        let going: Vec<_> = packs.iter().filter(|pack| self.index().is_going(pack.name)).collect();
        let moved = self.repack(&going)?;
        fault::point("collect.moved");
        let whole: Vec<_> = moved.iter().map(|pack| pack.whole()).collect();
        self.index().forget_with(&whole)?;
        fault::point("collect.forgotten");
        collected.held += (packs.len() - moved.len()) as u64;
        for pack in moved {
            match self.remove_pack(pack.name) {
                Ok(()) => collected.add(pack),
                Err(error) => self.keep(pack, &error, collected)?,
            }
        }
        Ok(())
    }

    /// Of a pack that cannot be removed: it is there, and is tried again. What is in it does not
    /// count as stored any more: what is needed is elsewhere, and some of it may be there because
    /// it was found damaged in here.
    fn keep(
        &self,
        pack: &Weighed,
        error: &SnapshotError,
        collected: &mut Collected,
    ) -> Result<(), SnapshotError> {
        tracing::warn!(pack = %pack.name, %error, "a pack of the snapshot store is not removed");
        collected.held += 1;
        self.index().add((pack.name, pack.bytes), &[], None)
    }

    /// Moves what is needed into packs of its own. Returns the packs of which all of it is elsewhere: what
    /// is damaged, or cannot be read now, is not moved, and what it is in is not removed. It keeps no
    /// others, and is tried again the next time.
    fn repack<'p>(&self, packs: &[&'p Weighed]) -> Result<Vec<&'p Weighed>, SnapshotError> {
        let (mut writing, mut moved) = (None, vec![]);
        for pack in packs {
            match self.move_needed(pack, &mut writing)? {
                Ok(()) => moved.push(*pack),
                Err(error) => {
                    tracing::warn!(
                        pack = %pack.name, %error, "a pack of the snapshot store is not collected"
                    );
                }
            }
        }
        self.take_in(writing)?;
        Ok(moved)
    }

    /// Moves what is needed of a pack; says why it cannot be read.
    ///
    /// # Errors
    /// When it cannot be written.
    fn move_needed(
        &self,
        pack: &Weighed,
        writing: &mut Option<Writing>,
    ) -> Result<Result<(), SnapshotError>, SnapshotError> {
        let mut file = None;
        for row in pack.needed.iter().chain(&pack.twice) {
            if self.is_kept_elsewhere(row.id, pack.name)? {
                continue;
            }
            let packed = match self.needed(pack.name, &mut file, row) {
                Ok(packed) => packed,
                Err(error) => return Ok(Err(error)),
            };
            let open = match &mut *writing {
                Some(open) => open,
                none => none.insert(Writing::begin(&self.tmp())?),
            };
            open.add(row.id, &packed, row.length)?;
            if open.is_full(PACK) {
                self.take_in(writing.take())?;
            }
        }
        Ok(Ok(()))
    }

    /// Whether a chunk is in another pack, because it was found there, or a try that found no room has
    /// moved it, and is what was saved: else the copy in this one may be the only sound one.
    fn is_kept_elsewhere(&self, id: ChunkId, pack: Uuid) -> Result<bool, SnapshotError> {
        let place = self.index().find(id)?.filter(|at| at.pack != pack);
        Ok(place.is_some() && self.chunk_at(id, place).is_ok())
    }

    /// Reads a chunk from a pack that goes, and checks it. Nothing is read of a pack from which nothing is
    /// needed.
    fn needed(
        &self,
        pack: Uuid,
        file: &mut Option<File>,
        row: &Row,
    ) -> Result<Packed, SnapshotError> {
        let file = match file {
            Some(file) => file,
            none => none.insert(pack::open(&self.packs(), pack)?),
        };
        let packed = pack::read(file, row)?;
        chunk::unpack(row.id, packed.clone(), row.length as usize)?;
        Ok(packed)
    }

    fn take_in(&self, writing: Option<Writing>) -> Result<(), SnapshotError> {
        let Some(writing) = writing else { return Ok(()) };
        let written = writing.finish(&self.packs())?;
        self.index().add_moved((written.name, written.bytes), &written.rows)
    }

    fn remove_pack(&self, name: Uuid) -> Result<(), SnapshotError> {
        let removed = std::fs::remove_file(pack::path(&self.packs(), name));
        // Behind that nobody opens it any more: its room is given back.
        self.close(name);
        match removed {
            // Somebody else has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => Ok(removed?),
        }
    }
}

/// Which packs go together: first those of which nothing is needed, then, the least first, so many that
/// what is needed of them makes one pack.
fn lots(mut packs: Vec<Weighed>) -> Vec<Vec<Weighed>> {
    packs.sort_by_cached_key(|pack| (!pack.needed.is_empty(), pack.needed_bytes()));
    let mut lots: Vec<Vec<Weighed>> = vec![];
    let (mut bytes, mut chunks) = (0, 0);
    for pack in packs {
        let (more, rows) = (pack.needed_bytes(), pack.count());
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A pack of so many bytes, of which so many are needed.
    fn pack(bytes: u64, needed: u32) -> Weighed {
        let id = ChunkId([7; 32]);
        let row = Row { id, offset: 8, stored: needed, length: needed, compressed: false };
        let needed = (needed > 0).then_some(row).into_iter().collect();
        let (name, twice, rest) = (Uuid::nil(), vec![], [row; 9].into());
        Weighed { name, bytes, is_old: true, is_purged: false, needed, twice, rest }
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
