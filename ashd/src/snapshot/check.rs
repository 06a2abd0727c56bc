//! Whether everything of a point is there.

use std::collections::HashSet;

use super::SnapshotError;
use super::chunk::ChunkId;
use super::node::{Data, Node, What};
use super::vault::Vault;
use crate::domain::Root;

/// What was found of a point.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Checked {
    /// Chunks, each counted once.
    pub chunks: u64,
}

impl Vault {
    /// Checks that every chunk of a point is there; with `deep`, that each is what was saved.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] for the first that is not.
    pub fn check(&self, root: Root, deep: bool) -> Result<Checked, SnapshotError> {
        let _pin = self.gate.enter();
        let seen = self.reach(&[root])?;
        for id in &seen {
            match deep {
                true => drop(self.chunk(*id)?),
                false if self.index().find(*id)?.is_none() => {
                    let what = format!("chunk {id:?}");
                    return Err(SnapshotError::Damaged { what, how: "it is missing" });
                }
                false => {}
            }
        }
        Ok(Checked { chunks: seen.len() as u64 })
    }

    /// Every chunk of points. Nodes and lists are read, files are not.
    ///
    /// One chunk can be several things: nothing keeps an agent from writing a file that has the
    /// bytes of a directory. So what was followed, and as what, is kept apart from what was met.
    pub(super) fn reach(&self, roots: &[Root]) -> Result<HashSet<ChunkId>, SnapshotError> {
        let (mut nodes, mut lists, mut met) = (HashSet::new(), HashSet::new(), HashSet::new());
        let mut todo: Vec<ChunkId> = roots.iter().map(|root| Vault::top(*root)).collect();
        while let Some(id) = todo.pop() {
            if !nodes.insert(id) {
                continue;
            }
            match self.node(id)? {
                Node::Leaves(leaves) => todo.extend(leaves),
                Node::Leaf(entries) => {
                    for (_, entry) in entries {
                        match entry.what {
                            What::Dir(node) => todo.push(node),
                            What::File(content) => {
                                for extent in &content.extents {
                                    self.reach_data(&extent.data, &mut lists, &mut met)?;
                                }
                            }
                            What::Link(_) | What::Fifo => {}
                        }
                    }
                }
            }
        }
        met.extend(nodes);
        met.extend(lists);
        Ok(met)
    }

    fn reach_data(
        &self,
        data: &Data,
        lists: &mut HashSet<ChunkId>,
        met: &mut HashSet<ChunkId>,
    ) -> Result<(), SnapshotError> {
        let chunks = match data {
            Data::Inline(chunks) => chunks.clone(),
            Data::Listed(all) => {
                let new = all.iter().filter(|list| lists.insert(list.id)).copied().collect();
                self.chunks(&Data::Listed(new))?
            }
        };
        met.extend(chunks.iter().map(|chunk| chunk.id));
        Ok(())
    }
}
