//! The state directory belongs to one daemon at a time.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

/// How long the lock of a process that is gone may be somebody's: a program that it was about to start has all
/// that it had, until that runs.
const LEFT_BEHIND: Duration = Duration::from_secs(5);

/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Why the state directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error(
        "the state directory {} is in use by {holder}; stop that daemon or set another state.data_dir",
        dir.display()
    )]
    Held {
        /// The directory.
        dir: PathBuf,
        /// Who has it, as far as can be told.
        holder: String,
    },
    /// Others may look or write into it.
    #[error(
        "the state directory {} is open to others (mode {mode:04o}); run: chmod 0700 {}",
        dir.display(), dir.display()
    )]
    Open {
        /// The directory.
        dir: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to another user.
    #[error(
        "the state directory {} belongs to uid {owner}, ashd runs as uid {own}; run: chown {own} {}",
        dir.display(), dir.display()
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are.
        own: u32,
    },
    /// It cannot be made or used.
    #[error("cannot use the state directory {}: {source}{}", dir.display(), fault_of_unit(source))]
    Unusable {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What to mend when the file system is closed to us alone: as installed, the unit leaves it open.
fn fault_of_unit(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "; if the disk is writable, a drop-in of ashd.service closes it: see `systemctl cat ashd`"
        }
        _ => "",
    }
}

/// A state directory that is ours until this is dropped, or the process ends, however it ends.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the directory if there is none (mode 0700), checks that nobody else can reach into
    /// it, and takes its lock. A child of a daemon that was killed may have it for a moment,
    /// which is waited for, 5 s at most.
    ///
    /// # Errors
    /// When another daemon has it, others can reach into it, or it cannot be made or used.
    pub fn acquire(dir: &Path) -> Result<StateDir, LockError> {
        let unusable = |source| LockError::Unusable { dir: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
        let path = fs::canonicalize(dir).map_err(unusable)?;
        check(&path, &fs::metadata(&path).map_err(unusable)?)?;
        let mut file = open(&path.join("lock")).map_err(unusable)?;
        if let Some(holder) = lock(&file, || thread::sleep(LOOK_EVERY)).map_err(unusable)? {
            return Err(LockError::Held { dir: path, holder: holder.to_string() });
        }
        sign(&mut file).map_err(unusable)?;
        Ok(StateDir { path, _lock: file })
    }

    /// The directory, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn check(dir: &Path, found: &fs::Metadata) -> Result<(), LockError> {
    let (owner, own) = (found.uid(), rustix::process::geteuid().as_raw());
    let mode = found.permissions().mode() & 0o7777;
    if owner != own {
        return Err(LockError::Foreign { dir: dir.to_owned(), owner, own });
    }
    if mode & 0o077 != 0 {
        return Err(LockError::Open { dir: dir.to_owned(), mode });
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    let no_link = OFlags::NOFOLLOW.bits() as i32;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).custom_flags(no_link).open(path)
}

/// Takes a lock, or says who has it. While that one is gone, pauses and tries again.
fn lock(file: &File, mut pause: impl FnMut()) -> io::Result<Option<Holder>> {
    let begun = Instant::now();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {}
            locked => return Ok(locked.map(|()| None)?),
        }
        let holder = Holder::of(file);
        if holder.name.is_some() || begun.elapsed() >= LEFT_BEHIND {
            return Ok(Some(holder));
        }
        pause();
    }
}

/// Leaves our process id for whoever finds the lock taken.
fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

/// Who has signed a lock.
struct Holder {
    pid: Option<u32>,
    /// Of the process, while there is one.
    name: Option<String>,
}

impl Holder {
    fn of(file: &File) -> Holder {
        let mut text = [0; 32];
        let read = file.read_at(&mut text, 0).unwrap_or_default();
        let text = std::str::from_utf8(&text[..read]).unwrap_or_default();
        let pid: Option<u32> = text.trim().parse().ok();
        let name = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
        Holder { pid, name }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.name) {
            (Some(pid), Some(name)) => write!(f, "{} (process {pid})", name.trim()),
            (Some(pid), None) => write!(f, "what process {pid} has left"),
            (None, _) => f.write_str("another process"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn is_made_private_and_held_once() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("a/b");
        let held = StateDir::acquire(&dir).unwrap();
        assert_eq!((mode(&dir), mode(&dir.join("lock"))), (0o700, 0o600));

        let refused = StateDir::acquire(&dir).unwrap_err().to_string();
        assert!(refused.contains(&format!("(process {})", std::process::id())), "{refused}");

        drop(held);
        StateDir::acquire(&dir).unwrap();
    }

    /// As a child does that was forked by a daemon that was killed then.
    #[test]
    fn what_a_process_that_is_gone_has_left_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let mut left = open(&path).unwrap();
        flock(&left, FlockOperation::NonBlockingLockExclusive).unwrap();
        writeln!(left, "{}", gone.id()).unwrap();
        let (mut left, mut pauses) = (Some(left), 0);
        let found = lock(&open(&path).unwrap(), || {
            pauses += 1;
            drop(left.take());
        });
        assert!(found.unwrap().is_none());
        assert_eq!(pauses, 1);
    }

    #[test]
    fn is_refused_when_others_can_reach_in() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let refused = StateDir::acquire(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("mode 0750") && refused.contains("chmod 0700"), "{refused}");
    }

    #[test]
    fn a_link_in_the_lock_s_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("lock")).unwrap();
        assert!(matches!(StateDir::acquire(dir.path()), Err(LockError::Unusable { .. })));
    }
}
