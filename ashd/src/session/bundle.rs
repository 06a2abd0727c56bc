//! The files of a session as one archive, going out and coming in.
//!
//! What goes out is made piece by piece while it is read: nothing is held but the directories that are
//! under way, and their names, and no thread while nobody reads. What comes in is unpacked beside the
//! workspace, where it is refused as a whole, and only then moved in.

use std::ffi::CString;
use std::io::{self, Read, Write as _};
use std::sync::Arc;
use std::vec;

use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use futures_util::stream::{self, Stream};
use rustix::io::Errno;
use tokio::task::spawn_blocking;

use super::api::{Caller, Refusal};
use super::files::{Content, NEVER, Origin, Place, Recorded, refused};
use super::incoming::{Incoming, unwritable};
use super::keeping::unkept;
use super::service::{Result, Service, blocking};
use super::shared::Shared;
use super::under_way::Begun;
use super::writing::unchanged;
use crate::domain::{SessionId, Which};
use crate::snapshot::{DEEPEST, Listed, Met, SnapshotError, Unpinned};
use crate::tree::dir::{Dir, Kind};
use crate::tree::pack::{self, Entry};
use crate::tree::{Links, Summary, Tree, TreeError, TreeLimits};

/// Bytes that go out at once, at least, and bytes that are read for that, at most.
const PIECE: usize = 256 * 1024;
const READ: usize = 4 * 1024 * 1024;

/// The most names of directories under way that are held.
const NAMES: usize = 500_000;

/// How deep directories may nest in an archive that goes out: each that is under way is open. As deep as
/// in a point, so that what is kept can always be had.
const DEEP: usize = DEEPEST;

/// The most that an archive may hold.
const LIMITS: TreeLimits = TreeLimits { files: 100_000, bytes: 4 * 1024 * 1024 * 1024 };

/// What the system says of an entry that is gone, that became something else, or that is no file, no
/// directory and no link of this file system.
const CHANGED: [Errno; 6] =
    [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::NXIO, Errno::ISDIR, Errno::XDEV];

/// Bytes that may follow the end of a tar archive: what tar fills its last record with.
const BEHIND: u64 = 1024 * 1024;

/// Names that are left out unless everything is wanted: what can be made again, and secrets.
const LEFT_OUT: [&str; 12] = [
    ".cache",
    ".npm",
    ".pnpm-store",
    ".yarn",
    ".venv",
    "venv",
    ".tmp",
    "tmp",
    ".env",
    ".env.local",
    ".env.production",
    ".env.development",
];

/// An archive that goes out: tar, in gzip.
pub struct Bundle {
    /// Where the files are.
    pub origin: Origin,
    packing: Packing,
}

struct Packing {
    gzip: GzEncoder<Vec<u8>>,
    /// A point that goes out.
    kept: Option<(Unpinned, Recorded)>,
    /// Or files, which stay where they are until then.
    _in_hand: Option<Begun<SessionId>>,
    all: bool,
    levels: Vec<Level>,
    path: Vec<u8>,
    /// Names of directories under way that are still to come.
    names: usize,
    file: Option<Open>,
}

/// A directory under way, and how long its path is.
struct Level {
    entries: Entries,
    path: usize,
}

enum Entries {
    Disk(Dir, vec::IntoIter<CString>),
    Kept(vec::IntoIter<Listed>),
}

/// A file under way.
struct Open {
    content: Content,
    size: u64,
    at: u64,
}

/// An entry, looked at.
enum Found {
    File(Content, u64, u32, i64),
    Dir(Entries, u32, i64),
    Link(Vec<u8>, i64),
    /// Nothing that an archive has.
    Other,
}

impl Service {
    /// The workspace of a session as an archive: as it is, or as it was at a point. Caches,
    /// repositories and secrets are left out unless `all` is wanted; links are links.
    pub async fn bundle(
        &self,
        caller: &Caller,
        id: SessionId,
        (which, all): (Option<Which>, bool),
    ) -> Result<Bundle> {
        let place = match which {
            Some(which) => self.place_at(caller, id, which).await?,
            None => self.place(caller, id).await?,
        };
        let store = self.shared.store.clone();
        blocking(move || match place {
            Place::Disk(tree, in_hand) => {
                let failed = |error: io::Error| Refusal::Internal(error.to_string());
                let top = tree.top().map_err(failed)?;
                let names = names(&top, NAMES).map_err(failed)?;
                let entries = Entries::Disk(top, names);
                Ok(Bundle::new(Origin::Sandbox, entries, (None, Some(in_hand)), all))
            }
            Place::Kept(browser, point) => {
                let kept = |error| unkept(id, error);
                let listed = browser.list(b"workspace").map_err(kept)?;
                let listed = at_most(listed.ok_or(Refusal::NoWorkspace)?, NAMES).map_err(kept)?;
                let listed = listed.ok_or_else(|| Refusal::Internal(too_many().to_string()))?;
                let kept = Some((browser.unpinned(), Recorded::of(&point, store)));
                Ok(Bundle::new(Origin::Snapshot, Entries::Kept(listed), (kept, None), all))
            }
        })
        .await
    }

    /// Unpacks an archive that came in over the files of a session: as it came, or out of one of
    /// its parts. Says what it held, and whether a sandbox works with the files.
    pub async fn unpack(
        &self,
        caller: &Caller,
        id: SessionId,
        (incoming, part): (Incoming, Option<String>),
    ) -> Result<(Summary, bool)> {
        // Until they are in place: the uids that they are given to stay the session's.
        let _in_hand = self.shared.clearing.in_hand.begin(id);
        let owner = self.owner_of(caller, id).await?;
        let (shared, since) = (self.shared.clone(), self.shared.disk.now());
        let unpacked = blocking(move || {
            let tree = incoming.make_dir("tree")?;
            let summary = unpack(&incoming, part.as_deref(), (&tree, owner, &shared))?;
            Ok((incoming, tree, summary))
        });
        let (incoming, tree, summary) = unpacked.await?;
        let merged = self.change(caller, id, move |workspace| {
            let merged = workspace.tree.merge(&tree, LIMITS).map_err(in_the_way);
            drop(incoming);
            merged.map(|()| (summary, workspace.live))
        });
        let merged = merged.await?;
        // Nobody but whoever sent it waits for the disk.
        self.shared.flush_since(since).await?;
        Ok(merged)
    }
}

impl Bundle {
    fn new(
        origin: Origin,
        entries: Entries,
        (kept, in_hand): (Option<(Unpinned, Recorded)>, Option<Begun<SessionId>>),
        all: bool,
    ) -> Bundle {
        let gzip = GzEncoder::new(Vec::with_capacity(PIECE), Compression::fast());
        let names = entries.left();
        let levels = vec![Level { entries, path: 0 }];
        let (path, file) = (vec![], None);
        let packing = Packing { gzip, kept, _in_hand: in_hand, all, levels, path, names, file };
        Bundle { origin, packing }
    }

    /// Its bytes. A file that gets shorter while it is read ends it with an error, and so does a point that
    /// is removed: it would be pinned again and again, for as long as somebody takes to read it.
    pub fn bytes(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        stream::unfold(Some(Box::new(self.packing)), async |packing| {
            let mut packing = packing?;
            loop {
                let recorded = packing.kept.as_ref().map(|(_, recorded)| recorded.clone());
                if let Some(recorded) = recorded
                    && let Err(error) = recorded.check().await
                {
                    return Some((Err(error), None));
                }
                let made = spawn_blocking(move || {
                    let piece = packing.piece();
                    (packing, piece)
                });
                let piece = match made.await {
                    Ok((back, Ok(piece))) => {
                        packing = back;
                        piece
                    }
                    Ok((_, Err(error))) => return Some((Err(error), None)),
                    Err(error) => return Some((Err(io::Error::other(error)), None)),
                };
                match (piece.is_empty(), packing.is_over()) {
                    (true, false) => {}
                    (_, true) => return Some((Ok(piece), None)),
                    (false, false) => return Some((Ok(piece), Some(packing))),
                }
            }
        })
    }
}

impl Packing {
    fn is_over(&self) -> bool {
        self.levels.is_empty()
    }

    /// The next bytes; may be none before it is over.
    fn piece(&mut self) -> io::Result<Bytes> {
        let mut read = 0;
        while !self.is_over() && read < READ && self.gzip.get_ref().len() < PIECE {
            read += match self.file.take() {
                Some(file) => self.content(file)?,
                None => self.next()?,
            };
        }
        if self.is_over() {
            self.gzip.write_all(&pack::END)?;
            self.gzip.try_finish()?;
        }
        Ok(std::mem::take(self.gzip.get_mut()).into())
    }

    /// Packs a piece of a file; returns its bytes.
    fn content(&mut self, mut file: Open) -> io::Result<usize> {
        let length = usize::try_from(file.size - file.at).unwrap_or(PIECE).min(PIECE);
        self.gzip.write_all(&file.content.piece(file.at, length)?)?;
        file.at += length as u64;
        if file.at < file.size {
            self.file = Some(file);
        } else {
            self.gzip.write_all(&[0; 512][..pack::padding(file.size)])?;
        }
        Ok(length)
    }

    /// Packs what stands in front of the next entry; returns its bytes.
    fn next(&mut self) -> io::Result<usize> {
        let Some(level) = self.levels.last_mut() else { return Ok(0) };
        self.path.truncate(level.path);
        let room = NAMES.saturating_sub(self.names);
        let (name, found) = match &mut level.entries {
            Entries::Disk(dir, names) => match names.next() {
                Some(name) if is_packed(name.to_bytes(), self.all) => {
                    let found = on_disk(dir, &name, room)?;
                    (Some(name.into_bytes()), found)
                }
                name => (name.map(CString::into_bytes), Found::Other),
            },
            Entries::Kept(entries) => match entries.next() {
                Some(entry) if is_packed(&entry.name, self.all) => {
                    let kept = self.kept.as_ref().map(|(kept, _)| kept);
                    let found = in_point(kept, &entry, room)?;
                    (Some(entry.name), found)
                }
                entry => (entry.map(|entry| entry.name), Found::Other),
            },
        };
        let Some(name) = name else {
            self.levels.pop();
            return Ok(0);
        };
        self.names = self.names.saturating_sub(1);
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend(name);
        self.entry(found)
    }

    fn entry(&mut self, found: Found) -> io::Result<usize> {
        let (entry, mode, modified) = match &found {
            Found::File(_, size, mode, modified) => (Entry::File(*size), *mode, *modified),
            Found::Dir(_, mode, modified) => (Entry::Dir, *mode, *modified),
            Found::Link(target, modified) => (Entry::Link(target), 0o777, *modified),
            Found::Other => return Ok(64),
        };
        let header = pack::header(&self.path, entry, mode, modified);
        self.gzip.write_all(&header)?;
        match found {
            Found::File(content, size, ..) if size > 0 => {
                self.file = Some(Open { content, size, at: 0 });
            }
            Found::Dir(..) if self.levels.len() > DEEP => return Err(too_deep()),
            Found::Dir(entries, ..) => {
                self.names += entries.left();
                if self.names > NAMES {
                    return Err(too_many());
                }
                self.levels.push(Level { entries, path: self.path.len() });
            }
            _ => {}
        }
        Ok(header.len())
    }
}

impl Entries {
    fn left(&self) -> usize {
        match self {
            Entries::Disk(_, names) => names.len(),
            Entries::Kept(entries) => entries.len(),
        }
    }
}

/// The names in a directory, if there is room for all of them.
fn names(dir: &Dir, room: usize) -> io::Result<vec::IntoIter<CString>> {
    let names = dir.some_names(room as u64)?;
    match names.len() <= room {
        true => Ok(names.into_iter()),
        false => Err(too_many()),
    }
}

/// The entries of a directory of a point, unless there are more.
fn at_most(
    entries: impl Iterator<Item = Met>,
    room: usize,
) -> std::result::Result<Option<vec::IntoIter<Listed>>, SnapshotError> {
    let mut all = vec![];
    for entry in entries {
        if all.len() == room {
            return Ok(None);
        }
        all.push(entry?);
    }
    Ok(Some(all.into_iter()))
}

fn too_deep() -> io::Error {
    io::Error::other(format!("directories nest more than {DEEP} deep"))
}

fn too_many() -> io::Error {
    io::Error::other("directories have too many entries")
}

/// Looks at an entry on the disk; of the names in a directory there is room for so many. What is gone, or
/// something else by now, is left out.
fn on_disk(dir: &Dir, name: &CString, room: usize) -> io::Result<Found> {
    let look = || -> io::Result<Found> {
        let stat = dir.stat(name)?;
        let (mode, modified) = (u32::from(stat.mode), stat.modified.0);
        Ok(match stat.kind {
            Kind::File => {
                let file = dir.file(name)?;
                let stat = crate::tree::dir::stat_of(&file)?;
                Found::File(Content::Disk(file), stat.size, mode, modified)
            }
            Kind::Dir => {
                let child = dir.dir(name)?;
                let names = names(&child, room)?;
                Found::Dir(Entries::Disk(child, names), mode, modified)
            }
            Kind::Link => match dir.link(name) {
                // It is no link any more.
                Err(error) if is_one_of(&error, &[Errno::INVAL]) => Found::Other,
                target => Found::Link(target?, modified),
            },
            _ => Found::Other,
        })
    };
    // Whatever else fails: an archive that lacks files must not look like a whole one.
    look().or_else(|error| match is_one_of(&error, &CHANGED) {
        true => Ok(Found::Other),
        false => Err(error),
    })
}

fn is_one_of(error: &io::Error, those: &[Errno]) -> bool {
    Errno::from_io_error(error).is_some_and(|error| those.contains(&error))
}

/// Looks at an entry of a point; of those of a directory there is room for so many.
fn in_point(kept: Option<&Unpinned>, entry: &Listed, room: usize) -> io::Result<Found> {
    let Some(kept) = kept else { return Ok(Found::Other) };
    let (mode, modified) = (entry.mode.into(), entry.modified.0);
    let browser = kept.browse();
    Ok(match entry.kind {
        Kind::File => match browser.reading(entry).map_err(io::Error::other)? {
            Some(reading) => {
                let size = reading.size;
                Found::File(Content::Kept(reading), size, mode, modified)
            }
            None => Found::Other,
        },
        Kind::Dir => {
            let children = browser.children(entry).and_then(|all| at_most(all, room));
            let children = children.map_err(io::Error::other)?.ok_or_else(too_many)?;
            Found::Dir(Entries::Kept(children), mode, modified)
        }
        Kind::Link => Found::Link(entry.target.clone(), modified),
        _ => Found::Other,
    })
}

fn is_packed(name: &[u8], all: bool) -> bool {
    let is_one = |known: &&str| known.as_bytes() == name;
    all || !NEVER.iter().chain(&LEFT_OUT).any(is_one)
}

/// Unpacks what came in into a tree of its own.
fn unpack(
    incoming: &Incoming,
    part: Option<&str>,
    (tree, owner, shared): (&Tree, u32, &Arc<Shared>),
) -> Result<Summary> {
    let archive = incoming.part(part)?;
    let mut archive = Bounded { inner: MultiGzDecoder::new(archive), shared, read: 0, look_at: 0 };
    let summary = tree.unpack_tar(&mut archive, (owner, Links::All), LIMITS).map_err(damaged)?;
    // The checksum is at the very end.
    let behind = io::copy(&mut archive.by_ref().take(BEHIND), &mut io::sink());
    let behind = behind.map_err(|error| damaged(TreeError::Io { path: String::new(), error }))?;
    if behind == BEHIND {
        return Err(damaged(TreeError::Archive("something follows its end")));
    }
    tree.sync().map_err(damaged)?;
    Ok(summary)
}

/// Why an archive was not moved in.
fn in_the_way(error: TreeError) -> Refusal {
    match error {
        TreeError::NotFile(path) => {
            Refusal::InTheWay(format!("{path}: a directory is where the archive has a file"))
        }
        error => unchanged(error),
    }
}

/// What is wrong with an archive, to the caller.
fn damaged(error: TreeError) -> Refusal {
    match error {
        TreeError::Io { error, .. } => match error.kind() {
            io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::UnexpectedEof => {
                Refusal::Invalid("the archive is damaged, or no gzip".to_owned())
            }
            _ => unwritable(&error),
        },
        error @ TreeError::Name { .. } => refused(error),
        error @ TreeError::Unsure(_) => Refusal::InTheWay(error.to_string()),
        error => Refusal::Invalid(error.to_string()),
    }
}

/// Looks now and then whether the disk has room for more.
struct Bounded<'a, R> {
    inner: R,
    shared: &'a Shared,
    read: u64,
    look_at: u64,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read += read as u64;
        if self.read > self.look_at {
            self.look_at = self.read + READ as u64;
            let room = self.shared.disk_has_room();
            room.map_err(|_| io::Error::from(io::ErrorKind::StorageFull))?;
        }
        Ok(read)
    }
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;
