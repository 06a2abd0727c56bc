//! Files of a session's workspace, looked at from outside.
//!
//! They are where the agent works, or, of a session that has ended or waits to be brought back, in
//! its newest point. Nothing here follows a link.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use tokio::task::spawn_blocking;

use super::api::{Caller, Refusal};
use super::keeping::unkept;
use super::service::{Result, Service, blocking};
use super::under_way::Begun;
use crate::domain::{Point, PointId, Session, SessionId, Status, Which};
use crate::snapshot::{Browser, Met, Reading, SnapshotError};
use crate::store::Store;
use crate::tree::dir::{Kind, Stat, shortly_before};
use crate::tree::{Found, Listing, RelPath, Tree, TreeError};

/// The most entries of a workspace that a list looks at.
const MOST: u64 = 100_000;

/// Bytes that are read at once, and how many such reads are under way for one reader.
const PIECE: u64 = 256 * 1024;
const AHEAD: usize = 3;

/// Names that are never listed.
pub(super) const NEVER: [&str; 4] = ["node_modules", ".git", "__pycache__", ".DS_Store"];

/// Names of caches, which are listed only for those who want them.
const CACHES: [&str; 8] =
    [".cache", ".npm", ".pnpm-store", ".yarn", ".venv", "venv", ".tmp", "tmp"];

/// Where files come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// Where the agent works.
    Sandbox,
    /// What is kept.
    Snapshot,
}

impl Origin {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Origin::Sandbox => "sandbox",
            Origin::Snapshot => "snapshot",
        }
    }
}

/// A file that is open. Bytes are those of the file that was opened, whatever its name means by now.
pub struct Opened {
    /// Where it is.
    pub origin: Origin,
    /// Bytes.
    pub size: u64,
    /// Tells this content of this file from others.
    pub tag: Tag,
    content: Arc<Content>,
}

/// Tells a content of a file from others.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tag {
    /// 32 hexadecimal digits. Those of a weak one are no strong one's: whoever has kept a content with it
    /// has to get it anew, which may be another one by then.
    pub opaque: String,
    /// Whether there may be another content with this tag: the file was changed so shortly before that its
    /// times need not tell of one more change.
    pub weak: bool,
}

pub(super) enum Content {
    Disk(File),
    Kept(Reading),
}

pub(super) enum Place {
    /// They stay where they are while this lives.
    Disk(Tree, Begun<SessionId>),
    Kept(Browser, Box<Point>),
}

/// Where it is recorded that there is a point.
#[derive(Clone)]
pub(super) struct Recorded {
    store: Arc<dyn Store>,
    session: SessionId,
    point: PointId,
}

impl Recorded {
    pub(super) fn of(point: &Point, store: Arc<dyn Store>) -> Recorded {
        Recorded { store, session: point.session, point: point.id }
    }

    /// Fails when the point was removed.
    pub(super) async fn check(self) -> io::Result<()> {
        let found = self.store.point(self.session, Which::Id(self.point)).await;
        let removed = || io::Error::other("the checkpoint was removed meanwhile");
        found.map_err(io::Error::other)?.map(drop).ok_or_else(removed)
    }
}

impl Service {
    /// Lists the files of a session's workspace, caches only when wanted.
    pub async fn files(
        &self,
        caller: &Caller,
        id: SessionId,
        caches: bool,
    ) -> Result<(Listing, Origin)> {
        let place = self.place(caller, id).await?;
        let list = move || {
            let wanted = |name: &str| is_listed(name, caches);
            match place {
                Place::Disk(tree, _in_hand) => {
                    let listing = tree.list(MOST, &wanted).map_err(refused)?;
                    Ok((listing, Origin::Sandbox))
                }
                Place::Kept(browser, _) => {
                    let listing = list_point(&browser, &wanted);
                    Ok((listing.map_err(|error| unkept(id, error))?, Origin::Snapshot))
                }
            }
        };
        blocking(list).await
    }

    /// Opens a file of a session's workspace.
    pub async fn open_file(&self, caller: &Caller, id: SessionId, path: RelPath) -> Result<Opened> {
        let place = self.place(caller, id).await?;
        blocking(move || match place {
            Place::Disk(tree, _in_hand) => Opened::on_disk(&tree, &path).map_err(refused),
            Place::Kept(browser, point) => kept(&browser, &point.root.to_string(), &path, id),
        })
        .await
    }

    /// Where the files of a session are now.
    pub(super) async fn place(&self, caller: &Caller, id: SessionId) -> Result<Place> {
        // From before it is known where they are: whoever clears the session looks for this last.
        let in_hand = self.shared.clearing.in_hand.begin(id);
        let session = self.stored(caller, id).await?;
        if session.status == Status::Starting {
            return Err(Refusal::FilesNotReady);
        }
        if session.status != Status::Ended && session.restore.is_none() {
            let path = self.shared.places.session(id).join("workspace");
            match blocking(move || Ok(Tree::open(&path))).await? {
                Ok(tree) => return Ok(Place::Disk(tree, in_hand)),
                Err(TreeError::Missing(_)) => {}
                Err(error) => return Err(refused(error)),
            }
        }
        self.kept(session).await
    }

    async fn kept(&self, session: Session) -> Result<Place> {
        let which = session.restore.map_or(Which::Newest, Which::Id);
        let point = self.shared.store.point(session.id, which).await?;
        self.browse(session, point.ok_or(Refusal::NoWorkspace)?).await
    }

    /// The files of a session as they were at a point.
    pub(super) async fn place_at(
        &self,
        caller: &Caller,
        id: SessionId,
        which: Which,
    ) -> Result<Place> {
        let session = self.stored(caller, id).await?;
        let point = self.point(caller, id, which).await?;
        self.browse(session, point).await
    }

    async fn browse(&self, session: Session, point: Point) -> Result<Place> {
        let snapshots = self.shared.snapshots.clone();
        blocking(move || {
            let vault = snapshots.vault(&session.tenant);
            let vault = vault.map_err(|error| unkept(session.id, error))?;
            Ok(Place::Kept(vault.browse(point.root), Box::new(point)))
        })
        .await
    }
}

impl Opened {
    pub(super) fn on_disk(tree: &Tree, path: &RelPath) -> std::result::Result<Opened, TreeError> {
        // First: what is changed behind the look at its times is changed behind this as well.
        let asked = SystemTime::now();
        let (file, stat) = tree.open_file(path)?;
        let tag = tag_of(&stat, asked);
        let content = Arc::new(Content::Disk(file));
        Ok(Opened { origin: Origin::Sandbox, size: stat.size, tag, content })
    }

    /// The bytes from `start` to before `end`. A file that gets shorter meanwhile ends with an error.
    /// Holds a few pieces in memory and, while nobody reads, no thread.
    pub fn bytes(self, start: u64, end: u64) -> impl Stream<Item = io::Result<Bytes>> + Send {
        let content = self.content;
        let places = (start..end).step_by(PIECE as usize);
        let reads = places.map(move |at| {
            let content = content.clone();
            let length = PIECE.min(end - at) as usize;
            async move {
                let read = spawn_blocking(move || content.piece(at, length)).await;
                read.map_err(io::Error::other).flatten()
            }
        });
        stream::iter(reads).buffered(AHEAD)
    }
}

impl Content {
    /// So many bytes from a place on.
    pub(super) fn piece(&self, at: u64, length: usize) -> io::Result<Bytes> {
        let bytes = match self {
            Content::Disk(file) => read_exact(file, at, length)?,
            Content::Kept(reading) => {
                let mut bytes = vec![0; length];
                let read = reading.read_at(&mut bytes, at).map_err(io::Error::other)?;
                if read < length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                bytes
            }
        };
        Ok(bytes.into())
    }
}

/// Reads so many bytes into memory that is not filled with zeros first.
fn read_exact(file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = at + bytes.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

struct Kept<'a> {
    browser: &'a Browser,
    wanted: &'a dyn Fn(&str) -> bool,
    left: u64,
    listing: Listing,
}

/// Lists the files of the workspace of a point.
fn list_point(
    browser: &Browser,
    wanted: &dyn Fn(&str) -> bool,
) -> std::result::Result<Listing, SnapshotError> {
    let mut kept = Kept { browser, wanted, left: MOST, listing: Listing::default() };
    if let Some(mut entries) = browser.list(b"workspace")? {
        kept.list("", &mut entries)?;
    }
    Ok(kept.listing)
}

impl Kept<'_> {
    fn list(
        &mut self,
        dir: &str,
        entries: &mut dyn Iterator<Item = Met>,
    ) -> std::result::Result<(), SnapshotError> {
        for entry in entries {
            let entry = entry?;
            if self.left == 0 {
                self.listing.cut = true;
                return Ok(());
            }
            self.left -= 1;
            let Ok(name) = std::str::from_utf8(&entry.name) else { continue };
            let path = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
            if !(self.wanted)(name) || RelPath::parse(&path).is_err() {
                continue;
            }
            match entry.kind {
                Kind::Dir => {
                    let browser = self.browser;
                    self.list(&path, &mut browser.children(&entry)?)?;
                }
                Kind::File => {
                    let (size, modified) = (entry.size, entry.modified);
                    self.listing.files.push(Found { path, size, modified });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn kept(browser: &Browser, root: &str, path: &RelPath, id: SessionId) -> Result<Opened> {
    let failed = |error| unkept(id, error);
    let place = in_point(path.as_str());
    let found = browser.find(place.as_bytes()).map_err(failed)?;
    match found.map(|found| found.kind) {
        None | Some(Kind::Link) => return Err(Refusal::NoFile),
        Some(Kind::File) => {}
        Some(_) => return Err(no_file()),
    }
    let reading = browser.open(place.as_bytes()).map_err(failed)?.ok_or(Refusal::NoFile)?;
    let tag = Tag { opaque: hashed(&format!("{root}/{}", path.as_str())), weak: false };
    let (size, content) = (reading.size, Arc::new(Content::Kept(reading)));
    Ok(Opened { origin: Origin::Snapshot, size, tag, content })
}

/// What a path in the workspace is called in a point.
fn in_point(path: &str) -> String {
    format!("workspace/{path}")
}

fn is_listed(name: &str, caches: bool) -> bool {
    let socket = name.ends_with(".sock") || name.ends_with(".pid");
    !socket && !NEVER.contains(&name) && (caches || !CACHES.contains(&name))
}

fn hashed(of: &str) -> String {
    blake3::hash(of.as_bytes()).to_hex()[..32].to_owned()
}

/// Tells a content of a file on the disk from others. It was `asked` no later than looked at.
///
/// Whatever is written sets both times to that of the tick. So one more change shows, in whichever tick, where
/// they differ, and else when the tick is over.
pub(super) fn tag_of(stat: &Stat, asked: SystemTime) -> Tag {
    let weak = stat.modified == stat.changed && stat.changed >= shortly_before(asked);
    let told = format!("{:?}", (stat.inode, stat.size, stat.modified, stat.changed));
    Tag { opaque: hashed(&if weak { told + " for now" } else { told }), weak }
}

pub(super) fn no_file() -> Refusal {
    Refusal::Invalid("Path is not a file".to_owned())
}

/// What a failure in the workspace is to the caller.
pub(super) fn refused(error: TreeError) -> Refusal {
    match error {
        TreeError::Missing(_) | TreeError::NotDirectory(_) | TreeError::ThroughLink(_) => {
            Refusal::NoFile
        }
        TreeError::NotFile(_) | TreeError::OtherFileSystem(_) => no_file(),
        error @ TreeError::Held(_) => Refusal::InTheWay(error.to_string()),
        TreeError::Name { reason, .. } => Refusal::Invalid(format!("Invalid file path: {reason}")),
        error => Refusal::Internal(error.to_string()),
    }
}

/// Reads a path in a workspace.
///
/// # Errors
/// [`Refusal::Invalid`] with a sentence about what is wrong.
pub fn path(text: &str) -> Result<RelPath> {
    RelPath::parse(text).map_err(refused)
}

/// An open file with this content.
#[cfg(test)]
pub(crate) fn opened(content: &[u8]) -> Opened {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), content).unwrap();
    let tree = Tree::open(dir.path()).unwrap();
    Opened::on_disk(&tree, &path("f").unwrap()).unwrap()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::tree::dir::{TICK, stat_of};

    #[test]
    fn a_tag_is_weak_until_times_tell_of_one_more_change() {
        let changed = (1_000, 5_000_000);
        let plain = stat_of(tempfile::tempfile().unwrap()).unwrap();
        let written = Stat { modified: changed, changed, ..plain };
        let at = UNIX_EPOCH + Duration::new(1_000, 5_000_000);
        let [first, later] = [at, at + TICK].map(|asked| tag_of(&written, asked));
        assert!(first.weak && later.weak && first == later);
        let old = tag_of(&written, at + TICK + Duration::from_nanos(1));
        assert!(!old.weak && old.opaque != first.opaque, "what was kept then may be another one");
        // A clock that goes back.
        assert!(tag_of(&written, at - TICK).weak);
        // Where one more change in the same tick shows.
        let renamed = Stat { modified: (999, 0), ..written };
        let tags = [at, at + 2 * TICK].map(|asked| tag_of(&renamed, asked));
        assert!(tags[0] == tags[1] && !tags[0].weak && tags[0] != old);
    }

    #[test]
    fn lock_files_are_listed_and_sockets_are_not() {
        for (name, always, with_caches) in [
            ("Cargo.lock", true, true),
            (".env", true, true),
            ("venv", false, true),
            (".git", false, false),
            ("x.sock", false, false),
        ] {
            assert_eq!((is_listed(name, false), is_listed(name, true)), (always, with_caches));
        }
    }

    #[test]
    fn whoever_asks_for_a_file_on_which_somebody_has_a_lease_is_told() {
        let refused = refused(TreeError::Held("a/b".into()));
        assert!(matches!(refused, Refusal::InTheWay(text) if text.starts_with("a/b is held")));
    }

    #[tokio::test]
    async fn a_part_of_a_file_is_read_in_pieces() {
        let content: Vec<u8> = (0..PIECE * 3 + 7).map(|at| (at % 251) as u8).collect();
        let end = content.len() as u64 - 1;
        let pieces: Vec<_> = opened(&content).bytes(5, end).collect().await;
        let read: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.unwrap()).collect();
        assert_eq!(read, content[5..content.len() - 1]);
    }

    #[tokio::test]
    async fn a_file_that_got_shorter_ends_with_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "12345").unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        let opened = Opened::on_disk(&tree, &path("f").unwrap()).unwrap();
        std::fs::write(dir.path().join("f"), "1").unwrap();
        let pieces: Vec<_> = opened.bytes(0, 5).collect().await;
        assert!(pieces[0].is_err());
    }
}
