//! Listening sockets, sealed files and pipes that go to other processes.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, MemfdFlags, Mode, SealFlags, Uid};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use crate::fault;

/// Connections that may wait on a sandbox's sockets.
const BACKLOG: i32 = 64;

/// Makes a listening stream socket at `path`, which must not exist, for `owner` alone.
pub(super) fn listen(path: &Path, owner: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux takes the mode of a socket's file from its inode: it is closed from the beginning.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
    rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(socket)
}

/// As [`listen`], but takes the place of a socket that is there, at once: there is no moment
/// without one.
pub(super) fn listen_instead(path: &Path, owner: u32) -> io::Result<OwnedFd> {
    let fresh = path.with_extension("new");
    remove_file(&fresh)?;
    let socket = listen(&fresh, owner)?;
    fault::fail("socket.publish")?;
    fs::rename(&fresh, path)?;
    Ok(socket)
}

/// Makes a directory with this mode, or gives one that is there this mode.
pub(super) fn directory(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Removes a file; it is fine when there is none.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A file without a name that nobody can change any more.
pub(super) fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("ash-file", flags)?);
    file.write_all(bytes)?;
    io::Seek::rewind(&mut file)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// A pipe: the end to read, which never blocks, and the end to write.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((read, write))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_belongs_to_its_owner_alone_and_is_replaced_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let first = listen_instead(&path, 1234).unwrap();
        let meta = fs::symlink_metadata(&path).unwrap();
        assert!(meta.file_type().is_socket());
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (1234, 1234, 0o600));
        assert!(listen(&path, 1234).is_err(), "it is taken");
        let _second = listen_instead(&path, 1234).unwrap();
        drop(first);
        UnixStream::connect(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        remove_file(&path).unwrap();
        remove_file(&path).unwrap();
    }

    #[test]
    fn sealed_files_stay_as_they_are() {
        let mut file = File::from(sealed(b"text").unwrap());
        assert_eq!(io::read_to_string(&file).unwrap(), "text");
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
    }

    #[test]
    fn directories_get_their_mode_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        for mode in [0o700, 0o755] {
            directory(&path, mode).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, mode);
        }
    }
}
