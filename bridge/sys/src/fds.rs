//! File descriptors by number: those a program is started with, and those it starts others with.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

/// Closes every descriptor from `first` on.
///
/// Meant as a program's first act, when nothing of its own is open yet.
///
/// # Errors
/// When `first` is below 3, or the kernel is older than 5.9.
pub fn shed(first: u32) -> io::Result<()> {
    if first < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    close_range(first, 0)
}

/// Takes ownership of a descriptor that the program was started with, and marks it close-on-exec.
///
/// # Errors
/// When the number is a standard stream, is not open, or is close-on-exec: such a descriptor was
/// taken before or opened by the program itself, and has an owner.
pub fn take_inherited(number: u32) -> io::Result<OwnedFd> {
    let number = RawFd::try_from(number).map_err(|_| io::ErrorKind::InvalidInput)?;
    if number < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: F_GETFD takes no pointer and changes nothing.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags == -1 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    // SAFETY: the number is open, and nobody else owns it: what survived our `execve` was not
    // close-on-exec, all that we open ourselves is.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&owned, FdFlags::CLOEXEC)?;
    Ok(owned)
}

/// Makes `fds` the descriptors 0, 1, 2, … and marks all others close-on-exec.
///
/// Private: it pulls descriptors away from under whoever owns them, so the process must be about
/// to run another program and touch nothing else.
pub(crate) fn arrange(fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let count = RawFd::try_from(fds.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // First out of the way of the low numbers, then down to their places.
    let parked = fds
        .iter()
        .map(|fd| fcntl_dupfd_cloexec(fd, count).map_err(io::Error::from))
        .collect::<io::Result<Vec<OwnedFd>>>()?;
    for (number, fd) in (0..count).zip(&parked) {
        // SAFETY: dup2 takes no pointers; what was open under `number` is given up on purpose,
        // see above.
        if unsafe { libc::dup2(fd.as_raw_fd(), number) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    close_range(count as u32, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: no pointers. Descriptors that someone still owns are closed only by `shed`, whose
    // contract rules such owners out; with CLOSE_RANGE_CLOEXEC nothing is closed.
    match unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd as _;

    use super::*;

    #[test]
    fn standard_streams_are_never_shed_or_taken() {
        assert!(shed(2).is_err());
        assert!(take_inherited(2).is_err());
    }

    #[test]
    fn a_number_is_taken_once() {
        let (reader, _writer) = rustix::pipe::pipe().expect("pipe");
        let number = reader.into_raw_fd().unsigned_abs();
        let _owned = take_inherited(number).expect("first time");
        assert!(take_inherited(number).is_err());
    }
}
