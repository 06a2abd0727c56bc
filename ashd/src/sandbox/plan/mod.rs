//! From what a sandbox is to what the launcher must do: pure, data in and data out.
//!
//! The root is empty; what is not named here is not there. Of the host a sandbox sees `/usr`, the
//! certificates and a few files of `/etc`, all read-only; the rest of `/etc` is made up.

mod etc;
mod host;

pub use host::Host;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ash_wire::plan::{File, MAX_FILES, Mount, Plan, Rlimits};
use bytes::Bytes;

use super::lease::Uids;
use super::limits::Limits;
use crate::domain::SandboxId;

/// Where the workspace is in every sandbox: the CLI keys its transcripts on it.
pub const WORKSPACE: &str = "/workspace";

/// Where the home is in every sandbox.
pub const HOME: &str = "/home/agent";

/// Where the CLI is in every sandbox.
pub const RUNTIME: &str = "/opt/ash/claude";

/// The directory that holds the way to the broker.
pub const MODEL_DIR: &str = "/run/ash/model";

/// The way to the broker.
pub const MODEL_SOCKET: &str = "/run/ash/model/api.sock";

/// Open files per process: enough for builds and file watchers, and within what a service may
/// hand on without a privilege.
const OPEN_FILES: u64 = 16_384;

/// Read-only files and directories of the host that are there when the host has them. None of
/// them holds a private key.
const FROM_HOST: [&str; 9] = [
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/tls/certs",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
];

/// Everything that is to be known about a sandbox before it is made.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Which one.
    pub sandbox: SandboxId,
    /// Its users.
    pub uids: Uids,
    /// The CLI's executable on the host.
    pub runtime: PathBuf,
    /// The workspace on the host.
    pub workspace: PathBuf,
    /// The home on the host.
    pub home: PathBuf,
    /// The directory with this sandbox's socket of the broker, on the host.
    pub model_dir: PathBuf,
    /// Read-only files of root.
    pub files: Vec<PlacedFile>,
    /// Bounds.
    pub limits: Limits,
    /// What the sandbox calls itself; what no host name may have is replaced.
    pub hostname: String,
    /// Seconds after which a bridge that nobody greets ends its sandbox.
    pub orphan_timeout_s: u64,
}

/// A read-only file of root in the sandbox.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PlacedFile {
    /// Absolute path in the sandbox, not under a directory that the agent can write.
    pub target: String,
    /// Its mode; nobody gets leave to write, whatever it says.
    pub mode: u32,
    /// What it holds.
    pub bytes: Bytes,
}

/// Why there can be no plan.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// A path that the plan cannot carry.
    #[error("a path of the installation is not plain text; move it")]
    HostPath(PathBuf),
    /// A file that would lie where the agent can write, or nowhere.
    #[error("no file can be placed at {0} in a sandbox")]
    Target(String),
    /// More files than a launch can carry.
    #[error("{0} files are more than the {MAX_FILES} that a sandbox can be given")]
    TooManyFiles(usize),
}

/// Plans a sandbox; returns the plan and the contents of its files, in order.
///
/// # Errors
/// When a path is not UTF-8, or a file is placed where it must not be.
pub fn plan(spec: &Spec, host: &Host) -> Result<(Plan, Vec<Bytes>), PlanError> {
    let mut files = etc::files(spec);
    files.extend(spec.files.iter().cloned());
    if files.len() > MAX_FILES {
        return Err(PlanError::TooManyFiles(files.len()));
    }
    let mut root = Root::default();
    root.system(host);
    root.session(spec)?;
    for file in &files {
        root.place(file)?;
    }
    let (targets, contents) = files.into_iter().map(split).unzip();
    Ok((assemble(spec, root.mounts, targets), contents))
}

fn assemble(spec: &Spec, mounts: Vec<Mount>, files: Vec<File>) -> Plan {
    Plan {
        sandbox: spec.sandbox.to_string(),
        bridge_uid: spec.uids.bridge,
        agent_uid: spec.uids.agent,
        hostname: hostname(&spec.hostname),
        mounts,
        files,
        rlimits: Rlimits { file_size: spec.limits.file_size, open_files: OPEN_FILES },
        orphan_timeout_s: spec.orphan_timeout_s,
    }
}

fn split(file: PlacedFile) -> (File, Bytes) {
    (File { target: file.target, mode: file.mode & 0o555 }, file.bytes)
}

/// The root as it grows. Directories on the way are made explicitly: those that come about by
/// themselves would be closed to the agent.
#[derive(Default)]
struct Root {
    mounts: Vec<Mount>,
    made: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Root {
    fn system(&mut self, host: &Host) {
        self.read_only("/usr", "/usr", false);
        for (name, target) in &host.usr_links {
            match target {
                Some(target) => self.symlink(target, name),
                None => self.read_only(name, name, false),
            }
        }
        for path in FROM_HOST {
            self.read_only(path, path, true);
        }
        self.symlink("../usr/lib/os-release", "/etc/os-release");
        self.symlink("../proc/self/mounts", "/etc/mtab");
        self.symlink("../run", "/var/run");
        self.symlink("../tmp", "/var/tmp");
    }

    fn session(&mut self, spec: &Spec) -> Result<(), PlanError> {
        let tmpfs = spec.limits.tmpfs;
        self.mounts.push(Mount::Proc { target: "/proc".into() });
        self.mounts.push(Mount::Dev { target: "/dev".into(), shm_size: tmpfs });
        self.mounts.push(Mount::Tmpfs { target: "/tmp".into(), size: tmpfs, mode: 0o1777 });
        self.read_only(text(&spec.runtime)?, RUNTIME, false);
        self.read_only(text(&spec.model_dir)?, MODEL_DIR, false);
        self.writable(text(&spec.workspace)?, WORKSPACE);
        self.writable(text(&spec.home)?, HOME);
        Ok(())
    }

    fn place(&mut self, file: &PlacedFile) -> Result<(), PlanError> {
        let refused = || PlanError::Target(file.target.clone());
        let names = file.target.strip_prefix('/').ok_or_else(refused)?;
        let plain = names.split('/').all(|name| !matches!(name, "" | "." | ".."));
        let allowed = ["/etc/", "/opt/ash/", "/run/ash/"];
        let placed = allowed.iter().any(|dir| file.target.starts_with(dir));
        let mounted = FROM_HOST.iter().chain([&RUNTIME, &MODEL_DIR]);
        let covered = mounted.into_iter().any(|at| Path::new(&file.target).starts_with(at));
        if !plain || !placed || covered || !self.files.insert(file.target.clone()) {
            return Err(refused());
        }
        self.parents(&file.target);
        Ok(())
    }

    fn read_only(&mut self, source: &str, target: &str, optional: bool) {
        self.parents(target);
        let (source, target) = (source.to_owned(), target.to_owned());
        self.mounts.push(Mount::ReadOnly { source, target, optional });
    }

    fn writable(&mut self, source: &str, target: &str) {
        self.parents(target);
        let (source, target) = (source.to_owned(), target.to_owned());
        self.mounts.push(Mount::Writable { source, target });
    }

    fn symlink(&mut self, points_to: &str, target: &str) {
        self.parents(target);
        let (points_to, target) = (points_to.to_owned(), target.to_owned());
        self.mounts.push(Mount::Symlink { points_to, target });
    }

    fn parents(&mut self, target: &str) {
        let ends = target.match_indices('/').map(|(end, _)| end).filter(|end| *end > 0);
        for end in ends {
            let dir = target[..end].to_owned();
            if self.made.insert(dir.clone()) {
                self.mounts.push(Mount::Dir { target: dir, mode: 0o755 });
            }
        }
    }
}

/// A host name out of any name: letters, digits and `-`, at most 63, not `-` at either end.
fn hostname(name: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let fitting: String = name.chars().map(fits).take(63).collect();
    match fitting.trim_matches('-') {
        "" => "sandbox".to_owned(),
        name => name.to_owned(),
    }
}

fn text(path: &Path) -> Result<&str, PlanError> {
    path.to_str().ok_or_else(|| PlanError::HostPath(path.to_owned()))
}

#[cfg(test)]
mod tests;
