//! Putting into a tree what was made outside of it, and taking things out.
//!
//! What is put was written where no agent reaches, on the same file system, and comes in by one
//! rename: an agent, a reader or a snapshot sees the old one or the new one.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;

use super::dir::{self, Stat};
use super::walk::{self, Meter, names};
use super::{RelPath, Tree, TreeError, TreeLimits, open, shown};
use crate::fault;

/// What may be in the way of something that is put into a tree.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Over {
    /// Nothing.
    Nothing,
    /// Anything but a directory, which is replaced. A link is replaced, not followed.
    Files,
}

impl Over {
    fn flags(self) -> RenameFlags {
        match self {
            Over::Nothing => RenameFlags::NOREPLACE,
            Over::Files => RenameFlags::empty(),
        }
    }
}

impl Tree {
    /// What there is at a path, itself and not what it leads to; `None` when nothing is.
    ///
    /// # Errors
    /// [`TreeError::ThroughLink`] and [`TreeError::NotDirectory`] of what lies above.
    pub fn look(&self, rel: &RelPath) -> Result<Option<Stat>, TreeError> {
        let looked = self.above(rel).and_then(|(dir, last)| dir::stat_in(&dir, last));
        match looked {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(TreeError::at(rel.as_str(), error)),
        }
    }

    /// Moves the file `name` out of `from` to a path of this tree, and returns when that is on the
    /// disk. Directories on the way are made, for `owner`.
    ///
    /// # Errors
    /// [`TreeError::Duplicate`] with [`Over::Nothing`], [`TreeError::NotFile`] when a directory is
    /// there, [`TreeError::ThroughLink`] and [`TreeError::NotDirectory`] of what lies above.
    pub fn put(
        &self,
        rel: &RelPath,
        (from, name): (&Tree, &str),
        over: Over,
        owner: u32,
    ) -> Result<(), TreeError> {
        let at = |error| TreeError::at(rel.as_str(), error);
        let is_new_place = matches!(self.above(rel), Err(Errno::NOENT));
        let (dir, last) = self.parent(rel, owner)?;
        rustix::fs::renameat_with(from.fd(), name, &dir, last, over.flags()).map_err(at)?;
        rustix::fs::fsync(&dir).map_err(at)?;
        if is_new_place { self.sync_above(rel).map_err(at) } else { Ok(()) }
    }

    /// Removes a file, and returns when that is on the disk. A link is removed, not followed.
    ///
    /// # Errors
    /// [`TreeError::Missing`], [`TreeError::NotFile`] for a directory, and as for
    /// [`look`](Self::look).
    pub fn remove(&self, rel: &RelPath) -> Result<(), TreeError> {
        let at = |error| TreeError::at(rel.as_str(), error);
        let (dir, last) = self.above(rel).map_err(at)?;
        match rustix::fs::unlinkat(&dir, last, AtFlags::empty()) {
            Err(Errno::ISDIR) => return Err(TreeError::NotFile(rel.as_str().to_owned())),
            removed => removed.map_err(at)?,
        }
        rustix::fs::fsync(&dir).map_err(at)
    }

    /// Moves a file, or a directory with everything beneath it, out to `name` in `to`, where nothing
    /// is, and returns when it is gone from here on the disk. That takes as long for a large one as
    /// for a small one, and whoever works in it cannot stand in the way.
    ///
    /// # Errors
    /// As for [`remove`](Self::remove), but for directories.
    pub fn move_out(&self, rel: &RelPath, (to, name): (&Tree, &str)) -> Result<(), TreeError> {
        let at = |error| TreeError::at(rel.as_str(), error);
        let (dir, last) = self.above(rel).map_err(at)?;
        let flags = RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(&dir, last, to.fd(), name, flags).map_err(at)?;
        rustix::fs::fsync(&dir).map_err(at)
    }

    /// Moves everything in `from` into this tree: files and links take the places of those that are
    /// there, directories come together with those that are there, which keep their modes.
    ///
    /// Looks through everything first, and changes nothing when something does not fit. That it is on
    /// the disk is the caller's to see to ([`sync`](Self::sync)).
    ///
    /// # Errors
    /// [`TreeError::NotDirectory`] where a directory would take the place of something else,
    /// [`TreeError::NotFile`] the other way round.
    pub fn merge(&self, from: &Tree, limits: TreeLimits) -> Result<(), TreeError> {
        for act in [false, true] {
            let mut merge = Merge { meter: Meter::new(limits), act };
            merge.dir(from.fd(), self.fd())?;
        }
        Ok(())
    }

    /// The directory that holds what is at a path, and its name there.
    fn above<'a>(&self, rel: &'a RelPath) -> Result<(OwnedFd, &'a str), Errno> {
        match rel.as_str().rsplit_once('/') {
            Some((above, last)) => Ok((open::dir(self.fd(), above.as_bytes())?, last)),
            None => Ok((open::dir(self.fd(), b".")?, rel.as_str())),
        }
    }

    /// Waits until the names of all directories above a path are on the disk.
    fn sync_above(&self, rel: &RelPath) -> Result<(), Errno> {
        rustix::fs::fsync(self.fd())?;
        let mut above = rel.as_str().match_indices('/').map(|(end, _)| &rel.as_str()[..end]);
        above.try_for_each(|dir| {
            let dir = open::dir(self.fd(), dir.as_bytes())?;
            rustix::fs::fsync(dir)
        })
    }
}

/// Going through what is to be merged: first only looking, then acting.
struct Merge {
    meter: Meter,
    act: bool,
}

impl Merge {
    fn dir(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), TreeError> {
        for name in names(from, self.meter.room()).map_err(|error| self.meter.at(error))? {
            self.meter.count()?;
            let before = self.meter.enter(name.to_bytes());
            let done = self.entry(from, to, &name);
            self.meter.leave(before);
            done?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<(), TreeError> {
        let (new, _) = walk::stat(from, name).map_err(|error| self.meter.at(error))?;
        let old = match walk::stat(to, name) {
            Ok((kind, _)) => Some(kind),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(self.meter.at(error)),
        };
        let path = || shown(self.meter.path());
        match (new == FileType::Directory, old) {
            (true, Some(FileType::Directory)) => {
                let source = open::dir(from, name.to_bytes());
                let source = source.map_err(|error| self.meter.at(error))?;
                let target = open::dir(to, name.to_bytes());
                let target = target.map_err(|error| self.meter.at(error))?;
                self.meter.descend()?;
                let done = self.dir(source.as_fd(), target.as_fd());
                self.meter.ascend();
                done
            }
            (true, Some(_)) => Err(TreeError::NotDirectory(path())),
            (false, Some(FileType::Directory)) => Err(TreeError::NotFile(path())),
            // A directory comes in whole.
            (is_dir, _) if self.act => {
                let over = if is_dir { Over::Nothing } else { Over::Files };
                let moved = rustix::fs::renameat_with(from, name, to, name, over.flags());
                let moved = moved.inspect(|()| fault::point("merge.moved"));
                moved.map_err(|error| self.meter.at(error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    struct Two {
        _dirs: (tempfile::TempDir, tempfile::TempDir),
        tree: Tree,
        outside: Tree,
    }

    fn owner() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn two() -> (Two, std::path::PathBuf, std::path::PathBuf) {
        let dirs = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let paths = (dirs.0.path().to_owned(), dirs.1.path().to_owned());
        let (tree, outside) = (Tree::open(&paths.0).unwrap(), Tree::open(&paths.1).unwrap());
        (Two { _dirs: dirs, tree, outside }, paths.0, paths.1)
    }

    fn rel(path: &str) -> RelPath {
        RelPath::parse(path).unwrap()
    }

    impl Two {
        fn put(&self, path: &str, over: Over) -> Result<(), TreeError> {
            self.outside.create("new", 0o644, owner(), b"new").unwrap();
            self.tree.put(&rel(path), (&self.outside, "new"), over, owner())
        }
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_file_is_put_where_it_belongs() {
        let (two, root, _) = two();
        two.put("a/b/c", Over::Nothing).unwrap();
        assert_eq!(read(&root.join("a/b/c")), "new");
        assert_eq!(fs::metadata(root.join("a")).unwrap().mode() & 0o777, 0o755);
        assert!(matches!(two.put("a/b/c", Over::Nothing), Err(TreeError::Duplicate(_))));
        two.put("a/b/c", Over::Files).unwrap();
        assert!(matches!(two.put("a/b", Over::Files), Err(TreeError::NotFile(_))));
        assert!(matches!(two.put("a/b/c/d", Over::Files), Err(TreeError::NotDirectory(_))));
        assert_eq!(two.tree.look(&rel("a/b/c")).unwrap().unwrap().size, 3);
        assert_eq!(two.tree.look(&rel("a/x/c")).unwrap(), None);
    }

    #[test]
    fn links_are_replaced_and_never_followed() {
        let (two, root, outside) = two();
        fs::write(outside.join("theirs"), "theirs").unwrap();
        symlink(outside.join("theirs"), root.join("link")).unwrap();
        symlink(&outside, root.join("dir")).unwrap();
        two.put("link", Over::Files).unwrap();
        assert_eq!(read(&root.join("link")), "new");
        assert_eq!(read(&outside.join("theirs")), "theirs");
        assert!(matches!(two.put("dir/x", Over::Files), Err(TreeError::ThroughLink(_))));
        assert!(matches!(two.tree.remove(&rel("dir/theirs")), Err(TreeError::ThroughLink(_))));
        two.tree.remove(&rel("dir")).unwrap();
        assert_eq!(read(&outside.join("theirs")), "theirs");
    }

    #[test]
    fn a_directory_goes_only_as_a_whole() {
        let (two, root, outside) = two();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/c"), "").unwrap();
        assert!(matches!(two.tree.remove(&rel("a")), Err(TreeError::NotFile(_))));
        two.tree.remove(&rel("a/b/c")).unwrap();
        let outside = Tree::open(&outside).unwrap();
        two.tree.move_out(&rel("a"), (&outside, "gone")).unwrap();
        assert_eq!(two.tree.look(&rel("a")).unwrap(), None);
        assert!(outside.look(&rel("gone/b")).unwrap().is_some());
        let missing = two.tree.move_out(&rel("a"), (&outside, "other"));
        assert!(matches!(missing, Err(TreeError::Missing(_))));
    }

    #[test]
    fn trees_come_together() {
        let (two, root, from) = two();
        for dir in [root.join("both"), from.join("both"), from.join("new/deep")] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::set_permissions(root.join("both"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(root.join("both/kept"), "kept").unwrap();
        fs::write(root.join("both/file"), "old").unwrap();
        fs::write(from.join("both/file"), "new").unwrap();
        fs::write(from.join("new/deep/file"), "deep").unwrap();
        symlink("/nowhere", from.join("both/link")).unwrap();
        two.tree.merge(&two.outside, TreeLimits::default()).unwrap();
        let texts = ["both/kept", "both/file", "new/deep/file"].map(|path| read(&root.join(path)));
        assert_eq!(texts, ["kept", "new", "deep"]);
        assert_eq!(fs::read_link(root.join("both/link")).unwrap(), Path::new("/nowhere"));
        assert_eq!(fs::metadata(root.join("both")).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let (two, root, from) = two();
        fs::create_dir_all(from.join("z")).unwrap();
        fs::write(from.join("a"), "new").unwrap();
        fs::write(from.join("z/x"), "new").unwrap();
        let merge = || two.tree.merge(&two.outside, TreeLimits::default());
        fs::create_dir(root.join("a")).unwrap();
        assert!(matches!(merge(), Err(TreeError::NotFile(path)) if path == "a"));
        fs::remove_dir(root.join("a")).unwrap();
        // Also a link to a directory is in the way: it would lead elsewhere.
        symlink(&from, root.join("z")).unwrap();
        assert!(matches!(merge(), Err(TreeError::NotDirectory(path)) if path == "z"));
        assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
        fs::remove_file(root.join("z")).unwrap();
        let few = TreeLimits { files: 1, bytes: 0 };
        assert!(matches!(two.tree.merge(&two.outside, few), Err(TreeError::TooMany(1))));
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    }
}
