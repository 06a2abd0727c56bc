//! File leases, which programs in a sandbox cannot take. For tests of what is done about them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use libc::c_int;

/// A lease on a file: whoever opens it meanwhile waits, or is told to try again.
#[derive(Debug)]
pub struct Lease<'a>(BorrowedFd<'a>);

impl<'a> Lease<'a> {
    /// Takes one, which excludes everybody else, on a file that is open nowhere else.
    ///
    /// # Errors
    /// When it is, or the file system gives no leases.
    pub fn take(file: &'a File) -> io::Result<Lease<'a>> {
        set(file.as_fd(), libc::F_SETLEASE, libc::F_WRLCK)?;
        let lease = Lease(file.as_fd());
        // Nobody is to be signalled when it is asked back: that would end this process.
        set(lease.0, libc::F_SETOWN, 0)?;
        Ok(lease)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // The kernel takes one away that was asked back for too long: then there is none.
        let _ = set(self.0, libc::F_SETLEASE, libc::F_UNLCK);
    }
}

fn set(file: BorrowedFd<'_>, what: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: these commands take numbers and no pointers, and the descriptor is open.
    match unsafe { libc::fcntl(file.as_raw_fd(), what, value) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags, open};
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn whoever_opens_the_file_meanwhile_is_told_to_try_again() {
        let path = std::env::temp_dir().join(format!("ash-sys-lease-{}", std::process::id()));
        let made = File::options().read(true).write(true).create_new(true).open(&path);
        let file = made.expect("a file");
        let again =
            || open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        match Lease::take(&file) {
            Ok(lease) => {
                assert_eq!(again().err(), Some(Errno::AGAIN));
                drop(lease);
                assert!(again().is_ok());
            }
            Err(error) => println!("SKIP: {}: {error}", path.display()),
        }
        std::fs::remove_file(&path).expect("it is there");
    }
}
