//! Waiting for a daemon to say that it is ready.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Instant;

use anyhow::{Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::PATIENCE;

/// The service manager's end of the notification socket.
#[derive(Debug)]
pub(crate) struct Ready {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Ready {
    /// Listens in `dir`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(crate) fn listen(dir: &Path) -> Result<Ready> {
        let path = dir.join("notify");
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        Ok(Ready { socket, path })
    }

    /// For `NOTIFY_SOCKET`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the daemon says `READY=1`.
    ///
    /// # Errors
    /// When it ends first, or says nothing for a minute.
    pub(crate) fn wait(&self, daemon: &mut Child) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let pid = rustix::process::Pid::from_child(daemon);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        loop {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
            let mut fds =
                [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(&pidfd, PollFlags::IN)];
            if poll(&mut fds, Some(&left))? == 0 {
                bail!("ashd is not ready after a minute");
            }
            if self.said_ready() {
                return Ok(());
            }
            if let Some(status) = daemon.try_wait()? {
                bail!("ashd ended before it was ready: {status}");
            }
        }
    }

    fn said_ready(&self) -> bool {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if said.lines().any(|line| line == "READY=1") {
                return true;
            }
        }
        false
    }
}
