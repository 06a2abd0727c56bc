//! Looking at a session's files, twice: see [`cut`](super::cut).

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{io, thread};

use super::chunk::ChunkId;
use super::cut::{Cutting, Hold, LeftOut, Stage, Tell};
use super::node::{self, Entry, Leaves, What};
use super::read::Source;
use super::scan::{Known, Mark};
use super::vault::{Stash, put};
use super::{DEEPEST, SnapshotError, read};
use crate::domain::Root;
use crate::tree::Tree;
use crate::tree::dir::{Dir, FileTime, Kind, Stat, attributes, stat_of};

/// How long before a look something may have been changed once more without its times telling:
/// kernels before 6.13 keep them by the tick.
const TICK: Duration = Duration::from_millis(20);

/// Threads that read.
const READERS: usize = 2;

/// Files that wait to be read, held open.
const WAITING: usize = 32;

/// Looking at a session's files.
pub(super) struct Look<'a, 'v> {
    cutting: &'a Cutting<'a>,
    stash: &'a Mutex<Stash<'v>>,
    /// What was known before, and was not met again.
    pub(super) before: HashMap<Vec<u8>, Known>,
    /// What is known now.
    pub(super) current: HashMap<Vec<u8>, Known>,
    /// What of it was not known before, or differs.
    pub(super) new: Vec<(Vec<u8>, Known)>,
    /// Directories at the first look.
    dirs: HashMap<Vec<u8>, Mark>,
    /// Files whose times do not tell whether they are what was read.
    pub(super) unsure: HashSet<Vec<u8>>,
    /// Whether there is anything whose times do not tell.
    is_unsure: bool,
    /// When the first look began, and a little before.
    since: FileTime,
    /// The groups of files that have several names, and the other way round.
    groups: HashMap<(u64, u64), [u8; 8]>,
    grouped: HashMap<[u8; 8], (u64, u64)>,
    path: Vec<u8>,
    depth: usize,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) left_out: LeftOut,
    pub(super) held: bool,
}

/// Why a look comes to nothing.
enum Halt {
    /// Something has moved.
    Moved,
    /// It is over.
    Failed(SnapshotError),
}

impl From<SnapshotError> for Halt {
    fn from(error: SnapshotError) -> Halt {
        Halt::Failed(error)
    }
}

/// A file to be read.
struct Job {
    file: File,
    path: Vec<u8>,
    stat: Stat,
    group: Option<[u8; 8]>,
}

impl<'a, 'v> Look<'a, 'v> {
    pub(super) fn new(
        cutting: &'a Cutting<'a>,
        stash: &'a Mutex<Stash<'v>>,
        before: HashMap<Vec<u8>, Known>,
    ) -> Look<'a, 'v> {
        Look {
            cutting,
            stash,
            current: HashMap::with_capacity(before.len()),
            before,
            new: vec![],
            dirs: HashMap::new(),
            unsure: HashSet::new(),
            is_unsure: false,
            since: (0, 0),
            groups: HashMap::new(),
            grouped: HashMap::new(),
            path: vec![],
            depth: 0,
            files: 0,
            bytes: 0,
            left_out: LeftOut::default(),
            held: false,
        }
    }

    pub(super) fn twice(
        &mut self,
        hold: &Hold<'_>,
        tell: &Tell<'_>,
    ) -> Result<Root, SnapshotError> {
        self.first()?;
        if !self.is_unsure {
            note(tell)?;
            match self.second() {
                Ok(root) => {
                    tell(Stage::Passed);
                    return Ok(root);
                }
                Err(Halt::Failed(error)) => return Err(error),
                Err(Halt::Moved) => {}
            }
        }
        let held = hold().map_err(|error| SnapshotError::at(b"", error))?;
        self.held = true;
        note(tell)?;
        let root = self.second().map_err(|halt| match halt {
            Halt::Failed(error) => error,
            Halt::Moved => SnapshotError::Restless,
        });
        tell(Stage::Passed);
        drop(held);
        root
    }

    /// Reads what has changed, on threads of its own.
    fn first(&mut self) -> Result<(), SnapshotError> {
        self.since = shortly_before(SystemTime::now());
        let (jobs, waiting) = mpsc::sync_channel::<Job>(WAITING);
        let waiting = Mutex::new(waiting);
        let read = Mutex::new(Ok(vec![]));
        let (stash, cancel) = (self.stash, self.cutting.cancel);
        let looked = thread::scope(|scope| {
            for _ in 0..READERS {
                scope.spawn(|| read_all(&waiting, stash, cancel, &read));
            }
            let looked = self.each_root(|look, dir| look.read_dir(dir, &jobs));
            drop(jobs);
            looked
        });
        let read = read.into_inner().unwrap_or_else(PoisonError::into_inner);
        looked?;
        for (path, stat, known) in read? {
            self.keep(path, &stat, known);
        }
        Ok(())
    }

    fn keep(&mut self, path: Vec<u8>, stat: &Stat, known: Known) {
        if stat.changed >= self.since {
            self.is_unsure = true;
            self.unsure.insert(path.clone());
        } else {
            self.new.push((path.clone(), known.clone()));
        }
        self.current.insert(path, known);
    }

    fn each_root<E: From<SnapshotError>>(
        &mut self,
        mut each: impl FnMut(&mut Self, &Dir) -> Result<(), E>,
    ) -> Result<(), E> {
        for (name, path) in self.cutting.roots {
            let tree = Tree::open(path).map_err(SnapshotError::from)?;
            let dir = tree.top().map_err(SnapshotError::from)?;
            self.path = name.as_bytes().to_vec();
            each(self, &dir)?;
        }
        Ok(())
    }

    fn read_dir(&mut self, dir: &Dir, jobs: &mpsc::SyncSender<Job>) -> Result<(), SnapshotError> {
        let at = |look: &Self, error| SnapshotError::at(&look.path, error);
        let own = dir.own_stat().map_err(|error| at(self, error))?;
        self.is_unsure |= own.changed >= self.since;
        self.dirs.insert(self.path.clone(), Mark::of(&own));
        for name in dir.names().map_err(|error| at(self, error))? {
            self.check_cancelled()?;
            let before = self.enter(&name);
            let done = match self.read_entry(dir, &name, jobs) {
                // It is gone, or something else, by now: the second look will tell.
                Err(error) if is_moved(&error) => Ok(()),
                Err(error) => Err(at(self, error)),
                Ok(Some(child)) if self.depth < DEEPEST => {
                    self.depth += 1;
                    let done = self.read_dir(&child, jobs);
                    self.depth -= 1;
                    done
                }
                Ok(_) => Ok(()),
            };
            self.path.truncate(before);
            done?;
        }
        Ok(())
    }

    /// Sees to a file; a directory is returned.
    fn read_entry(
        &mut self,
        dir: &Dir,
        name: &CStr,
        jobs: &mpsc::SyncSender<Job>,
    ) -> io::Result<Option<Dir>> {
        let stat = dir.stat(name)?;
        match stat.kind {
            Kind::Dir => return dir.dir(name).map(Some),
            Kind::File => {}
            _ => return Ok(None),
        }
        let mark = Mark::of(&stat);
        if self.before.get(&self.path).is_some_and(|known| known.mark == mark)
            && let Some((path, known)) = self.before.remove_entry(&self.path)
            && self.keeps_group(&stat, &known)
        {
            self.current.insert(path, known);
            return Ok(None);
        }
        let job = self.job(dir.file(name)?)?;
        // Readers that have failed say so themselves.
        let _ = jobs.send(job);
        Ok(None)
    }

    fn job(&mut self, file: File) -> io::Result<Job> {
        let stat = stat_of(&file)?;
        let group = (stat.names > 1).then(|| self.group(stat.inode));
        Ok(Job { file, path: self.path.clone(), stat, group })
    }

    /// The group of a file that has several names.
    fn group(&mut self, inode: (u64, u64)) -> [u8; 8] {
        if let Some(group) = self.groups.get(&inode) {
            return *group;
        }
        let mut group = name_group(&self.path);
        // Directories that moved can have taken a name along for which another file's is called.
        while self.grouped.contains_key(&group) {
            group = name_group(&group);
        }
        self.groups.insert(inode, group);
        self.grouped.insert(group, inode);
        group
    }

    /// A file that has several names and was known under one keeps its group under the others.
    /// False when the group is another file's by now, or the file has another.
    fn keeps_group(&mut self, stat: &Stat, known: &Known) -> bool {
        if stat.names < 2 {
            return true;
        }
        let Ok(Entry { what: What::File(content), .. }) = Entry::decode(&mut &known.entry[..])
        else {
            return false;
        };
        let Some(group) = content.group else { return false };
        let own = *self.groups.get(&stat.inode).unwrap_or(&group);
        let theirs = *self.grouped.get(&group).unwrap_or(&stat.inode);
        if own != group || theirs != stat.inode {
            return false;
        }
        self.groups.insert(stat.inode, group);
        self.grouped.insert(group, stat.inode);
        true
    }

    /// Looks again and puts the nodes together.
    fn second(&mut self) -> Result<Root, Halt> {
        (self.files, self.bytes, self.left_out) = (0, 0, LeftOut::default());
        let mut top = Leaves::default();
        let mut roots: Vec<_> = self.cutting.roots.iter().collect();
        roots.sort_unstable();
        for (name, path) in roots {
            let tree = Tree::open(path).map_err(SnapshotError::from)?;
            let dir = tree.top().map_err(SnapshotError::from)?;
            self.path = name.as_bytes().to_vec();
            top.push(name.as_bytes(), &self.build_dir(&dir)?);
        }
        Ok(Root(self.store_dir(top, None)?.0))
    }

    /// The entry of a directory, with everything beneath it stored.
    fn build_dir(&mut self, dir: &Dir) -> Result<Vec<u8>, Halt> {
        let mut leaves = Leaves::default();
        for name in dir.names().map_err(|error| self.halt(error))? {
            self.check_cancelled()?;
            let before = self.enter(&name);
            let entry = self.build_entry(dir, &name);
            self.path.truncate(before);
            if let Some(entry) = entry? {
                leaves.push(name.to_bytes(), &entry);
            }
        }
        let known = self.before.get(&self.path).or(self.current.get(&self.path)).cloned();
        let node = self.store_dir(leaves, known.as_ref())?;
        let attributes = attributes(dir).map_err(|error| self.halt(error))?;
        // Behind everything else: nothing came or went since the first look.
        let own = dir.own_stat().map_err(|error| self.halt(error))?;
        let mark = Mark::of(&own);
        if !self.held && self.dirs.get(&self.path) != Some(&mark) {
            return Err(Halt::Moved);
        }
        let entry =
            Entry { mode: own.mode, modified: own.modified, attributes, what: What::Dir(node) };
        let now = Known { mark, entry: entry.encode() };
        let entry = now.entry.clone();
        if known.as_ref() != Some(&now) {
            self.new.push((self.path.clone(), now.clone()));
        }
        self.current.insert(self.path.clone(), now);
        Ok(entry)
    }

    /// Stores the leaves of a directory, unless it is the one that was stored before.
    fn store_dir(&mut self, leaves: Leaves, known: Option<&Known>) -> Result<ChunkId, Halt> {
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
        let entry = known.and_then(|known| Entry::decode(&mut &known.entry[..]).ok());
        if entry.is_none_or(|entry| entry.what != What::Dir(node)) {
            for leaf in leaves.into_iter().chain(list) {
                put(self.stash, leaf)?;
            }
        }
        Ok(node)
    }

    fn build_entry(&mut self, dir: &Dir, name: &CStr) -> Result<Option<Vec<u8>>, Halt> {
        let stat = dir.stat(name).map_err(|error| self.halt(error))?;
        let what = match stat.kind {
            Kind::File => return self.build_file(dir, name, &stat).map(Some),
            Kind::Dir if self.depth >= DEEPEST => {
                self.left_out.add(&self.path, "nests too deep");
                return Ok(None);
            }
            Kind::Dir => {
                self.files += 1;
                let child = dir.dir(name).map_err(|error| self.halt(error))?;
                self.depth += 1;
                let entry = self.build_dir(&child);
                self.depth -= 1;
                return entry.map(Some);
            }
            Kind::Link => What::Link(dir.link(name).map_err(|error| self.halt(error))?),
            Kind::Fifo => What::Fifo,
            Kind::Other(what) => {
                self.left_out.add(&self.path, what);
                return Ok(None);
            }
        };
        self.files += 1;
        let (mode, modified) = (stat.mode, stat.modified);
        Ok(Some(Entry { mode, modified, attributes: vec![], what }.encode()))
    }

    fn build_file(&mut self, dir: &Dir, name: &CStr, stat: &Stat) -> Result<Vec<u8>, Halt> {
        self.files += 1;
        self.bytes += stat.size;
        let known = self.current.get(&self.path);
        let known = known.filter(|known| known.mark == Mark::of(stat));
        if let Some(known) = known.filter(|_| !self.unsure.contains(&self.path)) {
            return Ok(known.entry.clone());
        }
        if !self.held {
            return Err(Halt::Moved);
        }
        let job =
            dir.file(name).and_then(|file| self.job(file)).map_err(|error| self.halt(error))?;
        let (path, stat) = (job.path.clone(), job.stat);
        let known = read_one(job, self.stash, self.cutting.cancel)?.ok_or(Halt::Moved)?;
        let entry = known.entry.clone();
        self.keep(path, &stat, known);
        Ok(entry)
    }

    fn enter(&mut self, name: &CStr) -> usize {
        let before = self.path.len();
        self.path.push(b'/');
        self.path.extend(name.to_bytes());
        before
    }

    fn halt(&self, error: io::Error) -> Halt {
        match is_moved(&error) && !self.held {
            true => Halt::Moved,
            false => Halt::Failed(SnapshotError::at(&self.path, error)),
        }
    }

    fn check_cancelled(&self) -> Result<(), SnapshotError> {
        check_cancelled(self.cutting.cancel)
    }
}

/// Tells that this is the moment.
fn note(tell: &Tell<'_>) -> Result<(), SnapshotError> {
    match tell(Stage::Moment) {
        true => Ok(()),
        false => Err(SnapshotError::Cancelled),
    }
}

fn check_cancelled(cancel: &AtomicBool) -> Result<(), SnapshotError> {
    match cancel.load(Ordering::Relaxed) {
        true => Err(SnapshotError::Cancelled),
        false => Ok(()),
    }
}

/// What was read: where, what it was then, and what was stored for it.
type Read = (Vec<u8>, Stat, Known);

fn read_all(
    waiting: &Mutex<mpsc::Receiver<Job>>,
    stash: &Mutex<Stash<'_>>,
    cancel: &AtomicBool,
    read: &Mutex<Result<Vec<Read>, SnapshotError>>,
) {
    loop {
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let (path, stat) = (job.path.clone(), job.stat);
        let known = read_one(job, stash, cancel);
        let mut all = read.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *all, known) {
            (Ok(all), Ok(Some(known))) => all.push((path, stat, known)),
            (Ok(_), Err(error)) => *all = Err(error),
            // It moves; or there is an error already, and what waits is drained.
            _ => {}
        }
    }
}

/// Reads and stores a file; `None` when it changes meanwhile.
fn read_one(
    job: Job,
    stash: &Mutex<Stash<'_>>,
    cancel: &AtomicBool,
) -> Result<Option<Known>, SnapshotError> {
    let Job { file, path, stat, group } = job;
    let at = |error| SnapshotError::at(&path, error);
    let source = Source { file: &file, stat: &stat, group, path: &path };
    let Some(content) = read::content(&source, stash, cancel)? else {
        return Ok(None);
    };
    let attributes = attributes(&file).map_err(at)?;
    let mark = Mark::of(&stat);
    if Mark::of(&stat_of(&file).map_err(at)?) != mark {
        return Ok(None);
    }
    let what = What::File(content);
    let entry = Entry { mode: stat.mode, modified: stat.modified, attributes, what }.encode();
    Ok(Some(Known { mark, entry }))
}

/// What an error says about something that was there a moment ago.
fn is_moved(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let moved = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::ISDIR, Errno::NXIO, Errno::INVAL];
    Errno::from_io_error(error).is_some_and(|errno| moved.contains(&errno))
}

/// The group of a file that has several names, from the first of them.
fn name_group(path: &[u8]) -> [u8; 8] {
    let hash = blake3::hash(path);
    let mut group = [0; 8];
    group.copy_from_slice(&hash.as_bytes()[..8]);
    group
}

fn shortly_before(now: SystemTime) -> FileTime {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(TICK);
    (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos())
}
