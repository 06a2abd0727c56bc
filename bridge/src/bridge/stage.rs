//! A bridge for tests that is asked for each step, with the other ends of its sockets.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::{Bridge, Parts};
use crate::link::Link;

/// A bridge that has greeted an `ashd`.
pub(super) struct Stage {
    pub(super) bridge: Bridge,
    pub(super) ashd: UnixStream,
    pub(super) spawner: OwnedFd,
    /// Where the bridge listens, as long as this is there.
    pub(super) listener: UnixStream,
}

impl Stage {
    pub(super) fn set() -> Stage {
        let (its_listener, listener) = UnixStream::pair().unwrap();
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (ours, spawner) = socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        let mut bridge = Bridge::new(Parts {
            listener: its_listener.into(),
            spawner: ours,
            null: File::open("/dev/null").unwrap().into(),
            sandbox: "test".to_owned(),
            orphan_timeout: Duration::from_secs(600),
        });
        let (socket, ashd) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut link = Link::new(socket.into(), 1, 0);
        link.greet(ash_wire::VERSION, 1, b"{}");
        bridge.link = Some(link);
        Stage { bridge, ashd, spawner, listener }
    }
}
