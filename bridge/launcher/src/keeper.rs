//! The launcher as a service of its own, in whose control group the sandboxes live.
//!
//! When the main process of a service ends, systemd ends everything in the service's group: every
//! sandbox. So the main process does nothing that could fail. It starts the process that serves,
//! waits for it, and starts another when that one ends; sandboxes do not notice.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ash_sys::cgroup;
use ash_sys::process::fork;
use rustix::process::{WaitOptions, waitpid};
use sd_notify::NotifyState;

use crate::fault;
use crate::options::Options;
use crate::rights;
use crate::server::{Server, ServerError, listen_at};

/// The group of our own processes, beneath the service's: groups that hand out controllers hold
/// no processes (cgroups(7), "no internal processes").
const OURS: &str = "launcher";

/// The pause before another process serves.
const PAUSE: Duration = Duration::from_millis(100);

/// Why the service cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// There are no control groups that could hold sandboxes.
    #[error(
        "{} names no control group of version 2; boot with systemd.unified_cgroup_hierarchy=1, and \
         start this as a systemd service", .0.display()
    )]
    NoGroups(PathBuf),
    /// Its unit keeps something back.
    #[error(
        "the launcher lacks {}, which it needs for sandboxes; a drop-in of ash-sandboxes.service takes \
         it away, see `systemctl cat ash-sandboxes`: CapabilityBoundingSet= has to name it",
        .0.join(", ")
    )]
    Rights(Vec<String>),
    /// The kernel does not say what it allows.
    #[error("the capabilities of this process cannot be read: {0}")]
    Unknown(io::Error),
    /// No namespace of control groups.
    #[error(
        "the launcher gets no namespace of control groups ({0}); the sysctl user.max_cgroup_namespaces \
         forbids it, or a container around it"
    )]
    Namespace(io::Error),
    /// Its control group is of no use.
    #[error(
        "{}: {error}; --service needs control groups version 2 and a systemd service with \
         Delegate=yes", path.display()
    )]
    Group {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The socket is of no use.
    #[error(transparent)]
    Server(#[from] ServerError),
}

impl KeeperError {
    /// Whether trying again does not help: a machine or a unit has to be changed first.
    pub fn needs_a_person(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        match self {
            KeeperError::NoGroups(_)
            | KeeperError::Rights(_)
            | KeeperError::Namespace(_)
            | KeeperError::Server(ServerError::Directory(_)) => true,
            KeeperError::Group { error, .. } => {
                matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
            }
            KeeperError::Unknown(_) | KeeperError::Server(_) => false,
        }
    }
}

/// Keeps a server there for ever.
///
/// # Errors
/// When capabilities are missing, or the control group or the socket cannot be used.
pub fn keep(options: &Options) -> Result<(), KeeperError> {
    let missing = rights::missing().map_err(KeeperError::Unknown)?;
    if !missing.is_empty() {
        return Err(KeeperError::Rights(missing));
    }
    let group = settle()?;
    let listener = listen_at(&options.socket)?;
    // Not being told costs systemd its patience, not the sandboxes.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    // From here on nothing is a reason to end: with this process all sandboxes would.
    loop {
        match serve_once(options, &listener, &group) {
            Ok(()) => crate::complain("the process that serves has ended; starting another"),
            Err(error) => crate::complain(&format!("no process could be made to serve: {error}")),
        }
        thread::sleep(PAUSE);
    }
}

/// Makes a process that serves, and waits for its end.
fn serve_once(options: &Options, listener: &OwnedFd, group: &str) -> io::Result<()> {
    let listener = listener.try_clone()?;
    let server = Server::new(options.clone(), listener, Some(group.to_owned()));
    let child = fork(|| serve(server))?;
    while let Err(rustix::io::Errno::INTR) = waitpid(Some(child), WaitOptions::empty()) {}
    fault::point("keeper.bereft");
    Ok(())
}

fn serve(server: Server) -> u8 {
    match server.run() {
        Ok(()) => 0,
        Err(error) => {
            crate::complain(&error.to_string());
            1
        }
    }
}

/// Moves this process into a group beneath its own, which is then free for sandboxes; returns that
/// one, from the root of the hierarchy. It is all that this process and sandboxes see of control groups
/// from then on.
fn settle() -> Result<String, KeeperError> {
    let hierarchy = found("/proc/self/mountinfo", cgroup::mount_in)?;
    // The root is none that a service could have.
    let service = |group: &&str| *group != "/";
    let own = |groups: &str| cgroup::own_in(groups).filter(service).map(str::to_owned);
    let group = found("/proc/self/cgroup", own)?;
    let below = hierarchy.join(group.trim_start_matches('/')).join(OURS);
    // Before it leaves: the root is where a process is when it asks.
    cgroup::become_root().map_err(KeeperError::Namespace)?;
    match fs::create_dir(&below) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed(&below)(error));
        }
        _ => {}
    }
    fault::point("keeper.grouped");
    let procs = below.join("cgroup.procs");
    fs::write(&procs, std::process::id().to_string()).map_err(failed(&procs))?;
    fault::point("keeper.settled");
    Ok(group)
}

fn found<T>(path: &str, look: impl FnOnce(&str) -> Option<T>) -> Result<T, KeeperError> {
    let path = Path::new(path);
    let text = fs::read_to_string(path).map_err(failed(path))?;
    look(&text).ok_or_else(|| KeeperError::NoGroups(path.to_owned()))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> KeeperError {
    |error| KeeperError::Group { path: path.to_owned(), error }
}
