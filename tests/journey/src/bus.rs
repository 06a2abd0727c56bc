//! A private message bus.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>ADDRESS</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="root"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

/// A running `dbus-daemon`; ended when dropped.
#[derive(Debug)]
pub(crate) struct Bus {
    daemon: Child,
    address: String,
}

impl Bus {
    /// Starts one in `dir`; it listens when this returns.
    ///
    /// # Errors
    /// When it does not come up.
    pub(crate) fn start(dir: &Path) -> Result<Bus> {
        let address = format!("unix:path={}", dir.join("bus").display());
        let config = dir.join("bus.conf");
        fs::write(&config, CONFIG.replace("ADDRESS", &address))?;
        let mut daemon = Command::new("dbus-daemon")
            .args(["--nofork", "--nopidfile", "--nosyslog", "--print-address=1"])
            .arg(format!("--config-file={}", config.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("dbus-daemon cannot be started; `make test` installs it")?;
        let stdout = daemon.stdout.take().context("dbus-daemon has no standard output")?;
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said)?;
        let bus = Bus { daemon, address };
        ensure!(said.starts_with("unix:"), "dbus-daemon did not say its address");
        Ok(bus)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
