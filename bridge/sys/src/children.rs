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
