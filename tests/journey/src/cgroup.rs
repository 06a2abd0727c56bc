//! A control group for the sandboxes of one harness.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::process;

/// A control group of ours; removed, with every process in it, when dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes a group below the root of the version 2 hierarchy.
    ///
    /// # Errors
    /// When there is no such hierarchy.
    pub(crate) fn make(name: &str) -> Result<Cgroup> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mount = mounts.lines().find_map(mount_point);
        let path = mount.context("no cgroup v2 hierarchy is mounted here")?.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Cgroup { path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether limits can be enforced in it.
    pub(crate) fn has_limits(&self) -> bool {
        let controllers = fs::read_to_string(self.path.join("cgroup.controllers"));
        let controllers = controllers.unwrap_or_default();
        ["cpu", "memory", "pids"]
            .iter()
            .all(|name| controllers.split_whitespace().any(|c| c == *name))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Best effort: a group that stays is seen by the next look at leftovers.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        let empty = || fs::read_to_string(self.path.join("cgroup.events")).is_ok_and(is_empty);
        let _ = process::until("the end of a control group", empty);
        let _ = remove(&self.path);
    }
}

fn is_empty(events: String) -> bool {
    events.lines().any(|line| line == "populated 0")
}

fn remove(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

fn mount_point(line: &str) -> Option<PathBuf> {
    let (mount, kind) = line.split_once(" - ")?;
    (kind.split(' ').next()? == "cgroup2").then_some(())?;
    mount.split(' ').nth(4).map(PathBuf::from)
}
