//! A folder coming in: tar bytes in a pipe or a sealed memfd, bounded in size and patience.
//!
//! Never a path or a directory: a root daemon that opens what a caller names, or walks where a
//! caller points, reads with rights that the caller does not have.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytes::{Buf, Bytes};
use rustix::fs::{FileType, OFlags, SealFlags, fcntl_get_seals, fcntl_getfl, fstat};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::{OpenOptions, Receiver};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Most bytes of an archive.
const MOST: u64 = 512 << 20;
/// How long the writer of a pipe may give nothing.
const PATIENCE: Duration = Duration::from_secs(30);
const PIECE: usize = 64 << 10;
/// What a tar archive ends with: two blocks of zeros.
const END: usize = 1024;

/// Why a file descriptor is no folder.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    /// Neither a pipe nor a sealed memfd.
    #[error("folder must be the read end of a pipe or a sealed memfd with a tar archive")]
    WrongKind,
    /// It cannot be examined or opened.
    #[error("folder cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// A reader over the archive behind a file descriptor. To be read on a thread that may block.
///
/// Its errors are sentences: too large, cut off, nothing came for too long.
///
/// # Errors
/// [`UploadError`] if it is the wrong kind of file.
pub(super) fn archive(fd: OwnedFd) -> Result<Box<dyn Read + Send>, UploadError> {
    let stat = fstat(&fd).map_err(io::Error::from)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => Ok(Box::new(Whole::new(piped(&fd)?))),
        FileType::RegularFile if is_sealed(&fd) => {
            Ok(Box::new(Whole::new(Sealed { file: fd.into(), at: 0 })))
        }
        _ => Err(UploadError::WrongKind),
    }
}

/// Nobody can change or shorten a sealed file while it is read. Ordinary files have no seals.
fn is_sealed(fd: &OwnedFd) -> bool {
    let needed = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(needed))
}

/// Reads at positions of its own: the sender shares the file's.
struct Sealed {
    file: File,
    at: u64,
}

impl Read for Sealed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(into, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Opens the pipe anew: the sender shares the flags of the descriptor it gave, and could make a
/// read block for ever by clearing `O_NONBLOCK` on it.
fn piped(fd: &OwnedFd) -> Result<Piped, UploadError> {
    let mode = fcntl_getfl(fd).map_err(io::Error::from)? & OFlags::ACCMODE;
    if mode != OFlags::RDONLY {
        return Err(UploadError::WrongKind);
    }
    let pipe = OpenOptions::new().open_receiver(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    let (pieces, received) = mpsc::channel(4);
    tokio::spawn(pump(pipe, pieces, PATIENCE));
    Ok(Piped { received, piece: Bytes::new(), over: false })
}

/// Moves what comes through the pipe to the thread that reads. Ends with an empty piece or an
/// error; ends silently only when nobody reads any more.
async fn pump(mut pipe: Receiver, pieces: mpsc::Sender<io::Result<Bytes>>, patience: Duration) {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let read = match timeout(patience, pipe.read_buf(&mut piece)).await {
            Ok(read) => read,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the archive stopped coming")),
        };
        let over = !matches!(read, Ok(1..));
        if pieces.send(read.map(|_| piece.into())).await.is_err() || over {
            return;
        }
    }
}

struct Piped {
    received: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
    over: bool,
}

impl Read for Piped {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !self.over {
            let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "the server is going away");
            self.piece = self.received.blocking_recv().ok_or_else(cut)??;
            self.over = self.piece.is_empty();
        }
        let count = into.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}

/// Bounds an archive, and takes its end for an end only behind the mark of one: a sender that
/// dies between two entries would otherwise deploy half a folder.
struct Whole<R> {
    inner: R,
    left: u64,
    zeros: usize,
}

impl<R: Read> Whole<R> {
    fn new(inner: R) -> Self {
        Whole { inner, left: MOST, zeros: 0 }
    }
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        if count == 0 && !into.is_empty() && self.zeros < END {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off"));
        }
        let Some(left) = self.left.checked_sub(count as u64) else {
            let most = MOST >> 20;
            return Err(io::Error::other(format!("the archive is larger than {most} MiB")));
        };
        self.left = left;
        let trailing = into[..count].iter().rev().take_while(|byte| **byte == 0).count();
        self.zeros = if trailing == count { self.zeros + count } else { trailing };
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::fs::{MemfdFlags, fcntl_add_seals, memfd_create};
    use rustix::pipe::pipe;

    use super::*;

    fn memfd(bytes: &[u8], seals: SealFlags) -> OwnedFd {
        let fd = memfd_create("folder", MemfdFlags::ALLOW_SEALING).unwrap();
        let mut file = File::from(fd);
        file.write_all(bytes).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file.into()
    }

    fn sealed() -> SealFlags {
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW
    }

    async fn read_all(fd: OwnedFd) -> Result<Vec<u8>, String> {
        let mut reader = archive(fd).map_err(|error| error.to_string())?;
        let all = move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all).map_err(|error| error.to_string())
        };
        tokio::task::spawn_blocking(all).await.unwrap()
    }

    fn marked(bytes: &[u8]) -> Vec<u8> {
        [bytes, &[0; END]].concat()
    }

    #[tokio::test]
    async fn sealed_memfds_are_read_from_their_beginning() {
        let bytes = marked(b"folder");
        assert_eq!(read_all(memfd(&bytes, sealed())).await.unwrap(), bytes);
    }

    #[tokio::test]
    async fn pipes_are_read_to_their_end() {
        let (reader, writer) = pipe().unwrap();
        let bytes = marked(&[7; 300_000]);
        let sent = bytes.clone();
        let write = tokio::task::spawn_blocking(move || File::from(writer).write_all(&sent));
        assert!(read_all(reader).await.unwrap() == bytes);
        write.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, marked(b"")).unwrap();
        let (_reader, writer) = pipe().unwrap();
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        for fd in [
            File::open(&path).unwrap().into(),
            File::open(dir.path()).unwrap().into(),
            File::open("/dev/zero").unwrap().into(),
            memfd(b"", SealFlags::SHRINK),
            writer,
            OwnedFd::from(socket),
        ] {
            assert!(read_all(fd).await.unwrap_err().starts_with("folder must be"));
        }
    }

    #[tokio::test]
    async fn an_archive_without_its_mark_is_cut_off() {
        for bytes in [&b""[..], b"folder", &marked(b"")[1..]] {
            let error = read_all(memfd(bytes, sealed())).await.unwrap_err();
            assert_eq!(error, "the archive is cut off");
        }
    }

    #[tokio::test]
    async fn a_silent_sender_is_given_up() {
        let (reader, _writer) = pipe().unwrap();
        let pipe = Receiver::from_owned_fd(reader).unwrap();
        let (pieces, mut received) = mpsc::channel(1);
        pump(pipe, pieces, Duration::from_millis(10)).await;
        let error = received.recv().await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the archive stopped coming");
    }

    #[test]
    fn size_is_bounded() {
        let mut endless = Whole { inner: io::repeat(0), left: 100_000, zeros: 0 };
        let error = io::copy(&mut endless, &mut io::sink()).unwrap_err();
        assert_eq!(error.to_string(), "the archive is larger than 512 MiB");
    }
}
