//! Control groups (version 2): what bounds a sandbox, and what ends all of it at once.
//!
//! ```text
//!  root                     delegated to us
//!  ├── ashd                 our own processes, when some were started in the root
//!  └── <sandbox id>
//!      ├── bridge           survives when the agent runs out of memory
//!      └── agent            limits; dies as one
//! ```
//!
//! Limits and statistics of groups that exist go through `cgroups-rs`; making, killing and
//! removing groups is done here.

mod group;
mod holders;
mod memory;

pub use group::{Group, OutOfMemory, Stats};
pub use holders::Frozen;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use self::holders::Holders;
use super::limits::Limits;
use crate::domain::SandboxId;

/// Controllers that hold a sandbox to its limits, and what goes without bounds otherwise.
const CONTROLLERS: [(&str, &str); 3] =
    [("cpu", "processor time"), ("memory", "memory"), ("pids", "the number of processes")];

/// A controller that limits nothing: it counts what is read and written, where there is one.
const COUNTER: &str = "io";

/// Why control groups cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup2 mount.
    #[error(
        "control groups version 2 are not mounted; boot with \
         systemd.unified_cgroup_hierarchy=1, or mount cgroup2 at /sys/fs/cgroup"
    )]
    NotMounted,
    /// The configured root is not below the mount.
    #[error("{} is not a control group below {}", root.display(), mount.display())]
    Outside {
        /// What was configured.
        root: PathBuf,
        /// Where control groups are mounted.
        mount: PathBuf,
    },
    /// The configured root is not in the group of the launcher's service, which makes sandboxes
    /// nowhere else.
    #[error(
        "sandbox.cgroup_root {} is not in {}, the control group of ash-sandboxes.service; leave it \
         out, or name a group in there", root.display(), held.display()
    )]
    NotHeld {
        /// What was configured.
        root: PathBuf,
        /// What the service has.
        held: PathBuf,
    },
    /// Limits cannot be enforced.
    #[error("sandboxes would have no limits: {}; {mend}", missing.join("; "))]
    Missing {
        /// A sentence for each.
        missing: Vec<String>,
        /// What to do.
        mend: &'static str,
    },
    /// A limit could not be set.
    #[error("the limit on {what} could not be set: {error}")]
    Limit {
        /// Which.
        what: &'static str,
        /// Why.
        error: cgroups_rs::fs::error::Error,
    },
    /// The system failed.
    #[error("{}: {error}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// How.
        error: io::Error,
    },
}

impl CgroupError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
        |error| CgroupError::Io { path: path.to_owned(), error }
    }
}

/// The part of the hierarchy that holds sandboxes.
#[derive(Debug)]
pub struct Cgroups {
    root: PathBuf,
    /// Whether the root is ours to remove.
    made: bool,
    enabled: Vec<&'static str>,
    missing: Vec<String>,
    holders: Holders,
}

impl Cgroups {
    /// Prepares `configured`, or without it a group `name` below the one that this process is in,
    /// to hold sandboxes.
    ///
    /// # Errors
    /// When there are no control groups, and, unless `allow_missing`, when limits cannot be
    /// enforced in them.
    pub fn prepare(
        configured: Option<&Path>,
        name: &str,
        allow_missing: bool,
    ) -> Result<Cgroups, CgroupError> {
        let mount = mount_point()?;
        let root = match configured {
            Some(root) if root.starts_with(&mount) && root != mount => root.to_owned(),
            Some(root) => return Err(CgroupError::Outside { root: root.to_owned(), mount }),
            None => own(&mount)?.join(name),
        };
        fs::create_dir_all(&root).map_err(CgroupError::io(&root))?;
        match configured {
            Some(_) => settle(&root, &pids(&root)),
            None => enable_in_own(&mount, root.parent().unwrap_or(&mount)),
        }
        let (enabled, missing) = enable(&root);
        if missing.is_empty() || allow_missing {
            let (made, holders) = (configured.is_none(), Holders::default());
            return Ok(Cgroups { root, made, enabled, missing, holders });
        }
        let mend = mend(&mount, &controllers_of(&mount));
        Err(CgroupError::Missing { missing, mend })
    }

    /// For tests: a directory in which there are no groups, and never will be.
    #[cfg(test)]
    pub(super) fn none(root: PathBuf) -> Cgroups {
        let (enabled, missing, holders) = (vec![], vec![], Holders::default());
        Cgroups { root, made: false, enabled, missing, holders }
    }

    /// A sentence for each limit that cannot be enforced.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Makes the groups of a sandbox and sets its limits.
    ///
    /// # Errors
    /// When a group or a limit cannot be made; then nothing of it is left.
    pub fn create(&self, sandbox: SandboxId, limits: &Limits) -> Result<Group, CgroupError> {
        match self.attempt(sandbox, limits) {
            Err(_) if self.renew() => self.attempt(sandbox, limits),
            made => made,
        }
    }

    fn attempt(&self, sandbox: SandboxId, limits: &Limits) -> Result<Group, CgroupError> {
        let group = self.group(sandbox);
        fs::create_dir(group.path()).map_err(CgroupError::io(group.path()))?;
        let made = group.make(&self.enabled).and_then(|()| group.limit(&self.enabled, limits));
        if let Err(error) = made {
            // Nobody is in it yet, so it goes at once; the error that matters is the first.
            let _ = group.remove();
            return Err(error);
        }
        Ok(group)
    }

    /// Hands the controllers down again when the root was made anew, as that of a service is when
    /// it is restarted. Whether it was, and they are.
    fn renew(&self) -> bool {
        let control = self.root.join("cgroup.subtree_control");
        let text = fs::read_to_string(&control).unwrap_or_default();
        let lost = |name: &&str| !text.split_ascii_whitespace().any(|there| there == *name);
        self.enabled.iter().any(lost) && enable(&self.root).0 == self.enabled
    }

    /// Removes the root if we made it and nothing is left in it.
    pub fn retire(&self) {
        if self.made
            && let Err(error) = fs::remove_dir(&self.root)
        {
            tracing::debug!(%error, "the sandboxes' control group stays");
        }
    }

    /// Processes and threads of all sandboxes, and how many there can be. `None` where nothing bounds
    /// them, or there is no controller for them.
    pub fn pids(&self) -> Option<(u64, u64)> {
        let number = |name: &str| -> Option<u64> {
            fs::read_to_string(self.root.join(name)).ok()?.trim().parse().ok()
        };
        Some((number("pids.current")?, number("pids.max")?))
    }

    /// The group of a sandbox, whether it exists or not.
    pub fn group(&self, sandbox: SandboxId) -> Group {
        Group::at(self.root.join(sandbox.to_string()), self.holders.clone())
    }

    /// The sandbox whose group this is, or is beneath.
    pub fn sandbox_of(&self, group: &Path) -> Option<SandboxId> {
        let name = group.strip_prefix(&self.root).ok()?.iter().next()?;
        name.to_str()?.parse().ok()
    }

    /// The sandboxes that have a group.
    ///
    /// # Errors
    /// When the root cannot be read.
    pub fn list(&self) -> Result<Vec<SandboxId>, CgroupError> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(CgroupError::io(&self.root))? {
            let entry = entry.map_err(CgroupError::io(&self.root))?;
            all.extend(entry.file_name().to_str().and_then(|name| name.parse::<SandboxId>().ok()));
        }
        Ok(all)
    }
}

/// The configured root, if it is in the group that the launcher's service has, or else that.
///
/// # Errors
/// When it is not.
pub(super) fn within<'a>(
    root: Option<&'a Path>,
    held: Option<&'a Path>,
) -> Result<Option<&'a Path>, CgroupError> {
    match (root, held) {
        (Some(root), Some(held)) if !root.starts_with(held) => {
            Err(CgroupError::NotHeld { root: root.to_owned(), held: held.to_owned() })
        }
        _ => Ok(root.or(held)),
    }
}

/// The directory of a group that is named from the root of the hierarchy.
///
/// # Errors
/// When there are no control groups.
pub fn directory(group: &str) -> Result<PathBuf, CgroupError> {
    Ok(directory_beneath(&mount_point()?, group))
}

/// The same, where the hierarchy is mounted here.
pub fn directory_beneath(mount: &Path, group: &str) -> PathBuf {
    mount.join(group.trim_start_matches('/'))
}

/// Where version 2 is mounted: by itself, or beside version 1.
///
/// # Errors
/// When it is not mounted.
pub fn mount_point() -> Result<PathBuf, CgroupError> {
    let path = Path::new("/proc/self/mountinfo");
    let mounts = fs::read_to_string(path).map_err(CgroupError::io(path))?;
    ash_sys::cgroup::mount_in(&mounts).ok_or(CgroupError::NotMounted)
}

/// The group that this process is in, as a directory. When an earlier `ashd` in it moved itself
/// down, the one above.
fn own(mount: &Path) -> Result<PathBuf, CgroupError> {
    let path = Path::new("/proc/self/cgroup");
    let groups = fs::read_to_string(path).map_err(CgroupError::io(path))?;
    let ours = directory_beneath(mount, ash_sys::cgroup::own_in(&groups).unwrap_or_default());
    Ok(if ours.ends_with(OURS) { ours.parent().unwrap_or(mount).to_owned() } else { ours })
}

/// What there is to hand down from the hierarchy's root.
fn controllers_of(mount: &Path) -> String {
    fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default()
}

/// How to come by the controllers that are missing, where version 2 is mounted at `mount` and has
/// these.
fn mend(mount: &Path, controllers: &str) -> &'static str {
    let has = |name: &str| controllers.split_ascii_whitespace().any(|there| there == name);
    if CONTROLLERS.iter().all(|(name, _)| has(name)) {
        return "start ashd under systemd with Delegate=yes, or allow missing layers for development";
    }
    // Beside version 1 it is elsewhere.
    match mount == Path::new("/sys/fs/cgroup") {
        true => "remove cgroup_disable= from the kernel's command line and reboot",
        false => "version 1 has them: boot with systemd.unified_cgroup_hierarchy=1",
    }
}

/// The group that our own processes move into.
const OURS: &str = "ashd";

/// Hands controllers down from our own group, if nobody else is in it.
fn enable_in_own(mount: &Path, own: &Path) {
    let pids = pids(own);
    if own != mount && pids == [std::process::id().to_string()] {
        settle(own, &pids);
    }
    enable(own);
}

/// Moves the processes of a group that is ours one down: only the hierarchy's root may have
/// processes and controlled children at once. In a group of its own that is the launcher. What
/// fails here shows as a controller that is missing below.
fn settle(group: &Path, pids: &[String]) {
    if pids.is_empty() {
        return;
    }
    let below = group.join(OURS);
    let procs = below.join("cgroup.procs");
    let moved = fs::create_dir_all(&below)
        .and_then(|()| pids.iter().try_for_each(|pid| fs::write(&procs, pid)));
    if let Err(error) = moved {
        tracing::debug!(%error, "processes cannot be moved out of the sandboxes' control group");
    }
}

fn pids(group: &Path) -> Vec<String> {
    let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    procs.lines().map(str::to_owned).collect()
}

/// Enables the controllers for the children of `group`: those that work, and a sentence for each
/// that does not.
fn enable(group: &Path) -> (Vec<&'static str>, Vec<String>) {
    let control = group.join("cgroup.subtree_control");
    let (mut enabled, mut missing) = (Vec::new(), Vec::new());
    for (name, what) in CONTROLLERS {
        match fs::write(&control, format!("+{name}")) {
            Ok(()) => enabled.push(name),
            Err(_) => missing.push(format!(
                "{what} is not limited (no {name} controller in control groups version 2)"
            )),
        }
    }
    if fs::write(&control, format!("+{COUNTER}")).is_ok() {
        enabled.push(COUNTER);
    }
    (enabled, missing)
}

#[cfg(test)]
mod tests;
