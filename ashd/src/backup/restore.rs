//! Putting a backup into an empty data directory.
//!
//! Everything is read and checked first. Then a mark is made, the parts are written, the database
//! last, and the mark goes. While it is there no daemon starts; whoever restores again begins anew. A
//! restore that fails takes back what it has written.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::BackupError;
use super::manifest::{Entry, Manifest};
use super::name::Name;
use super::part::{self, Source};
use super::target;
use crate::domain::{Node, Timestamp};
use crate::fault;
use crate::tree::{Links, Tree, TreeLimits, remove_all};

type Result<T> = std::result::Result<T, BackupError>;

/// The mark of a restore that is under way or was interrupted, in the data directory.
pub const RESTORING: &str = "restoring";

/// The file by which a data directory belongs to one process at a time.
const LOCK: &str = "lock";

/// What says which server a backup is of is not longer, in bytes.
const NODE: u64 = 4096;

/// Folders of agents were within bounds when they were deployed.
const FOLDER: TreeLimits = TreeLimits { files: u64::MAX, bytes: u64::MAX };

/// What was restored, or would be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Restored {
    /// When the backup was made.
    pub at: Timestamp,
    /// Version of the daemon that made it.
    pub version: String,
    /// Sessions in it.
    pub sessions: u64,
    /// Files that were read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl From<&Manifest> for Restored {
    fn from(manifest: &Manifest) -> Restored {
        Restored {
            at: manifest.at,
            version: manifest.version.clone(),
            sessions: manifest.sessions,
            files: manifest.entries.len() as u64,
            bytes: manifest.bytes(),
        }
    }
}

/// Reads all of the backup in a directory and checks that it is what was written, and that this
/// program knows it, whose newest schema is `schema`.
///
/// # Errors
/// When there is none, it is damaged, or of a newer program.
pub fn check(dir: &Path, schema: u32) -> Result<Restored> {
    let manifest = target::manifest(dir)?;
    read_all(dir, &manifest, schema)?;
    Ok(Restored::from(&manifest))
}

/// Puts the backup in `dir` into a data directory, which is the caller's alone.
///
/// # Errors
/// As [`check`]; when the data directory is not empty; when the disk fails or is full. Then nothing
/// was restored, and the data directory is empty.
pub fn restore(dir: &Path, data: &Path, schema: u32) -> Result<Restored> {
    check_empty(data)?;
    let manifest = target::manifest(dir)?;
    read_all(dir, &manifest, schema)?;
    clear(data)?;
    mark(data)?;
    fault::point("fill.marked");
    if let Err(error) = fill(dir, data, &manifest) {
        clear(data)?;
        unmark(data)?;
        return Err(error);
    }
    fault::point("fill.filled");
    unmark(data)?;
    Ok(Restored::from(&manifest))
}

/// Nothing that is there is overwritten, but what a restore that was interrupted has left.
fn check_empty(data: &Path) -> Result<()> {
    if data.join(RESTORING).exists() {
        return Ok(());
    }
    let mut names = names(data)?;
    names.retain(|name| !["lost+found", LOCK].contains(&&**name));
    names.first().map_or(Ok(()), |name| Err(BackupError::NotEmpty(name.clone())))
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let name = |entry: io::Result<fs::DirEntry>| {
        entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    fs::read_dir(dir)?.map(name).collect()
}

/// Removes everything but the mark and the lock.
fn clear(data: &Path) -> Result<()> {
    for name in names(data)? {
        if !["lost+found", LOCK, RESTORING].contains(&&*name) {
            remove_all(data, &name).map_err(io::Error::other)?;
        }
    }
    Ok(())
}

fn mark(data: &Path) -> Result<()> {
    File::create(data.join(RESTORING))?.sync_all()?;
    Ok(File::open(data)?.sync_all()?)
}

fn unmark(data: &Path) -> Result<()> {
    fs::remove_file(data.join(RESTORING))?;
    Ok(File::open(data)?.sync_all()?)
}

fn read_all(dir: &Path, manifest: &Manifest, known: u32) -> Result<()> {
    if manifest.schema > known {
        return Err(BackupError::Newer { what: "schema", found: manifest.schema, known });
    }
    manifest.entries.iter().try_for_each(|entry| part::read(dir, entry, &mut io::sink()))
}

/// Writes everything, the database last.
fn fill(dir: &Path, data: &Path, manifest: &Manifest) -> Result<()> {
    let database = manifest.database();
    let (last, others): (Vec<_>, Vec<_>) =
        manifest.entries.iter().partition(|entry| entry.name == database);
    for entry in others {
        put(dir, data, entry)?;
        fault::point("fill.part");
    }
    for tenant in &manifest.purged {
        let vault = data.join("snapshots/store").join(tenant.as_str());
        private(&vault)?;
        fs::write(vault.join("purged"), manifest.id.as_bytes())?;
    }
    for entry in last {
        put(dir, data, entry)?;
    }
    rustix::fs::syncfs(File::open(data)?).map_err(io::Error::from)?;
    Ok(())
}

/// Writes one part to its place.
fn put(dir: &Path, data: &Path, entry: &Entry) -> Result<()> {
    if let Name::Agent(tenant, name, _, version) = &entry.name {
        let parent = data.join("agents").join(tenant.as_str()).join(name.as_str());
        fs::create_dir_all(&parent)?;
        return unpack(dir, &parent.join(version.to_string()), entry);
    }
    let place = data.join(place(&entry.name));
    private(place.parent().unwrap_or(data))?;
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(place)?;
    if matches!(entry.name, Name::Node(_)) {
        let node = read_node(dir, entry)?.successor();
        return Ok(file.write_all(node.to_string().as_bytes())?);
    }
    part::read(dir, entry, &mut file)
}

/// Whose backup it is. That one may live on: who goes on with the backup is another one.
fn read_node(dir: &Path, entry: &Entry) -> Result<Node> {
    let wrong = || BackupError::damaged(&entry.name, "does not say which server it is of");
    if entry.bytes > NODE {
        return Err(wrong());
    }
    let mut text = vec![];
    part::read(dir, entry, &mut text)?;
    std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).ok_or_else(wrong)
}

fn place(name: &Name) -> PathBuf {
    match name {
        Name::Database(_) => "ash.db".into(),
        Name::Node(_) => "node".into(),
        Name::ApiKey(_) => "initial-api-key".into(),
        Name::Pack(tenant, pack) => format!("snapshots/store/{tenant}/packs/{pack}.pack").into(),
        // As they are called there; agents' folders are unpacked.
        Name::Attachment(..) | Name::Agent(..) => name.to_string().into(),
    }
}

fn unpack(dir: &Path, place: &Path, entry: &Entry) -> Result<()> {
    let wrong = |error: &dyn std::fmt::Display| BackupError::damaged(&entry.name, error);
    let folder = Tree::create_root(place, 0, 0o755).map_err(|error| wrong(&error))?;
    let mut source = Source::open(dir, entry)?;
    let unpacked = folder.unpack_tar(&mut source, (0, Links::Inside), FOLDER);
    unpacked.map_err(|error| wrong(&error))?;
    source.end(entry)
}

fn private(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}
