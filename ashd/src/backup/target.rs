//! Writing a backup into a directory.
//!
//! The directory comes open, from whoever asked: the daemon needs no path, and may write where its own
//! view of the file system is read-only. It belongs to root and is closed to others, so that nobody
//! else puts anything in the way.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, FlockOperation, flock, fstat, syncfs};
use rustix::io::Errno;

use super::BackupError;
use super::manifest::{Entry, LARGEST, Manifest};
use super::name::Name;
use super::part::{self, PIECE};
use crate::fault;

type Result<T> = std::result::Result<T, BackupError>;

/// The manifest's name.
pub(super) const MANIFEST: &str = "manifest";

/// What else may be in the topmost directory, beside names that are called after their backup.
const OURS: [&str; 6] = [MANIFEST, "manifest.new", "agents", "attachments", "packs", "lost+found"];

/// A directory that gets a backup. Nobody else writes there while it lives.
#[derive(Debug)]
pub struct Target {
    dir: OwnedFd,
    path: PathBuf,
    /// What the backup before names, and is there in its size.
    before: HashMap<Name, Entry>,
    written: u64,
}

impl Target {
    /// Takes a directory, and looks what it has of earlier backups.
    ///
    /// # Errors
    /// When it is none, or open to others, or has something else in it, or is in use; a manifest
    /// that cannot be read is no error: everything is written anew.
    pub fn open(dir: OwnedFd) -> Result<Target> {
        let stat = fstat(&dir).map_err(io::Error::from)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(BackupError::NoDirectory);
        }
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
            return Err(BackupError::Open);
        }
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(BackupError::InUse),
            locked => locked.map_err(io::Error::from)?,
        }
        let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        check_ours(&path)?;
        let known = match manifest(&path) {
            Ok(known) => known.entries,
            Err(BackupError::None | BackupError::Damaged { .. }) => vec![],
            Err(error) => return Err(error),
        };
        let is_there = |entry: &Entry| {
            let found = fs::symlink_metadata(path.join(entry.name.to_string()));
            found.is_ok_and(|found| found.is_file() && found.len() == entry.bytes)
        };
        let before = known.into_iter().filter(is_there);
        let before = before.map(|entry| (entry.name.clone(), entry)).collect();
        Ok(Target { dir, path, before, written: 0 })
    }

    /// A part that is there already, from the backup before. All of it is read: one that is not what
    /// was written counts as not there, and is written again.
    pub fn has(&self, name: &Name) -> Option<Entry> {
        let entry = self.before.get(name)?;
        let is_whole = part::read(&self.path, entry, &mut io::sink()).is_ok();
        if !is_whole {
            tracing::warn!(part = %name, "the backup before is damaged: this is written again");
        }
        is_whole.then(|| entry.clone())
    }

    /// Writes a part: what `fill` writes. It is on the disk with [`publish`](Target::publish).
    ///
    /// # Errors
    /// What `fill` says, and when the disk fails or is full.
    pub fn add(
        &mut self,
        name: Name,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Entry> {
        let place = self.path.join(name.to_string());
        private(place.parent().unwrap_or(&self.path))?;
        // What was left of an attempt may lie there; nobody has named it.
        let file = create(&place)?;
        let mut out = Hashing { file, hash: blake3::Hasher::new(), bytes: 0 };
        fill(&mut out)?;
        self.written += out.bytes;
        Ok(Entry { name, bytes: out.bytes, hash: out.hash.finalize() })
    }

    /// Writes a part: everything that can be read.
    ///
    /// # Errors
    /// When reading or writing fails.
    pub fn copy(&mut self, name: Name, from: &mut dyn Read) -> Result<Entry> {
        let mut piece = vec![0; PIECE];
        self.add(name, |out| {
            loop {
                match from.read(&mut piece)? {
                    0 => return Ok(()),
                    read => out.write_all(&piece[..read])?,
                }
            }
        })
    }

    /// Bytes that were written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Makes a backup of what was written. From here on it is the one that is there; what only
    /// earlier ones needed goes.
    ///
    /// # Errors
    /// When the disk fails; then the one before is there, and whole.
    pub fn publish(self, manifest: &Manifest) -> Result<()> {
        // Thousands of files are on the disk sooner so than one by one.
        syncfs(&self.dir).map_err(io::Error::from)?;
        fault::fail("backup.content")?;
        let new = self.path.join("manifest.new");
        let mut file = create(&new)?;
        file.write_all(&manifest.encode())?;
        file.sync_all()?;
        fs::rename(&new, self.path.join(MANIFEST))?;
        File::open(&self.path)?.sync_all()?;
        fault::point("backup.published");
        let needed: HashSet<&Name> = manifest.entries.iter().map(|entry| &entry.name).collect();
        if let Err(error) = sweep(&self.path, &self.path, &needed) {
            tracing::warn!(%error, "what a backup does not need any more could not be removed");
        }
        Ok(())
    }
}

/// Reads the manifest of the backup in a directory.
pub(super) fn manifest(dir: &Path) -> Result<Manifest> {
    let file = match File::open(dir.join(MANIFEST)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(BackupError::None),
        file => file?,
    };
    let mut bytes = vec![];
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Manifest::decode(&bytes)
}

/// Nothing of somebody else's is mixed with a backup, or removed with it.
fn check_ours(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !OURS.contains(&&*name) && name.parse::<Name>().is_err() {
            return Err(BackupError::Foreign(name));
        }
    }
    Ok(())
}

/// Removes what has a name of ours and is not needed, and directories that are empty then.
fn sweep(root: &Path, dir: &Path, needed: &HashSet<&Name>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "lost+found" {
                sweep(root, &path, needed)?;
                // One that is not empty stays.
                let _ = fs::remove_dir(&path);
            }
            continue;
        }
        let name = path.strip_prefix(root).ok().and_then(Path::to_str);
        let name = name.and_then(|name| name.parse::<Name>().ok());
        if name.is_some_and(|name| !needed.contains(&name)) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Counts and hashes what is written.
struct Hashing {
    file: File,
    hash: blake3::Hasher,
    bytes: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// An empty file that only root can open.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn private(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}
