//! The confinement from within. It changes the process for good, so it has a test program of its own.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{TcpListener, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Pid, Signal, Uid};

fn denied<T>(result: std::io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// Runs in a thread of another user, whose confinement ends with it.
#[test]
fn a_confined_thread_reaches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open-to-all");
    fs::write(&open, "x").unwrap();
    let inside = move || {
        let uid = Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        ash_broker::harden::confine().unwrap();
        assert!(denied(File::open("/proc/self/status")));
        assert!(denied(File::open(open)));
        assert!(denied(File::create("/tmp/ash-confined")));
        assert!(denied(fs::read_dir("/etc").map(drop)));
        assert!(denied(Command::new("/bin/true").status()));
        assert!(denied(TcpListener::bind("127.0.0.1:0")));
        assert_eq!(rustix::process::kill_process(Pid::INIT, Signal::CHILD), Err(Errno::PERM));
        let packet = rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, None);
        assert_eq!(packet.err(), Some(Errno::PERM));
        let audit = rustix::net::netlink::AUDIT;
        let audit = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, Some(audit));
        assert_eq!(audit.err(), Some(Errno::PERM));
        // What it lives on still works: names, sockets, threads.
        assert!(fs::read("/etc/hosts").is_ok());
        assert!(("localhost", 80).to_socket_addrs().is_ok());
        assert!(UdpSocket::bind("127.0.0.1:0").is_ok());
        assert!(UnixStream::pair().is_ok());
        assert_eq!(std::thread::spawn(|| 1).join().unwrap(), 1);
    };
    std::thread::spawn(inside).join().unwrap();
}
