//! Making one sandbox.

use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use ash_sys::cgroup;
use ash_sys::files::is_directory;
use ash_sys::process::{ABOUT_TO_RUN, Exec, fork_into};
use ash_wire::plan::{FIXED_FDS, Mount, Plan};
use rustix::fs::{
    CWD, Mode, OFlags, ResolveFlags, SealFlags, SeekFrom, StatVfsMountFlags, fcntl_get_seals,
    fstat, fstatfs, fstatvfs, openat, openat2, seek,
};
use rustix::net::sockopt::socket_acceptconn;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Rlimit, WaitOptions, WaitStatus, setrlimit, waitpid};

use crate::argv;
use crate::fault;
use crate::options::Options;
use crate::validate::{self, PlanError};

/// The largest file of a plan, in bytes.
const MAX_FILE: i64 = 4 * 1024 * 1024;

/// `CGROUP2_SUPER_MAGIC`.
const CGROUP2: i64 = 0x6367_7270;

/// How much sooner than others a process of a sandbox is ended when memory runs out, in thousandths
/// of it.
const OOM_SCORE: i32 = 200;

/// Why a sandbox was not made. Then nothing of it exists.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The plan is not allowed.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A descriptor is not what the plan's table says.
    #[error("descriptor {index} is not {expected}")]
    Descriptor {
        /// Its place in the request.
        index: usize,
        /// What it should be.
        expected: &'static str,
    },
    /// The source of a writable mount is not a directory of this agent.
    #[error("{0:?} is not a directory, reached without links, that belongs to the agent's uid")]
    Source(String),
    /// The source of a writable mount cannot be written here.
    #[error(
        "{0:?} is read-only for the launcher; when the state directory was put anew in its place, \
         `systemctl restart ash-sandboxes` lets it see that"
    )]
    ReadOnly(String),
    /// A step was refused by the kernel.
    #[error("cannot {0}: {1}")]
    Step(&'static str, io::Error),
    /// The child could not become bubblewrap.
    #[error("{0}")]
    Child(String),
    /// The child died, without a word, before it became bubblewrap.
    #[error("the process that was to become bubblewrap {0} before it did")]
    Died(String),
}

/// Makes the sandbox that a plan describes; returns its outermost process, which is a child of this one.
///
/// # Errors
/// When the plan is refused, or bubblewrap could not be run. What bubblewrap itself has to say
/// goes to the plan's standard error.
pub fn launch(plan: &Plan, fds: &[OwnedFd], options: &Options) -> Result<Pid, LaunchError> {
    validate::check(plan, fds.len(), options)?;
    check_descriptors(fds)?;
    check_sources(plan, options)?;
    let null = step("open /dev/null", std::fs::File::open("/dev/null"))?;
    let [listener, bridge_group, agent_group, stderr, files @ ..] = fds else {
        return Err(LaunchError::Descriptor { index: fds.len(), expected: "there" });
    };
    let procs = procs_beyond_namespace(agent_group, options)?;
    let way_in = procs.as_ref().unwrap_or(agent_group);
    let mut descriptors: Vec<BorrowedFd<'_>> =
        vec![null.as_fd(), null.as_fd(), stderr.as_fd(), listener.as_fd(), way_in.as_fd()];
    descriptors.extend(files.iter().map(|file| file.as_fd()));
    let args = argv::arguments(plan, options);
    let (report, its_report) = step("make a pipe", pipe_with(PipeFlags::CLOEXEC))?;
    fault::point("launch.checked");
    let child = fork_into(bridge_group, || {
        fault::point("launch.forked");
        let prepared = prepare(plan);
        fault::point("launch.prepared");
        let Err(error) = prepared else {
            let report = its_report.as_fd();
            Exec { program: &options.bwrap, args: &args, descriptors: &descriptors, report }.run()
        };
        let _ = rustix::io::write(&its_report, error.to_string().as_bytes());
        1
    });
    let child = step("fork into the bridge's cgroup", child)?;
    drop(its_report);
    let child = await_exec(child, report)?;
    fault::point("launch.executed");
    Ok(child)
}

/// `cgroup.procs` of the agent's group, if nobody in the sandbox could be made there: it then has a
/// namespace of its own, rooted at the bridge's group, and that may be a boundary. Opened here, the
/// file lets a process through.
fn procs_beyond_namespace(
    group: &OwnedFd,
    options: &Options,
) -> Result<Option<OwnedFd>, LaunchError> {
    if options.service {
        return Ok(None);
    }
    let mounts = step("look at the mounts", std::fs::read_to_string("/proc/self/mountinfo"))?;
    if !cgroup::is_bounded_in(&mounts) {
        return Ok(None);
    }
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let procs = openat(group, "cgroup.procs", flags, Mode::empty());
    step("open the agent's cgroup", procs).map(Some)
}

/// In the child: what bubblewrap and all that follows inherit.
fn prepare(plan: &Plan) -> Result<(), LaunchError> {
    step("volunteer for the end", volunteer())?;
    let both = |value| Rlimit { current: Some(value), maximum: Some(value) };
    step("limit file sizes", setrlimit(Resource::Fsize, both(plan.rlimits.file_size)))?;
    step("limit open files", setrlimit(Resource::Nofile, both(plan.rlimits.open_files)))?;
    // With 0 the kernel still runs a core handler that is a program; with 1 it runs none. Where 0
    // is the hard limit and cannot be raised, no core file is the most there is.
    match setrlimit(Resource::Core, both(1)) {
        Err(rustix::io::Errno::PERM) => step("forbid cores", setrlimit(Resource::Core, both(0))),
        other => step("forbid cores", other),
    }
}

/// When the machine's memory runs out, sandboxes go before the services of the host, those that made
/// them included (proc_pid_oom_score_adj(5)). To be less dear needs no right.
fn volunteer() -> io::Result<()> {
    let path = "/proc/self/oom_score_adj";
    let now = std::fs::read_to_string(path)?;
    match now.trim().parse() {
        Ok(OOM_SCORE..) => Ok(()),
        _ => std::fs::write(path, OOM_SCORE.to_string()),
    }
}

/// The pipe closes when bubblewrap runs, right behind the byte that says that it is about to.
/// Otherwise it has the reason why not, or nothing when the child was killed. One that is killed in
/// the middle of execve(2) shows on the bridge's socket, as does a bubblewrap that fails.
fn await_exec(child: Pid, report: OwnedFd) -> Result<Pid, LaunchError> {
    let mut said = Vec::new();
    let read = std::fs::File::from(report).read_to_end(&mut said);
    let reason = match said.strip_prefix(&[ABOUT_TO_RUN]) {
        Some([]) if read.is_ok() => return Ok(child),
        Some(reason) => reason,
        None => said.as_slice(),
    };
    let ended = waitpid(Some(child), WaitOptions::empty());
    if reason.is_empty() {
        let status = ended.ok().flatten().map(|(_, status)| status);
        return Err(LaunchError::Died(how_it_ended(status)));
    }
    Err(LaunchError::Child(String::from_utf8_lossy(reason).into_owned()))
}

fn how_it_ended(status: Option<WaitStatus>) -> String {
    match status.map(|status| (status.terminating_signal(), status.exit_status())) {
        Some((Some(signal), _)) => format!("was ended by signal {signal}"),
        Some((None, Some(status))) => format!("ended with status {status}"),
        _ => "ended".to_owned(),
    }
}

fn check_descriptors(fds: &[OwnedFd]) -> Result<(), LaunchError> {
    for (index, fd) in fds.iter().enumerate() {
        let (is_it, expected) = match index {
            0 => (socket_acceptconn(fd).unwrap_or(false), "a listening socket"),
            1 | 2 => (is_group(fd), "a directory of cgroup v2"),
            3 => (true, "anything"),
            _ => (is_sealed(fd), "a sealed memfd of bounded size"),
        };
        if !is_it {
            return Err(LaunchError::Descriptor { index, expected });
        }
        if index >= FIXED_FDS {
            step("rewind a file", seek(fd, SeekFrom::Start(0)))?;
        }
    }
    Ok(())
}

fn is_group(fd: &OwnedFd) -> bool {
    fstatfs(fd).is_ok_and(|fs| fs.f_type == CGROUP2) && is_directory(fd)
}

fn is_sealed(fd: &OwnedFd) -> bool {
    let needed = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK;
    let sealed = fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(needed));
    sealed && fstat(fd).is_ok_and(|stat| stat.st_size <= MAX_FILE)
}

fn check_sources(plan: &Plan, options: &Options) -> Result<(), LaunchError> {
    for mount in &plan.mounts {
        let Mount::Writable { source, .. } = mount else { continue };
        let found = agents_directory(source, &options.sessions_dir, plan.agent_uid);
        let Ok(Some(directory)) = found else { return Err(LaunchError::Source(source.clone())) };
        // bubblewrap keeps what a mount forbids, and would say nothing.
        let mount = step("look at a mount", fstatvfs(&directory))?;
        if mount.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(LaunchError::ReadOnly(source.clone()));
        }
    }
    Ok(())
}

/// Only the sessions directory's own path is trusted to lead where it says.
fn agents_directory(source: &str, sessions: &Path, uid: u32) -> io::Result<Option<OwnedFd>> {
    let open = |base: BorrowedFd<'_>, path: &OsStr, resolve| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(base, path, flags, Mode::empty(), resolve)
    };
    let Ok(inner) = Path::new(source).strip_prefix(sessions) else { return Ok(None) };
    let base = open(CWD, sessions.as_os_str(), ResolveFlags::empty())?;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let directory = open(base.as_fd(), inner.as_os_str(), beneath)?;
    let is_its = fstat(&directory)?.st_uid == uid && is_directory(&directory);
    Ok(is_its.then_some(directory))
}

fn step<T>(step: &'static str, result: Result<T, impl Into<io::Error>>) -> Result<T, LaunchError> {
    result.map_err(|error| LaunchError::Step(step, error.into()))
}
