//! Which files there are.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;

use super::dir::{self, FileTime};
use super::{MAX_DEPTH, RelPath, Tree, TreeError, open, shown, walk};

/// A regular file of a tree.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Found {
    /// Its path in the tree.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Time of the newest change of the content.
    pub modified: FileTime,
}

/// The regular files of a tree.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Listing {
    /// Them, each directory sorted by name.
    pub files: Vec<Found>,
    /// Whether there are more than were wanted.
    pub cut: bool,
}

struct Lister<'a> {
    wanted: &'a dyn Fn(&str) -> bool,
    left: u64,
    path: String,
    listing: Listing,
}

impl Tree {
    /// Lists the regular files whose names, and those of the directories above, are `wanted`. Looks
    /// at no more than `max` entries, and never has the names of more in memory. Links are not
    /// followed and not listed; what disappears meanwhile, lies deeper than 128 directories, or has
    /// a name that no path can say, is left out.
    ///
    /// # Errors
    /// When the system fails.
    pub fn list(&self, max: u64, wanted: &dyn Fn(&str) -> bool) -> Result<Listing, TreeError> {
        let listing = Listing::default();
        let mut lister = Lister { wanted, left: max, path: String::new(), listing };
        lister.dir(self.fd(), 1)?;
        Ok(lister.listing)
    }

    /// Opens a regular file for reading, and says what it is.
    ///
    /// # Errors
    /// As for [`read`](Self::read), but for the size.
    pub fn open_file(&self, rel: &RelPath) -> Result<(std::fs::File, dir::Stat), TreeError> {
        let file = self.file(rel)?;
        let stat = dir::stat_of(&file).map_err(|error| TreeError::io(rel.as_str(), error))?;
        Ok((file, stat))
    }
}

impl Lister<'_> {
    fn dir(&mut self, dir: BorrowedFd<'_>, depth: usize) -> Result<(), TreeError> {
        let names = walk::names(dir, self.left);
        let mut names =
            names.map_err(|error| TreeError::at(&shown(self.path.as_bytes()), error))?;
        names.sort_unstable();
        if names.len() as u64 > self.left {
            self.listing.cut = true;
            names.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        }
        // Those that are still to come count as well: they are held until then.
        self.left -= names.len() as u64;
        names.iter().try_for_each(|name| self.entry(dir, name, depth))
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<(), TreeError> {
        let Some(text) = name.to_str().ok().filter(|text| (self.wanted)(text)) else {
            return Ok(());
        };
        let Ok((kind, _)) = walk::stat(dir, name) else { return Ok(()) };
        let before = self.path.len();
        if before > 0 {
            self.path.push('/');
        }
        self.path.push_str(text);
        let done = match kind {
            FileType::RegularFile => {
                self.file(dir, name);
                Ok(())
            }
            FileType::Directory if depth < MAX_DEPTH => match open::dir(dir, name.to_bytes()) {
                Ok(child) => self.dir(child.as_fd(), depth + 1),
                // It is gone, is something else by now, or is a mount.
                Err(_) => Ok(()),
            },
            _ => Ok(()),
        };
        self.path.truncate(before);
        done
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &CStr) {
        if RelPath::parse(&self.path).is_err() {
            return;
        }
        if let Ok(file) = open::place(dir, name.to_bytes())
            && let Ok(stat) = dir::stat_of(&file)
        {
            let path = self.path.clone();
            self.listing.files.push(Found { path, size: stat.size, modified: stat.modified });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn paths(listing: &Listing) -> Vec<&str> {
        listing.files.iter().map(|file| file.path.as_str()).collect()
    }

    #[test]
    fn files_are_listed_and_links_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("b/.git")).unwrap();
        for (path, text) in [("a", "12"), ("b/c", "3"), ("b/.git/x", "y"), ("b/\n", "z")] {
            std::fs::write(root.join(path), text).unwrap();
        }
        symlink("/etc", root.join("etc")).unwrap();
        symlink("/etc/passwd", root.join("passwd")).unwrap();
        symlink("..", root.join("b/up")).unwrap();
        let tree = Tree::open(root).unwrap();
        let listing = tree.list(100, &|name| name != ".git").unwrap();
        assert_eq!((paths(&listing), listing.cut), (vec!["a", "b/c"], false));
        assert_eq!(listing.files[0].size, 2);
        let cut = tree.list(1, &|_| true).unwrap();
        assert!(cut.cut && cut.files.len() <= 1);
    }

    #[test]
    fn names_that_are_held_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("0/0");
        std::fs::create_dir_all(&deep).unwrap();
        for above in [dir.path(), &dir.path().join("0"), &deep] {
            for name in ["a", "b", "c", "d"] {
                std::fs::write(above.join(name), "").unwrap();
            }
        }
        let tree = Tree::open(dir.path()).unwrap();
        let list = |max| tree.list(max, &|_| true).unwrap();
        assert_eq!((list(14).files.len(), list(14).cut), (12, false));
        let cut = list(7);
        let top = paths(&cut).into_iter().filter(|path| !path.contains('/'));
        assert_eq!(top.collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert!(cut.cut && cut.files.len() <= 7, "{:?}", paths(&cut));
    }

    #[test]
    fn a_directory_that_becomes_a_link_lists_nothing_from_outside() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        let (place, root) = (dir.path().join("d"), dir.path().to_owned());
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("mine"), "m").unwrap();
        let tree = Tree::open(&root).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (aside, link) = (root.join("aside"), root.join("link"));
                symlink(outside.path(), &link).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    std::fs::rename(&place, &aside).unwrap();
                    std::fs::rename(&link, &place).unwrap();
                    std::fs::rename(&place, &link).unwrap();
                    std::fs::rename(&aside, &place).unwrap();
                }
            });
            let secret = RelPath::parse("d/secret").unwrap();
            for _ in 0..2_000 {
                let listing = tree.list(100, &|_| true).unwrap();
                let open = tree.open_file(&secret);
                if listing.files.iter().any(|file| file.path.ends_with("secret")) || open.is_ok() {
                    stop.store(true, Ordering::Relaxed);
                    panic!("led outside");
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
