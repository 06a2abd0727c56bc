//! A umask of one thread.

use std::io;

use rustix::fs::Mode;

/// What the calling thread makes from here on has all the permission bits that it asks for: it gets a
/// umask of its own, which is empty. Its root and its working directory are its own from then on as
/// well (unshare(2), `CLONE_FS`); whichever threads it makes share all three with it.
///
/// Nothing gives it back: for threads that make files until they end, and for no others.
///
/// # Errors
/// When a filter of system calls refuses it. The umask is then what it was.
pub fn shed() -> io::Result<()> {
    // SAFETY: no pointers. The thread gets copies of root, working directory and umask, which are the
    // kernel's; descriptors stay shared.
    if unsafe { libc::unshare(libc::CLONE_FS) } == -1 {
        return Err(io::Error::last_os_error());
    }
    rustix::process::umask(Mode::empty());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{OpenOptions, remove_file};
    use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
    use std::thread;

    use super::*;

    /// The permission bits that a file gets when all are asked for.
    fn given(name: &str) -> u32 {
        let path = std::env::temp_dir().join(format!("ash-sys-{name}-{}", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o777).open(&path);
        let file = file.expect("a file");
        remove_file(&path).expect("it has a name no more");
        file.metadata().expect("its mode").mode() & 0o7777
    }

    #[test]
    fn a_thread_sheds_its_own_umask_and_no_others() {
        // On a thread of its own: the umask of this one is everybody's.
        let outer = || -> io::Result<(u32, u32, u32)> {
            shed()?;
            rustix::process::umask(Mode::RWXG | Mode::RWXO);
            let before = given("before");
            let inner = thread::scope(|scope| {
                scope.spawn(|| shed().map(|()| given("without"))).join().expect("no panic")
            });
            Ok((before, inner?, given("after")))
        };
        match thread::spawn(outer).join().expect("no panic") {
            Ok(modes) => assert_eq!(modes, (0o700, 0o777, 0o700)),
            Err(error) => println!("SKIP: threads cannot have a umask of their own here: {error}"),
        }
    }
}
