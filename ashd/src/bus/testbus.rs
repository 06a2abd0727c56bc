//! A message bus for one test.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use zbus::connection::Builder;
use zbus::{Connection, Message};

/// Everybody may connect.
const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=DIR/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    POLICY
  </policy>
  MORE
</busconfig>
"#;

const OPEN: &str = r#"<allow own="*"/> <allow send_destination="*"/> <allow receive_sender="*"/>"#;

/// What matters here of the policy that system buses come with.
const SYSTEM: &str = r#"
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>"#;

/// This message with one more header field: one that no version of the protocol has.
pub(crate) fn with_unknown_field(message: &[u8]) -> Vec<u8> {
    let fields = u32::from_ne_bytes(message[12..16].try_into().unwrap()) as usize;
    let padded = fields.next_multiple_of(8);
    let mut changed = message[..16 + fields].to_vec();
    changed.resize(16 + padded, 0);
    changed.extend([64, 1, b'u', 0, 7, 0, 0, 0]);
    changed[12..16].copy_from_slice(&(padded as u32 + 8).to_ne_bytes());
    changed.extend(&message[16 + padded..]);
    changed
}

/// A `dbus-daemon` in a directory of its own.
pub(crate) struct TestBus {
    daemon: Child,
    dir: TempDir,
}

impl TestBus {
    /// Starts one; it listens when this returns.
    pub(crate) fn start() -> Self {
        TestBus::with(OPEN, "")
    }

    /// Starts one that is as closed as a system bus, but for what this file allows; in the place of
    /// group `ash`, which is not on every machine, it means the group with this number.
    pub(crate) fn start_closed(file: &Path, group: u32) -> Self {
        let text = fs::read_to_string(file).unwrap();
        let (_, policy) = text.split_once("<busconfig>").unwrap();
        let (policy, _) = policy.split_once("</busconfig>").unwrap();
        TestBus::with(SYSTEM, &policy.replace("group=\"ash\"", &format!("group=\"{group}\"")))
    }

    fn with(policy: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let config = dir.path().join("bus.conf");
        let text = CONFIG.replace("DIR", dir.path().to_str().unwrap());
        fs::write(&config, text.replace("POLICY", policy).replace("MORE", more)).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .args(["--nofork", "--nopidfile", "--nosyslog", "--print-address=1", "--config-file"])
            .arg(config)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        assert!(address.starts_with("unix:"), "dbus-daemon does not listen");
        TestBus { daemon, dir }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("unix:path={}/bus", self.dir.path().display())
    }

    /// A connection to it that is known by now, to write and read bytes.
    pub(crate) fn raw(&self) -> UnixStream {
        let mut stream = UnixStream::connect(self.dir.path().join("bus")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n").unwrap();
        let name = "org.freedesktop.DBus";
        let hello = Message::method_call("/", "Hello").unwrap().destination(name).unwrap();
        let hello = hello.interface(name).unwrap().build(&()).unwrap();
        stream.write_all(hello.data()).unwrap();
        stream
    }

    /// A connection to it.
    pub(crate) async fn connect(&self) -> Connection {
        Builder::address(self.address().as_str()).unwrap().build().await.unwrap()
    }
}

impl Drop for TestBus {
    fn drop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}
