//! Who is at the other end of a Unix socket.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// The uid of the process that connected the other end (`SO_PEERCRED`).
///
/// rustix has this too, but refuses peers of another pid namespace, whose process id reads 0.
///
/// # Errors
/// When `socket` is not a connected Unix socket.
pub fn uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: both pointers are to live variables, and `length` is the size of the first.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    match result {
        0 if length as usize == size_of::<libc::ucred>() => Ok(peer.uid),
        0 => Err(io::ErrorKind::InvalidData.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_other_end_of_a_pair_is_ours() {
        let (one, _other) = UnixStream::pair().expect("pair");
        assert_eq!(uid(one.as_fd()).expect("uid"), rustix::process::geteuid().as_raw());
    }

    #[test]
    fn what_is_not_a_socket_has_no_peer() {
        let (reader, _writer) = rustix::pipe::pipe().expect("pipe");
        assert!(uid(reader.as_fd()).is_err());
    }
}
