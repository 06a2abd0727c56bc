//! Opening things in a directory: beneath it, through no link, across no mount.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Never waits for the other end of a FIFO nor for who has a lease on a file, never makes a terminal ours, never leaks.
const ALWAYS: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

fn beneath(dir: BorrowedFd<'_>, rel: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    until_sure(|| rustix::fs::openat2(dir, rel, flags | ALWAYS, mode, RESOLVE))
}

/// EAGAIN: something was renamed or mounted somewhere meanwhile, and the kernel could not be sure that
/// the way stays beneath; it asks to try again (openat2(2)). What does not pass is a lease on the file,
/// which the kernel has asked back by then (fcntl(2)).
fn until_sure(open: impl Fn() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    for _ in 0..16 {
        match open() {
            Err(Errno::AGAIN | Errno::INTR) => {}
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
    regular(until_sure(|| rustix::fs::openat2(dir, rel, flags, Mode::empty(), RESOLVE))?)
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

/// Opens anything as a mere place, following links as long as they stay beneath.
pub(super) fn follow(dir: BorrowedFd<'_>, rel: &[u8]) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    until_sure(|| rustix::fs::openat2(dir, rel, flags, Mode::empty(), resolve))
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
