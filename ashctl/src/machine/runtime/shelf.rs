//! The directories of the installed versions. What appears there is complete: it is made elsewhere
//! in the same directory, written to the disk, and renamed.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tokio::task::spawn_blocking;

use super::RuntimeError;
use crate::file::open_regular;

/// Longer ones are no versions.
const LONGEST_VERSION: usize = 64;

/// Where a version is made before it is put in its place. No version begins with a dot.
const MAKING: &str = ".making";

/// The installed versions.
pub(crate) struct Shelf {
    libexec: PathBuf,
}

/// An installed version.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Installed {
    /// What it says it is.
    pub(crate) version: String,
    /// Whether new sandboxes get it.
    pub(crate) is_used: bool,
}

impl Shelf {
    /// The versions beneath the directory of our programs.
    pub(crate) fn at(libexec: PathBuf) -> Self {
        Shelf { libexec }
    }

    /// The directory of our programs.
    pub(super) fn libexec(&self) -> &Path {
        &self.libexec
    }

    fn runtimes(&self) -> PathBuf {
        self.libexec.join("runtime")
    }

    fn link(&self) -> PathBuf {
        self.libexec.join("claude")
    }

    /// Where the program of a version is, or would be.
    pub(crate) fn program(&self, version: &str) -> PathBuf {
        self.runtimes().join(version).join("claude")
    }

    /// Whether a version is installed.
    pub(super) fn has(&self, version: &str) -> bool {
        self.program(version).is_file()
    }

    /// Every version, oldest first.
    pub(crate) fn list(&self) -> Result<Vec<Installed>, RuntimeError> {
        let runtimes = self.runtimes();
        let entries = match fs::read_dir(&runtimes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(RuntimeError::io(&runtimes))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut versions: Vec<_> = names.filter(|name| self.has(name)).collect();
        versions.retain(|version| check_version(version).is_ok());
        versions.sort_by_key(|version| numbers(version));
        let used = self.used()?;
        let installed = versions.into_iter().map(|version| {
            let is_used = used.as_deref() == Some(&version);
            Installed { version, is_used }
        });
        Ok(installed.collect())
    }

    /// The version that the link names.
    pub(crate) fn used(&self) -> Result<Option<String>, RuntimeError> {
        let link = self.link();
        let target = match fs::read_link(&link) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(RuntimeError::NoLink(link));
            }
            Err(error) => return Err(RuntimeError::io(&link)(error)),
        };
        let inside = self.libexec.join(target);
        let version = inside.strip_prefix(self.runtimes()).ok().and_then(Path::parent);
        match version.and_then(Path::to_str).filter(|version| check_version(version).is_ok()) {
            Some(version) => Ok(Some(version.to_owned())),
            None => Err(RuntimeError::NoLink(link)),
        }
    }

    /// Makes the link name this version.
    pub(crate) fn choose(&self, version: &str) -> Result<(), RuntimeError> {
        check_version(version)?;
        if !self.has(version) {
            return Err(RuntimeError::Missing(version.to_owned()));
        }
        self.used()?;
        let fresh = self.libexec.join(".claude.new");
        remove_if_there(&fresh)?;
        symlink(format!("runtime/{version}/claude"), &fresh).map_err(RuntimeError::io(&fresh))?;
        fs::rename(&fresh, self.link()).map_err(RuntimeError::io(&fresh))?;
        sync(&self.libexec)
    }

    /// Removes a version that is not in use.
    pub(crate) fn remove(&self, version: &str) -> Result<(), RuntimeError> {
        check_version(version)?;
        if !self.has(version) {
            return Err(RuntimeError::Missing(version.to_owned()));
        }
        if self.used()?.as_deref() == Some(version) {
            return Err(RuntimeError::InUse(version.to_owned()));
        }
        let place = self.begin()?;
        let from = self.runtimes().join(version);
        // It goes at once, then its files: nobody finds half of it.
        fs::rename(&from, place.making.join("gone")).map_err(RuntimeError::io(&from))
    }

    /// As [`begin`](Self::begin). Whoever makes another change may take long, and is waited for on a thread of
    /// its own, so that this one hears when the program is told to end.
    pub(super) async fn begin_when_free(&self) -> Result<Place, RuntimeError> {
        let shelf = Shelf::at(self.libexec.clone());
        let begun = spawn_blocking(move || shelf.begin()).await;
        begun.map_err(RuntimeError::io(&self.libexec))?
    }

    /// Begins a change, which is the only one as long as the place lives.
    pub(super) fn begin(&self) -> Result<Place, RuntimeError> {
        let runtimes = self.runtimes();
        directory(&runtimes)?;
        let lock = File::open(&runtimes).map_err(RuntimeError::io(&runtimes))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(RuntimeError::io(&runtimes))?;
        let making = runtimes.join(MAKING);
        // What is left of a change that was cut off.
        remove_tree(&making)?;
        for path in [making.clone(), making.join("done"), making.join("scratch")] {
            directory(&path)?;
        }
        Ok(Place { runtimes, making, _lock: lock })
    }
}

/// Where a version is made. What is in it goes with it.
pub(super) struct Place {
    runtimes: PathBuf,
    making: PathBuf,
    _lock: File,
}

impl Place {
    /// A directory to fetch into.
    pub(super) fn scratch(&self) -> PathBuf {
        self.making.join("scratch")
    }

    /// The copy to install.
    pub(super) fn program(&self) -> PathBuf {
        self.making.join("done/claude")
    }

    /// Copies a program.
    pub(super) fn take(&self, from: &Path) -> Result<(), RuntimeError> {
        let to = self.program();
        let mut source = open_regular(from).map_err(RuntimeError::io(from))?;
        let mut copy = File::create_new(&to).map_err(RuntimeError::io(&to))?;
        io::copy(&mut source, &mut copy).map_err(RuntimeError::io(&to))?;
        let mode = fs::Permissions::from_mode(0o755);
        copy.set_permissions(mode).and_then(|()| copy.sync_all()).map_err(RuntimeError::io(&to))
    }

    /// Puts the copy in the place of its version.
    pub(super) fn keep(&self, version: &str) -> Result<(), RuntimeError> {
        let done = self.making.join("done");
        sync(&done)?;
        let to = self.runtimes.join(version);
        fs::rename(&done, &to).map_err(RuntimeError::io(&to))?;
        sync(&self.runtimes)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The next change removes what cannot be removed now.
        let _ = remove_tree(&self.making);
    }
}

/// Checks that a version can name a directory.
pub(super) fn check_version(version: &str) -> Result<(), RuntimeError> {
    let fits = |each: char| each.is_ascii_alphanumeric() || matches!(each, '.' | '-' | '+');
    let begins = version.starts_with(|each: char| each.is_ascii_digit());
    match begins && version.len() <= LONGEST_VERSION && version.chars().all(fits) {
        true => Ok(()),
        false => Err(RuntimeError::Version(version.to_owned())),
    }
}

/// Versions in their order: numbers count as numbers.
fn numbers(version: &str) -> (Vec<u64>, String) {
    let parts = version.split(|each: char| !each.is_ascii_digit());
    (parts.map(|part| part.parse().unwrap_or_default()).collect(), version.to_owned())
}

/// Makes a directory that everybody may read, whatever the umask.
fn directory(path: &Path) -> Result<(), RuntimeError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .map_err(RuntimeError::io(path))
}

fn sync(directory: &Path) -> Result<(), RuntimeError> {
    File::open(directory).and_then(|it| it.sync_all()).map_err(RuntimeError::io(directory))
}

fn remove_if_there(path: &Path) -> Result<(), RuntimeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RuntimeError::io(path)(error)),
        _ => Ok(()),
    }
}

fn remove_tree(path: &Path) -> Result<(), RuntimeError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RuntimeError::io(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn shelf() -> (tempfile::TempDir, Shelf) {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::at(dir.path().to_owned());
        (dir, shelf)
    }

    fn put(shelf: &Shelf, version: &str) {
        let source = shelf.libexec().join("source");
        fs::write(&source, version).unwrap();
        let place = shelf.begin().unwrap();
        place.take(&source).unwrap();
        place.keep(version).unwrap();
    }

    fn versions(shelf: &Shelf) -> Vec<(String, bool)> {
        let listed = shelf.list().unwrap().into_iter();
        listed.map(|installed| (installed.version, installed.is_used)).collect()
    }

    #[test]
    fn versions_come_and_go() {
        let (_dir, shelf) = shelf();
        assert_eq!(versions(&shelf), []);
        assert_eq!(shelf.used().unwrap(), None);
        for version in ["2.1.197", "2.1.20", "3.0.0-rc.1"] {
            put(&shelf, version);
        }
        shelf.choose("2.1.20").unwrap();
        let all = [("2.1.20", true), ("2.1.197", false), ("3.0.0-rc.1", false)];
        assert_eq!(versions(&shelf), all.map(|(version, used)| (version.to_owned(), used)));
        assert_eq!(fs::read_to_string(shelf.libexec().join("claude")).unwrap(), "2.1.20");
        assert_eq!(fs::metadata(shelf.program("2.1.20")).unwrap().permissions().mode(), 0o100_755);
        assert!(matches!(shelf.remove("2.1.20"), Err(RuntimeError::InUse(_))));
        shelf.choose("2.1.197").unwrap();
        shelf.remove("2.1.20").unwrap();
        assert_eq!(versions(&shelf).len(), 2);
        assert!(matches!(shelf.choose("2.1.20"), Err(RuntimeError::Missing(_))));
        assert!(matches!(shelf.remove("2.1.20"), Err(RuntimeError::Missing(_))));
        assert!(!shelf.runtimes().join(MAKING).exists());
    }

    #[tokio::test]
    async fn whoever_waits_for_another_change_hears_what_else_comes() {
        let (_dir, shelf) = shelf();
        let other = shelf.begin().unwrap();
        let mut begins = Box::pin(shelf.begin_when_free());
        assert!(timeout(Duration::ZERO, &mut begins).await.is_err());
        drop(other);
        begins.await.unwrap();
    }

    #[test]
    fn what_a_cut_off_change_left_is_no_version_and_goes() {
        let (_dir, shelf) = shelf();
        fs::create_dir_all(shelf.runtimes().join(MAKING).join("done")).unwrap();
        fs::write(shelf.runtimes().join(MAKING).join("done/claude"), "half").unwrap();
        fs::create_dir(shelf.runtimes().join("2.0.0")).unwrap();
        fs::write(shelf.libexec().join(".claude.new"), "").unwrap();
        assert_eq!(versions(&shelf), []);
        put(&shelf, "2.1.0");
        shelf.choose("2.1.0").unwrap();
        assert_eq!(fs::read_to_string(shelf.program("2.1.0")).unwrap(), "2.1.0");
    }

    #[test]
    fn a_link_of_somebody_else_is_left_alone() {
        let (_dir, shelf) = shelf();
        put(&shelf, "2.1.0");
        fs::write(shelf.libexec().join("claude"), "a program").unwrap();
        assert!(matches!(shelf.choose("2.1.0"), Err(RuntimeError::NoLink(_))));
        fs::remove_file(shelf.libexec().join("claude")).unwrap();
        for target in ["/usr/bin/claude", "runtime/../x/claude", "runtime/claude"] {
            symlink(target, shelf.libexec().join("claude")).unwrap();
            assert!(matches!(shelf.used(), Err(RuntimeError::NoLink(_))), "{target}");
            fs::remove_file(shelf.libexec().join("claude")).unwrap();
        }
    }

    #[test]
    fn versions_name_directories() {
        for version in ["2.1.197", "3.0.0-beta+1"] {
            check_version(version).unwrap();
        }
        for version in ["", ".", "..", "../x", "v1", "1/2", "1 2", "1\n", &"1".repeat(65)] {
            assert!(check_version(version).is_err(), "{version:?}");
        }
    }
}
