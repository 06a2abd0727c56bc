//! The groups of one sandbox.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::{MemController, SetMemory};
use cgroups_rs::fs::pid::PidController;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::super::limits::Limits;
use super::CgroupError;
use super::holders::{Frozen, Holders};

/// Length of a scheduling period, in microseconds.
const PERIOD_US: u64 = 100_000;

/// Bounds of the bridge's own group: it keeps up to 64 MiB of events, and messages on their way.
const BRIDGE_MEMORY: i64 = 512 * 1024 * 1024;
const BRIDGE_PIDS: i64 = 64;

/// The kernel tells of a change of `cgroup.events` only when it has told of none for 10 ms, counted in its own
/// ticks (CGROUP_FILE_NOTIFY_MIN_INTV). So at first it is also looked, and how often.
const HELD_BACK: Duration = Duration::from_millis(16);
const LOOK: Duration = Duration::from_millis(1);

/// What a sandbox's agent uses. What has no controller reads as zero.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stats {
    /// Memory in use, in bytes.
    pub memory: u64,
    /// The most memory that was in use, in bytes.
    pub memory_peak: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Processor time used since the beginning, in microseconds.
    pub cpu_us: u64,
    /// Bytes read from disks since the beginning.
    pub read: u64,
    /// Bytes written to disks since the beginning.
    pub written: u64,
}

/// Whose memory ran out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OutOfMemory {
    /// The agent's: it was at its limit.
    Sandbox,
    /// The machine's, or that of all sandboxes together.
    Server,
}

/// The groups of one sandbox.
#[derive(Clone, Debug)]
pub struct Group {
    path: PathBuf,
    holders: Holders,
}

impl Group {
    pub(super) fn at(path: PathBuf, holders: Holders) -> Self {
        Group { path, holders }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the two groups in the sandbox's own.
    pub(super) fn make(&self, enabled: &[&str]) -> Result<(), CgroupError> {
        if !enabled.is_empty() {
            let control = self.path.join("cgroup.subtree_control");
            // All with one write: each goes through the group, while no other is made or removed.
            let all: Vec<String> = enabled.iter().map(|name| format!("+{name}")).collect();
            fs::write(&control, all.join(" ")).map_err(CgroupError::io(&control))?;
        }
        for child in [self.bridge(), self.agent()] {
            fs::create_dir(&child).map_err(CgroupError::io(&child))?;
        }
        Ok(())
    }

    pub(super) fn limit(&self, enabled: &[&str], limits: &Limits) -> Result<(), CgroupError> {
        let has = |name| enabled.contains(&name);
        if has("memory") {
            limit_memory(&self.agent(), saturate(limits.memory))?;
            limit_memory(&self.bridge(), BRIDGE_MEMORY)?;
        }
        if has("pids") {
            limit_pids(&self.agent(), saturate(limits.pids))?;
            limit_pids(&self.bridge(), BRIDGE_PIDS)?;
        }
        if has("cpu") {
            limit_cpu(&self.agent(), limits.cpus)?;
        }
        Ok(())
    }

    /// Whether the group exists.
    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// The bridge's group, for making a process in it.
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn open_bridge(&self) -> Result<OwnedFd, CgroupError> {
        open(&self.bridge())
    }

    /// The agent's group, for making a process in it.
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn open_agent(&self) -> Result<OwnedFd, CgroupError> {
        open(&self.agent())
    }

    /// Kills every process in the sandbox at once, however many it makes meanwhile. It is fine
    /// when there is no such group.
    ///
    /// # Errors
    /// When the system fails.
    pub fn kill(&self) -> Result<(), CgroupError> {
        kill(&self.path)
    }

    /// Kills every process of the agent at once, as [`kill`](Self::kill) does, and leaves the bridge.
    ///
    /// # Errors
    /// When the system fails.
    pub fn kill_agent(&self) -> Result<(), CgroupError> {
        kill(&self.agent())
    }

    /// Blocks until no process is left, at most for `patience`; says whether none is left. A
    /// group that does not exist has none.
    ///
    /// # Errors
    /// When the system fails.
    pub fn wait_empty(&self, patience: Duration) -> Result<bool, CgroupError> {
        let path = self.path.join("cgroup.events");
        match File::open(&path) {
            Err(error) if is_gone(&error) => Ok(true),
            Err(error) => Err(CgroupError::Io { path, error }),
            Ok(file) => becomes(file, ("populated", 0), patience).map_err(CgroupError::io(&path)),
        }
    }

    /// Stops every process of the agent where it is and blocks until all stand still, at most for
    /// `patience`. They go on when what is returned is dropped, and what others got by this. `None`:
    /// there is no such group, so nothing moves.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] when a process does not stop in time, and when the system fails.
    /// Everything goes on then that nobody else holds.
    pub fn freeze(&self, patience: Duration) -> Result<Option<Frozen>, CgroupError> {
        let path = self.agent().join("cgroup.freeze");
        let frozen = match self.holders.hold(&path) {
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(CgroupError::Io { path, error }),
            Ok(frozen) => frozen,
        };
        let events = self.agent().join("cgroup.events");
        let stands = File::open(&events).and_then(|file| becomes(file, ("frozen", 1), patience));
        match stands {
            Ok(true) => Ok(Some(frozen)),
            Ok(false) => Err(CgroupError::Io { path: events, error: ErrorKind::TimedOut.into() }),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(CgroupError::Io { path: events, error }),
        }
    }

    /// Lets an agent go on that was frozen by a daemon before this one.
    ///
    /// # Errors
    /// When the system fails.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        let path = self.agent().join("cgroup.freeze");
        let thawed = match fs::write(&path, "0") {
            Err(error) if is_gone(&error) => Ok(()),
            other => other.map_err(CgroupError::io(&path)),
        };
        self.forbid_swap().and(thawed)
    }

    /// Removes the groups, which must be empty. It is fine when there are none.
    ///
    /// # Errors
    /// When a process is left, or the system fails.
    pub fn remove(&self) -> Result<(), CgroupError> {
        // Those that we have made, first: to list one takes longer than to remove it.
        let ours = [self.bridge(), self.agent(), self.path.clone()];
        match ours.iter().try_for_each(|group| remove_one(group)) {
            Ok(()) => Ok(()),
            // Somebody has made others in there, or what stands in the way is to be told.
            Err(_) => remove(&self.path),
        }
    }

    /// What the agent uses.
    pub fn stats(&self) -> Stats {
        let agent = self.agent();
        let memory = memory(&agent).memory_stat();
        let cpu = CpuController::new(agent.clone(), PathBuf::new(), true).cpu();
        let io = fs::read_to_string(agent.join("io.stat")).unwrap_or_default();
        Stats {
            memory: memory.usage_in_bytes,
            memory_peak: memory.max_usage_in_bytes,
            pids: pids(&agent).get_pid_current().unwrap_or(0),
            cpu_us: keyed(&cpu.stat, "usage_usec"),
            read: over_disks(&io, "rbytes="),
            written: over_disks(&io, "wbytes="),
        }
    }

    /// Processor time that the agent has used since the beginning, in microseconds; known without a
    /// controller as well. 0 when there is no such group.
    pub fn cpu_us(&self) -> u64 {
        keyed(&fs::read_to_string(self.agent().join("cpu.stat")).unwrap_or_default(), "usage_usec")
    }

    /// How many processes of the agent were killed because memory ran out, its own or the machine's.
    pub fn oom_kills(&self) -> u64 {
        keyed(&self.memory_events(), "oom_kill")
    }

    /// Whose memory had run out, if processes of the agent were killed for that.
    pub fn out_of_memory(&self) -> Option<OutOfMemory> {
        let events = self.memory_events();
        match (keyed(&events, "oom_kill"), keyed(&events, "oom")) {
            (0, _) => None,
            // The limit of this group was not what could not be kept.
            (_, 0) => Some(OutOfMemory::Server),
            _ => Some(OutOfMemory::Sandbox),
        }
    }

    fn memory_events(&self) -> String {
        fs::read_to_string(self.agent().join("memory.events")).unwrap_or_default()
    }

    fn bridge(&self) -> PathBuf {
        self.path.join("bridge")
    }

    pub(super) fn agent(&self) -> PathBuf {
        self.path.join("agent")
    }
}

fn memory(group: &Path) -> MemController {
    MemController::new(group.to_owned(), PathBuf::new(), true)
}

fn pids(group: &Path) -> PidController {
    PidController::new(group.to_owned(), PathBuf::new(), true)
}

fn limit_memory(group: &Path, bytes: i64) -> Result<(), CgroupError> {
    let failed = |error| CgroupError::Limit { what: "memory", error };
    let controller = memory(group);
    let max = Some(MaxValue::Value(bytes));
    controller.set_mem(SetMemory { max, high: None, low: None, min: None }).map_err(failed)?;
    // Kernels without swap have no such file.
    if group.join("memory.swap.max").exists() {
        controller.set_memswap_limit(0).map_err(failed)?;
    }
    // One victim would leave the agent's other processes waiting for it for ever.
    let together = group.join("memory.oom.group");
    fs::write(&together, "1").map_err(CgroupError::io(&together))
}

fn limit_pids(group: &Path, count: i64) -> Result<(), CgroupError> {
    pids(group)
        .set_pid_max(MaxValue::Value(count))
        .map_err(|error| CgroupError::Limit { what: "processes", error })
}

fn limit_cpu(group: &Path, cpus: f64) -> Result<(), CgroupError> {
    let quota = (cpus * PERIOD_US as f64).max(1000.0) as i64;
    CpuController::new(group.to_owned(), PathBuf::new(), true)
        .set_cfs_quota_and_period(Some(quota), Some(PERIOD_US))
        .map_err(|error| CgroupError::Limit { what: "processor time", error })
}

fn saturate(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn open(group: &Path) -> Result<OwnedFd, CgroupError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(group, flags, Mode::empty());
    opened.map_err(|error| CgroupError::io(group)(error.into()))
}

fn kill(group: &Path) -> Result<(), CgroupError> {
    let path = group.join("cgroup.kill");
    match fs::write(&path, "1") {
        Err(error) if is_gone(&error) => Ok(()),
        other => other.map_err(CgroupError::io(&path)),
    }
}

fn remove(group: &Path) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(group) {
        Err(error) if is_gone(&error) => return Ok(()),
        other => other.map_err(CgroupError::io(group))?,
    };
    for entry in entries {
        let entry = entry.map_err(CgroupError::io(group))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    remove_one(group).map_err(CgroupError::io(group))
}

fn remove_one(group: &Path) -> io::Result<()> {
    match fs::remove_dir(group) {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}

/// Not there, or removed while it was open.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}

/// Blocks until a number in `cgroup.events` is what is awaited, at most for `patience`; says
/// whether it is. A group that is gone is all that can be awaited. The kernel reports a change of
/// the file as a priority event.
fn becomes(mut events: File, (key, value): (&str, u64), patience: Duration) -> io::Result<bool> {
    let begun = Instant::now();
    let end = begun + patience;
    loop {
        match number(&mut events, key) {
            Ok(found) if found == value => return Ok(true),
            Err(error) if is_gone(&error) => return Ok(true),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let wait = if begun.elapsed() < HELD_BACK { left.min(LOOK) } else { left };
        let timeout = Timespec::try_from(wait).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn number(events: &mut File, key: &str) -> io::Result<u64> {
    let mut text = String::new();
    events.rewind()?;
    events.read_to_string(&mut text)?;
    Ok(keyed(&text, key))
}

/// The number behind `key` in a file of lines of keys and numbers; 0 when it is not there.
fn keyed(text: &str, key: &str) -> u64 {
    let number = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(number).unwrap_or(0)
}

/// The sum over all disks of a number of `io.stat`, which has a line for each.
fn over_disks(text: &str, key: &str) -> u64 {
    let number = |word: &str| word.strip_prefix(key)?.parse::<u64>().ok();
    text.split_whitespace().filter_map(number).sum()
}
