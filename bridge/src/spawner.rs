//! The half of the bridge that starts things, and what the two halves say to each other.
//!
//! The spawner is the agent's uid in the agent's cgroup and landlock domain; whatever it starts
//! inherits that. It adopts orphans and reaps them. The agent can kill it: then the bridge ends,
//! and with it the sandbox.
//!
//! The halves talk over a sequenced-packet socket pair, one JSON object per packet. Program,
//! arguments and environment may be larger than a packet and travel in a memfd.

use std::collections::BTreeSet;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Seek as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, set_child_subreaper,
    wait,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::confine::{self, ConfineError, Half, Step};
use crate::descendants::descendants;
use crate::fault;

/// What the bridge tells the spawner to do.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Start a program. Descriptors: a memfd with the [`Program`], then standard input, output
    /// and error.
    Start {
        /// The bridge's number for it.
        id: u64,
        /// Whether what is left of its process group is killed when it ends.
        group_ends_with_it: bool,
    },
    /// Kill a program, its process group, and what descends from it.
    Kill {
        /// Its number.
        id: u64,
    },
    /// Signal everything of the agent.
    SignalAll {
        /// SIGKILL instead of SIGTERM.
        kill: bool,
    },
}

/// What the spawner reports.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// Confined, and waiting for orders. The first report.
    Ready,
    /// A program could not be started.
    Failed {
        /// Its number.
        id: u64,
        /// Why.
        error: String,
    },
    /// A program ended.
    Ended {
        /// Its number.
        id: u64,
        /// How.
        how: Ending,
    },
    /// After [`Order::SignalAll`]: nothing of the agent is left.
    Alone,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ending {
    /// Its exit code, if it exited.
    pub code: Option<i32>,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
}

impl From<WaitStatus> for Ending {
    fn from(status: WaitStatus) -> Ending {
        Ending { code: status.exit_status(), signal: status.terminating_signal() }
    }
}

/// A program to start in the workspace.
#[derive(Debug, Deserialize, Serialize)]
pub struct Program {
    /// Its path.
    pub program: String,
    /// Its arguments, without its own name.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
}

/// Where programs start.
const WORKSPACE: &str = "/workspace";

/// The largest packet. An error sentence is the only part of one that can grow.
const PACKET: usize = 4096;

/// How often it is looked for what a program that is killed has started meanwhile. More than twice
/// only when it never stops starting something.
const ROUNDS: usize = 8;

/// Descriptors of an [`Order::Start`].
const START_FDS: usize = 4;

impl Program {
    /// The program in a memfd, as an [`Order::Start`] carries it.
    ///
    /// # Errors
    /// When the memfd cannot be made or filled.
    pub fn in_memfd(&self) -> io::Result<OwnedFd> {
        let mut file = std::fs::File::from(memfd_create("program", MemfdFlags::CLOEXEC)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        file.rewind()?;
        Ok(file.into())
    }
}

/// Sends an order or a report. The socket may be blocking: the other half always reads.
///
/// # Errors
/// When the other half is gone.
pub fn send(socket: &OwnedFd, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(START_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives an order or a report; `None` when there is none yet.
///
/// # Errors
/// When the other half is gone ([`io::ErrorKind::UnexpectedEof`]) or talks nonsense.
pub fn receive<T: DeserializeOwned>(socket: &OwnedFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = [0; PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(START_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)
    {
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        other => other?.bytes,
    };
    if received == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(Some((serde_json::from_slice(&bytes[..received])?, fds)))
}

/// The spawner's whole life. Returns its exit status, when the bridge is gone or it cannot
/// confine itself; then a sentence is on standard error.
///
/// `join` is `cgroup.procs` of the agent's group, unless it is in there already.
pub fn run(socket: OwnedFd, join: Option<OwnedFd>, steps: &[Step], agent_uid: u32) -> u8 {
    fault::point("spawner.begun");
    match confine(join, steps, agent_uid).map_err(io::Error::other).and_then(|()| serve(socket)) {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "spawner: {error}");
            1
        }
    }
}

fn confine(join: Option<OwnedFd>, steps: &[Step], agent_uid: u32) -> Result<(), ConfineError> {
    if let Some(procs) = join {
        let joined = rustix::io::write(&procs, b"0").map(drop);
        confine::step("join the agent's cgroup", joined)?;
    }
    confine::step("adopt orphans", set_child_subreaper(Some(rustix::process::getpid())))?;
    confine::take(steps, &Half { uid: agent_uid, domain: confine::files::agent })?;
    fault::point("spawner.confined");
    Ok(())
}

#[derive(Debug)]
struct Spawner {
    socket: OwnedFd,
    programs: Vec<Running>,
    /// The bridge wants to know when nothing is left.
    ending: bool,
}

#[derive(Debug)]
struct Running {
    pid: Pid,
    id: u64,
    group_ends_with_it: bool,
}

fn serve(socket: OwnedFd) -> io::Result<()> {
    let ended = ash_sys::children::ended()?;
    let mut spawner = Spawner { socket, programs: Vec::new(), ending: false };
    send(&spawner.socket, &Report::Ready, &[])?;
    fault::point("spawner.ready");
    loop {
        wait_for([spawner.socket.as_fd(), ended.as_fd()])?;
        while rustix::io::read(&ended, &mut [0; 64]).is_ok_and(|count| count > 0) {}
        spawner.reap()?;
        match receive::<Order>(&spawner.socket) {
            Ok(Some((order, fds))) => spawner.obey(order, fds)?,
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn wait_for(fds: [BorrowedFd<'_>; 2]) -> io::Result<()> {
    let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Spawner {
    fn obey(&mut self, order: Order, fds: Vec<OwnedFd>) -> io::Result<()> {
        match order {
            Order::Start { id, group_ends_with_it } => match start(fds) {
                Ok(pid) => {
                    fault::point("spawner.started");
                    self.programs.push(Running { pid, id, group_ends_with_it });
                }
                Err(error) => self.report(&Report::Failed { id, error: brief(&error) })?,
            },
            Order::Kill { id } => {
                let program = self.programs.iter().find(|program| program.id == id);
                program.into_iter().for_each(|program| kill_program(program.pid));
            }
            Order::SignalAll { kill } => {
                signal_all(if kill { Signal::KILL } else { Signal::TERM });
                self.ending = true;
                self.reap()?;
            }
        }
        Ok(())
    }

    /// Reaps whatever has ended: what we started, and orphans that became ours.
    fn reap(&mut self) -> io::Result<()> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => self.ended(pid, status)?,
                Err(Errno::CHILD) if std::mem::take(&mut self.ending) => {
                    return self.report(&Report::Alone);
                }
                Ok(None) | Err(Errno::CHILD) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn ended(&mut self, pid: Pid, status: WaitStatus) -> io::Result<()> {
        let place = self.programs.iter().position(|program| program.pid == pid);
        let Some(program) = place.map(|place| self.programs.swap_remove(place)) else {
            return Ok(());
        };
        if program.group_ends_with_it {
            kill_group(pid);
        }
        self.report(&Report::Ended { id: program.id, how: status.into() })
    }

    fn report(&self, report: &Report) -> io::Result<()> {
        send(&self.socket, report, &[])
    }
}

fn start(fds: Vec<OwnedFd>) -> io::Result<Pid> {
    let [program, stdin, stdout, stderr] =
        <[OwnedFd; START_FDS]>::try_from(fds).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut json = Vec::new();
    std::fs::File::from(program).read_to_end(&mut json)?;
    let Program { program, args, env } = serde_json::from_slice(&json)?;
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(env).current_dir(WORKSPACE).process_group(0);
    command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr));
    let child = command.spawn()?;
    // Dropping the handle does not end the child, it is reaped with the others.
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData.into())
}

/// Kills a program that was not reaped yet, and what descends from it, also when they have left the
/// process group that it was started as: shells, and those who limit others, make groups and
/// sessions of their own. First all of them are stopped: whoever stands still starts nothing, reaps
/// nothing, and stays the parent of what it has started.
fn kill_program(leader: Pid) {
    let mut family = BTreeSet::new();
    for _ in 0..ROUNDS {
        signal_family(leader, &family, Signal::STOP);
        let found = descendants(leader.as_raw_nonzero().get());
        if found.is_subset(&family) {
            break;
        }
        family.extend(found);
    }
    signal_family(leader, &family, Signal::KILL);
}

fn signal_family(leader: Pid, family: &BTreeSet<i32>, signal: Signal) {
    let _ = kill_process_group(leader, signal);
    let family = family.iter().filter_map(|pid| Pid::from_raw(*pid));
    for process in std::iter::once(leader).chain(family) {
        let _ = kill_process(process, signal);
    }
}

fn kill_group(leader: Pid) {
    let _ = kill_process_group(leader, Signal::KILL);
}

/// Group 1 is spelled -1, which `kill(2)` reads as everything that may be signalled, except the
/// caller and PID 1: in here that is what the agent's uid started.
fn signal_all(signal: Signal) {
    let _ = kill_process_group(Pid::INIT, signal);
}

/// As much of an error as fits a packet.
fn brief(error: &io::Error) -> String {
    error.to_string().chars().take(PACKET / 8).collect()
}
