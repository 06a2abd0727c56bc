//! Looking at a session's files, twice: see [`cut`](super::cut).
//!
//! Both looks go through the tree on several threads. The first reads what has changed and keeps the
//! names; the second compares, and while the agent stands still for it does nothing else but read
//! what has moved, and nothing that waits for the disk to have it. So that this is little, the first is
//! repeated while it reads much. What they found is put together behind it: see
//! [`assemble`](super::assemble).

mod first;

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use ash_sys::files::tell_of_stores;
use first::First;

use super::assemble::Assembly;
use super::crew::{Queue, Task, Todo, joined, work};
use super::cut::{Cutting, Hold, Stage, Tell};
use super::groups::Groups;
use super::limits::Tally;
use super::node::{self, Entry, What};
use super::read::{self, Source};
use super::scan::{Files, Known, Mark};
use super::vault::Stash;
use super::{DEEPEST, SnapshotError};
use crate::tree::Tree;
use crate::tree::dir::{
    Attributes, Dir, Kind, Stat, attributes, shortly_before, stat_of, wait_for_writes,
};

/// Bytes of files that a first look reads when much is likely to have moved meanwhile: more than an
/// agent should stand still for.
const MUCH: u64 = 16 << 20;

/// The most first looks.
const FIRST_LOOKS: usize = 4;

/// Looking at a session's files.
pub(super) struct Look<'a, 'v> {
    cutting: &'a Cutting<'a>,
    stash: &'a Mutex<Stash<'v>>,
    /// What was known before.
    before: &'a Files,
    /// Files that this cut has read, and those with several names.
    pub(super) read: HashMap<Vec<u8>, Met>,
    /// Directories at the first look.
    first: HashMap<Vec<u8>, Listing<'a>>,
    groups: Groups,
    /// What the look under way has met.
    tally: Tally,
    /// Whether there is anything whose times do not tell.
    is_unsure: bool,
    pub(super) held: bool,
}

/// A file that was met by this cut.
#[derive(Clone)]
pub(super) struct Met {
    pub(super) known: Known,
    /// Whether its times tell that it is what was read.
    pub(super) is_sure: bool,
    /// Whether it was not known before.
    pub(super) is_new: bool,
}

/// A file that was met: where, and what it was then.
pub(super) struct Found {
    pub(super) path: Vec<u8>,
    pub(super) stat: Stat,
    pub(super) met: Met,
}

/// Names, in order; with what was stored for a file that has not changed, unless it has several.
pub(super) type Names<'a> = Vec<(CString, Option<&'a Known>)>;

/// A directory at the first look.
struct Listing<'a> {
    mark: Mark,
    /// Whether its times tell that nothing has come or gone since.
    is_settled: bool,
    names: Arc<Names<'a>>,
}

/// A directory at the second look.
pub(super) struct Moment<'a> {
    pub(super) own: Stat,
    pub(super) attributes: Attributes,
    pub(super) names: Arc<Names<'a>>,
    /// What each of them is.
    pub(super) seen: Vec<Seen<'a>>,
}

/// An entry of a directory at the second look.
pub(super) enum Seen<'a> {
    /// A file of which this is stored.
    Known(&'a Known),
    /// A file that this cut has read.
    Read,
    /// A directory.
    Dir,
    /// A link or a FIFO: its entry.
    Small(Vec<u8>),
    /// What cannot be kept, and why.
    LeftOut(&'static str),
}

/// All directories at the second look, by path.
pub(super) type Moments<'a> = HashMap<Vec<u8>, Moment<'a>>;

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

impl<'a, 'v> Look<'a, 'v> {
    pub(super) fn new(
        cutting: &'a Cutting<'a>,
        stash: &'a Mutex<Stash<'v>>,
        before: &'a Files,
    ) -> Look<'a, 'v> {
        Look {
            cutting,
            stash,
            before,
            read: HashMap::new(),
            first: HashMap::new(),
            groups: Groups::default(),
            tally: Tally::new(cutting.limits),
            is_unsure: false,
            held: false,
        }
    }

    pub(super) fn twice(
        &mut self,
        hold: &Hold<'_>,
        tell: &Tell<'_>,
    ) -> Result<Moments<'a>, SnapshotError> {
        let mut before = u64::MAX;
        for _ in 0..FIRST_LOOKS {
            let read = self.first()?;
            if !self.is_unsure {
                note(tell)?;
                match self.second() {
                    Ok(moments) => {
                        tell(Stage::Passed);
                        return Ok(moments);
                    }
                    Err(Halt::Failed(error)) => return Err(error),
                    Err(Halt::Moved) => {}
                }
            }
            // Less has moved the less there was to read; what always changes is never read in time.
            if read < MUCH || read > before / 2 {
                break;
            }
            before = read;
        }
        self.stand_still(hold, tell)
    }

    /// The second look while the agent stands still.
    fn stand_still(
        &mut self,
        hold: &Hold<'_>,
        tell: &Tell<'_>,
    ) -> Result<Moments<'a>, SnapshotError> {
        let stash = self.stash;
        let hold_back = |held| stash.lock().unwrap_or_else(PoisonError::into_inner).hold(held);
        hold_back(true);
        let held = hold().map_err(|error| SnapshotError::at(b"", error))?;
        self.held = true;
        note(tell)?;
        let moments = self.second().map_err(|halt| match halt {
            Halt::Failed(error) => error,
            Halt::Moved => SnapshotError::Restless,
        });
        tell(Stage::Passed);
        drop(held);
        hold_back(false);
        moments
    }

    /// Reads what has changed, and what has changed just now last: by then times may tell that it
    /// has not changed once more. Returns how many bytes of files were read.
    fn first(&mut self) -> Result<u64, SnapshotError> {
        self.tally = Tally::new(self.cutting.limits);
        let (listings, found, read) = Default::default();
        let first = First { look: self, listings, found, read };
        let done = work(self.roots()?, |todo, queue| first.see_to(todo, queue));
        let First { listings, found, read, .. } = first;
        self.first = listings.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.is_unsure = self.first.values().any(|listing| !listing.is_settled);
        if done.is_ok() {
            // What a look before this one has read and this one has not met is gone.
            self.read.clear();
        }
        self.take(found.into_inner().unwrap_or_else(PoisonError::into_inner));
        done?;
        check_cancelled(self.cutting.cancel)?;
        Ok(AtomicU64::into_inner(read))
    }

    /// Looks again; what has moved is read if the agent stands still.
    fn second(&mut self) -> Result<Moments<'a>, Halt> {
        self.tally = Tally::new(self.cutting.limits);
        let (moments, found) = Default::default();
        let second = Second { look: self, moments: Mutex::new(moments), found: Mutex::new(found) };
        let done = work(self.roots()?, |todo, queue| second.see_to(todo, queue));
        let Second { moments, found, .. } = second;
        self.take(found.into_inner().unwrap_or_else(PoisonError::into_inner));
        done?;
        check_cancelled(self.cutting.cancel)?;
        Ok(moments.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// What puts together what was there at the second look.
    pub(super) fn assembly<'l>(&'l self, moments: &'l Moments<'a>) -> Assembly<'l, 'a, 'v> {
        Assembly::new((self.stash, self.cutting), moments, &self.read, self.before)
    }

    /// Takes up what was met. Files of several names get their groups in the order of their paths.
    fn take(&mut self, mut found: Vec<Found>) {
        self.groups.label(&mut found);
        self.read.reserve(found.len());
        for Found { path, met, .. } in found {
            self.is_unsure |= !met.is_sure;
            self.read.insert(path, met);
        }
    }

    fn roots(&self) -> Result<Vec<Todo>, SnapshotError> {
        let todo = |(name, path): &(&str, &std::path::Path)| {
            let dir = Tree::open(path)?.top().map_err(SnapshotError::from)?;
            let (dir, path) = (Arc::new(dir), name.as_bytes().to_vec());
            Ok(Todo { dir, name: c".".to_owned(), path, task: Task::Look(0) })
        };
        self.cutting.roots.iter().map(todo).collect()
    }

    /// What a directory holds, counted.
    fn names(&self, dir: &Dir) -> io::Result<Result<Vec<CString>, SnapshotError>> {
        let names = dir.some_names(self.tally.room())?;
        Ok(self.tally.entries(names.len()).map(|()| names))
    }

    /// What was stored for a file, if it is still what it was then.
    fn known(&self, path: &[u8], stat: &Stat) -> Option<&'a Known> {
        self.before.get(path).filter(|known| known.mark == Mark::of(stat))
    }

    /// What this cut has read of a file, if it is still what it was then and its times tell that.
    fn met(&self, path: &[u8], stat: &Stat) -> Option<Met> {
        let met = self.read.get(path)?;
        (met.is_sure && met.known.mark == Mark::of(stat)).then(|| met.clone())
    }

    /// Reads a file; `None` when it changes meanwhile.
    ///
    /// A page that is mapped and was stored into tells of no more stores until it is written out. So
    /// times only count when all of the file has been since they were asked for, and before it is read.
    /// A write that is under way tells when it begins only: it is waited for in the same place.
    /// While the agent stands still nothing waits for the disk: what is read then is read once more by
    /// the next cut.
    fn read(&self, path: &[u8], file: &std::fs::File) -> Result<Option<Found>, SnapshotError> {
        let at = |error| SnapshotError::at(path, error);
        let since = shortly_before(SystemTime::now());
        let stat = stat_of(file).map_err(at)?;
        let is_sure = stat.changed < since && !self.held;
        if is_sure {
            wait_for_writes(file);
            tell_of_stores(file.as_fd()).map_err(at)?;
        }
        let source = Source { file, stat: &stat, group: None, path };
        let known = self.read_one(&source)?;
        let met = known.map(|known| Met { known, is_sure, is_new: true });
        Ok(met.map(|met| Found { path: path.to_vec(), stat, met }))
    }

    /// Reads and stores a file; `None` when it changes meanwhile.
    fn read_one(&self, source: &Source<'_>) -> Result<Option<Known>, SnapshotError> {
        let Source { file, stat, path, .. } = *source;
        let at = |error| SnapshotError::at(path, error);
        let Some(content) = read::content(source, self.stash, self.cutting.cancel)? else {
            return Ok(None);
        };
        let attributes = match attributes(file, self.cutting.limits.attributes) {
            Err(error) if is_moved(&error) => return Ok(None),
            attributes => attributes.map_err(at)?,
        };
        let mark = Mark::of(stat);
        if Mark::of(&stat_of(file).map_err(at)?) != mark {
            return Ok(None);
        }
        let what = What::File(content);
        let entry = Entry { mode: stat.mode, modified: stat.modified, attributes, what }.encode();
        self.tally.bytes(node::weight(&entry))?;
        Ok(Some(Known { mark, entry: entry.into() }))
    }
}

/// The second look.
struct Second<'l, 'a, 'v> {
    look: &'l Look<'a, 'v>,
    moments: Mutex<Moments<'a>>,
    found: Mutex<Vec<Found>>,
}

impl<'a> Second<'_, 'a, '_> {
    fn see_to(&self, todo: Todo, queue: &Queue) -> Result<(), Halt> {
        check_cancelled(self.look.cutting.cancel)?;
        match todo.task {
            Task::Look(depth) => self.dir(todo, depth, queue),
            Task::Read => self.file(&todo),
        }
    }

    fn dir(&self, todo: Todo, depth: usize, queue: &Queue) -> Result<(), Halt> {
        let halt = |error| self.halt(&todo.path, error);
        let dir = Arc::new(todo.dir.dir(&todo.name).map_err(halt)?);
        let own = dir.own_stat().map_err(halt)?;
        let same = self.look.first.get(&todo.path);
        let same = same.filter(|listing| listing.mark == Mark::of(&own));
        if same.is_none() && !self.look.held {
            return Err(Halt::Moved);
        }
        let names = match same.filter(|listing| listing.is_settled) {
            Some(listing) => {
                self.look.tally.entries(listing.names.len())?;
                listing.names.clone()
            }
            None => self.names(&dir, &todo.path)?,
        };
        let (mut seen, mut more) = (Vec::with_capacity(names.len()), vec![]);
        for (name, known) in &*names {
            check_cancelled(self.look.cutting.cancel)?;
            let (what, task) = self.entry((&dir, &todo.path, depth), name, *known)?;
            more.extend(task.map(|task| {
                let path = joined(&todo.path, name);
                Todo { dir: dir.clone(), name: name.clone(), path, task }
            }));
            seen.push(what);
        }
        queue.add(more);
        let attributes = attributes(&*dir, self.look.cutting.limits.attributes).map_err(halt)?;
        // Behind everything else: nothing came or went since the first look.
        if !self.look.held && Mark::of(&dir.own_stat().map_err(halt)?) != Mark::of(&own) {
            return Err(Halt::Moved);
        }
        self.look.tally.bytes(todo.path.len() + noted_of(&attributes))?;
        let moment = Moment { own, attributes, names, seen };
        self.moments.lock().unwrap_or_else(PoisonError::into_inner).insert(todo.path, moment);
        Ok(())
    }

    fn names(&self, dir: &Dir, path: &[u8]) -> Result<Arc<Names<'a>>, Halt> {
        let known = |name: CString| {
            let known = self.look.before.get(&joined(path, &name)[..]);
            (name, known)
        };
        let names = self.look.names(dir).map_err(|error| self.halt(path, error))??;
        Ok(Arc::new(names.into_iter().map(known).collect()))
    }

    /// What an entry is, and what has to be done with it.
    fn entry(
        &self,
        (dir, parent, depth): (&Dir, &[u8], usize),
        name: &CStr,
        known: Option<&'a Known>,
    ) -> Result<(Seen<'a>, Option<Task>), Halt> {
        let halt = |error| self.halt(&joined(parent, name), error);
        let stat = dir.stat(name).map_err(halt)?;
        let what = match stat.kind {
            Kind::File => {
                let mark = Mark::of(&stat);
                if let Some(known) = known.filter(|known| stat.names < 2 && known.mark == mark) {
                    return Ok((Seen::Known(known), None));
                }
                let met = self.look.read.get(&joined(parent, name));
                return match met.filter(|met| met.is_sure && met.known.mark == mark) {
                    Some(_) => Ok((Seen::Read, None)),
                    None if self.look.held => Ok((Seen::Read, Some(Task::Read))),
                    None => Err(Halt::Moved),
                };
            }
            Kind::Dir if depth >= DEEPEST => return Ok((Seen::LeftOut("nests too deep"), None)),
            Kind::Dir => return Ok((Seen::Dir, Some(Task::Look(depth + 1)))),
            Kind::Link => What::Link(dir.link(name).map_err(halt)?),
            Kind::Fifo => What::Fifo,
            Kind::Other(what) => return Ok((Seen::LeftOut(what), None)),
        };
        let (mode, modified) = (stat.mode, stat.modified);
        let entry = Entry { mode, modified, attributes: Attributes::default(), what }.encode();
        self.look.tally.bytes(entry.len())?;
        Ok((Seen::Small(entry), None))
    }

    /// Reads a file while the agent stands still.
    fn file(&self, todo: &Todo) -> Result<(), Halt> {
        let file = todo.dir.file(&todo.name).map_err(|error| self.halt(&todo.path, error))?;
        let found = self.look.read(&todo.path, &file)?.ok_or(Halt::Moved)?;
        self.found.lock().unwrap_or_else(PoisonError::into_inner).push(found);
        Ok(())
    }

    fn halt(&self, path: &[u8], error: io::Error) -> Halt {
        match self.look.held {
            true => Halt::Failed(SnapshotError::at(path, error)),
            false => halt(path, error),
        }
    }
}

fn halt(path: &[u8], error: io::Error) -> Halt {
    match is_moved(&error) {
        true => Halt::Moved,
        false => Halt::Failed(SnapshotError::at(path, error)),
    }
}

fn noted_of(attributes: &Attributes) -> usize {
    let sizes = attributes.all.iter().map(|(name, value)| name.len() + value.len());
    sizes.map(|size| size + node::ATTRIBUTE).sum()
}

/// Tells that this is the moment.
fn note(tell: &Tell<'_>) -> Result<(), SnapshotError> {
    match tell(Stage::Moment) {
        true => Ok(()),
        false => Err(SnapshotError::Cancelled),
    }
}

pub(super) fn check_cancelled(cancel: &AtomicBool) -> Result<(), SnapshotError> {
    match cancel.load(Ordering::Relaxed) {
        true => Err(SnapshotError::Cancelled),
        false => Ok(()),
    }
}

/// What an error says about something that was there a moment ago.
fn is_moved(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let of_files =
        [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::ISDIR, Errno::NXIO, Errno::INVAL];
    let of_attributes = [Errno::RANGE, Errno::NODATA];
    Errno::from_io_error(error)
        .is_some_and(|errno| of_files.contains(&errno) || of_attributes.contains(&errno))
}
