//! Whether everything of points is there, and what becomes of them when it is not.
//!
//! What is damaged does not only concern the points that there are: a chunk that counts as stored
//! is not stored again, so points to come would be damaged as well. [`Vault::set_right`] forgets such
//! chunks, and what is known of sessions' files. The next cut then reads everything and stores again
//! what is still there, which mends the older points that have it in common.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;

use uuid::Uuid;

use super::chunk::ChunkId;
use super::index::{Known, on_disk};
use super::pack;
use super::vault::Vault;
use super::walk::{Depth, Walk};
use super::{Damage, SnapshotError, deeply, scan};
use crate::domain::Root;

/// A pack that is of no use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BadPack {
    /// Which.
    pub pack: Uuid,
    /// What is wrong with it, a sentence.
    pub how: String,
}

impl BadPack {
    /// One that is not there.
    pub(super) fn gone(pack: Uuid) -> BadPack {
        BadPack { pack, how: "it is not there".to_owned() }
    }
}

/// What was found of a tenant's points.
#[derive(Debug, Default)]
pub struct Survey {
    /// Chunks of all points, each counted once.
    pub chunks: u64,
    /// Points that are not whole.
    pub damaged: Vec<Damage>,
    /// Packs that are not there or cannot be read at all.
    pub packs: Vec<BadPack>,
    /// What is wrong with the index, a sentence. That of a vault that is open is made anew instead.
    pub index: Option<String>,
    rotten: Vec<ChunkId>,
}

impl Vault {
    /// Looks at points: whether every chunk is there and, with `deep`, what was saved. What is damaged
    /// is noted, so that whoever lists points is told. They are asked for when nothing of them can be
    /// collected any more, until this is done. Before that the index is looked through, if nobody has done
    /// so yet or this is `deep`, and made anew when it is damaged.
    ///
    /// # Errors
    /// What `points` says, and when the store cannot be read.
    pub fn survey<E: From<SnapshotError>>(
        &self,
        deep: bool,
        points: impl FnOnce() -> Result<Vec<Root>, E>,
    ) -> Result<Survey, E> {
        self.look_through(deep)?;
        let _pin = self.gate.enter_to_read();
        let points = points()?;
        Ok(deeply(|| self.look_at(&points, deep))?)
    }

    fn look_at(&self, points: &[Root], deep: bool) -> Result<Survey, SnapshotError> {
        let (survey, _) = self.follow(points, deep)?;
        self.note(points, &survey.damaged, deep)?;
        Ok(Survey { packs: self.bad_packs()?, ..survey })
    }

    /// Looks at points, notes nothing, and says nothing of packs. Also returns the chunks that could not be
    /// used.
    pub(super) fn follow(
        &self,
        points: &[Root],
        deep: bool,
    ) -> Result<(Survey, HashSet<ChunkId>), SnapshotError> {
        let depth = if deep { Depth::Content } else { Depth::Present };
        let mut walk = Walk::new(self, depth);
        let mut damaged = vec![];
        for root in points {
            if let Some(wrong) = walk.follow(*root)? {
                damaged.push(wrong.of(*root));
            }
        }
        let rotten = walk.rotten.iter().copied().collect();
        let unusable = std::mem::take(&mut walk.unusable);
        let chunks = walk.into_met().len() as u64;
        Ok((Survey { chunks, damaged, rotten, ..Survey::default() }, unusable))
    }

    /// Sees to it that what was found damaged is stored again where sessions still have it.
    /// Returns whether there was anything to do.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn set_right(&self, survey: &Survey) -> Result<bool, SnapshotError> {
        let packs: Vec<Uuid> = survey.packs.iter().map(|bad| bad.pack).collect();
        let lost = self.forget_packs(&packs)?;
        if lost || !survey.damaged.is_empty() {
            self.store_again(&survey.rotten)?;
        }
        Ok(lost || !survey.rotten.is_empty())
    }

    /// Forgets packs that still are of no use, and that what is in them is stored; false if none of them
    /// is known.
    pub(super) fn forget_packs(&self, packs: &[Uuid]) -> Result<bool, SnapshotError> {
        let mut index = self.index();
        let known: HashSet<Uuid> = index.known()?.into_iter().map(|pack| pack.0).collect();
        let packs = packs.iter().copied().filter(|pack| known.contains(pack));
        // Since it was looked one may have been mended. Nobody takes one in while we have the index.
        let useless: Vec<Uuid> = packs.filter(|pack| self.is_useless(*pack)).collect();
        if useless.is_empty() {
            return Ok(false);
        }
        // Whoever dies behind that leaves nothing that says that they were known.
        scan::forget_all(&self.scans())?;
        index.forget(&useless)?;
        drop(index);
        useless.iter().for_each(|pack| self.close(*pack));
        Ok(true)
    }

    /// Whether a pack is not there, or its table is not what was written. One that cannot be read now may
    /// be sound.
    fn is_useless(&self, name: Uuid) -> bool {
        let file = pack::open(&self.packs(), name);
        let table = file.and_then(|file| pack::read_table(&file, name));
        matches!(table, Err(SnapshotError::Damaged { .. }))
    }

    /// Forgets that these chunks are stored, unless they have come again, and what is known of sessions'
    /// files.
    pub(super) fn store_again(&self, rotten: &[ChunkId]) -> Result<(), SnapshotError> {
        // First for whoever dies on the way, and last because of those who have relied on them meanwhile.
        self.forget_all()?;
        for chunk in rotten {
            // Nobody stores it again, or mends what it is in, while we have the index.
            let mut index = self.index();
            let place = index.find(*chunk)?;
            if place.is_some() && self.chunk_at(*chunk, place).is_err() {
                index.disown(*chunk)?;
            }
        }
        self.forget_all()
    }

    /// Checks that every chunk of a point is there; with `deep`, that each is what was saved.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] when one is not.
    #[cfg(test)]
    pub(super) fn check(&self, root: Root, deep: bool) -> Result<u64, SnapshotError> {
        let survey = self.survey(deep, || Ok::<_, SnapshotError>(vec![root]))?;
        match survey.damaged.first() {
            Some(damage) => {
                Err(SnapshotError::Damaged { what: damage.to_string(), how: "so is the point" })
            }
            None => Ok(survey.chunks),
        }
    }

    /// The first of some points that is whole, every chunk of it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn first_whole(&self, points: &[Root]) -> Result<Option<Root>, SnapshotError> {
        let _pin = self.gate.enter_to_read();
        deeply(|| {
            let mut walk = Walk::new(self, Depth::Content);
            for root in points {
                let wrong = walk.follow(*root)?;
                let damaged: Vec<Damage> = wrong.iter().map(|it| it.of(*root)).collect();
                self.note(&[*root], &damaged, true)?;
                if damaged.is_empty() {
                    return Ok(Some(*root));
                }
            }
            Ok(None)
        })
    }

    /// Whether a point is whole, every chunk of it. If it is not, that is noted, and what it lacks is stored
    /// again by the next cut of whoever still has it.
    ///
    /// # Errors
    /// When the store cannot be read, or the disk fails.
    pub fn is_whole(&self, root: Root) -> Result<bool, SnapshotError> {
        let pin = self.gate.enter_for(root);
        let mut survey = deeply(|| {
            let mut walk = Walk::new(self, Depth::Content);
            let damaged: Vec<Damage> = walk.follow(root)?.iter().map(|it| it.of(root)).collect();
            self.note(&[root], &damaged, true)?;
            let rotten = walk.rotten.iter().copied().collect();
            Ok(Survey { damaged, rotten, ..Survey::default() })
        })?;
        drop(pin);
        if survey.damaged.is_empty() {
            return Ok(true);
        }
        survey.packs = self.bad_packs()?;
        self.set_right(&survey)?;
        Ok(false)
    }

    /// Packs that the index or the directory has, and that are of no use. Some may come and go meanwhile.
    fn bad_packs(&self) -> Result<Vec<BadPack>, SnapshotError> {
        let known: HashSet<Known> = self.index().known()?.into_iter().collect();
        let there: HashSet<Known> = on_disk(&self.packs())?.into_iter().collect();
        let mut gone: BTreeSet<Uuid> = known.difference(&there).map(|(name, _)| *name).collect();
        let mut bad = vec![];
        // One of the right size was written whole; what is in it is looked at by its chunks.
        for (pack, _) in there.difference(&known).copied() {
            gone.remove(&pack);
            let table = match File::open(pack::path(&self.packs(), pack)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file.map_err(SnapshotError::from),
            };
            if let Err(error) = table.and_then(|file| pack::read_table(&file, pack)) {
                bad.push(BadPack { pack, how: error.to_string() });
            }
        }
        // Whoever removes one has the index forget it first.
        let known: HashSet<Uuid> = self.index().known()?.into_iter().map(|pack| pack.0).collect();
        let lost = gone.into_iter().filter(|pack| known.contains(pack));
        bad.extend(lost.map(BadPack::gone));
        Ok(bad)
    }

    /// Whether the index knows a chunk, as far as that can be told without reading it.
    pub(super) fn has(&self, id: ChunkId) -> Result<(), SnapshotError> {
        match self.place(id)? {
            Some(_) => Ok(()),
            None => {
                let what = format!("chunk {id:?}");
                Err(SnapshotError::Damaged { what, how: "it is missing" })
            }
        }
    }

    /// Whether a pack is not in the place where all are.
    pub(super) fn is_gone(&self, pack: Uuid) -> bool {
        let looked = pack::path(&self.packs(), pack).symlink_metadata();
        let is_there = looked.err().is_none_or(|error| error.kind() != io::ErrorKind::NotFound);
        !is_there && self.packs().is_dir()
    }

    /// Whether a chunk that could not be used is not there, or can be read and is not what was saved.
    /// One that cannot be read now may be sound.
    pub(super) fn is_rotten(&self, id: ChunkId) -> Result<bool, SnapshotError> {
        let Some(place) = self.index().find(id)? else { return Ok(false) };
        let Ok(file) = File::open(pack::path(&self.packs(), place.pack)) else {
            // Of what is collected the index knows another place first.
            return Ok(self.is_gone(place.pack) && self.index().find(id)? == Some(place));
        };
        let cut_off = file.metadata()?.len() < place.row.offset + u64::from(place.row.stored);
        let Ok(packed) = pack::read(&file, &place.row) else { return Ok(cut_off) };
        Ok(super::chunk::unpack(id, packed, place.row.length as usize).is_err())
    }
}
