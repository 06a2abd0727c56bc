//! Packs that leave this machine, and those that come to it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use uuid::Uuid;

use super::chunk::ChunkId;
use super::gate::Pin;
use super::pack;
use super::vault::Vault;
use super::walk::{Depth, Walk};
use super::{SnapshotError, chunk, deeply};
use crate::domain::Root;
use crate::fault;

/// The most bytes that a pack has: as many as one is filled with, a last chunk, and its table.
pub const LARGEST_PACK: u64 = 128 * 1024 * 1024;

/// A pack on its way in. One that is dropped leaves nothing.
pub struct Arriving {
    name: Uuid,
    path: PathBuf,
    file: File,
}

impl Vault {
    /// Keeps everything that is in points, or comes, from being collected while it lives. It may be moved.
    /// Nothing is collected until then: who knows which point is meant says so, by [`Pin::only`] or by
    /// [`pin_point`](Self::pin_point).
    pub fn pin(&self) -> Pin {
        self.gate.enter()
    }

    /// Keeps what a point has from being collected while it lives, unless that had been removed before. It
    /// may be moved.
    pub fn pin_point(&self, root: Root) -> Pin {
        self.gate.enter_for(root)
    }

    /// Keeps every pack what it is while it lives. Waits until none is moved any more, which is soon: what
    /// is being collected is gone on with later.
    pub fn pin_packs(&self) -> Pin {
        self.gate.enter_still()
    }

    /// The packs with the content of a point. Unless packs are pinned, what is in one of them may be moved
    /// right behind this.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] when something is missing.
    pub fn packs_of(&self, root: Root) -> Result<BTreeSet<Uuid>, SnapshotError> {
        deeply(|| {
            let mut walk = Walk::new(self, Depth::Names);
            let missing = |what| SnapshotError::Damaged { what, how: "it is missing" };
            if let Some(wrong) = walk.follow(root)? {
                return Err(missing(format!("{} ({})", wrong.path, wrong.how)));
            }
            let pack = |id: ChunkId| {
                let place = self.place(id)?;
                place.map(|at| at.pack).ok_or_else(|| missing(format!("chunk {id:?}")))
            };
            walk.into_met().into_iter().map(pack).collect()
        })
    }

    /// Every pack that has its name, and its size. They stay while packs are pinned.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn all_packs(&self) -> Result<Vec<(Uuid, u64)>, SnapshotError> {
        super::index::on_disk(&self.packs())
    }

    /// A pack, to be read.
    ///
    /// # Errors
    /// When it is not there any more.
    pub fn open_pack(&self, name: Uuid) -> Result<File, SnapshotError> {
        Ok(File::open(pack::path(&self.packs(), name))?)
    }

    /// A pack that is what it has to be, its table and each of its chunks, to be read from its beginning.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] when it is not; when it is not there any more.
    pub fn open_whole_pack(&self, name: Uuid) -> Result<File, SnapshotError> {
        let file = self.open_pack(name)?;
        whole(&file, name)?;
        Ok(file)
    }

    /// Whether a pack is there, and what it has to be: its table and each of its chunks. It stays then,
    /// and what is in it counts as stored, also if it was about to go.
    ///
    /// # Errors
    /// When the index cannot be used.
    pub fn has_whole(&self, pin: &Pin, name: Uuid) -> Result<bool, SnapshotError> {
        self.let_stay(pin, name);
        let read = self.open_pack(name).and_then(|file| {
            let rows = whole(&file, name)?;
            Ok((rows, file.metadata()?.len()))
        });
        let Ok((rows, bytes)) = read else { return Ok(false) };
        let mut index = self.index();
        for row in &rows {
            // It is nowhere by now, or where it may go.
            if index.find(row.id)?.is_none_or(|at| at.pack != name) {
                let ids = rows.iter().map(|row| row.id).collect();
                index.forget_with(&[(name, ids)])?;
                index.add((name, bytes), &rows, None)?;
                break;
            }
        }
        Ok(true)
    }

    /// Sees to it that a pack is not removed, whatever somebody thinks who collects.
    fn let_stay(&self, pin: &Pin, name: Uuid) {
        debug_assert!(pin.is_of(&self.gate), "a pin of another vault keeps nothing here");
        pin.needs_pack(name);
        let _nothing_is_moving = self.moving();
        self.index().let_stay(name);
    }

    /// Begins to take in a pack.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn arriving(&self, name: Uuid) -> Result<Arriving, SnapshotError> {
        let path = self.tmp().join(format!("{name}-{}", Uuid::new_v4()));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        Ok(Arriving { name, path, file })
    }

    /// Takes a pack in, when it is what it has to be. One of this name that is there goes. What needs
    /// it is not recorded yet, or could not be followed without it: until that is so, only the pin
    /// keeps it.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`]; when the disk fails.
    pub fn take_in_pack(&self, pin: &Pin, arriving: &Arriving) -> Result<(), SnapshotError> {
        let Arriving { name, path, file } = arriving;
        self.let_stay(pin, *name);
        let rows = whole(file, *name)?;
        let bytes = file.metadata()?.len();
        file.sync_data()?;
        std::fs::rename(path, pack::path(&self.packs(), *name))?;
        File::open(self.packs())?.sync_all()?;
        fault::point("import.pack");
        self.close(*name);
        let mut index = self.index();
        index.forget(&[*name])?;
        index.add((*name, bytes), &rows, None)
    }
}

/// Reads all of a pack and checks it.
fn whole(file: &File, name: Uuid) -> Result<Vec<pack::Row>, SnapshotError> {
    let rows = pack::read_table(file, name)?;
    for row in &rows {
        chunk::unpack(row.id, pack::read(file, row)?, row.length as usize)?;
    }
    Ok(rows)
}

impl Arriving {
    /// The file, for somebody else to write.
    ///
    /// # Errors
    /// When there are too many files open.
    pub fn writer(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        // Behind `take_in_pack` there is nothing of this name.
        let _ = std::fs::remove_file(&self.path);
    }
}
