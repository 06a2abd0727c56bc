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
        let mut seen = HashSet::new();
        self.reach(&[root], &mut seen)?;
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

    /// Adds every chunk of points to a set. What is in it already is not followed again. Nodes and
    /// lists are read, files are not.
    pub(super) fn reach(
        &self,
        roots: &[Root],
        seen: &mut HashSet<ChunkId>,
    ) -> Result<(), SnapshotError> {
        let mut todo: Vec<ChunkId> = roots.iter().map(|root| Vault::top(*root)).collect();
        while let Some(id) = todo.pop() {
            if !seen.insert(id) {
                continue;
            }
            match self.node(id)? {
                Node::Leaves(leaves) => todo.extend(leaves),
                Node::Leaf(entries) => {
                    for (_, entry) in entries {
                        match entry.what {
                            What::Dir(node) => todo.push(node),
                            What::File(content) => {
                                let data = content.extents.iter().map(|extent| &extent.data);
                                data.into_iter()
                                    .try_for_each(|data| self.reach_data(data, seen))?;
                            }
                            What::Link(_) | What::Fifo => {}
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn reach_data(&self, data: &Data, seen: &mut HashSet<ChunkId>) -> Result<(), SnapshotError> {
        if let Data::Listed(lists) = data {
            let new: Vec<_> = lists.iter().filter(|list| seen.insert(list.id)).copied().collect();
            let new = self.chunks(&Data::Listed(new))?;
            seen.extend(new.iter().map(|chunk| chunk.id));
            return Ok(());
        }
        seen.extend(self.chunks(data)?.iter().map(|chunk| chunk.id));
        Ok(())
    }
}
