//! Processes: finding, signalling and waiting for them, by pid.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::PATIENCE;

/// Sends a signal to a process that is there.
///
/// # Errors
/// When it is gone.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pidfd = pidfd_open(as_pid(pid)?, PidfdFlags::empty())?;
    Ok(pidfd_send_signal(pidfd, signal)?)
}

/// Waits until a process has ended; it need not be a child.
///
/// # Errors
/// When it has not after `limit`.
pub fn wait(pid: u32, limit: Duration) -> Result<()> {
    let Ok(pidfd) = pidfd_open(as_pid(pid)?, PidfdFlags::empty()) else { return Ok(()) };
    let limit = Timespec::try_from(limit)?;
    match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit))? {
        0 => bail!("process {pid} ({}) has not ended", name(pid)),
        _ => Ok(()),
    }
}

/// Waits until a child has ended.
///
/// # Errors
/// When it has not after `limit`.
pub fn wait_child(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    wait(child.id(), limit)?;
    Ok(child.wait()?)
}

/// Looks until something holds. For what offers nothing to wait on.
///
/// # Errors
/// When it does not for a minute.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            bail!("waited a minute in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The processes with a user id in this range.
pub fn of_uids(uids: &Range<u32>) -> Vec<u32> {
    all().filter(|pid| uid(*pid).is_some_and(|uid| uids.contains(&uid))).collect()
}

/// The processes with these words among their arguments.
pub fn with_argument(words: &str) -> Vec<u32> {
    all().filter(|pid| command_line(*pid).contains(words)).collect()
}

/// The children of a process.
pub fn children(parent: u32) -> Vec<u32> {
    all().filter(|pid| status(*pid, "PPid:") == Some(parent)).collect()
}

/// The real user id of a process.
pub fn uid(pid: u32) -> Option<u32> {
    status(pid, "Uid:")
}

/// The name of a process; empty when it is gone.
pub fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// The arguments of a process with spaces between them; empty when it is gone.
pub fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// What a process has open, and how often; none when it is gone. Of names the digits are left out, so that
/// those that are numbered count together.
pub fn descriptors(pid: u32) -> BTreeMap<String, usize> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut kinds = BTreeMap::new();
    // One that was closed meanwhile leads nowhere.
    for name in entries.filter_map(|entry| fs::read_link(entry.path()).ok()) {
        let kind = name.to_string_lossy().chars().filter(|c| !c.is_ascii_digit()).collect();
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// What only a process has in memory and no file backs, in bytes; 0 when it is gone.
pub fn memory(pid: u32) -> u64 {
    status(pid, "RssAnon:").map_or(0, |kib| 1024 * u64::from(kib))
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A number from `/proc/<pid>/status`; zombies count as gone.
fn status(pid: u32, key: &str) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
    if field("State:")?.trim_start().starts_with('Z') {
        return None;
    }
    field(key)?.split_whitespace().next()?.parse().ok()
}

fn as_pid(pid: u32) -> Result<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a pid")
}
