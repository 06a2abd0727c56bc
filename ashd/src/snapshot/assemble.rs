//! Putting together what was looked at: the nodes of a point. The agent need not stand still for it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Mutex;

use super::SnapshotError;
use super::chunk::ChunkId;
use super::cut::{Cutting, LeftOut};
use super::look::{Met, Moment, Moments, Seen, check_cancelled};
use super::node::{self, Entry, Leaves, What};
use super::scan::{Files, Known, Mark};
use super::vault::{Stash, put};
use crate::domain::Root;

/// Putting the nodes of a point together.
pub(super) struct Assembly<'l, 'a, 'v> {
    stash: &'l Mutex<Stash<'v>>,
    cutting: &'l Cutting<'l>,
    moments: &'l Moments<'a>,
    /// Files that this cut has read.
    read: &'l HashMap<Vec<u8>, Met>,
    /// What was known before.
    before: &'l Files,
    /// How much of that there still is.
    met: usize,
    all: Assembled,
}

/// What was put together.
pub(super) struct Assembled {
    pub(super) root: Root,
    /// Files, directories and links.
    pub(super) files: u64,
    /// Bytes of all files together.
    pub(super) bytes: u64,
    pub(super) left_out: LeftOut,
    /// Directories that were not known before, or differ; and what was known and is gone.
    pub(super) new: Vec<(Vec<u8>, Known)>,
}

impl<'l, 'a, 'v> Assembly<'l, 'a, 'v> {
    pub(super) fn new(
        (stash, cutting): (&'l Mutex<Stash<'v>>, &'l Cutting<'l>),
        moments: &'l Moments<'a>,
        read: &'l HashMap<Vec<u8>, Met>,
        before: &'l Files,
    ) -> Assembly<'l, 'a, 'v> {
        let (root, left_out) = (Root([0; 32]), LeftOut::default());
        let all = Assembled { root, files: 0, bytes: 0, left_out, new: vec![] };
        Assembly { stash, cutting, moments, read, before, met: 0, all }
    }

    /// Stores every node that is not stored yet.
    pub(super) fn finish(mut self) -> Result<Assembled, SnapshotError> {
        let mut roots: Vec<_> = self.cutting.roots.iter().map(|(name, _)| *name).collect();
        roots.sort_unstable();
        let mut top = Leaves::default();
        for name in roots {
            let entry = self.dir(name.as_bytes())?;
            self.look_at_attributes(name.as_bytes(), &entry);
            top.push(name.as_bytes(), &entry);
        }
        let root = Root(self.store(top, None)?.0);
        let gone = self.gone().into_iter().map(|path| (path, Known::gone()));
        self.all.new.extend(gone);
        Ok(Assembled { root, ..self.all })
    }

    /// The entry of a directory, with everything beneath it stored.
    fn dir(&mut self, path: &[u8]) -> Result<Vec<u8>, SnapshotError> {
        check_cancelled(self.cutting.cancel)?;
        let moment = self.moments.get(path).ok_or_else(overlooked)?;
        let mut leaves = Leaves::default();
        let mut below = path.to_vec();
        below.push(b'/');
        for ((name, _), seen) in moment.names.iter().zip(&moment.seen) {
            let name = name.to_bytes();
            below.truncate(path.len() + 1);
            below.extend(name);
            if let Some(entry) = self.entry(&below, seen)? {
                self.look_at_attributes(&below, &entry);
                leaves.push(name, &entry);
            }
        }
        self.node(path, moment, leaves)
    }

    /// Says what is left out of an entry.
    fn look_at_attributes(&mut self, path: &[u8], entry: &[u8]) {
        if node::is_curtailed(entry) {
            self.all.left_out.add(path, "some of its attributes");
        }
    }

    fn count(&mut self, file: &Known) {
        self.all.files += 1;
        self.all.bytes += file.mark.size();
    }

    fn entry<'s>(
        &mut self,
        path: &[u8],
        seen: &'s Seen<'_>,
    ) -> Result<Option<Cow<'s, [u8]>>, SnapshotError>
    where
        'l: 's,
    {
        let read = self.read;
        Ok(match seen {
            Seen::Known(known) => {
                self.count(known);
                self.met += 1;
                Some(Cow::Borrowed(&known.entry))
            }
            Seen::Read => {
                let met = read.get(path).ok_or_else(overlooked)?;
                self.count(&met.known);
                self.met += usize::from(met.is_sure && self.before.contains_key(path));
                Some(Cow::Borrowed(&met.known.entry))
            }
            Seen::Dir => {
                self.all.files += 1;
                Some(Cow::Owned(self.dir(path)?))
            }
            Seen::Small(entry) => {
                self.all.files += 1;
                Some(Cow::Borrowed(entry))
            }
            Seen::LeftOut(what) => {
                self.all.left_out.add(path, what);
                None
            }
        })
    }

    fn node(
        &mut self,
        path: &[u8],
        moment: &Moment<'_>,
        leaves: Leaves,
    ) -> Result<Vec<u8>, SnapshotError> {
        let before = self.before.get(path);
        let what = What::Dir(self.store(leaves, before)?);
        let Moment { own, attributes, .. } = moment;
        let attributes = attributes.clone();
        let entry = Entry { mode: own.mode, modified: own.modified, attributes, what }.encode();
        let now = Known { mark: Mark::of(own), entry: entry.clone().into() };
        self.met += usize::from(before.is_some());
        if before != Some(&now) {
            self.all.new.push((path.to_vec(), now));
        }
        Ok(entry)
    }

    /// Stores the leaves of a directory, unless it is the one that was stored before.
    fn store(&self, leaves: Leaves, before: Option<&Known>) -> Result<ChunkId, SnapshotError> {
        let leaves = leaves.finish();
        let ids: Vec<_> = leaves.iter().map(|leaf| ChunkId::of(leaf)).collect();
        let (list, node) = match &ids[..] {
            [only] => (None, *only),
            ids => {
                let list = node::of_leaves(ids);
                let id = ChunkId::of(&list);
                (Some(list), id)
            }
        };
        let entry = before.and_then(|before| Entry::decode(&mut &before.entry[..]).ok());
        if entry.is_none_or(|entry| entry.what != What::Dir(node)) {
            for leaf in leaves.into_iter().chain(list) {
                put(self.stash, leaf)?;
            }
        }
        Ok(node)
    }

    /// What was known before and is not in the point: the root does not need it, so it can be
    /// collected, and must not be relied on.
    fn gone(&self) -> Vec<Vec<u8>> {
        if self.met == self.before.len() {
            return vec![];
        }
        self.before.keys().filter(|path| !self.is_in(path)).map(|path| path.to_vec()).collect()
    }

    fn is_in(&self, path: &[u8]) -> bool {
        if self.moments.contains_key(path) {
            return true;
        }
        let Some(at) = path.iter().rposition(|byte| *byte == b'/') else { return false };
        let Some(moment) = self.moments.get(&path[..at]) else { return false };
        let order = |(name, _): &(CString, _)| name.to_bytes().cmp(&path[at + 1..]);
        let place = moment.names.binary_search_by(order);
        match place.ok().map(|place| &moment.seen[place]) {
            Some(Seen::Known(_)) => true,
            Some(Seen::Read) => self.read.get(path).is_some_and(|met| met.is_sure),
            _ => false,
        }
    }
}

/// Whoever looked has seen to everything that there is.
fn overlooked() -> SnapshotError {
    SnapshotError::Store("something was not looked at".to_owned())
}
