//! Copying a tree into another one.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, SeekFrom, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::path::stays_inside;
use super::walk::{Meter, names, special, stat};
use super::{Summary, Tree, TreeError, TreeLimits, open, shown};

/// Which links are copied. They are copied as they are, never followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Links {
    /// Those that stay inside by their words; another one is an error. For agents' folders.
    Inside,
    /// All. For workspaces, where a virtual environment's `python` leads to `/usr/bin`: what a
    /// link says counts inside the sandbox only.
    All,
}

/// One copy under way.
struct Copy {
    meter: Meter,
    owner: u32,
    links: Links,
    /// Whether the file system may still turn out to share blocks.
    shares: bool,
}

impl Tree {
    /// Copies everything into `to`, which must hold nothing of the same names; all of it gets
    /// `owner` as uid and gid. Modes (without set-id and sticky bits) and times of modification
    /// are kept, holes in files stay holes, and blocks are shared where the file system can.
    ///
    /// FIFOs, sockets and device nodes are errors with [`Links::Inside`] and left out with
    /// [`Links::All`]: a socket that a program left in a workspace must not make it unsaveable.
    ///
    /// # Errors
    /// The first thing that cannot be copied; what was copied before stays.
    pub fn copy_into(
        &self,
        to: &Tree,
        owner: u32,
        limits: TreeLimits,
        links: Links,
    ) -> Result<Summary, TreeError> {
        let mut copy = Copy { meter: Meter::new(limits), owner, links, shares: true };
        copy.dir(self.fd(), to.fd())?;
        Ok(Summary { files: copy.meter.files, bytes: copy.meter.bytes })
    }

    /// Gives everything in the tree, and the tree itself, to `owner` as uid and gid.
    ///
    /// # Errors
    /// When the tree is larger than `limits`, or the system fails.
    pub fn chown(&self, owner: u32, limits: TreeLimits) -> Result<(), TreeError> {
        let mut meter = Meter::new(limits);
        chown_dir(self.fd(), owner, &mut meter)?;
        rustix::fs::fchown(self.fd(), Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))
            .map_err(|error| meter.at(error))
    }
}

impl Copy {
    fn dir(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), TreeError> {
        for name in names(from, self.meter.room()).map_err(|error| self.meter.at(error))? {
            self.meter.count()?;
            match self.within(name.to_bytes(), |copy| copy.entry(from, to, &name)) {
                // Deleted since it was listed: as if it had been before.
                Ok(()) | Err(TreeError::Missing(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<(), TreeError> {
        let (kind, stat) = stat(from, name).map_err(|error| self.meter.at(error))?;
        match kind {
            FileType::RegularFile => self.file(from, to, name),
            FileType::Directory => self.subdir(from, to, (name, &stat)),
            FileType::Symlink => self.link(from, to, (name, &stat)),
            kind if self.links == Links::Inside => {
                let path = shown(self.meter.path());
                Err(TreeError::Special { path, what: special(kind) })
            }
            _ => Ok(()),
        }
    }

    fn subdir(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        (name, stat): (&CStr, &Stat),
    ) -> Result<(), TreeError> {
        let name = name.to_bytes();
        let source = open::dir(from, name).map_err(|error| self.meter.at(error))?;
        let target = open::new_dir(to, name).map_err(|error| self.meter.at(error))?;
        self.down(|copy| copy.dir(source.as_fd(), target.as_fd()))?;
        open::give(&target, self.owner, stat.st_mode)
            .and_then(|()| rustix::fs::futimens(&target, &modified(stat)))
            .map_err(|error| self.meter.at(error))
    }

    fn link(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        (name, stat): (&CStr, &Stat),
    ) -> Result<(), TreeError> {
        let at = |error| self.meter.at(error);
        let target = rustix::fs::readlinkat(from, name, Vec::new()).map_err(at)?;
        if self.links == Links::Inside && !stays_inside(self.meter.depth(), target.to_bytes()) {
            return Err(TreeError::Escapes(shown(self.meter.path())));
        }
        let (uid, gid) = (Uid::from_raw(self.owner), Gid::from_raw(self.owner));
        let itself = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::symlinkat(&target, to, name).map_err(at)?;
        rustix::fs::chownat(to, name, Some(uid), Some(gid), itself).map_err(at)?;
        rustix::fs::utimensat(to, name, &modified(stat), itself).map_err(at)
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<(), TreeError> {
        let name = name.to_bytes();
        let source = open::file(from, name).map_err(|error| self.meter.at(error))?;
        let stat = rustix::fs::fstat(&source).map_err(|error| self.meter.at(error))?;
        let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        self.meter.add(size)?;
        let target = open::new_file(to, name).map_err(|error| self.meter.at(error))?;
        // What it held when it was opened.
        contents(&source, &target, size, &mut self.shares)
            .and_then(|()| open::give(&target, self.owner, stat.st_mode))
            .and_then(|()| rustix::fs::futimens(&target, &modified(&stat)))
            .map_err(|error| self.meter.at(error))
    }

    fn within<T>(
        &mut self,
        name: &[u8],
        body: impl FnOnce(&mut Self) -> Result<T, TreeError>,
    ) -> Result<T, TreeError> {
        let before = self.meter.enter(name);
        let done = body(self);
        self.meter.leave(before);
        done
    }

    fn down<T>(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<T, TreeError>,
    ) -> Result<T, TreeError> {
        self.meter.descend()?;
        let done = body(self);
        self.meter.ascend();
        done
    }
}

/// Copies `size` bytes of a file into an empty one: by sharing blocks while that seems possible
/// (`shares`), else what is not a hole.
pub(super) fn contents(from: &File, to: &File, size: u64, shares: &mut bool) -> Result<(), Errno> {
    if share(from, to, shares) {
        // It may have grown since it was counted. Looking costs less than cutting off nothing.
        return match length(to)? == size {
            true => Ok(()),
            false => rustix::fs::ftruncate(to, size),
        };
    }
    if !is_sparse(from)? {
        return extent(from, to, 0..size);
    }
    let mut at = 0;
    while let Some((start, end)) = data(from, at, size)? {
        extent(from, to, start..end)?;
        at = end;
    }
    rustix::fs::ftruncate(to, size)
}

/// Has an empty file share all blocks of another one; false when it does not. `shares` is whether that
/// seems possible, and is false from when the file system cannot. Blocks of regular files are shared,
/// and of nothing else.
pub(super) fn share(from: impl AsFd, to: &File, shares: &mut bool) -> bool {
    if !*shares {
        return false;
    }
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => true,
        Err(error) => {
            // Else it is this file that cannot: another one may.
            *shares = !matches!(error, Errno::OPNOTSUPP | Errno::NOTTY | Errno::XDEV);
            false
        }
    }
}

/// Whether there are holes in a file.
fn is_sparse(file: &File) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(file)?;
    let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
    Ok(blocks.saturating_mul(512) < u64::try_from(stat.st_size).unwrap_or(0))
}

fn length(file: &File) -> Result<u64, Errno> {
    Ok(u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0))
}

/// The next stretch of a file that is no hole, from `at` on.
fn data(file: &File, at: u64, size: u64) -> Result<Option<(u64, u64)>, Errno> {
    if at >= size {
        return Ok(None);
    }
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) if start < size => {
            let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
            Ok(Some((start, end.min(size))))
        }
        // Nothing but a hole up to the end.
        Ok(_) | Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

fn extent(from: &File, to: &File, range: std::ops::Range<u64>) -> Result<(), Errno> {
    let (mut read, mut write) = (range.start, range.start);
    while read < range.end {
        let length = usize::try_from(range.end - read).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), length) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                return by_hand(from, to, read..range.end);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Where the kernel cannot copy between two file systems by itself.
fn by_hand(from: &File, to: &File, range: std::ops::Range<u64>) -> Result<(), Errno> {
    use std::os::unix::fs::FileExt;
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut buffer = vec![0; 256 * 1024];
    let mut at = range.start;
    while at < range.end {
        let want = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = from.read_at(&mut buffer[..want], at).map_err(failed)?;
        if read == 0 {
            return Ok(());
        }
        to.write_all_at(&buffer[..read], at).map_err(failed)?;
        at += read as u64;
    }
    Ok(())
}

#[expect(clippy::unnecessary_cast, reason = "the types of stat's fields differ between machines")]
fn modified(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime as i64, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access: time, last_modification: time }
}

fn chown_dir(dir: BorrowedFd<'_>, owner: u32, meter: &mut Meter) -> Result<(), TreeError> {
    let (uid, gid) = (Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)));
    for name in names(dir, meter.room()).map_err(|error| meter.at(error))? {
        meter.count()?;
        meter.within(name.to_bytes(), |meter| {
            let (kind, _) = stat(dir, &name).map_err(|error| meter.at(error))?;
            if kind == FileType::Directory {
                let child = open::dir(dir, name.to_bytes()).map_err(|error| meter.at(error))?;
                meter.down(|meter| chown_dir(child.as_fd(), owner, meter))?;
            }
            rustix::fs::chownat(dir, &*name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| meter.at(error))
        })?;
    }
    Ok(())
}
