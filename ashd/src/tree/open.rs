//! Opening things in a directory: beneath it, through no link, across no mount.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use rustix::fs::{FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Never waits for the other end of a FIFO nor for who has a lease on a file, never makes a terminal ours, never leaks.
const ALWAYS: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// How often it is tried at once to open something.
const AT_ONCE: u32 = 16;

/// How often it is tried in all to follow a link. That somebody on this machine renames without end is no
/// reason to give up soon.
const TRIES: u32 = 512;

/// EAGAIN: somebody has a lease on the file (fcntl(2)). Paths have no `..` and lead through no links, so that the
/// kernel is always sure that they stay beneath.
fn beneath(dir: BorrowedFd<'_>, rel: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    until_sure(AT_ONCE, || rustix::fs::openat2(dir, rel, flags | ALWAYS, mode, RESOLVE))
}

/// EAGAIN: something was renamed or mounted somewhere on this machine while the way led up, and the kernel could
/// not be sure that it stays beneath; it asks to try again (openat2(2)). After some tries others get the processor
/// in between.
fn until_sure(tries: u32, open: impl Fn() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    for tried in 1..=tries {
        match open() {
            Err(Errno::AGAIN | Errno::INTR) if tried < AT_ONCE => {}
            Err(Errno::AGAIN | Errno::INTR) => thread::yield_now(),
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens whatever it is for reading.
pub(super) fn any(dir: BorrowedFd<'_>, rel: &[u8]) -> Result<OwnedFd, Errno> {
    beneath(dir, rel, OFlags::RDONLY, Mode::empty())
}

/// Opens a regular file for reading.
pub(super) fn file(dir: BorrowedFd<'_>, rel: &[u8]) -> Result<File, Errno> {
    regular(any(dir, rel)?).map(File::from)
}

/// Opens a regular file as a mere place, which can be asked what it is, and no more: a lease on it is
/// not in the way.
pub(super) fn place(dir: BorrowedFd<'_>, rel: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    regular(until_sure(AT_ONCE, || rustix::fs::openat2(dir, rel, flags, Mode::empty(), RESOLVE))?)
}

fn regular(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
        FileType::RegularFile => Ok(fd),
        _ => Err(Errno::ISDIR),
    }
}

/// Opens a directory.
pub(super) fn dir(parent: BorrowedFd<'_>, rel: &[u8]) -> Result<OwnedFd, Errno> {
    beneath(parent, rel, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// Opens anything as a mere place, following links as long as they stay beneath. EAGAIN: the kernel was not sure
/// that they do, however often it was asked.
pub(super) fn follow(dir: BorrowedFd<'_>, rel: &[u8]) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    until_sure(TRIES, || rustix::fs::openat2(dir, rel, flags, Mode::empty(), resolve))
}

/// Makes a regular file that must not exist, for writing and for nobody else yet.
pub(super) fn new_file(dir: BorrowedFd<'_>, rel: &[u8]) -> Result<File, Errno> {
    new_file_as(dir, rel, Mode::RUSR | Mode::WUSR)
}

/// Makes a regular file that must not exist, for writing, with a mode from which the umask is taken.
pub(super) fn new_file_as(dir: BorrowedFd<'_>, rel: &[u8], mode: Mode) -> Result<File, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    beneath(dir, rel, flags, mode).map(File::from)
}

/// Makes a directory that must not exist and opens it.
pub(super) fn new_dir(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    dir(parent, name)
}

/// Sets owner and mode of what is open. The owner first: a change of it clears mode bits.
pub(super) fn give(fd: impl AsFd, owner: u32, mode: u32) -> Result<(), Errno> {
    rustix::fs::fchown(&fd, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode & 0o777))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Follows a link of which the kernel is sure at this try; how often it was tried, and what came of it.
    fn follow(sure_at: u32) -> (u32, Option<Errno>) {
        let tried = Cell::new(0);
        let opened = until_sure(TRIES, || {
            tried.set(tried.get() + 1);
            Err(if tried.get() < sure_at { Errno::AGAIN } else { Errno::XDEV })
        });
        (tried.get(), opened.err())
    }

    #[test]
    fn what_the_kernel_is_not_sure_of_is_tried_again_up_to_a_bound() {
        for sure_at in [1, 2, AT_ONCE + 1, TRIES] {
            assert_eq!(follow(sure_at), (sure_at, Some(Errno::XDEV)));
        }
        assert_eq!(follow(u32::MAX), (TRIES, Some(Errno::AGAIN)));
    }
}
