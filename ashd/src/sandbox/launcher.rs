//! The launcher, as a process that this daemon starts or finds.
//!
//! Sandboxes do not depend on the launcher once they are made: a new one serves new sandboxes. One
//! that is a service of its own may have been started by an older version of ash, and was told by
//! its unit what this daemon was told by its configuration: what it says of itself is compared.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ash_wire::plan::{
    FIXED_FDS, GROUPS_AS_DIRECTORIES, Greeting, LAUNCHER_VERSION, MAX_FILES, MAX_PLAN,
    OLDEST_LAUNCHER_VERSION, Plan, Reply,
};
use rustix::fs::{Mode, OFlags, openat};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::de::DeserializeOwned;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_seqpacket::UnixSeqpacket;
use tokio_seqpacket::ancillary::AncillaryMessageWriter;

use super::children::Children;
use crate::fault;

/// How long the launcher may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How often a launcher that was just started is asked whether it listens.
const KNOCK: Duration = Duration::from_millis(2);

/// Room for the control message with all descriptors, with space to spare for its header.
const ANCILLARY: usize = 4 * (FIXED_FDS + MAX_FILES) + 64;

/// The places of control groups among a request's descriptors.
const GROUPS: Range<usize> = 1..3;

/// The longest answer, in bytes.
const MAX_REPLY: usize = 16 * 1024;

/// Why a sandbox was not launched.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// It does not run and could not be started.
    #[error("the launcher cannot be started: {0}")]
    Start(io::Error),
    /// It does not answer.
    #[error("the launcher cannot be reached: {0}")]
    Io(#[from] io::Error),
    /// Somebody else has found so meanwhile, in these words.
    #[error("{0}")]
    Missed(String),
    /// No answer in time.
    #[error("the launcher did not answer within {} s", PATIENCE.as_secs())]
    Silent,
    /// The plan does not fit a packet.
    #[error("the plan of the sandbox has {0} bytes, more than the {MAX_PLAN} that fit a packet")]
    TooLong(usize),
    /// The launcher said no.
    #[error("the launcher refused: {0}")]
    Refused(String),
    /// It is a service that does not run.
    #[error(
        "the launcher is not there ({0}); it runs as ash-sandboxes.service: see `systemctl status \
         ash-sandboxes`"
    )]
    NoService(io::Error),
    /// Another version of ash left it.
    #[error(
        "the launcher speaks version {0} and this daemon {OLDEST_LAUNCHER_VERSION} to \
         {LAUNCHER_VERSION}; `systemctl restart ash-sandboxes` starts one that fits, and ends the \
         sandboxes"
    )]
    Version(u16),
    /// It was told something else.
    #[error(
        "the launcher has the {what} {theirs}, and this daemon {ours}; give ash-sandboxes.service \
         and ashd.toml the same and restart both"
    )]
    Differs {
        /// In what.
        what: &'static str,
        /// What the launcher has.
        theirs: String,
        /// What this daemon has.
        ours: String,
    },
}

/// How to reach and to start the launcher.
#[derive(Clone, Debug)]
pub struct LauncherSetup {
    /// Its socket.
    pub socket: PathBuf,
    /// Its program; absent when a service manager runs it.
    pub program: Option<PathBuf>,
    /// Bubblewrap.
    pub bwrap: PathBuf,
    /// The bridge's program.
    pub bridge: PathBuf,
    /// The directory that all writable sources lie in.
    pub sessions_dir: PathBuf,
    /// The directory that brokers' sockets lie in.
    pub broker_dir: PathBuf,
    /// The CLI's executable.
    pub runtime: PathBuf,
    /// The first user id that sandboxes may have.
    pub uid_base: u32,
    /// How many there are.
    pub uid_count: u32,
    /// When we start it, it ends itself when it has had neither an `ashd` nor a sandbox for this
    /// long.
    pub exit_when_unused: Duration,
    /// How long it may take until it listens.
    pub patience: Duration,
}

/// The launcher.
#[derive(Debug)]
pub struct Launcher {
    setup: LauncherSetup,
    children: Children,
    /// The control group that the launcher was given for sandboxes, from the hierarchy's root;
    /// absent when it is a child of this daemon.
    group: Option<String>,
    slot: Mutex<Slot>,
}

/// What requests share, which are made one after the other.
#[derive(Debug, Default)]
struct Slot {
    /// Absent while nobody was reached, and while a request is under way: one that is given up
    /// leaves no answer behind for the next.
    link: Option<Link>,
    missed: Option<Missed>,
}

/// Nobody was reached.
#[derive(Debug)]
struct Missed {
    /// When that was known last.
    at: Instant,
    why: String,
}

/// A launcher that was reached.
#[derive(Debug)]
struct Link {
    socket: UnixSeqpacket,
    /// What it speaks.
    version: u16,
}

impl Launcher {
    /// Finds the launcher or starts it.
    ///
    /// # Errors
    /// When it is not there and cannot be started.
    pub(super) async fn start(
        setup: LauncherSetup,
        children: Children,
    ) -> Result<Launcher, LauncherError> {
        let mut launcher = Launcher { setup, children, group: None, slot: Mutex::default() };
        let (link, greeting) = launcher.reach().await?;
        launcher.group = greeting.group;
        launcher.slot.get_mut().link = Some(link);
        Ok(launcher)
    }

    /// One for tests that nobody answers as.
    #[cfg(test)]
    pub(super) fn absent(setup: LauncherSetup, children: Children) -> Launcher {
        let setup = LauncherSetup { patience: Duration::ZERO, program: None, ..setup };
        Launcher { setup, children, group: None, slot: Mutex::default() }
    }

    /// The control group that it was given for sandboxes, from the root of the hierarchy, when it
    /// is a service of its own.
    pub fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// Has a sandbox made; returns the process id of its outermost process. A launcher that went
    /// away is started anew.
    ///
    /// # Errors
    /// When it refuses, or does not answer.
    pub async fn launch(&self, plan: &Plan, fds: &[OwnedFd]) -> Result<u32, LauncherError> {
        let request = serde_json::to_vec(plan).map_err(io::Error::from)?;
        if request.len() > MAX_PLAN {
            return Err(LauncherError::TooLong(request.len()));
        }
        let asked = Instant::now();
        let mut slot = self.slot.lock().await;
        let link = match slot.link.take() {
            Some(link) => link.send(&request, fds).await.is_ok().then_some(link),
            None => None,
        };
        // A request that could not even be sent has started nothing.
        let link = match link {
            Some(link) => link,
            None => {
                let link = self.reach_again(asked, &mut slot.missed).await?;
                link.send(&request, fds).await?;
                link
            }
        };
        let reply = timeout(PATIENCE, receive::<Reply>(&link.socket)).await;
        let reply = reply.map_err(|_| LauncherError::Silent)??;
        slot.link = Some(link);
        match reply {
            Reply::Launched { pid } => Ok(pid),
            Reply::Refused { reason } => Err(LauncherError::Refused(reason)),
        }
    }

    /// Ends it if it is ours and not a service manager's, also one that an earlier daemon started.
    pub(super) async fn end(&self) {
        let link = self.slot.lock().await.link.take();
        let (Some(link), Some(_)) = (link, &self.setup.program) else { return };
        if let Err(error) = terminate(&link.socket) {
            tracing::warn!(%error, "the launcher was not ended");
        }
    }

    /// Reaches it for somebody who asked then, and has waited since for those before. When one of
    /// these has just waited in vain, so has whoever asked before that was known: each would wait
    /// once more else, the last of many for minutes.
    async fn reach_again(
        &self,
        asked: Instant,
        missed: &mut Option<Missed>,
    ) -> Result<Link, LauncherError> {
        if let Some(Missed { at, why }) = &*missed
            && asked < *at
        {
            return Err(LauncherError::Missed(why.clone()));
        }
        let reached = self.reach().await;
        let why = reached.as_ref().err().map(|error| error.to_string());
        *missed = why.map(|why| Missed { at: Instant::now(), why });
        reached.map(|(link, _)| link)
    }

    async fn reach(&self) -> Result<(Link, Greeting), LauncherError> {
        let socket = match (UnixSeqpacket::connect(&self.setup.socket).await, &self.setup.program) {
            (Ok(socket), _) => socket,
            (Err(_), Some(program)) => self.spawn(program).await?,
            // The service manager starts it again when it has ended.
            (Err(_), None) => self.knock(|| Ok(())).await.map_err(LauncherError::NoService)?,
        };
        let greeting = timeout(PATIENCE, receive::<Greeting>(&socket)).await;
        let greeting = greeting.map_err(|_| LauncherError::Silent)??;
        self.setup.compare(&greeting)?;
        Ok((Link { socket, version: greeting.version }, greeting))
    }

    async fn spawn(&self, program: &Path) -> Result<UnixSeqpacket, LauncherError> {
        let mut command = Command::new(program);
        command.env_clear().current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.setup.arguments(&mut command);
        let mut child = command.spawn().map_err(LauncherError::Start)?;
        fault::point("launcher.spawned");
        let socket = self.knock(|| alive(&mut child)).await.map_err(LauncherError::Start)?;
        self.children.watch("launcher", child);
        Ok(socket)
    }

    /// Connects as soon as a launcher listens, while `hope` lasts. Nothing tells when it does.
    async fn knock(&self, mut hope: impl FnMut() -> io::Result<()>) -> io::Result<UnixSeqpacket> {
        let end = Instant::now() + self.setup.patience;
        loop {
            match UnixSeqpacket::connect(&self.setup.socket).await {
                Ok(socket) => return Ok(socket),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => {}
            }
            hope()?;
            sleep(KNOCK).await;
        }
    }
}

impl Link {
    async fn send(&self, request: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
        let before = match fds.get(GROUPS) {
            Some(groups) if self.version < GROUPS_AS_DIRECTORIES => procs(groups)?,
            _ => Vec::new(),
        };
        let mut sent: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        for (place, procs) in GROUPS.zip(&before) {
            sent[place] = procs.as_fd();
        }
        let mut buffer = [0; ANCILLARY];
        let mut ancillary = AncillaryMessageWriter::new(&mut buffer);
        ancillary.add_fds(sent).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.socket.send_with_ancillary(request, &mut ancillary).await.map(drop)
    }
}

/// What a launcher of before joins groups by.
fn procs(groups: &[OwnedFd]) -> io::Result<Vec<OwnedFd>> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let open = |group: &OwnedFd| openat(group, "cgroup.procs", flags, Mode::empty());
    Ok(groups.iter().map(open).collect::<Result<_, _>>()?)
}

/// Whether a launcher that was started can still come to listen.
fn alive(child: &mut Child) -> io::Result<()> {
    match child.try_wait()? {
        None => Ok(()),
        Some(status) => {
            let reason = format!("it ended with {status}; its own words are in the log");
            Err(io::Error::other(reason))
        }
    }
}

impl LauncherSetup {
    fn compare(&self, greeting: &Greeting) -> Result<(), LauncherError> {
        if !(OLDEST_LAUNCHER_VERSION..=LAUNCHER_VERSION).contains(&greeting.version) {
            return Err(LauncherError::Version(greeting.version));
        }
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let theirs = greeting.clone();
        let facts = [
            ("sessions directory", theirs.sessions_dir, text(&self.sessions_dir)),
            ("directory of model sockets", theirs.broker_dir, text(&self.broker_dir)),
            ("first user id", theirs.uid_base.to_string(), self.uid_base.to_string()),
            ("number of user ids", theirs.uid_count.to_string(), self.uid_count.to_string()),
        ];
        match facts.into_iter().find(|(_, theirs, ours)| theirs != ours) {
            None => Ok(()),
            Some((what, theirs, ours)) => Err(LauncherError::Differs { what, theirs, ours }),
        }
    }

    fn arguments(&self, command: &mut Command) {
        let paths = [
            ("--socket", &self.socket),
            ("--bwrap", &self.bwrap),
            ("--bridge", &self.bridge),
            ("--sessions-dir", &self.sessions_dir),
            ("--broker-dir", &self.broker_dir),
            ("--runtime", &self.runtime),
        ];
        for (name, path) in paths {
            command.arg(name).arg(path);
        }
        let numbers = [
            ("--uid-base", u64::from(self.uid_base)),
            ("--uid-count", u64::from(self.uid_count)),
            ("--exit-when-unused", self.exit_when_unused.as_secs()),
        ];
        for (name, number) in numbers {
            command.arg(name).arg(number.to_string());
        }
    }
}

/// Sends SIGTERM to the process at the other end. It is there: its end of the socket is open, and
/// it does not pass it on.
fn terminate(socket: &UnixSeqpacket) -> io::Result<()> {
    let pid = socket.peer_cred()?.pid().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::NotFound)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    Ok(pidfd_send_signal(process, Signal::TERM)?)
}

async fn receive<T: DeserializeOwned>(socket: &UnixSeqpacket) -> io::Result<T> {
    let mut answer = vec![0; MAX_REPLY];
    let read = socket.recv(&mut answer).await?.bytes_read();
    if read == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up"));
    }
    Ok(serde_json::from_slice(&answer[..read])?)
}

#[cfg(test)]
#[path = "launcher_tests.rs"]
mod tests;
