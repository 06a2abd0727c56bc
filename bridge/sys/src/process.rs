//! Forking, and running another program in one's place.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, abort};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::fds;

/// A child made by [`fork`].
#[derive(Debug)]
pub struct Child {
    /// Its process id.
    pub pid: Pid,
    /// A pidfd of it: readable when it has ended.
    pub pidfd: OwnedFd,
}

/// Forks. The child runs `body` and exits with the status that it returns.
///
/// # Errors
/// When the process has more than one thread (the child would inherit their locks, but not them),
/// when `/proc` cannot tell, or when the kernel refuses to fork.
pub fn fork(body: impl FnOnce() -> u8) -> io::Result<Child> {
    require_single_thread()?;
    // SAFETY: with a single thread the child is a complete copy: no lock is held by a thread that
    // does not exist there, so it may run any code.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let guard = AbortOnUnwind;
            let status = body();
            std::mem::forget(guard);
            std::process::exit(status.into())
        }
        pid => {
            let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
            // The pid cannot have been reused: nobody but us can reap it.
            let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
            Ok(Child { pid, pidfd })
        }
    }
}

/// Another program, to be run in place of this process.
pub struct Exec<'a> {
    /// Its path.
    pub program: &'a Path,
    /// Its arguments, without its own name. Its environment is empty.
    pub args: &'a [String],
    /// Its descriptors 0, 1, 2, …; it gets no others.
    pub descriptors: &'a [BorrowedFd<'a>],
    /// Where a sentence goes if it cannot be run. Closed when it runs.
    pub failure: BorrowedFd<'a>,
}

impl Exec<'_> {
    /// Becomes the program, or ends the process with status 127.
    pub fn run(self) -> ! {
        let failure = fcntl_dupfd_cloexec(self.failure, self.descriptors.len() as RawFd);
        let error = match fds::arrange(self.descriptors) {
            Ok(()) => Command::new(self.program).args(self.args).env_clear().exec(),
            Err(error) => error,
        };
        if let Ok(failure) = failure {
            let sentence = format!("cannot run {}: {error}", self.program.display());
            let _ = rustix::io::write(&failure, sentence.as_bytes());
            std::mem::forget(failure);
        }
        // SAFETY: _exit takes no pointers and does not return. It runs no destructors: the
        // descriptors that they would close are no longer theirs.
        unsafe { libc::_exit(127) }
    }
}

/// Ends the process if a panic tries to leave the child's part of [`fork`]: unwinding into the
/// parent's code would run it twice.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        abort()
    }
}

fn require_single_thread() -> io::Result<()> {
    // A directory has one link for each directory in it, and two for itself.
    match rustix::fs::stat("/proc/self/task")?.st_nlink {
        3 => Ok(()),
        links => Err(io::Error::other(format!("fork with {} threads", links.saturating_sub(2)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fork_refuses_a_process_with_threads() {
        // The test harness itself runs tests on threads of their own.
        let stay = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| stay.wait());
            let refused = fork(|| 0).expect_err("more than one thread");
            stay.wait();
            assert!(refused.to_string().contains("threads"), "{refused}");
        });
    }
}
