//! Bringing a point back: the same directories, under another owner if need be.
//!
//! Everything is built beneath a name that nobody looks for; to give it its own is the caller's, and so
//! is to flush it, if it was not asked for. Every chunk is checked before it is written. What a live
//! tree has unchanged can be taken from there instead, which costs nothing where the file system shares
//! blocks.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;

use super::chunk::ChunkId;
use super::crew::threads;
use super::gate::Pin;
use super::node::{Content, Entry, What};
use super::scan::{self, Mark, Noted};
use super::vault::Vault;
use super::writers::{self, Batch, Batches, Donor, WAITING, Writing, joined, within};
use super::{Damage, SnapshotError, deeply};
use crate::domain::{Root, SessionId};
use crate::fault;
use crate::tree::dir::{self, Dir};
use crate::tree::{Tree, remove_all};

/// The longest path that the kernel takes at a time, in bytes.
const LONGEST_PATH: usize = 4095;

/// Directories that one thread finishes before another one is worth its while.
const FEW: usize = 128;

/// How a point is to be brought back.
pub struct Restoring<'a> {
    /// The session that it becomes.
    pub session: SessionId,
    /// The directory to build in; only root reaches it.
    pub parent: &'a Path,
    /// The name to build beneath. There must be nothing of this name.
    pub name: &'a str,
    /// Who owns everything.
    pub owner: u32,
    /// Whether it has to be on the disk when it is done.
    pub synced: bool,
    /// Where what has not changed can be taken from.
    pub donor: Option<&'a Donor>,
    /// Told where the roots are, once they are there and have their owner: a sandbox can be made
    /// for them while they are filled.
    pub begun: Option<&'a (dyn Fn(&Path) + Sync)>,
    /// Told when everything is made but the last files, which are being written.
    pub filled: Option<&'a (dyn Fn() + Sync)>,
    /// Set when it is to be given up.
    pub cancel: &'a AtomicBool,
}

impl<'a> Restoring<'a> {
    /// For root, from the store alone, and on the disk when it is done.
    pub fn new(
        session: SessionId,
        (parent, name): (&'a Path, &'a str),
        cancel: &'a AtomicBool,
    ) -> Restoring<'a> {
        let (donor, begun, filled) = (None, None, None);
        Restoring { session, parent, name, owner: 0, synced: true, donor, begun, filled, cancel }
    }
}

/// What was brought back.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Restored {
    /// Files, directories and links.
    pub files: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

impl Vault {
    /// Brings a point back. When it fails nothing of it is left.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] when something of the point is missing or is not what was saved,
    /// [`SnapshotError::Cancelled`], [`SnapshotError::Full`], and when the disk fails.
    pub fn restore(
        &self,
        root: Root,
        restoring: &Restoring<'_>,
    ) -> Result<Restored, SnapshotError> {
        deeply(|| self.restore_deeply(root, restoring))
    }

    fn restore_deeply(
        &self,
        root: Root,
        restoring: &Restoring<'_>,
    ) -> Result<Restored, SnapshotError> {
        let pin = self.gate.enter_for(root);
        let built = self.build(root, restoring, &pin);
        if built.is_err() {
            remove_all(restoring.parent, restoring.name)?;
        }
        self.note_of(root, &built, restoring.donor.is_none())?;
        built
    }

    /// What was found out about a point on the way; it was read `whole` if nothing came from elsewhere.
    fn note_of(
        &self,
        root: Root,
        built: &Result<Restored, SnapshotError>,
        whole: bool,
    ) -> Result<(), SnapshotError> {
        match built {
            Err(SnapshotError::Damaged { what, how }) => {
                let (path, how) = (what.clone(), (*how).to_owned());
                self.note(&[], &[Damage { root, path, how }], true)?;
            }
            Ok(_) if whole => drop(self.note(&[root], &[], true)?),
            _ => {}
        }
        Ok(())
    }

    fn build(
        &self,
        root: Root,
        restoring: &Restoring<'_>,
        pin: &Pin,
    ) -> Result<Restored, SnapshotError> {
        let path = restoring.parent.join(restoring.name);
        let tree = Tree::create_root(&path, 0, 0o700)?;
        let top = tree.top()?;
        let mut build = Build::new(self, restoring);
        build.roots(&top, Vault::top(root))?;
        if let Some(begun) = restoring.begun {
            begun(&path);
        }
        build.files(&top, Vault::top(root))?;
        build.links(&top)?;
        build.finish(&top)?;
        // What came from a donor was not looked for in the store. All of a large point takes a tenth of a
        // second: where nothing is known to have been lost that is not done.
        if restoring.donor.is_some() && (pin.came_behind_loss() || self.damaged() > 0) {
            self.keep_stored(&mut build.known)?;
        }
        if restoring.synced {
            tree.sync()?;
        }
        fault::fail("restore.built")?;
        match pin.keeps(root) {
            true => {
                scan::replace(&self.scan(restoring.session), Some(root), &build.known)?;
                if !pin.wrote_scan(restoring.session, Some(root)) {
                    self.forget(restoring.session)?;
                }
            }
            // What of it may be about to go does not count as stored.
            false => self.forget(restoring.session)?,
        }
        Ok(build.restored)
    }
}

/// Building the tree of a point.
struct Build<'a> {
    vault: &'a Vault,
    restoring: &'a Restoring<'a>,
    /// Directories that are there. What lies in one comes before it.
    made: Vec<Made>,
    /// The first name of each group of names of one file.
    groups: HashMap<[u8; 8], Vec<u8>>,
    /// Further names, and what they are names of.
    links: Vec<(Vec<u8>, Vec<u8>)>,
    /// What is known of all of them from then on.
    known: Vec<Noted>,
    path: Vec<u8>,
    restored: Restored,
}

/// A directory that is there, and is not done with.
struct Made {
    path: Vec<u8>,
    /// What it has to be; the one around the roots is in no point.
    entry: Option<Entry>,
    several: Several,
}

/// Files of a directory that have several names: each by its name, with its entry, encoded.
type Several = Vec<(Vec<u8>, Vec<u8>)>;

impl<'a> Build<'a> {
    fn new(vault: &'a Vault, restoring: &'a Restoring<'a>) -> Build<'a> {
        Build {
            vault,
            restoring,
            made: vec![],
            groups: HashMap::new(),
            links: vec![],
            known: vec![],
            path: vec![],
            restored: Restored::default(),
        }
    }

    /// Makes the directories at the top, for their owner alone.
    fn roots(&self, top: &Dir, node: ChunkId) -> Result<(), SnapshotError> {
        let own = |name: &[u8]| -> io::Result<()> {
            dir::own(&top.make_dir(&writers::name(name)?)?, self.restoring.owner)
        };
        for leaf in self.vault.leaves(node)? {
            for (name, entry) in leaf? {
                if matches!(entry.what, What::Dir(_)) {
                    own(&name).map_err(|error| SnapshotError::at(&name, error))?;
                }
            }
        }
        Ok(())
    }

    /// Fills the roots: makes every directory, and everything in them but further names of files.
    fn files(&mut self, top: &Dir, node: ChunkId) -> Result<(), SnapshotError> {
        let (batches, waiting) = mpsc::sync_channel::<Batch>(WAITING);
        let waiting = Mutex::new(waiting);
        let failed = OnceLock::new();
        let Restoring { owner, cancel, donor, filled, .. } = *self.restoring;
        let writing = Writing { vault: self.vault, donor, owner, cancel };
        let (made, written) = thread::scope(|scope| {
            let write = || {
                // The thread ends with this. Where it is refused, modes take a call more.
                let _ = ash_sys::umask::shed();
                writing.all(&waiting, &failed)
            };
            let writers: Vec<_> = (0..threads()).map(|_| scope.spawn(write)).collect();
            let made = top.try_clone().map_err(SnapshotError::from);
            let made = made.and_then(|top| self.fill(&Arc::new(top), node, &batches, &failed));
            drop(batches);
            if let Some(filled) = filled.filter(|_| made.is_ok()) {
                filled();
            }
            let written: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
            (made, written)
        });
        for written in written {
            let panicked = |_| SnapshotError::Store("a writer has failed".to_owned());
            self.known.push(written.map_err(panicked)?);
        }
        match failed.into_inner() {
            Some(error) => Err(error),
            None => made.map(|several| self.made.push(Made { path: vec![], entry: None, several })),
        }
    }

    /// Fills a directory; returns which files in it have several names.
    fn fill(
        &mut self,
        dir: &Arc<Dir>,
        node: ChunkId,
        batches: &Batches,
        failed: &OnceLock<SnapshotError>,
    ) -> Result<Several, SnapshotError> {
        let vault = self.vault;
        let mut batch = Batch::new(dir, &self.path);
        let mut several = vec![];
        for leaf in vault.kept_leaves(node).map_err(|error| within(&self.path, error))? {
            let leaf = leaf.map_err(|error| within(&self.path, error))?;
            for row in leaf.rows() {
                let row = row.map_err(|error| within(&self.path, error))?;
                if failed.get().is_some() || self.restoring.cancel.load(Ordering::Relaxed) {
                    return Err(SnapshotError::Cancelled);
                }
                let before = self.path.len();
                if before > 0 {
                    self.path.push(b'/');
                }
                self.path.extend(row.name);
                self.restored.files += 1;
                let child = self.one(dir, row.name, &row.entry);
                let filled = match (child, &row.entry.what) {
                    (Ok(Some(child)), What::Dir(node)) => {
                        let filled = self.fill(&Arc::new(child), *node, batches, failed);
                        filled.map(|several| self.note_made(&row.entry, several))
                    }
                    (Ok(None), What::File(content)) => {
                        if content.group.is_some() {
                            several.push((row.name.to_vec(), row.encoded.to_vec()));
                        }
                        if self.is_first(content) {
                            batch.add(&row, content.size, batches);
                        }
                        Ok(())
                    }
                    (Ok(_), _) => Ok(()),
                    (Err(error), _) => Err(SnapshotError::at(&self.path, error)),
                };
                self.path.truncate(before);
                filled?;
            }
        }
        batch.send(batches);
        Ok(several)
    }

    /// Notes that the directory at the path is there, with all that lies in it but what others write.
    fn note_made(&mut self, entry: &Entry, several: Several) {
        let (path, entry) = (self.path.clone(), Some(entry.clone()));
        self.made.push(Made { path, entry, several });
    }

    /// Makes what is no file; a directory is returned.
    fn one(&self, dir: &Arc<Dir>, bytes: &[u8], entry: &Entry) -> io::Result<Option<Dir>> {
        let (name, owner) = (|| writers::name(bytes), self.restoring.owner);
        match &entry.what {
            What::File(_) => {}
            What::Dir(_) if self.path == bytes => return dir.dir(&name()?).map(Some),
            What::Dir(_) => return dir.make_dir(&name()?).map(Some),
            What::Link(target) => {
                dir.make_link(&name()?, &writers::name(target)?, owner, entry.modified)?
            }
            What::Fifo => dir.make_fifo(&name()?, owner, entry.mode, entry.modified)?,
        }
        Ok(None)
    }

    /// Whether the path is the first name of a file; further ones are noted, to be given later.
    fn is_first(&mut self, content: &Content) -> bool {
        self.restored.bytes += content.size;
        let Some(group) = content.group else { return true };
        let first = self.groups.entry(group).or_insert_with(|| self.path.clone());
        let is_first = *first == self.path;
        if !is_first {
            self.links.push((self.path.clone(), first.clone()));
        }
        is_first
    }

    /// Gives files their further names.
    fn links(&mut self, top: &Dir) -> Result<(), SnapshotError> {
        for (path, first) in &self.links {
            let link = || -> io::Result<()> {
                let (dir, name) = parent(top, path)?;
                let (of_dir, of) = parent(top, first)?;
                dir.make_name(&name, (&of_dir, &of))
            };
            link().map_err(|error| SnapshotError::at(path, error))?;
        }
        Ok(())
    }

    /// Gives directories their owners and times, now that nothing is made in them any more, and
    /// notes what they and files with several names are.
    fn finish(&mut self, top: &Dir) -> Result<(), SnapshotError> {
        let (made, owner) = (&self.made[..], self.restoring.owner);
        let most = made.len().div_ceil(threads()).max(FEW);
        let finished: Vec<_> = thread::scope(|scope| {
            let mut parts = made.chunks(most);
            let first = parts.next().unwrap_or_default();
            let others: Vec<_> =
                parts.map(|part| scope.spawn(move || finish(part, top, owner))).collect();
            let panicked = |_| SnapshotError::Store("directories were not finished".to_owned());
            let first = finish(first, top, owner);
            let others = others.into_iter().map(|other| other.join().map_err(panicked).flatten());
            std::iter::once(first).chain(others).collect()
        });
        for known in finished {
            self.known.push(known?);
        }
        Ok(())
    }
}

/// Finishes directories, in whichever order; returns what is known from then on.
fn finish(all: &[Made], top: &Dir, owner: u32) -> Result<Noted, SnapshotError> {
    let mut known = Noted::default();
    for made in all {
        made.finish(top, owner, &mut known)?;
    }
    Ok(known)
}

impl Made {
    fn finish(&self, top: &Dir, owner: u32, known: &mut Noted) -> Result<(), SnapshotError> {
        let at = |error| SnapshotError::at(&self.path, error);
        let dir = reach(top, &self.path).map_err(at)?;
        for (name, entry) in &self.several {
            let path = joined(&self.path, name);
            let stat = writers::name(name).and_then(|name| dir.stat(&name));
            let mark = Mark::of(&stat.map_err(|error| SnapshotError::at(&path, error))?);
            known.add(&path, &mark, entry);
        }
        if let Some(entry) = &self.entry {
            let finished = writers::attributes(&dir, entry)
                .and_then(|()| dir::finish(&dir, owner, entry.mode, entry.modified))
                .and_then(|()| dir.own_stat());
            let mark = Mark::of(&finished.map_err(at)?);
            known.add(&self.path, &mark, &entry.encode());
        }
        Ok(())
    }
}

/// The directory that something lies in, and its name there.
fn parent(top: &Dir, path: &[u8]) -> io::Result<(Dir, CString)> {
    let (above, last) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&path[..0], path),
    };
    Ok((reach(top, above)?, writers::name(last)?))
}

/// A directory of the tree, also one that lies deeper than the kernel goes at once. The empty path is
/// the tree's own.
fn reach(top: &Dir, path: &[u8]) -> io::Result<Dir> {
    if path.is_empty() {
        return top.try_clone();
    }
    let (mut dir, mut rest) = (None::<Dir>, path);
    while rest.len() > LONGEST_PATH {
        // There is one: no name is that long.
        let end = rest[..=LONGEST_PATH].iter().rposition(|byte| *byte == b'/');
        let (now, behind) = rest.split_at(end.unwrap_or(LONGEST_PATH));
        dir = Some(dir.as_ref().unwrap_or(top).dir(&writers::name(now)?)?);
        rest = &behind[1..];
    }
    dir.as_ref().unwrap_or(top).dir(&writers::name(rest)?)
}
