//! One directory of a tree, open: for those who walk and build trees entry by entry.
//!
//! The same rules hold as for a whole [`Tree`]: what is opened lies beneath, through no link,
//! across no mount, and is a directory or a regular file. Names are single parts of a path.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Gid, Mode, SeekFrom, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Tree, open, walk};

/// What an entry of a directory is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// A FIFO.
    Fifo,
    /// A socket, a device node, or something unknown.
    Other(&'static str),
}

/// What a socket is called.
pub const SOCKET: &str = "a socket";

/// The most bytes of the value of an extended attribute, and of the names of all of a file that the
/// kernel lists.
const LARGEST_ATTRIBUTES: usize = 64 * 1024;

/// A point in time as files have it: seconds since 1970, and nanoseconds.
pub type FileTime = (i64, u32);

/// How long behind a change something may be changed once more without its times telling: kernels before 6.13
/// keep them by the tick.
pub const TICK: Duration = Duration::from_millis(20);

/// From when on something that was changed may be changed once more by `now` without its times telling.
pub fn shortly_before(now: SystemTime) -> FileTime {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(TICK);
    (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos())
}

/// What the kernel says about an entry, itself and not what it leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with set-id and sticky bits.
    pub mode: u16,
    /// Bytes.
    pub size: u64,
    /// Time of the newest change of the content.
    pub modified: FileTime,
    /// Time of the newest change of anything; nobody can set it.
    pub changed: FileTime,
    /// Device and number of the file.
    pub inode: (u64, u64),
    /// How many names it has.
    pub names: u64,
    /// Whether there are holes in it.
    pub sparse: bool,
}

/// A directory of a tree, held open.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl Tree {
    /// The tree's directory itself.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn top(&self) -> io::Result<Dir> {
        Ok(Dir(self.root.try_clone()?))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Dir {
    /// The same directory once more.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn try_clone(&self) -> io::Result<Dir> {
        Ok(Dir(self.0.try_clone()?))
    }

    /// The names in it, sorted by their bytes.
    ///
    /// # Errors
    /// When the system fails.
    pub fn names(&self) -> io::Result<Vec<CString>> {
        self.some_names(u64::MAX - 1)
    }

    /// The names in it, sorted by their bytes; when there are more than `most`, any of them, and one
    /// more than that.
    ///
    /// # Errors
    /// When the system fails.
    pub fn some_names(&self, most: u64) -> io::Result<Vec<CString>> {
        let mut names = walk::names(self.as_fd(), most)?;
        names.sort_unstable();
        Ok(names)
    }

    /// What an entry is.
    ///
    /// # Errors
    /// When it is gone, or the system fails.
    pub fn stat(&self, name: &CStr) -> io::Result<Stat> {
        let stat = rustix::fs::statat(self, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Stat::of(&stat))
    }

    /// What the directory itself is.
    ///
    /// # Errors
    /// When the system fails.
    pub fn own_stat(&self) -> io::Result<Stat> {
        stat_of(self)
    }

    /// Opens a directory in it.
    ///
    /// # Errors
    /// When it is none, or another file system begins there.
    pub fn dir(&self, name: &CStr) -> io::Result<Dir> {
        Ok(Dir(open::dir(self.as_fd(), name.to_bytes())?))
    }

    /// Opens a regular file in it, or beneath it, for reading.
    ///
    /// # Errors
    /// When it is none, or the way leads through a link.
    pub fn file(&self, name: &CStr) -> io::Result<File> {
        Ok(open::file(self.as_fd(), name.to_bytes())?)
    }

    /// Has an empty file share all blocks of a regular file in it, or beneath it, and tells what that
    /// file is behind it; `None` when they cannot share. `shares` remembers whether any can.
    ///
    /// # Errors
    /// When it is not there, or the way leads through a link.
    pub fn share(&self, name: &CStr, to: &File, shares: &mut bool) -> io::Result<Option<Stat>> {
        // What it is need not be asked before: of anything else nothing is shared.
        let from = open::any(self.as_fd(), name.to_bytes())?;
        match super::copy::share(&from, to, shares) {
            true => stat_of(&from).map(Some),
            false => Ok(None),
        }
    }

    /// What a symbolic link says.
    ///
    /// # Errors
    /// When it is none.
    pub fn link(&self, name: &CStr) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(self, name, Vec::new())?.into_bytes())
    }

    /// Makes a directory, for root alone, and opens it.
    ///
    /// # Errors
    /// When something has this name, or the system fails.
    pub fn make_dir(&self, name: &CStr) -> io::Result<Dir> {
        Ok(Dir(open::new_dir(self.as_fd(), name.to_bytes())?))
    }

    /// Makes a regular file, for root alone, and opens it for writing.
    ///
    /// # Errors
    /// When something has this name, or the system fails.
    pub fn make_file(&self, name: &CStr) -> io::Result<File> {
        Ok(open::new_file(self.as_fd(), name.to_bytes())?)
    }

    /// Makes a regular file with the permission bits of a mode, without set-id and sticky bits, and
    /// opens it for writing. What the umask takes is missing; [`finish_made`] adds it.
    ///
    /// # Errors
    /// When something has this name, or the system fails.
    pub fn make_file_as(&self, name: &CStr, mode: u16) -> io::Result<File> {
        let mode = Mode::from_raw_mode((mode & 0o777).into());
        Ok(open::new_file_as(self.as_fd(), name.to_bytes(), mode)?)
    }

    /// Makes a symbolic link that says `target`, whatever that is.
    ///
    /// # Errors
    /// When something has this name, or the system fails.
    pub fn make_link(
        &self,
        name: &CStr,
        target: &CStr,
        owner: u32,
        at: FileTime,
    ) -> io::Result<()> {
        rustix::fs::symlinkat(target, self, name)?;
        self.own(name, owner)?;
        Ok(rustix::fs::utimensat(self, name, &times(at), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Makes a FIFO.
    ///
    /// # Errors
    /// When something has this name, or the system fails.
    pub fn make_fifo(&self, name: &CStr, owner: u32, mode: u16, at: FileTime) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode.into());
        rustix::fs::mknodat(self, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        self.own(name, owner)?;
        // Nobody but root can put something else in its place: the tree is only being built.
        rustix::fs::chmodat(self, name, mode, AtFlags::empty())?;
        Ok(rustix::fs::utimensat(self, name, &times(at), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Gives a file of another directory one more name in this one.
    ///
    /// # Errors
    /// When something has this name, or the system fails.
    pub fn make_name(&self, name: &CStr, (dir, of): (&Dir, &CStr)) -> io::Result<()> {
        Ok(rustix::fs::linkat(dir, of, self, name, AtFlags::empty())?)
    }

    fn own(&self, name: &CStr, owner: u32) -> Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
        rustix::fs::chownat(self, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
    }
}

impl Stat {
    #[expect(
        clippy::unnecessary_cast,
        reason = "the types of stat's fields differ between machines"
    )]
    fn of(stat: &rustix::fs::Stat) -> Stat {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Link,
            FileType::Fifo => Kind::Fifo,
            other => Kind::Other(walk::special(other)),
        };
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        Stat {
            kind,
            mode: (stat.st_mode & 0o7777) as u16,
            size,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as u32),
            inode: (stat.st_dev as u64, stat.st_ino as u64),
            names: stat.st_nlink as u64,
            sparse: blocks.saturating_mul(512) < size,
        }
    }
}

/// What is open.
///
/// # Errors
/// When the system fails.
pub fn stat_of(fd: impl AsFd) -> io::Result<Stat> {
    Ok(Stat::of(&rustix::fs::fstat(fd)?))
}

/// What an entry of a directory is, itself and not what it leads to.
pub(super) fn stat_in(dir: impl AsFd, name: &str) -> Result<Stat, Errno> {
    Ok(Stat::of(&rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?))
}

/// Gives what is open its owner and its permission bits.
///
/// # Errors
/// When the system fails.
pub fn give(fd: impl AsFd, owner: u32, mode: u32) -> io::Result<()> {
    Ok(open::give(fd, owner, mode)?)
}

/// Copies so many bytes of a file into an empty one, by sharing blocks where the file system can, and
/// leaves holes as they are. `shares` remembers whether it can.
///
/// # Errors
/// When the system fails.
pub fn copy(from: &File, to: &File, size: u64, shares: &mut bool) -> io::Result<()> {
    Ok(super::copy::contents(from, to, size, shares)?)
}

/// Waits for whoever is in the middle of a write into the file: it changes times when it begins,
/// and content until it ends. Where readers do not wait for it (ext4, btrfs), whoever looks for
/// data does. Direct writes over what is there are not waited for.
pub fn wait_for_writes(file: &File) {
    // What is found does not matter.
    let _ = rustix::fs::seek(file, SeekFrom::Data(0));
}

/// Gives what is open to a user and the group of the same number.
///
/// # Errors
/// When the system fails.
pub fn own(fd: impl AsFd, owner: u32) -> io::Result<()> {
    Ok(rustix::fs::fchown(&fd, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?)
}

/// Gives what is open its owner, its permission bits and its time, in the order in which they
/// last: a change of the owner takes set-id bits away.
///
/// # Errors
/// When the system fails.
pub fn finish(fd: impl AsFd, owner: u32, mode: u16, at: FileTime) -> io::Result<()> {
    own(&fd, owner)?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode.into()))?;
    Ok(rustix::fs::futimens(&fd, &times(at))?)
}

/// Like [`finish`], of a file that was [made with its mode](Dir::make_file_as): what is missing of that
/// is added. Returns what it is then.
///
/// # Errors
/// When the system fails.
pub fn finish_made(fd: impl AsFd, owner: u32, mode: u16, at: FileTime) -> io::Result<Stat> {
    own(&fd, owner)?;
    rustix::fs::futimens(&fd, &times(at))?;
    let stat = stat_of(&fd)?;
    if stat.mode == mode {
        return Ok(stat);
    }
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode.into()))?;
    stat_of(&fd)
}

/// Extended attributes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Attributes {
    /// Names and values, sorted by their names.
    pub all: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether there are more than were asked for.
    pub more: bool,
}

/// Extended attributes of what is open that its owner gave it: those whose names begin with
/// `user.`. The others say something to this machine only, or are root's to give. Those that make
/// more than so many bytes with the ones before them are left out.
///
/// # Errors
/// When the system fails, or they change meanwhile. A file system without such attributes has none.
pub fn attributes(fd: impl AsFd, most: usize) -> io::Result<Attributes> {
    let mut found = Attributes::default();
    // Most files have none.
    let length = match rustix::fs::flistxattr_query(&fd) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(found),
        other => other?,
    };
    let mut names = vec![0; length.min(LARGEST_ATTRIBUTES)];
    let length = match rustix::fs::flistxattr(&fd, &mut names[..]) {
        // Their names alone: nobody can ask for so many.
        Err(Errno::TOOBIG) => return Ok(Attributes { more: true, ..found }),
        length => length?,
    };
    let names = names[..length].split(|byte| *byte == 0);
    let mut names: Vec<&[u8]> = names.filter(|name| name.starts_with(b"user.")).collect();
    names.sort_unstable();
    let mut left = most;
    // All are read into this one: whoever keeps a small value must not keep room for the largest.
    let mut value = vec![0; LARGEST_ATTRIBUTES];
    for name in names {
        let length = rustix::fs::fgetxattr(&fd, name, &mut value[..])?;
        let Some(rest) = left.checked_sub(name.len() + length) else {
            found.more = true;
            break;
        };
        left = rest;
        found.all.push((name.to_vec(), value[..length].to_vec()));
    }
    Ok(found)
}

/// Gives what is open an extended attribute.
///
/// # Errors
/// When the system fails.
pub fn set_attribute(fd: impl AsFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())?)
}

fn times((seconds, nanoseconds): FileTime) -> Timestamps {
    let time = Timespec { tv_sec: seconds as _, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Instant;

    use super::*;

    /// Bytes that are written in one call: so many that one can look while it is under way.
    const WRITTEN: usize = 64 << 20;

    /// How often that is tried, at most, and how often it has to be caught.
    const WRITES: u8 = 30;
    const CAUGHT: u8 = 3;

    /// What its last byte is, which is written last.
    fn last(file: &File) -> u8 {
        let mut byte = [0];
        file.read_exact_at(&mut byte, WRITTEN as u64 - 1).unwrap();
        byte[0]
    }

    /// Waits until the times of a file say that somebody has begun to write into it.
    fn begins(file: &File) {
        let end = Instant::now() + Duration::from_secs(60);
        while file.metadata().unwrap().modified().unwrap() == SystemTime::UNIX_EPOCH {
            assert!(Instant::now() < end, "nobody writes");
        }
    }

    #[test]
    fn whoever_is_in_the_middle_of_a_write_is_waited_for() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![0; WRITTEN], 0).unwrap();
        let mut caught = 0;
        thread::scope(|scope| {
            let (write, asked) = mpsc::channel::<u8>();
            let file = &file;
            scope.spawn(move || {
                for byte in asked {
                    file.write_all_at(&vec![byte; WRITTEN], 0).unwrap();
                }
            });
            for byte in 1..=WRITES {
                file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
                write.send(byte).unwrap();
                begins(file);
                // It may be over by now, and where readers wait they have waited.
                caught += u8::from(last(file) != byte);
                wait_for_writes(file);
                assert_eq!(last(file), byte, "it was not waited for");
                if caught == CAUGHT {
                    break;
                }
            }
        });
        if caught == 0 {
            println!("SKIP: no write was seen half done where temporary files are");
        }
    }

    #[test]
    fn attributes_are_read_up_to_a_bound() {
        let file = tempfile::tempfile().unwrap();
        if set_attribute(&file, b"user.b", b"22").is_err() {
            println!("SKIP: the file system of temporary files has no attributes");
            return;
        }
        set_attribute(&file, b"user.c", &[3; 1000]).unwrap();
        set_attribute(&file, b"user.a", b"1").unwrap();
        let bound = |most: usize| {
            let found = attributes(&file, most).unwrap();
            (found.all.into_iter().map(|(name, _)| name[5]).collect::<Vec<_>>(), found.more)
        };
        assert_eq!(bound(2000), (b"abc".to_vec(), false));
        assert_eq!(bound(1000), (b"ab".to_vec(), true));
        assert_eq!(bound(15), (b"ab".to_vec(), true));
        assert_eq!(bound(14), (b"a".to_vec(), true));
        assert_eq!(bound(0), (vec![], true));
        // What is kept of them is no larger than they are.
        let kept = attributes(&file, 2000).unwrap().all.into_iter();
        let room: usize = kept.map(|(_, value)| value.capacity()).sum();
        assert!(room < 2000, "{room}");
    }

    fn somewhere() -> (tempfile::TempDir, Dir) {
        let place = tempfile::tempdir().unwrap();
        let dir = Tree::open(place.path()).unwrap().top().unwrap();
        (place, dir)
    }

    #[test]
    fn a_file_gets_the_bits_that_it_was_not_made_with() {
        let (_place, dir) = somewhere();
        let owner = rustix::process::geteuid().as_raw();
        let names = [c"a", c"b", c"c", c"d", c"e", c"f", c"g"];
        for (name, mode) in names.into_iter().zip([0, 0o444, 0o600, 0o777, 0o4755, 0o2710, 0o1000])
        {
            let file = dir.make_file_as(name, mode).unwrap();
            let made = dir.stat(name).unwrap().mode;
            assert_eq!(made & !(mode & 0o777), 0, "{made:o} of {mode:o}");
            for mode in [mode, mode ^ 0o6666] {
                let told = finish_made(&file, owner, mode, (1_000_000_000, 7)).unwrap();
                assert_eq!((told.mode, told.modified), (mode, (1_000_000_000, 7)));
                assert_eq!(told, dir.stat(name).unwrap());
            }
        }
        let again = dir.make_file_as(c"a", 0o600).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn blocks_are_shared_with_nothing_but_regular_files() {
        let (place, dir) = somewhere();
        std::fs::create_dir(place.path().join("dir")).unwrap();
        std::fs::write(place.path().join("dir/file"), [7u8; 10_000]).unwrap();
        std::os::unix::fs::symlink("dir/file", place.path().join("link")).unwrap();
        dir.make_fifo(c"fifo", rustix::process::geteuid().as_raw(), 0o600, (0, 0)).unwrap();
        let to = dir.make_file(c"to").unwrap();
        for name in [c"dir", c"fifo"] {
            assert_eq!(dir.share(name, &to, &mut true).unwrap(), None, "{name:?}");
        }
        for name in [c"link", c"none"] {
            assert!(dir.share(name, &to, &mut true).is_err(), "{name:?}");
        }
        // Nor is it tried where it is known to be in vain.
        assert_eq!(dir.share(c"dir/file", &to, &mut false).unwrap(), None);
        assert_eq!(to.metadata().unwrap().len(), 0);
    }

    #[test]
    fn whoever_shares_blocks_is_told_of_what() {
        let (place, dir) = somewhere();
        std::fs::write(place.path().join("file"), [7u8; 10_000]).unwrap();
        let to = dir.make_file(c"to").unwrap();
        let mut shares = true;
        let shared = dir.share(c"file", &to, &mut shares).unwrap();
        assert_eq!(shared.is_some(), shares);
        if !shares {
            println!("SKIP: the file system of temporary files shares no blocks");
            return;
        }
        assert_eq!(shared, Some(dir.stat(c"file").unwrap()));
        assert_eq!(std::fs::read(place.path().join("to")).unwrap(), [7u8; 10_000]);
    }
}
