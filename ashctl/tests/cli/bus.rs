//! A message bus of its own for each test, and `ashctl` on it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::timeout;
use zbus::Connection;
use zbus::connection::Builder;

const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=DIR/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

/// How long anything may take before that counts as a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running `dbus-daemon`.
pub(crate) struct Bus {
    daemon: Child,
    /// Also the home of the programs that run on it.
    pub(crate) dir: TempDir,
}

/// What a run of `ashctl` came to.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Ran {
            code: output.status.code().expect("ended by a signal"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// Checks that it failed with this exit code, and said this sentence and nothing else.
    #[track_caller]
    pub(crate) fn check_failed(&self, code: i32, sentence: &str) {
        let said = format!("ashctl: {sentence}\n");
        assert_eq!((self.code, &*self.out, &*self.err), (code, "", &*said));
    }

    /// Checks that it failed with this exit code, and that these words are in what it said of it.
    #[track_caller]
    pub(crate) fn check_told(&self, code: i32, words: &str) {
        assert_eq!(self.code, code, "{}", self.err);
        assert!(self.err.contains(words), "no {words:?} in {:?}", self.err);
    }
}

/// Runs a program to its end.
pub(crate) async fn ended(command: Command) -> Ran {
    let mut command = tokio::process::Command::from(command);
    timeout(PATIENCE, command.kill_on_drop(true).output()).await.unwrap().unwrap().into()
}

impl Bus {
    /// Starts one; it listens when this returns.
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("bus.conf");
        fs::write(&config, CONFIG.replace("DIR", dir.path().to_str().unwrap())).unwrap();
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
        Bus { daemon, dir }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("unix:path={}/bus", self.dir.path().display())
    }

    /// Stops it: it takes connections and says nothing.
    pub(crate) fn halt(&self) {
        let pid = Pid::from_raw(self.daemon.id().cast_signed()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
    }

    /// A connection to it.
    pub(crate) async fn connect(&self) -> Connection {
        Builder::address(self.address().as_str()).unwrap().build().await.unwrap()
    }

    /// `ashctl` on this bus.
    pub(crate) fn ashctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ashctl"));
        command.env_clear().env("ASH_BUS_ADDRESS", self.address()).env("HOME", self.dir.path());
        // No program of the machine, such as systemctl, is found by name.
        command.env("PATH", self.programs());
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// The directory of the programs that `ashctl` finds by name.
    pub(crate) fn programs(&self) -> PathBuf {
        self.dir.path().join("programs")
    }

    /// Puts a shell script there.
    pub(crate) fn program(&self, name: &str, script: &str) {
        fs::create_dir_all(self.programs()).unwrap();
        let path = self.programs().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs `ashctl` on this bus to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ran {
        ended(self.ashctl(arguments)).await
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}
