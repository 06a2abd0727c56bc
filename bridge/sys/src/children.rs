//! Learning that children ended, in a process that waits in `poll(2)`.
//!
//! `signalfd` would need SIGCHLD blocked, and what we start would inherit that: a shell with
//! SIGCHLD blocked never sees its jobs end. A handler is reset by `execve(2)` by itself.

use std::io;
use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::pipe::{PipeFlags, pipe_with};

static WAKE: AtomicI32 = AtomicI32::new(-1);

/// Returns a non-blocking pipe that becomes readable whenever a child has ended. Reading it
/// empty, then reaping until none is left, misses nothing. For one call in a process's life.
///
/// # Errors
/// When called twice, or when the pipe or the handler cannot be made.
pub fn ended() -> io::Result<OwnedFd> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    if WAKE.compare_exchange(-1, -2, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    WAKE.store(writer.into_raw_fd(), Ordering::SeqCst);
    install()?;
    unblock()?;
    Ok(reader)
}

extern "C" fn on_child(_: libc::c_int) {
    // SAFETY: errno's address is valid for the thread's life, and reading it has no effects.
    let saved = unsafe { *libc::__errno_location() };
    // SAFETY: write(2) is async-signal-safe and gets one byte that lives long enough. The pipe's
    // end is never closed. A full pipe refuses the byte, and is readable already.
    unsafe { libc::write(WAKE.load(Ordering::SeqCst), c"!".as_ptr().cast(), 1) };
    // SAFETY: as above; the interrupted code must find its errno again.
    unsafe { *libc::__errno_location() = saved };
}

fn install() -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid sigaction: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_child as *const () as usize;
    action.sa_flags = libc::SA_RESTART | libc::SA_NOCLDSTOP;
    // SAFETY: `action` is initialised, lives through the call, and its handler calls only
    // async-signal-safe functions.
    match unsafe { libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the signal reach this thread. Whoever started us may have had it blocked, which execve(2) leaves
/// so: nothing would be told, and what we start would inherit it further.
fn unblock() -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid set of signals.
    let mut child: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `child` is initialised and lives through the calls; where the mask of before would go,
    // null says that nobody wants it.
    let refused = unsafe {
        libc::sigemptyset(&raw mut child);
        libc::sigaddset(&raw mut child, libc::SIGCHLD);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const child, std::ptr::null_mut())
    };
    match refused {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the signal was kept from this thread; with `how`, changes that.
    fn is_blocked(how: Option<libc::c_int>) -> bool {
        // SAFETY: all-zero bytes are a valid set of signals.
        let (mut child, mut before): (libc::sigset_t, libc::sigset_t) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        // SAFETY: both sets are initialised and live through the calls.
        unsafe {
            libc::sigemptyset(&raw mut child);
            libc::sigaddset(&raw mut child, libc::SIGCHLD);
            let set = if how.is_some() { &raw const child } else { std::ptr::null() };
            let how = how.unwrap_or(libc::SIG_BLOCK);
            assert_eq!(libc::pthread_sigmask(how, set, &raw mut before), 0);
            libc::sigismember(&raw const before, libc::SIGCHLD) == 1
        }
    }

    #[test]
    fn a_signal_that_was_blocked_reaches_whoever_waits_for_it() {
        is_blocked(Some(libc::SIG_BLOCK));
        assert!(is_blocked(None));
        let told = ended().expect("a pipe");
        assert!(!is_blocked(None));
        // SAFETY: no pointers; there is a handler by now.
        unsafe { libc::raise(libc::SIGCHLD) };
        assert_eq!(rustix::io::read(&told, &mut [0; 2]), Ok(1));
    }
}
