//! Who writes the files of a point that is brought back: several threads, each a directory's worth at a
//! time.

use std::cell::OnceCell;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};

use super::SnapshotError;
use super::chunk::ChunkId;
use super::node::{Content, Data, Entry, Row, What};
use super::scan::{Mark, Noted, Scan};
use super::vault::Vault;
use crate::domain::SessionId;
use crate::tree::Tree;
use crate::tree::dir::{self, Dir, Stat};

/// Batches of files that wait to be written; each holds its directory open.
pub(super) const WAITING: usize = 16;

/// Files of one directory that one thread writes, one after the other, at most so many or so many bytes:
/// two threads that make files in the same directory wait for each other.
const BATCH: usize = 64;
const BATCH_BYTES: u64 = 8 * 1024 * 1024;

/// Files whose chunks are looked up at a time: whoever saves waits for that.
const LOOKED_UP: usize = 256;

/// Files of one directory that are to be written.
pub(super) struct Batch {
    dir: Arc<Dir>,
    /// As seen from the session.
    path: Vec<u8>,
    /// As they stand in a leaf.
    files: Vec<u8>,
    count: usize,
    bytes: u64,
}

impl Batch {
    pub(super) fn new(dir: &Arc<Dir>, path: &[u8]) -> Batch {
        Batch { dir: dir.clone(), path: path.to_vec(), files: vec![], count: 0, bytes: 0 }
    }

    /// Adds a file; a batch that is full then goes on its way, and an empty one is left.
    pub(super) fn add(&mut self, file: &Row<'_>, size: u64, to: &Batches) {
        self.bytes = self.bytes.saturating_add(size);
        file.put(&mut self.files);
        self.count += 1;
        if self.count >= BATCH || self.bytes >= BATCH_BYTES {
            let next = Batch::new(&self.dir, &self.path);
            std::mem::replace(self, next).send(to);
        }
    }

    /// Sends it on its way.
    pub(super) fn send(self, to: &Batches) {
        if self.count > 0 {
            // Writers that have failed say so themselves.
            let _ = to.send(self);
        }
    }
}

/// Hands batches to those who write.
pub(super) type Batches = mpsc::SyncSender<Batch>;

/// What files are written from, and how.
pub(super) struct Writing<'a> {
    pub(super) vault: &'a Vault,
    pub(super) donor: Option<&'a Donor>,
    /// Who owns everything.
    pub(super) owner: u32,
    /// Set when it is to be given up.
    pub(super) cancel: &'a AtomicBool,
}

/// A session whose files are there, from which those are taken that are what they were when they were
/// saved.
pub struct Donor {
    scan: Scan,
    top: Dir,
    shares: AtomicBool,
}

impl Vault {
    /// What is known of a session's files at this moment, which lie in a directory, for others to be made
    /// of them. To find that out of many takes a while.
    ///
    /// # Errors
    /// When the directory is not there.
    pub fn donor(&self, session: SessionId, root: &Path) -> Result<Donor, SnapshotError> {
        let top = Tree::open(root)?.top()?;
        let scan = Scan::load(&self.scan(session));
        Ok(Donor { scan, top, shares: AtomicBool::new(true) })
    }
}

impl Donor {
    /// What says of a file that it still is what was stored for it, if that was this.
    fn mark(&self, path: &[u8], file: &Row<'_>, content: &Content) -> Option<Mark> {
        let known = self.scan.files.get(path)?;
        // Most often neither its mode nor its time is another one.
        let same = known.entry[..] == *file.encoded || {
            let What::File(theirs) = Entry::decode(&mut &known.entry[..]).ok()?.what else {
                return None;
            };
            theirs.size == content.size && theirs.extents == content.extents
        };
        (same && known.mark.size() == content.size).then_some(known.mark)
    }

    /// Copies a file; returns what it is behind that.
    fn copy(&self, (dir, name): (&Dir, &CStr), size: u64, to: &File) -> io::Result<Stat> {
        let mut shares = self.shares.load(Ordering::Relaxed);
        if shares {
            if let Some(stat) = dir.share(name, to, &mut shares)? {
                return Ok(stat);
            }
            self.shares.store(shares, Ordering::Relaxed);
        }
        let file = dir.file(name)?;
        dir::copy(&file, to, size, &mut false)?;
        dir::stat_of(&file)
    }
}

/// A directory of a donor.
struct Source<'a> {
    donor: &'a Donor,
    /// As seen from the session.
    path: &'a [u8],
    /// Opened when something of it is wanted; `None` when it is not there.
    dir: OnceCell<Option<Dir>>,
}

impl Source<'_> {
    /// Copies a file; false when it cannot be, or this is not its mark any more. What its times tell
    /// behind the copy holds for all of it, wherever its directory is by then: they never go back.
    fn copy(&self, name: &CStr, mark: Mark, to: &File) -> bool {
        let open = || self::name(self.path).and_then(|path| self.donor.top.dir(&path)).ok();
        let dir = self.dir.get_or_init(open).as_ref();
        let copied = dir.map(|dir| self.donor.copy((dir, name), mark.size(), to));
        copied.is_some_and(|copied| copied.is_ok_and(|stat| Mark::of(&stat) == mark))
    }
}

impl Writing<'_> {
    /// Writes batches as they come, until none comes any more or a file cannot be written. Returns what is
    /// known of what was written.
    pub(super) fn all(
        &self,
        waiting: &Mutex<mpsc::Receiver<Batch>>,
        failed: &OnceLock<SnapshotError>,
    ) -> Noted {
        let mut written = Noted::default();
        loop {
            let batch = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(batch) = batch else { return written };
            if let Err(error) = self.batch(&batch, &mut written, failed) {
                // Of several the first is told.
                let _ = failed.set(error);
            }
        }
    }

    /// Writes the files of a batch, until something has failed.
    fn batch(
        &self,
        batch: &Batch,
        written: &mut Noted,
        failed: &OnceLock<SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let Batch { dir, path: of_dir, files, .. } = batch;
        let dir_of = |donor| Source { donor, path: of_dir, dir: OnceCell::new() };
        let from = self.donor.map(dir_of);
        let (mut path, mut rest) = (joined(of_dir, b""), &files[..]);
        let begin = path.len();
        while !rest.is_empty() && failed.get().is_none() {
            let no_row = |_| SnapshotError::damaged(of_dir, "it makes no sense");
            let file = Row::decode(&mut rest).map_err(no_row)?;
            path.truncate(begin);
            path.extend(file.name);
            let mark = self.one((dir, from.as_ref()), &path, &file);
            if let Some(mark) = mark.map_err(|error| within(&path, error))? {
                written.add(&path, &mark, file.encoded);
            }
        }
        Ok(())
    }

    /// Writes a file; returns its mark, unless it gets further names.
    fn one(
        &self,
        (dir, from): (&Dir, Option<&Source<'_>>),
        path: &[u8],
        file: &Row<'_>,
    ) -> Result<Option<Mark>, SnapshotError> {
        let at = |error| SnapshotError::at(path, error);
        let entry = &file.entry;
        let What::File(content) = &entry.what else { return Ok(None) };
        let name = name(file.name).map_err(at)?;
        let made = dir.make_file_as(&name, entry.mode).map_err(at)?;
        // There is nothing to take from one that is empty.
        let from = from.filter(|_| content.size > 0);
        let giving = from.and_then(|from| Some((from, from.donor.mark(path, file, content)?)));
        let is_taken = giving.map(|(from, mark)| from.copy(&name, mark, &made));
        if is_taken == Some(false) {
            // What a donor could not give whole is written over.
            made.set_len(0).map_err(at)?;
        }
        if is_taken != Some(true) {
            self.fill(&made, path, content)?;
        }
        let stat = attributes(&made, entry)
            .and_then(|()| dir::finish_made(&made, self.owner, entry.mode, entry.modified))
            .map_err(at)?;
        Ok(content.group.is_none().then(|| Mark::of(&stat)))
    }

    /// Writes what the store has of a file into an empty one.
    fn fill(&self, file: &File, path: &[u8], content: &Content) -> Result<(), SnapshotError> {
        let at = |error| SnapshotError::at(path, error);
        let mut end = 0;
        for (offset, chunk) in self.vault.pieces(content)? {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(SnapshotError::Cancelled);
            }
            file.write_all_at(&self.vault.piece(chunk)?, offset).map_err(at)?;
            end = offset + u64::from(chunk.length);
        }
        // Most files have no hole at their end.
        if end < content.size {
            file.set_len(content.size).map_err(at)?;
        }
        Ok(())
    }
}

impl Vault {
    /// Leaves out files of which something does not count as stored: the next cut reads them, and stores
    /// that again.
    pub(super) fn keep_stored(&self, known: &mut [Noted]) -> Result<(), SnapshotError> {
        for known in known {
            let (mut stored, files) = (Noted::default(), known.each().collect::<Vec<_>>());
            for files in files.chunks(LOOKED_UP) {
                let needed = files.iter().map(|(_, entry)| self.needed_of(entry));
                let needed: Vec<Option<Vec<ChunkId>>> = needed.collect();
                let all: Vec<ChunkId> = needed.iter().flatten().flatten().copied().collect();
                let uncounted = self.index().uncounted(&all)?;
                let is_stored = |ids: &Vec<ChunkId>| !ids.iter().any(|id| uncounted.contains(id));
                for ((noted, _), ids) in files.iter().zip(&needed) {
                    if ids.as_ref().is_some_and(is_stored) {
                        stored.add_as_it_is(noted);
                    }
                }
            }
            *known = stored;
        }
        Ok(())
    }

    /// The chunks that a file needs, none for a directory; `None` when it cannot be told, as a list of them
    /// cannot be read.
    fn needed_of(&self, entry: &[u8]) -> Option<Vec<ChunkId>> {
        let What::File(content) = Entry::decode(&mut &entry[..]).ok()?.what else {
            return Some(vec![]);
        };
        let mut ids = vec![];
        for extent in &content.extents {
            if let Data::Listed(lists) = &extent.data {
                ids.extend(lists.iter().map(|list| list.id));
            }
            ids.extend(self.chunks(&extent.data).ok()?.iter().map(|chunk| chunk.id));
        }
        Some(ids)
    }
}

/// A path with one more part.
pub(super) fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    let between: &[u8] = if path.is_empty() { b"" } else { b"/" };
    [path, between, name].concat()
}

/// Gives what is open its extended attributes.
pub(super) fn attributes(file: impl std::os::fd::AsFd, entry: &Entry) -> io::Result<()> {
    entry.attributes.all.iter().try_for_each(|(name, value)| dir::set_attribute(&file, name, value))
}

/// A name as the system takes it.
pub(super) fn name(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(io::Error::other)
}

/// Says of damage which file it hits.
pub(super) fn within(path: &[u8], error: SnapshotError) -> SnapshotError {
    match error {
        SnapshotError::Damaged { how, .. } => SnapshotError::damaged(path, how),
        error => error,
    }
}
