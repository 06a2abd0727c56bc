//! The vault of one tenant.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;

use uuid::Uuid;

use super::chunk::{self, ChunkId, ChunkRef, LARGEST};
use super::damage::{self, Count, Notes};
use super::desks::Desks;
use super::gate::Gate;
use super::index::{Index, Place};
use super::node::{self, Content, Data, Entry, Node, NotNode, Row};
use super::opened::{OpenPacks, OwnPacks};
use super::pack::{self, Full, Writing};
use super::purged::Noted;
use super::sound::State;
use super::{SnapshotError, scan};
use crate::domain::{Root, SessionId, Tenant};

/// The usual size of a full pack, in bytes.
pub(super) const PACK: u64 = 64 * 1024 * 1024;

/// How often whoever must not wait asks for the index.
const ASKED: usize = 100;

/// The vault of one tenant.
pub struct Vault {
    dir: PathBuf,
    pub(super) tenant: Tenant,
    pub(super) gate: Gate,
    index: Mutex<Index>,
    /// What is known of the index. Locked by whoever looks through it or makes it anew, for as long as that
    /// takes, and by who has found something nowhere.
    pub(super) state: Mutex<State>,
    /// Held while some packs are moved and removed: never many at a time.
    moving: Mutex<()>,
    open: OwnPacks,
    notes: Mutex<Notes>,
    noted: Mutex<Noted>,
    pub(super) count: Arc<Count>,
    /// Where whoever collects this vault or another one works.
    pub(super) desks: Arc<Desks>,
}

impl Vault {
    /// The vault in a directory, as it is. What is open of packs it shares with others, and where it is worked.
    pub(super) fn new(
        (dir, tenant): (PathBuf, Tenant),
        (index, state): (Index, State),
        count: Arc<Count>,
        (packs, desks): (&Arc<OpenPacks>, &Arc<Desks>),
    ) -> Vault {
        let (gate, moving, open) = (Gate::default(), Mutex::default(), packs.of_vault());
        let (notes, noted) = (damage::load(&dir), Mutex::new(Noted::load(&dir)));
        count.set(notes.len());
        let (index, state, notes) = (Mutex::new(index), Mutex::new(state), Mutex::new(notes));
        let desks = desks.clone();
        Vault { dir, tenant, gate, index, state, moving, open, notes, noted, count, desks }
    }

    /// Forgets what is known of all sessions' files, also by those who save or bring back now.
    pub(super) fn forget_all(&self) -> Result<(), SnapshotError> {
        let _forgetting = self.gate.forget();
        scan::forget_all(&self.scans())
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file of the vault's own.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Forgets what is known of a session's files, so that everything is read at the next cut.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn forget(&self, session: SessionId) -> Result<(), SnapshotError> {
        match std::fs::remove_file(self.scan(session)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no pack is half-way on its way out, and keeps it so.
    pub(super) fn moving(&self) -> MutexGuard<'_, ()> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index, unless somebody keeps it for longer than a moment.
    fn index_at_once(&self) -> Option<MutexGuard<'_, Index>> {
        for _ in 0..ASKED {
            match self.index.try_lock() {
                Ok(index) => return Some(index),
                Err(TryLockError::Poisoned(error)) => return Some(error.into_inner()),
                Err(TryLockError::WouldBlock) => thread::yield_now(),
            }
        }
        None
    }

    pub(super) fn packs(&self) -> PathBuf {
        self.dir.join("packs")
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    pub(super) fn scans(&self) -> PathBuf {
        self.dir.join("scans")
    }

    pub(super) fn scan(&self, session: SessionId) -> PathBuf {
        self.scans().join(session.to_string())
    }

    /// Reads a chunk and checks that it is what was saved.
    pub(super) fn chunk(&self, id: ChunkId) -> Result<Vec<u8>, SnapshotError> {
        let place = self.place(id)?;
        self.chunk_from(id, place)
    }

    /// Reads a chunk that was in this place a moment ago. Whoever reads can be overtaken by whoever
    /// collects: then it is in another one by now. So may it be when the index is damaged.
    pub(super) fn chunk_from(
        &self,
        id: ChunkId,
        mut place: Option<Place>,
    ) -> Result<Vec<u8>, SnapshotError> {
        loop {
            match self.chunk_at(id, place) {
                Err(error @ SnapshotError::Damaged { .. }) => match self.place_for_sure(id)? {
                    now if now == place => return Err(error),
                    now => place = now,
                },
                read => return read,
            }
        }
    }

    /// Reads a chunk that is in this place, and checks that it is what was saved.
    pub(super) fn chunk_at(
        &self,
        id: ChunkId,
        place: Option<Place>,
    ) -> Result<Vec<u8>, SnapshotError> {
        let missing = |how| SnapshotError::Damaged { what: format!("chunk {id:?}"), how };
        let place = place.ok_or_else(|| missing("it is missing"))?;
        let file = match self.pack(place.pack) {
            Err(SnapshotError::Damaged { .. }) => return Err(missing("its pack is not there")),
            file => file?,
        };
        let packed = pack::read(&file, &place.row)?;
        chunk::unpack(id, packed, place.row.length as usize)
    }

    /// Reads a piece of a file.
    pub(super) fn piece(&self, chunk: ChunkRef) -> Result<Vec<u8>, SnapshotError> {
        let bytes = self.chunk(chunk.id)?;
        match bytes.len() == chunk.length as usize {
            true => Ok(bytes),
            false => Err(no_node(chunk.id)),
        }
    }

    fn pack(&self, name: Uuid) -> Result<Arc<File>, SnapshotError> {
        self.open.get(name, || pack::open(&self.packs(), name))
    }

    /// Lets go of a pack that is not what it was, or is removed.
    pub(super) fn close(&self, name: Uuid) {
        self.open.close(name);
    }

    /// The node of a point's topmost directory.
    pub(super) fn top(root: Root) -> ChunkId {
        ChunkId(root.0)
    }

    /// The leaves of a directory, in order. Each is read when it comes to it: of a large directory all
    /// of them are more than should be in memory at once.
    pub(super) fn leaves(
        &self,
        node: ChunkId,
    ) -> Result<impl Iterator<Item = Result<Leaf, SnapshotError>>, SnapshotError> {
        let (only, leaves) = match self.node(node)? {
            Node::Leaf(entries) => (Some(entries), vec![]),
            Node::Leaves(leaves) => (None, leaves),
        };
        let leaves = leaves.into_iter().map(move |leaf| self.leaf(leaf));
        Ok(only.map(Ok).into_iter().chain(leaves))
    }

    /// Like [`leaves`](Self::leaves), each as it is kept.
    pub(super) fn kept_leaves(
        &self,
        node: ChunkId,
    ) -> Result<impl Iterator<Item = Result<KeptLeaf, SnapshotError>>, SnapshotError> {
        let kept = self.kept_leaf(node)?;
        let is_leaf = node::rows(&kept.bytes).is_some();
        let (only, leaves) = match is_leaf {
            true => (Some(kept), vec![]),
            false => match Node::decode(&kept.bytes) {
                Ok(Node::Leaves(leaves)) => (None, leaves),
                _ => return Err(no_node(node)),
            },
        };
        let leaves = leaves.into_iter().map(move |leaf| self.kept_leaf(leaf));
        Ok(only.map(Ok).into_iter().chain(leaves))
    }

    fn kept_leaf(&self, id: ChunkId) -> Result<KeptLeaf, SnapshotError> {
        Ok(KeptLeaf { id, bytes: self.chunk(id)? })
    }

    /// What a directory has under a name. Names are in order: few of its leaves are read.
    pub(super) fn entry(&self, node: ChunkId, name: &[u8]) -> Result<Option<Entry>, SnapshotError> {
        let leaves = match self.node(node)? {
            Node::Leaf(entries) => return Ok(named(entries, name)),
            Node::Leaves(leaves) => leaves,
        };
        let mut left = &leaves[..];
        while let Some(middle) = left.get(left.len() / 2) {
            let entries = self.leaf(*middle)?;
            let (before, after) = left.split_at(left.len() / 2);
            left = match (entries.first(), entries.last()) {
                (Some((first, _)), _) if name < &first[..] => before,
                (_, Some((last, _))) if name > &last[..] => &after[1..],
                _ => return Ok(named(entries, name)),
            };
        }
        Ok(None)
    }

    fn leaf(&self, id: ChunkId) -> Result<Leaf, SnapshotError> {
        match self.node(id)? {
            Node::Leaf(entries) => Ok(entries),
            Node::Leaves(_) => Err(no_node(id)),
        }
    }

    pub(super) fn node(&self, id: ChunkId) -> Result<Node, SnapshotError> {
        Node::decode(&self.chunk(id)?).map_err(|_| no_node(id))
    }

    /// The chunks of a stretch of data.
    pub(super) fn chunks(&self, data: &Data) -> Result<Vec<ChunkRef>, SnapshotError> {
        match data {
            Data::Inline(chunks) => Ok(chunks.clone()),
            Data::Listed(lists) => {
                let mut chunks = vec![];
                for list in lists {
                    let bytes = self.chunk(list.id)?;
                    chunks.extend(node::all_refs(&bytes).map_err(|_| no_node(list.id))?);
                }
                Ok(chunks)
            }
        }
    }

    /// The chunks of a file, each with its place in it, in order and without overlap.
    pub(super) fn pieces(&self, content: &Content) -> Result<Vec<(u64, ChunkRef)>, SnapshotError> {
        let mut pieces = vec![];
        let mut end = 0u64;
        for extent in &content.extents {
            let mut at = extent.offset;
            for chunk in self.chunks(&extent.data)? {
                let next = at.checked_add(chunk.length.into());
                let Some(next) = next.filter(|next| at >= end && *next <= content.size) else {
                    let how = "its pieces do not fit together";
                    return Err(SnapshotError::Damaged { what: "a file".to_owned(), how });
                };
                pieces.push((at, chunk));
                (at, end) = (next, next);
            }
        }
        Ok(pieces)
    }
}

/// Entries of a directory, by name.
pub(super) type Leaf = Vec<(Vec<u8>, Entry)>;

/// A leaf of a directory as it is kept.
pub(super) struct KeptLeaf {
    id: ChunkId,
    bytes: Vec<u8>,
}

impl KeptLeaf {
    /// Its entries, one after the other, up to one that makes no sense.
    pub(super) fn rows(&self) -> impl Iterator<Item = Result<Row<'_>, SnapshotError>> {
        let (rows, id) = (node::rows(&self.bytes), self.id);
        let no_leaf = rows.is_none().then_some(Err(NotNode));
        let rows = rows.into_iter().flatten().chain(no_leaf);
        rows.map(move |row| row.map_err(|_| no_node(id)))
    }
}

fn named(entries: Leaf, name: &[u8]) -> Option<Entry> {
    entries.into_iter().find(|(found, _)| found == name).map(|(_, entry)| entry)
}

fn no_node(id: ChunkId) -> SnapshotError {
    SnapshotError::Damaged { what: format!("chunk {id:?}"), how: "it makes no sense" }
}

/// What a cut adds to a vault: chunks that it does not have yet, in packs of their own.
pub(super) struct Stash<'a> {
    vault: &'a Vault,
    /// Whose files are saved.
    writer: Option<SessionId>,
    writing: Option<Writing>,
    /// Packs that are full and not on the disk yet.
    full: Vec<Full>,
    own: HashSet<ChunkId>,
    bytes: u64,
    /// Whether an agent stands still: nothing waits for the disk.
    held: bool,
    /// Whether something that was added could not be written.
    lost: bool,
}

impl<'a> Stash<'a> {
    pub(super) fn new(vault: &'a Vault) -> Stash<'a> {
        let (writer, writing, full, own) = (None, None, vec![], HashSet::new());
        Stash { vault, writer, writing, full, own, bytes: 0, held: false, lost: false }
    }

    /// For what a session has.
    pub(super) fn of(self, session: SessionId) -> Stash<'a> {
        Stash { writer: Some(session), ..self }
    }

    /// Says whether an agent stands still. Packs that get full meanwhile come to the disk behind that.
    pub(super) fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Whether the vault has a chunk already, and keeps it, or is about to. While an agent stands still
    /// nobody is waited for who has the index: what is stored twice is found in one place.
    fn has(&self, id: ChunkId) -> Result<bool, SnapshotError> {
        if self.own.contains(&id) {
            return Ok(true);
        }
        let index = match self.held {
            true => self.vault.index_at_once(),
            false => Some(self.vault.index()),
        };
        match index.map(|index| index.counts(id)) {
            // What cannot be said is stored again.
            None | Some(Err(SnapshotError::Index(_))) => Ok(false),
            Some(counts) => counts,
        }
    }

    fn add(
        &mut self,
        id: ChunkId,
        packed: &chunk::Packed,
        length: u32,
    ) -> Result<(), SnapshotError> {
        let added = self.write(id, packed, length);
        self.lost |= added.is_err();
        added
    }

    fn write(
        &mut self,
        id: ChunkId,
        packed: &chunk::Packed,
        length: u32,
    ) -> Result<(), SnapshotError> {
        if self.own.insert(id) {
            if self.writing.is_none() {
                self.writing = Some(Writing::begin(&self.vault.tmp())?);
            }
            if let Some(writing) = &mut self.writing {
                writing.add(id, packed, length)?;
                if writing.is_full(PACK) {
                    self.fill()?;
                }
            }
        }
        Ok(())
    }

    /// Sees to it that a pack that is full is published, if that can be waited for.
    fn fill(&mut self) -> Result<(), SnapshotError> {
        match self.held {
            true => self.set_aside(),
            false => self.publish().map(drop),
        }
    }

    fn set_aside(&mut self) -> Result<(), SnapshotError> {
        if let Some(writing) = self.writing.take() {
            self.full.push(writing.close()?);
        }
        Ok(())
    }

    /// Brings what was added to the disk, and into the vault. Returns the bytes of all packs.
    ///
    /// Fails for ever once something could not be written: whoever asks goes on to note what was
    /// added as stored.
    pub(super) fn publish(&mut self) -> Result<u64, SnapshotError> {
        if self.lost {
            return Err(SnapshotError::Store("some of it could not be written".to_owned()));
        }
        let published = self.write_out();
        self.lost = published.is_err();
        published
    }

    fn write_out(&mut self) -> Result<u64, SnapshotError> {
        self.set_aside()?;
        for full in std::mem::take(&mut self.full) {
            let written = full.publish(&self.vault.packs())?;
            let pack = (written.name, written.bytes);
            let added = self.vault.index().add(pack, &written.rows, self.writer);
            // One that is made anew knows this one as well.
            added.or_else(|error| self.vault.mend_index(error))?;
            self.bytes += written.bytes;
        }
        Ok(self.bytes)
    }
}

/// Puts a chunk into a stash that several threads share, and says what it is called. Hashing and
/// packing are done without holding the others up.
pub(super) fn put(stash: &Mutex<Stash<'_>>, plain: Vec<u8>) -> Result<ChunkRef, SnapshotError> {
    let locked = || stash.lock().unwrap_or_else(PoisonError::into_inner);
    let id = ChunkId::of(&plain);
    let length = u32::try_from(plain.len()).unwrap_or(u32::MAX);
    if plain.len() > LARGEST {
        let how = "it is larger than anything that can be kept";
        return Err(SnapshotError::Damaged { what: "a chunk".to_owned(), how });
    }
    if !locked().has(id)? {
        let packed = chunk::pack(plain);
        locked().add(id, &packed, length)?;
    }
    Ok(ChunkRef { id, length })
}
