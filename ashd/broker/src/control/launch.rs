//! How `ashd` starts a broker when no service manager does.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs};

use rustix::fs::{MemfdFlags, Mode, SealFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tracing::level_filters::LevelFilter;

use crate::file::open_regular;

/// Environment that says where the system's certificates are; the rest of it stays outside.
const KEPT: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// How to start a broker.
pub struct Launch<'a> {
    /// The broker's program.
    pub program: &'a Path,
    /// The user it runs as; never root.
    pub uid: u32,
    /// The group it runs as, and its only one.
    pub gid: u32,
    /// End it when no `ashd` and no sandbox has been connected for so long.
    pub exit_when_unused: Option<Duration>,
    /// What it logs at most.
    pub log: LevelFilter,
}

impl Launch<'_> {
    /// Starts it on this listener (see [`listen`]), by letting `spawn` run the command. Its standard
    /// error, where it logs, is inherited unless `spawn` says otherwise; signals of the caller's
    /// terminal do not reach it.
    ///
    /// # Errors
    /// When the program cannot be opened, and those of `spawn`.
    pub fn start<C>(
        &self,
        listener: OwnedFd,
        spawn: impl FnOnce(Command) -> io::Result<C>,
    ) -> io::Result<C> {
        // Executed through the descriptor: the broker's user need not reach the program's path,
        // which may be below a home directory. It is closed on execution.
        let program = open_regular(self.program).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", self.program.display()))
        })?;
        spawn(self.command(&program, listener))
    }

    fn command(&self, program: &fs::File, listener: OwnedFd) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        command.arg0(self.program).env_clear().current_dir("/").process_group(0);
        command.uid(self.uid).gid(self.gid);
        command.stdin(Stdio::from(listener)).stdout(Stdio::null());
        for name in KEPT {
            command.envs(env::var_os(name).map(|value| (name, value)));
        }
        command.arg("--log").arg(self.log.to_string());
        if let Some(span) = self.exit_when_unused {
            command.arg("--exit-when-unused").arg(span.as_secs().to_string());
        }
        command
    }
}

/// Makes the broker's control socket at `path`, readable by the caller alone, in place of a stale
/// one. Fails when the path is too long for a socket or its directory cannot be written.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    // Linux takes the mode of a socket's file from its inode: nobody can slip in before bind.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 8)?;
    Ok(socket)
}

/// Puts a secret into a sealed file without a name, to be sent as a descriptor.
pub fn secret(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = fs::File::from(rustix::fs::memfd_create("ash-secret", flags)?);
    file.write_all(bytes)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}
