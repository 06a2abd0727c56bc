//! Files that are open: what they are, and what others have of them in their memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use rustix::fs::{FileType, fstat};

/// Whether a descriptor is one of a directory. One that cannot be asked is not.
pub fn is_directory(fd: impl AsFd) -> bool {
    fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
}

/// Sees to it that whoever stores into the file through a shared mapping from here on changes its
/// times. A page of such a mapping tells of the first store only, until it is written out: this has
/// every page that was stored into before written out, and waits for none (sync_file_range(2)).
/// Costs next to nothing when there is no such page.
///
/// A file system that keeps no pages to be written out (tmpfs) tells of no such store at all, and
/// nothing is done there. One that compresses (btrfs, if it is told to) does its part a moment later.
///
/// # Errors
/// When something of the file could not be written, be it now or earlier.
pub fn tell_of_stores(file: BorrowedFd<'_>) -> io::Result<()> {
    // What is being written out was complete when that began, and that may have been long ago: it
    // is waited for, so that stores since then do not go with it.
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: sync_file_range takes numbers and no pointers, and the descriptor is open.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(any(test, feature = "mapping"))]
pub use mapping::Mapping;

#[cfg(any(test, feature = "mapping"))]
mod mapping {
    use std::fs::File;
    use std::io;
    use std::ptr::{self, NonNull};
    use std::sync::atomic::{AtomicU8, Ordering};

    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    /// Bytes that are mapped: not more than the smallest page.
    const LENGTH: usize = 4096;

    /// The first page of a file, shared and writable, as programs have it that store into files
    /// without a call. For tests.
    pub struct Mapping(NonNull<AtomicU8>);

    // SAFETY: whoever shares it stores into atomics, and nothing else.
    unsafe impl Sync for Mapping {}

    impl Mapping {
        /// Maps a file that is open for reading and writing, and has this page.
        ///
        /// # Errors
        /// When it is shorter than a page, or cannot be mapped.
        pub fn of(file: &File) -> io::Result<Mapping> {
            if file.metadata()?.len() < LENGTH as u64 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: the kernel chooses a place that nothing else has.
            let place = unsafe { mmap(ptr::null_mut(), LENGTH, prot, MapFlags::SHARED, file, 0)? };
            NonNull::new(place.cast()).map(Mapping).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
        }

        /// Stores a byte at a place in the page.
        ///
        /// # Panics
        /// When it is not in the page.
        pub fn store(&self, at: usize, byte: u8) {
            assert!(at < LENGTH, "a page has no byte {at}");
            // SAFETY: the mapping lives as long as `self` and has this byte, which others may store
            // into as well: it is atomic.
            unsafe { self.0.add(at).as_ref() }.store(byte, Ordering::SeqCst);
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: it is ours, and no reference into it outlives a call.
            let unmapped = unsafe { munmap(self.0.as_ptr().cast(), LENGTH) };
            debug_assert!(unmapped.is_ok(), "{unmapped:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use super::*;

    /// Changes a file's times, as nobody's clock has them.
    fn age(file: &File) {
        file.set_modified(std::time::UNIX_EPOCH).expect("times");
    }

    #[test]
    fn a_store_behind_it_changes_the_times() {
        let path = std::env::temp_dir().join(format!("ash-sys-stores-{}", std::process::id()));
        let open = File::options().read(true).write(true).create_new(true).open(&path);
        let file = open.expect("a file");
        std::fs::remove_file(&path).expect("it has a name no more");
        file.set_len(4096).expect("a page");
        let mapping = Mapping::of(&file).expect("a mapping");
        let modified = || file.metadata().and_then(|stat| stat.modified()).expect("times");
        age(&file);
        mapping.store(0, 1);
        if modified() == std::time::UNIX_EPOCH {
            println!(
                "SKIP: the file system of {} tells of no stores",
                std::env::temp_dir().display()
            );
            return;
        }
        age(&file);
        // Nobody is told of this one, unless the page has been written out by itself meanwhile.
        mapping.store(1, 1);
        age(&file);
        tell_of_stores(file.as_fd()).expect("told");
        mapping.store(2, 1);
        assert!(modified() > std::time::UNIX_EPOCH);
    }

    #[test]
    fn a_directory_is_told_from_everything_else() {
        let dir = File::open(std::env::temp_dir()).expect("a directory");
        let (pipe, _writer) = rustix::pipe::pipe().expect("pipe");
        assert!(is_directory(&dir));
        assert!(!is_directory(&pipe));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let (reader, _writer) = rustix::pipe::pipe().expect("pipe");
        assert!(tell_of_stores(reader.as_fd()).is_err());
    }
}
