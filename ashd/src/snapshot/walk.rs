//! Following points to everything that they need, past what is damaged.
//!
//! What was followed is remembered, sound or not, so that what many points share is looked at once
//! and each of them still gets to know of its damage. One chunk can be several things: nothing keeps
//! an agent from writing a file that has the bytes of a directory. So what was followed, and as
//! what, is kept apart.

use std::collections::{HashMap, HashSet};

use super::chunk::{ChunkId, ChunkRef};
use super::error::shown;
use super::node::{Data, Entry, Node, What};
use super::vault::Vault;
use super::{DEEPEST, Damage, SnapshotError};
use crate::domain::Root;

/// How much is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Depth {
    /// What leads to chunks of files: enough to know which there are.
    Names,
    /// Also whether the chunks of files are there.
    Present,
    /// Also whether they are what was saved.
    Content,
}

/// What is wrong with something: the first that was met.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Wrong {
    /// The file or directory, as seen from the session; empty for the topmost.
    pub(super) path: String,
    /// The sentence.
    pub(super) how: String,
}

impl Wrong {
    /// As what is damaged of a point.
    pub(super) fn of(&self, root: Root) -> Damage {
        Damage { root, path: self.path.clone(), how: self.how.clone() }
    }
}

/// Points that are followed, and what was met so far.
pub(super) struct Walk<'a> {
    vault: &'a Vault,
    depth: Depth,
    nodes: HashMap<ChunkId, Option<Wrong>>,
    lists: HashMap<ChunkId, Option<String>>,
    data: HashMap<ChunkId, Option<String>>,
    /// Chunks that count as stored, and whose bytes are gone, or not what was saved.
    pub(super) rotten: HashSet<ChunkId>,
    /// Chunks that could not be used: these, and others that are missing or make no sense.
    pub(super) unusable: HashSet<ChunkId>,
    path: Vec<u8>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(vault: &'a Vault, depth: Depth) -> Walk<'a> {
        Walk {
            vault,
            depth,
            nodes: HashMap::new(),
            lists: HashMap::new(),
            data: HashMap::new(),
            rotten: HashSet::new(),
            unusable: HashSet::new(),
            path: vec![],
        }
    }

    /// Follows a point; says what is wrong with it. Goes as deep as directories nest.
    ///
    /// # Errors
    /// When the store cannot be read, which says nothing about the point.
    pub(super) fn follow(&mut self, root: Root) -> Result<Option<Wrong>, SnapshotError> {
        self.path.clear();
        self.node(Vault::top(root), 0)
    }

    /// Forgets what was found to be wrong: it is looked at again by whoever comes to it, and may have been
    /// stored again.
    pub(super) fn forget_wrong(&mut self) {
        self.nodes.retain(|_, wrong| wrong.is_none());
        self.lists.retain(|_, how| how.is_none());
        self.data.retain(|_, how| how.is_none());
    }

    /// Whether a chunk was met.
    pub(super) fn has_met(&self, id: &ChunkId) -> bool {
        self.data.contains_key(id) || self.nodes.contains_key(id) || self.lists.contains_key(id)
    }

    /// How many chunks were met.
    pub(super) fn count(&self) -> usize {
        let lists = self.lists.keys().filter(|id| !self.data.contains_key(id));
        let nodes = self.nodes.keys();
        let nodes = nodes.filter(|id| !self.data.contains_key(id) && !self.lists.contains_key(id));
        self.data.len() + lists.count() + nodes.count()
    }

    /// Every chunk that was met, as far as points could be followed.
    pub(super) fn into_met(self) -> HashSet<ChunkId> {
        let mut met: HashSet<ChunkId> = self.data.into_keys().collect();
        met.extend(self.nodes.into_keys());
        met.extend(self.lists.into_keys());
        met
    }

    fn node(&mut self, id: ChunkId, deep: usize) -> Result<Option<Wrong>, SnapshotError> {
        if let Some(known) = self.nodes.get(&id) {
            return Ok(known.clone());
        }
        // What is read leaves the stack before what lies beneath is followed.
        let node = self.vault.node(id);
        let wrong = match self.judged(id, node)? {
            Err(how) => Some(self.wrong(how)),
            Ok(_) if deep > 2 * DEEPEST => Some(self.wrong("it nests too deep".to_owned())),
            Ok(Node::Leaves(leaves)) => {
                let mut first = None;
                for leaf in leaves {
                    let wrong = self.node(leaf, deep + 1)?;
                    first = first.or(wrong);
                }
                first
            }
            Ok(Node::Leaf(entries)) => {
                let mut first = None;
                for (name, entry) in entries {
                    let wrong = self.entry(&name, &entry, deep)?;
                    first = first.or(wrong);
                }
                first
            }
        };
        self.nodes.insert(id, wrong.clone());
        Ok(wrong)
    }

    fn entry(
        &mut self,
        name: &[u8],
        entry: &Entry,
        deep: usize,
    ) -> Result<Option<Wrong>, SnapshotError> {
        let before = self.path.len();
        if before > 0 {
            self.path.push(b'/');
        }
        self.path.extend(name);
        let wrong = match &entry.what {
            What::Dir(node) => self.node(*node, deep + 1)?,
            What::File(content) => {
                let mut first = None;
                for extent in &content.extents {
                    let how = self.stretch(&extent.data)?;
                    first = first.or(how);
                }
                first.map(|how| self.wrong(how))
            }
            What::Link(_) | What::Fifo => None,
        };
        self.path.truncate(before);
        Ok(wrong)
    }

    fn stretch(&mut self, data: &Data) -> Result<Option<String>, SnapshotError> {
        let lists = match data {
            Data::Inline(chunks) => return self.pieces(chunks),
            Data::Listed(lists) => lists,
        };
        let mut first = None;
        for list in lists {
            let how = self.list(list)?;
            first = first.or(how);
        }
        Ok(first)
    }

    fn list(&mut self, list: &ChunkRef) -> Result<Option<String>, SnapshotError> {
        if let Some(known) = self.lists.get(&list.id) {
            return Ok(known.clone());
        }
        let chunks = self.vault.chunks(&Data::Listed(vec![*list]));
        let how = match self.judged(list.id, chunks)? {
            Ok(chunks) => self.pieces(&chunks)?,
            Err(how) => Some(how),
        };
        self.lists.insert(list.id, how.clone());
        Ok(how)
    }

    fn pieces(&mut self, chunks: &[ChunkRef]) -> Result<Option<String>, SnapshotError> {
        let mut first = None;
        for chunk in chunks {
            let how = match self.data.get(&chunk.id) {
                Some(known) => known.clone(),
                None => {
                    let how = self.piece(*chunk)?;
                    self.data.insert(chunk.id, how.clone());
                    how
                }
            };
            first = first.or(how);
        }
        Ok(first)
    }

    fn piece(&mut self, chunk: ChunkRef) -> Result<Option<String>, SnapshotError> {
        let looked = match self.depth {
            Depth::Names => Ok(()),
            Depth::Present => self.vault.has(chunk.id),
            Depth::Content => self.vault.piece(chunk).map(drop),
        };
        Ok(self.judged(chunk.id, looked)?.err())
    }

    /// Damage as a sentence; everything else ends the walk.
    fn judged<T>(
        &mut self,
        id: ChunkId,
        read: Result<T, SnapshotError>,
    ) -> Result<Result<T, String>, SnapshotError> {
        match read {
            Ok(read) => Ok(Ok(read)),
            Err(error @ SnapshotError::Damaged { .. }) => {
                self.unusable.insert(id);
                if self.vault.is_rotten(id)? {
                    self.rotten.insert(id);
                }
                Ok(Err(error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    fn wrong(&self, how: String) -> Wrong {
        Wrong { path: shown(&self.path), how }
    }
}
