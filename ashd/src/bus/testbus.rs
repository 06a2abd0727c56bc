//! A message bus for one test.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use zbus::Connection;
use zbus::connection::Builder;

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
