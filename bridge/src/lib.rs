//! PID 1 of a sandbox.
//!
//! Two processes from one program, both single-threaded:
//!
//! ```text
//!   ashd ⇄ bridge (uid B, no file, no network) ⇄ spawner (uid A, the agent's domain) ─► CLI, tools
//! ```
//!
//! In reading order: [`options`], then [`confine`], which both halves go through; [`spawner`],
//! the half that starts things and ends them with their [`descendants`]; what the other half decides
//! ([`lines`], [`speech`], [`permission`], [`turn`], [`tasks`], [`log`]); what it talks through ([`link`],
//! [`outbox`], [`cli`], [`commands`]); and [`bridge`], the loop. [`run`] is the order of it all. At the
//! points of [`fault`] tests let either half die.
//!
//! Whatever comes from the spawner's side is written by the agent if it wants to, and is bounded
//! and checked here. Whatever `ashd` makes of it, it must treat it the same way.

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use ash_sys::files::is_directory;
use ash_sys::process::{fork, fork_into};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

pub mod options;

pub mod confine;

pub mod descendants;

pub mod spawner;

pub mod lines;

pub mod speech;

pub mod permission;

pub mod turn;

pub mod tasks;

pub mod log;

pub mod outbox;

pub mod link;

pub mod cli;

pub mod commands;

pub mod bridge;

pub mod fault;

use crate::bridge::{Bridge, Parts};
use crate::confine::{ConfineError, Half, Step};
use crate::options::{Options, OptionsError};
use crate::spawner::Report;

/// The last descriptor that the launcher hands over: three standard streams, the listening socket
/// and the agent's cgroup. What comes after it was not meant for us.
const LAST_FD: u32 = 4;

/// Why the bridge ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The launcher gave other arguments than expected.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// What the launcher should have handed over is not there.
    #[error("cannot take over descriptor {0}: {1}")]
    Descriptor(u32, io::Error),
    /// The sandbox has no `/dev/null`.
    #[error("cannot open /dev/null: {0}")]
    Null(io::Error),
    /// It could not give up its privileges.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// The spawner could not be made or did not get ready.
    #[error("the spawner did not get ready: {0}")]
    Spawner(io::Error),
    /// The spawner is gone, so nothing can be started or ended any more.
    #[error("the spawner is gone: {0}")]
    Alone(io::Error),
}

/// Runs the bridge with these arguments (without the program's name), until the sandbox ends.
///
/// # Errors
/// Before anything of the agent was started, when something is missing; later only when the
/// spawner is gone.
pub fn run(args: impl Iterator<Item = String>) -> Result<(), BridgeError> {
    run_with(args, confine::STEPS)
}

/// [`run`] for tests of single layers: with other steps than [`confine::STEPS`].
///
/// # Errors
/// As [`run`].
pub fn run_with(args: impl Iterator<Item = String>, steps: &[Step]) -> Result<(), BridgeError> {
    let options = Options::parse(args)?;
    ash_sys::fds::shed(LAST_FD + 1).map_err(|error| BridgeError::Descriptor(LAST_FD, error))?;
    let inherited = |number: u32| {
        ash_sys::fds::take_inherited(number).map_err(|error| BridgeError::Descriptor(number, error))
    };
    let cgroup = inherited(options.agent_cgroup_fd)?;
    let half = Half { uid: options.bridge_uid, domain: confine::files::bridge };
    fault::point("bridge.begun");
    let spawner = fork_spawner(&options, cgroup, steps)?;
    fault::point("bridge.forked");
    let listener = inherited(options.listen_fd)?;
    rustix::io::ioctl_fionbio(&listener, true)
        .map_err(|error| BridgeError::Descriptor(options.listen_fd, error.into()))?;
    let null = std::fs::File::open("/dev/null").map_err(BridgeError::Null)?.into();
    // Both halves confine themselves at the same time.
    confine::take(steps, &half)?;
    fault::point("bridge.confined");
    wait_until_ready(&spawner).map_err(BridgeError::Spawner)?;
    fault::point("bridge.ready");
    let parts = Parts {
        listener,
        spawner,
        null,
        sandbox: options.sandbox,
        orphan_timeout: options.orphan_timeout,
    };
    Bridge::new(parts).run().map_err(BridgeError::Alone)
}

/// Forks the spawner, into the agent's group where that can be done from here.
fn fork_spawner(
    options: &Options,
    cgroup: OwnedFd,
    steps: &[Step],
) -> Result<OwnedFd, BridgeError> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let (ours, its) = socketpair(AddressFamily::UNIX, kind, flags, None)
        .map_err(|error| BridgeError::Spawner(error.into()))?;
    let mut both = Some((ours, its));
    let mut child = |join| {
        let Some((ours, its)) = both.take() else { return 1 };
        drop(ours);
        // The listening socket is not the spawner's business.
        drop(ash_sys::fds::take_inherited(options.listen_fd));
        spawner::run(its, join, steps, options.agent_uid)
    };
    let forked = match is_directory(&cgroup) {
        true => fork_into(cgroup, || child(None)),
        false => fork(|| child(Some(cgroup))),
    };
    forked.map_err(BridgeError::Spawner)?;
    let Some((ours, _)) = both else {
        return Err(BridgeError::Spawner(io::ErrorKind::Other.into()));
    };
    // The agent can stop the spawner: orders that pile up then must not stop us too.
    rustix::io::ioctl_fionbio(&ours, true).map_err(|error| BridgeError::Spawner(error.into()))?;
    Ok(ours)
}

/// Waits until the spawner has confined itself.
fn wait_until_ready(spawner: &OwnedFd) -> io::Result<()> {
    loop {
        poll(&mut [PollFd::new(spawner, PollFlags::IN)], None)?;
        match spawner::receive(spawner)? {
            Some((Report::Ready, _)) => return Ok(()),
            Some((other, _)) => return Err(io::Error::other(format!("{other:?} before ready"))),
            None => {}
        }
    }
}

/// What `main` makes of it: the sentence goes to standard error.
pub fn exit_code(outcome: &Result<(), BridgeError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("ash-bridge: {error}\n"));
            ExitCode::FAILURE
        }
    }
}
