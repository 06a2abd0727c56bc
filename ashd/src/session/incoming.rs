//! What comes in from outside: written beside the sessions, where no agent reaches, before anything
//! of a session is changed.
//!
//! It lies in a directory of its own, on the file system of the workspaces, so that it comes in by
//! renaming. What a daemon that died has left there is removed when the next one starts.

use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::task::spawn_blocking;

use super::api::Refusal;
use super::service::{Result, blocking};
use super::shared::Shared;
use super::under_way::{Begun, UnderWay};
use super::writing::unchanged;
use crate::store::StoreError;
use crate::tree::dir::Dir;
use crate::tree::{RelPath, Tree, TreeError, remove_all};

/// Bytes that are written at once.
const PIECE: usize = 256 * 1024;

/// Bytes after which it is asked again whether the disk has room.
const LOOK_EVERY: u64 = 16 * 1024 * 1024;

/// The name of what came.
const BODY: &str = "body";

/// Something that comes in.
pub struct Upload<S> {
    /// Its bytes, as they come.
    pub body: S,
    /// How many there will be, when that was said.
    pub announced: Option<u64>,
    /// The most that are taken.
    pub limit: u64,
}

/// What came in, in a directory of its own, which goes with this.
pub struct Incoming {
    place: Place,
    /// Bytes.
    pub size: u64,
}

/// Makes files beside what came in.
pub struct Parts<'a> {
    dir: Dir,
    made: u32,
    shared: &'a Shared,
}

struct Place {
    shared: Arc<Shared>,
    aside: Aside,
    tree: Tree,
}

/// What has such a name goes with this, later: that can take long, and an agent could make it take for
/// ever.
struct Aside {
    parent: PathBuf,
    name: String,
    noted: Option<Begun<String>>,
}

impl Aside {
    /// With a fresh name: what nobody needs after a restart is known by it.
    fn begin(asides: &UnderWay<String>, parent: PathBuf) -> Aside {
        let name = format!("{}.in", uuid::Uuid::new_v4());
        let noted = Some(asides.begin(name.clone()));
        Aside { parent, name, noted }
    }

    fn path(&self) -> PathBuf {
        self.parent.join(&self.name)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let (parent, name) = (std::mem::take(&mut self.parent), std::mem::take(&mut self.name));
        let noted = self.noted.take();
        let remove = move || {
            if let Err(error) = remove_all(&parent, &name) {
                tracing::warn!(%error, "what was set aside could not be removed");
            }
            drop(noted);
        };
        // Whoever lets go of it may not be one who blocks.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

impl<S> Upload<S>
where
    S: Stream<Item = Result<Bytes>> + Unpin,
{
    /// Writes what comes to the disk.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`], [`Refusal::Capacity`] when it does not fit on the disk, and what the
    /// body itself fails with. Nothing is left then.
    pub(super) async fn receive(mut self, shared: &Arc<Shared>) -> Result<Incoming> {
        let too_large = Refusal::TooLarge(self.limit);
        if self.announced.is_some_and(|announced| announced > self.limit) {
            return Err(too_large);
        }
        shared.disk_takes(self.announced.unwrap_or(0))?;
        let (place, mut file) = Place::with_body(shared.clone()).await?;
        let (mut size, mut look_at) = (0, LOOK_EVERY);
        let mut piece = BytesMut::new();
        while let Some(bytes) = self.body.next().await {
            let bytes = bytes?;
            size += bytes.len() as u64;
            if size > self.limit {
                return Err(too_large);
            }
            if size > look_at {
                shared.disk_has_room()?;
                look_at += LOOK_EVERY;
            }
            piece.extend_from_slice(&bytes);
            if piece.len() >= PIECE {
                file = written(file, piece.split().freeze()).await?;
            }
        }
        let file = written(file, piece.freeze()).await?;
        // Here, so that whoever puts it into its place does not wait for the disk.
        let synced = spawn_blocking(move || file.sync_all()).await.map_err(io::Error::other);
        synced.flatten().map_err(|error| unwritable(&error))?;
        Ok(Incoming { place, size })
    }
}

async fn written(mut file: File, piece: Bytes) -> Result<File> {
    let write = move || file.write_all(&piece).map(|()| file);
    let written = spawn_blocking(write).await.map_err(io::Error::other).flatten();
    written.map_err(|error| unwritable(&error))
}

impl Incoming {
    /// Reads what came, and makes files beside it. For threads that may block.
    pub(super) fn open(&self) -> Result<(BufReader<File>, Parts<'_>)> {
        let dir = self.place.tree.top().map_err(|error| unwritable(&error))?;
        Ok((self.part(None)?, Parts { dir, made: 0, shared: &self.place.shared }))
    }

    /// Reads what came, or one of its parts. For threads that may block.
    pub(super) fn part(&self, part: Option<&str>) -> Result<BufReader<File>> {
        let open = || {
            let name = std::ffi::CString::new(part.unwrap_or(BODY))?;
            self.place.tree.top()?.file(&name)
        };
        let file = open().map_err(|error: io::Error| unwritable(&error))?;
        Ok(BufReader::with_capacity(PIECE, file))
    }

    /// Its directory, and the name that what came has there.
    pub(super) fn body(&self) -> (&Tree, &'static str) {
        (&self.place.tree, BODY)
    }

    /// Where on this machine what came lies.
    pub(super) fn body_path(&self) -> PathBuf {
        self.place.aside.path().join(BODY)
    }

    /// Its directory.
    pub(super) fn tree(&self) -> &Tree {
        &self.place.tree
    }

    /// A fresh directory beside what came.
    pub(super) fn make_dir(&self, name: &str) -> Result<Tree> {
        let path = self.place.aside.path().join(name);
        Tree::create_root(&path, 0, 0o700).map_err(|error| failed(&error))
    }
}

impl Parts<'_> {
    /// What a failure to write one is to the caller.
    pub fn failed(error: &io::Error) -> Refusal {
        unwritable(error)
    }

    /// Makes another file, and says what it is called.
    ///
    /// # Errors
    /// When the disk has no room, or fails.
    pub fn begin(&mut self) -> Result<(File, String)> {
        self.shared.disk_has_room()?;
        let name = self.made.to_string();
        self.made += 1;
        let c_name = std::ffi::CString::new(name.clone()).map_err(io::Error::from);
        let file = c_name.and_then(|name| self.dir.make_file(&name));
        Ok((file.map_err(|error| unwritable(&error))?, name))
    }
}

impl Place {
    async fn with_body(shared: Arc<Shared>) -> Result<(Place, File)> {
        let make = move || {
            let parent = shared.places.sessions();
            std::fs::create_dir_all(&parent).map_err(|error| unwritable(&error))?;
            let aside = Aside::begin(&shared.asides, parent);
            let tree = Tree::create_root(&aside.path(), 0, 0o700);
            let tree = tree.map_err(|error| failed(&error))?;
            let place = Place { shared, aside, tree };
            let made = place.tree.top().and_then(|dir| dir.make_file(c"body"));
            Ok((place, made.map_err(|error| unwritable(&error))?))
        };
        blocking(make).await
    }
}

/// Takes something out of a workspace. Blocks.
pub(super) fn take_out(shared: &Shared, tree: &Tree, path: &RelPath) -> Result<()> {
    let aside = Aside::begin(&shared.asides, shared.places.sessions());
    // As it is, without a directory made for it: a full disk is no reason to keep it.
    let to = Tree::open(&aside.parent).map_err(|error| failed(&error))?;
    tree.move_out(path, (&to, &aside.name)).map_err(unchanged)
}

/// What a failure of the daemon's own disk is to the caller.
pub(super) fn unwritable(error: &io::Error) -> Refusal {
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return Refusal::Store(StoreError::Full);
    }
    tracing::error!(%error, "what comes in cannot be written");
    Refusal::Internal("what was sent could not be written to the disk".to_owned())
}

fn failed(error: &TreeError) -> Refusal {
    match error {
        TreeError::Io { error, .. } => unwritable(error),
        error => Refusal::Internal(error.to_string()),
    }
}
