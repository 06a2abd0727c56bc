//! What is left of sandboxes where nothing is named after them: processes under leased users outside
//! of every sandbox's group, and mounts of this machine beneath our directories.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::cgroup;
use super::lease::uid_count;
use super::manager::Sandboxes;
use crate::domain::SandboxId;

/// Users in front of those that are leased: the broker's and its empty neighbour.
const RESERVED: u32 = 2;

/// How long a killed process may take to go.
const KILLED: Duration = Duration::from_secs(10);

/// A process under a leased user that is in no sandbox.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Stray {
    /// Its id.
    pub pid: u32,
    /// When it began, in ticks since the machine did: ids come again, both together do not.
    pub started: u64,
    /// Its user.
    pub uid: u32,
    /// What it calls itself; anybody may say anything.
    pub name: String,
}

impl Sandboxes {
    /// Sandboxes that are alive or being made, as far as this daemon knows.
    pub fn known(&self) -> BTreeSet<SandboxId> {
        let mut known = self.making().clone();
        known.extend(self.live_ones().keys());
        known
    }

    /// Processes under users that are leased, outside of every sandbox's control group. Blocks.
    pub fn strays(&self) -> Vec<Stray> {
        let Ok(mount) = cgroup::mount_point() else { return vec![] };
        pids().filter_map(|pid| self.stray(&mount, pid)).collect()
    }

    /// The users that are leased and have processes in a sandbox's control group. Blocks.
    pub fn users(&self, sandbox: SandboxId) -> BTreeSet<u32> {
        let Ok(mount) = cgroup::mount_point() else { return BTreeSet::new() };
        let all = pids().filter_map(|pid| self.leased(&mount, pid));
        all.filter(|(at, _)| *at == Some(sandbox)).map(|(_, process)| process.uid).collect()
    }

    fn stray(&self, mount: &Path, pid: u32) -> Option<Stray> {
        let (at, process) = self.leased(mount, pid)?;
        at.is_none().then_some(process)
    }

    /// A process under a leased user, and the sandbox that it is in.
    fn leased(&self, mount: &Path, pid: u32) -> Option<(Option<SandboxId>, Stray)> {
        let status = said(pid, "status")?;
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        let uid: u32 = field("Uid")?.split_whitespace().next()?.parse().ok()?;
        let setup = &self.setup;
        let end = setup.uid_base.saturating_add(uid_count(setup.slots));
        if !(setup.uid_base + RESERVED..end).contains(&uid) || field("State")?.starts_with('Z') {
            return None;
        }
        let groups = said(pid, "cgroup")?;
        let group = cgroup::directory_beneath(mount, ash_sys::cgroup::own_in(&groups)?);
        let name = field("Name")?.chars().filter(|c| !c.is_control()).collect();
        let process = Stray { pid, started: started(pid)?, uid, name };
        Some((self.cgroups.sandbox_of(&group), process))
    }

    /// Kills such a process and waits until it is gone; false if it does not go. Blocks.
    pub fn end_stray(&self, stray: &Stray) -> bool {
        let Some(pid) = i32::try_from(stray.pid).ok().and_then(Pid::from_raw) else { return false };
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
        let same = cgroup::mount_point().is_ok_and(|mount| {
            self.stray(&mount, stray.pid).is_some_and(|found| found.started == stray.started)
        });
        if !same {
            return true;
        }
        let end = Instant::now() + KILLED;
        if pidfd_send_signal(&process, Signal::KILL).is_err() {
            return true;
        }
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or_default();
            match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
                Err(rustix::io::Errno::INTR) => {}
                polled => return polled.is_ok_and(|ready| ready > 0),
            }
        }
    }

    /// Where something of this machine is mounted beneath the directories of sessions and sockets.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = [self.setup.sessions_dir.clone(), self.bridge_dir(), self.model_dir()];
        let beneath = |path: &PathBuf| ours.iter().any(|dir| path != dir && path.starts_with(dir));
        table.lines().filter_map(mounted_at).filter(beneath).collect()
    }
}

/// Every process.
fn pids() -> impl Iterator<Item = u32> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// What the kernel says of a process. Its name, which it chooses itself, may be no UTF-8.
fn said(pid: u32, file: &str) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// When a process began (proc_pid_stat(5), field 22).
fn started(pid: u32) -> Option<u64> {
    let stat = said(pid, "stat")?;
    // The name may hold anything, also parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The mount point of a line of the table (proc_pid_mountinfo(5)).
fn mounted_at(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?;
    let plain = ["\\040", "\\011", "\\012"].iter().zip([" ", "\t", "\n"]);
    let path = plain.fold(field.to_owned(), |path, (code, plain)| path.replace(code, plain));
    Some(path.replace("\\134", "\\").into())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn mount_points_are_read_as_they_are_written() {
        let at = |line| mounted_at(line).map(|path| path.display().to_string());
        let line = r"36 35 98:0 / /var/lib/a\040b\134c rw - ext3 /dev/root rw";
        assert_eq!(at(line).as_deref(), Some(r"/var/lib/a b\c"));
        assert_eq!(at("36 35"), None);
    }

    #[test]
    fn a_process_knows_when_it_began() {
        let ours = std::process::id();
        assert!(started(ours).is_some_and(|began| began > 0));
        assert_eq!(started(ours), started(ours));
        assert_eq!(started(0), None);
    }

    #[test]
    fn no_name_hides_a_process() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join(OsStr::from_bytes(b") \xff\n"));
        std::os::unix::fs::symlink("/bin/sh", &program).unwrap();
        let mut child = Command::new(&program).stdin(Stdio::piped()).spawn().unwrap();
        let status = said(child.id(), "status");
        let began = started(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(status.is_some_and(|status| status.contains("\nUid:\t")));
        assert!(began.is_some_and(|began| began > 0));
    }
}
