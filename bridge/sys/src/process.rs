//! Forking, and running another program in one's place.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, abort};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::Pid;

use crate::fds;

/// Forks; returns the child's process id. The child runs `body` and exits with the status that it returns.
///
/// # Errors
/// When the process has more than one thread (the child would inherit their locks, but not them),
/// when `/proc` cannot tell, or when the kernel refuses to fork.
pub fn fork(body: impl FnOnce() -> u8) -> io::Result<Pid> {
    require_single_thread()?;
    // SAFETY: with a single thread the child is a complete copy: no lock is held by a thread that
    // does not exist there, so it may run any code.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => be_child(body),
        pid => Pid::from_raw(pid).ok_or_else(|| io::ErrorKind::InvalidData.into()),
    }
}

/// Forks like [`fork`], with the child in another control group from its first instruction: `group` is
/// its directory in version 2, O_PATH is enough (clone(2), CLONE_INTO_CGROUP).
///
/// A process that joins a group instead has to wait until every processor has passed a point where
/// it cannot be forking: on a machine that did nothing before, some ten milliseconds.
///
/// # Errors
/// As [`fork`], and when the caller may not move processes there.
pub fn fork_into(group: impl AsFd, body: impl FnOnce() -> u8) -> io::Result<Pid> {
    require_single_thread()?;
    let args = CloneArgs {
        flags: CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD.unsigned_abs().into(),
        cgroup: group.as_fd().as_raw_fd().unsigned_abs().into(),
        ..CloneArgs::default()
    };
    // SAFETY: the kernel reads `args`, whose size it is told and which live until after the call,
    // and writes nothing. Without CLONE_VM and with no stack of its own the child goes on here in a
    // copy of our memory, as after fork(2). What the C library's fork does beyond that is to free the
    // child of other threads' locks, of which there are none, and to note its thread id, which it
    // compares in locks that know their owner, and those only with itself.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    if pid == -1 {
        return Err(io::Error::last_os_error());
    }
    // One that was handed over is closed on both sides.
    drop(group);
    match pid {
        0 => be_child(body),
        pid => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            pid.ok_or_else(|| io::ErrorKind::InvalidData.into())
        }
    }
}

/// Whether [`fork_into`] can work: a filter that cannot look into the memory of clone3's arguments
/// may hide the call.
///
/// # Errors
/// ENOSYS when it is hidden.
pub fn can_fork_into() -> io::Result<()> {
    let none = std::ptr::null::<CloneArgs>();
    // SAFETY: no size is one that the kernel knows, so it looks at nothing and refuses.
    unsafe { libc::syscall(libc::SYS_clone3, none, 0) };
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        error => Err(error),
    }
}

/// `struct clone_args` (clone(2)), which not every architecture's C library declares.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// From linux/sched.h. It does not fit the type that the C library's constant has.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn be_child(body: impl FnOnce() -> u8) -> ! {
    let guard = AbortOnUnwind;
    let status = body();
    std::mem::forget(guard);
    std::process::exit(status.into())
}

/// Says on [`Exec::report`] that nothing is left but to run the program. No sentence has this byte.
pub const ABOUT_TO_RUN: u8 = 0;

/// Another program, to be run in place of this process.
pub struct Exec<'a> {
    /// Its path.
    pub program: &'a Path,
    /// Its arguments, without its own name. Its environment is empty.
    pub args: &'a [String],
    /// Its descriptors 0, 1, 2, …; it gets no others.
    pub descriptors: &'a [BorrowedFd<'a>],
    /// Where [`ABOUT_TO_RUN`] goes right before it is run, and a sentence if it cannot be. Closed
    /// when it runs, and when this process dies. Only that byte tells the two apart: whoever dies
    /// closes its descriptors before it counts as dead.
    pub report: BorrowedFd<'a>,
}

impl Exec<'_> {
    /// Becomes the program, or ends the process with status 127.
    pub fn run(self) -> ! {
        match fcntl_dupfd_cloexec(self.report, self.descriptors.len() as RawFd) {
            Ok(report) => {
                let error = self.become_it(&report);
                self.tell(report.as_fd(), &error);
                std::mem::forget(report);
            }
            // Nothing was put in its place yet.
            Err(error) => self.tell(self.report, &error.into()),
        }
        // SAFETY: _exit takes no pointers and does not return. It runs no destructors: the
        // descriptors that they would close are no longer theirs.
        unsafe { libc::_exit(127) }
    }

    /// Becomes the program; returns only to say why that cannot be.
    fn become_it(&self, report: &OwnedFd) -> io::Error {
        if let Err(error) = fds::arrange(self.descriptors) {
            return error;
        }
        // Whoever listens takes its absence for a death.
        if let Err(error) = rustix::io::write(report, &[ABOUT_TO_RUN]) {
            return error.into();
        }
        Command::new(self.program).args(self.args).env_clear().exec()
    }

    fn tell(&self, report: BorrowedFd<'_>, error: &io::Error) {
        let sentence = format!("cannot run {}: {error}", self.program.display());
        let _ = rustix::io::write(report, sentence.as_bytes());
    }
}

/// Ends the process if a panic tries to leave the child's part of a fork: unwinding into the
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
            let here = std::fs::File::open("/").expect("a directory");
            let refused = [fork(|| 0), fork_into(here, || 0)];
            stay.wait();
            for refused in refused.map(|forked| forked.expect_err("more than one thread")) {
                assert!(refused.to_string().contains("threads"), "{refused}");
            }
        });
    }
}
