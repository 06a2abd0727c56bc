//! Files that have several names.

use std::collections::HashMap;

use super::look::Found;
use super::node::{Entry, What};

/// The groups of files that have several names, and the other way round.
#[derive(Default)]
pub(super) struct Groups {
    groups: HashMap<(u64, u64), [u8; 8]>,
    grouped: HashMap<[u8; 8], (u64, u64)>,
}

impl Groups {
    /// Notes in what was met which of it are names of the same files. In the order of the paths, so
    /// that equal trees are called equal.
    pub(super) fn label(&mut self, found: &mut [Found]) {
        let mut several: Vec<_> = found.iter_mut().filter(|found| found.stat.names > 1).collect();
        several.sort_unstable_by(|a, b| parts(&a.path).cmp(parts(&b.path)));
        for Found { path, stat, met } in several {
            let Ok(mut entry) = Entry::decode(&mut &met.known.entry[..]) else { continue };
            let What::File(content) = &mut entry.what else { continue };
            let group = self.group(path, stat.inode, content.group);
            if content.group != Some(group) {
                content.group = Some(group);
                met.known.entry = entry.encode().into();
                met.is_new = true;
            }
        }
    }

    /// The group of a file. One that was known under a group keeps it, unless it is another file's by
    /// now, or another of its names has another.
    fn group(&mut self, path: &[u8], inode: (u64, u64), before: Option<[u8; 8]>) -> [u8; 8] {
        if let Some(group) = self.groups.get(&inode) {
            return *group;
        }
        let mut group = before.unwrap_or_else(|| name_group(path));
        if self.grouped.contains_key(&group) {
            group = name_group(path);
        }
        // Directories that moved can have taken a name along for which another file's is called.
        while self.grouped.contains_key(&group) {
            group = name_group(&group);
        }
        self.groups.insert(inode, group);
        self.grouped.insert(group, inode);
        group
    }
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
}

/// The group of a file that has several names, from the first of them.
fn name_group(path: &[u8]) -> [u8; 8] {
    let hash = blake3::hash(path);
    let mut group = [0; 8];
    group.copy_from_slice(&hash.as_bytes()[..8]);
    group
}
