//! Looking into a point without bringing it back.

use std::sync::Arc;

use super::SnapshotError;
use super::chunk::{ChunkId, ChunkRef};
use super::gate::Pin;
use super::node::{Entry, What};
use super::vault::Vault;
use crate::domain::Root;
use crate::tree::dir::{FileTime, Kind};

/// A point that is looked into. Nothing of it is collected meanwhile, unless it had been removed before.
pub struct Browser {
    vault: Arc<Vault>,
    root: Root,
    _pin: Pin,
}

/// An entry of a directory of a point.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed {
    /// Its name.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u16,
    /// Bytes, for files.
    pub size: u64,
    /// Time of the newest change of the content.
    pub modified: FileTime,
    /// What a symbolic link says.
    pub target: Vec<u8>,
    what: What,
}

/// An entry, or why what comes next cannot be read.
pub type Met = Result<Listed, SnapshotError>;

/// A point that is looked into now and then, over a time that others decide: in between, it is
/// collected when nothing else keeps it. Each look keeps it from that, so that one that was removed is not
/// to be looked into again.
pub struct Unpinned {
    vault: Arc<Vault>,
    root: Root,
}

impl Unpinned {
    /// Looks into the point again.
    pub fn browse(&self) -> Browser {
        self.vault.browse(self.root)
    }
}

/// A file of a point, to be read in any order.
pub struct Reading {
    vault: Arc<Vault>,
    /// Bytes.
    pub size: u64,
    pieces: Vec<(u64, ChunkRef)>,
}

impl Vault {
    /// Looks into a point.
    pub fn browse(self: &Arc<Self>, root: Root) -> Browser {
        Browser { vault: self.clone(), root, _pin: self.gate.enter_for(root) }
    }
}

impl Browser {
    /// What a directory holds, sorted by name; `None` when there is none at this path. Of a large one
    /// little is read before it is come to.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`], and when the store cannot be read.
    pub fn list<'b>(
        &'b self,
        path: &[u8],
    ) -> Result<Option<impl Iterator<Item = Met> + use<'b>>, SnapshotError> {
        let Some(node) = self.dir(path)? else { return Ok(None) };
        self.each(node).map(Some)
    }

    /// Lets the point go for the time being.
    pub fn unpinned(self) -> Unpinned {
        Unpinned { vault: self.vault, root: self.root }
    }

    /// What a directory holds that was listed, as [`list`](Self::list) says it; nothing when it is none.
    ///
    /// # Errors
    /// As for [`list`](Self::list).
    pub fn children<'b>(
        &'b self,
        dir: &Listed,
    ) -> Result<impl Iterator<Item = Met> + use<'b>, SnapshotError> {
        let children = match dir.what {
            What::Dir(node) => Some(self.each(node)?),
            _ => None,
        };
        Ok(children.into_iter().flatten())
    }

    /// Opens a regular file that was listed; `None` when it is none.
    ///
    /// # Errors
    /// As for [`list`](Self::list).
    pub fn reading(&self, file: &Listed) -> Result<Option<Reading>, SnapshotError> {
        let What::File(content) = &file.what else { return Ok(None) };
        let pieces = self.vault.pieces(content)?;
        Ok(Some(Reading { vault: self.vault.clone(), size: content.size, pieces }))
    }

    /// What there is at a path; nothing is said of the topmost directory.
    ///
    /// # Errors
    /// As for [`list`](Self::list).
    pub fn find(&self, path: &[u8]) -> Result<Option<Listed>, SnapshotError> {
        Ok(self.entry(path)?.map(|(name, entry)| listed(name.to_vec(), entry)))
    }

    /// Opens a regular file; `None` when there is none at this path.
    ///
    /// # Errors
    /// As for [`list`](Self::list).
    pub fn open(&self, path: &[u8]) -> Result<Option<Reading>, SnapshotError> {
        let Some((_, Entry { what: What::File(content), .. })) = self.entry(path)? else {
            return Ok(None);
        };
        let pieces = self.vault.pieces(&content)?;
        Ok(Some(Reading { vault: self.vault.clone(), size: content.size, pieces }))
    }

    fn each(&self, node: ChunkId) -> Result<impl Iterator<Item = Met>, SnapshotError> {
        let leaves = self.vault.leaves(node)?;
        Ok(leaves.flat_map(|leaf| {
            let (entries, failed) = match leaf {
                Ok(entries) => (entries, None),
                Err(error) => (vec![], Some(Err(error))),
            };
            entries.into_iter().map(|(name, entry)| Ok(listed(name, entry))).chain(failed)
        }))
    }

    /// What there is at a path, and its name.
    fn entry<'p>(&self, path: &'p [u8]) -> Result<Option<(&'p [u8], Entry)>, SnapshotError> {
        let at = path.iter().rposition(|byte| *byte == b'/');
        let (parent, name) = match at {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&path[..0], path),
        };
        let Some(node) = self.dir(parent)? else { return Ok(None) };
        Ok(self.vault.entry(node, name)?.map(|entry| (name, entry)))
    }

    fn dir(&self, path: &[u8]) -> Result<Option<ChunkId>, SnapshotError> {
        let mut node = Vault::top(self.root);
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            match self.vault.entry(node, part)?.map(|entry| entry.what) {
                Some(What::Dir(child)) => node = child,
                _ => return Ok(None),
            }
        }
        Ok(Some(node))
    }
}

impl Reading {
    /// Reads bytes from a place on, as many as there are up to the length of the buffer. Holes are
    /// zeros.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`], and when the store cannot be read.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, SnapshotError> {
        let left = self.size.saturating_sub(offset);
        let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..length];
        buffer.fill(0);
        let end = offset + length as u64;
        let first =
            self.pieces.partition_point(|(at, piece)| at + u64::from(piece.length) <= offset);
        for (at, piece) in self.pieces[first..].iter().take_while(|(at, _)| *at < end) {
            let bytes = self.vault.piece(*piece)?;
            let from = offset.max(*at);
            let to = end.min(at + bytes.len() as u64);
            let part = &bytes[(from - at) as usize..(to - at) as usize];
            buffer[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
        }
        Ok(length)
    }
}

fn listed(name: Vec<u8>, entry: Entry) -> Listed {
    let Entry { mode, modified, what, .. } = entry;
    let (kind, size, target) = match &what {
        What::File(content) => (Kind::File, content.size, vec![]),
        What::Dir(_) => (Kind::Dir, 0, vec![]),
        What::Link(target) => (Kind::Link, 0, target.clone()),
        What::Fifo => (Kind::Fifo, 0, vec![]),
    };
    Listed { name, kind, mode, size, modified, target, what }
}
