//! What `ashd` asks of the launcher: one sandbox, as data.
//!
//! A request is one packet on a sequenced-packet socket: the JSON of a [`Plan`], and with it, as
//! `SCM_RIGHTS`, the file descriptors in this order:
//!
//! | index | what |
//! |---|---|
//! | 0 | the bridge's listening socket |
//! | 1 | the directory of the bridge's cgroup |
//! | 2 | the directory of the agent's cgroup |
//! | 3 | where standard error of the launch goes (write end of a pipe) |
//! | 4 … | the contents of [`Plan::files`], one sealed memfd each, in order |
//!
//! Until version 2 the groups were `cgroup.procs` in them, open for writing.
//!
//! The answer is one packet with the JSON of a [`Reply`]. Before all this, to whoever connects, the
//! launcher says who it is: one packet with the JSON of a [`Greeting`].
//!
//! What every sandbox has (namespaces, dropped capabilities, a cleared environment, a session of
//! its own) is not in the plan: the launcher adds it, and nothing in a plan can take it away.

use serde::{Deserialize, Serialize};

/// File descriptors of a request before those of [`Plan::files`].
pub const FIXED_FDS: usize = 4;

/// The largest request, in bytes of JSON.
pub const MAX_PLAN: usize = 64 * 1024;

/// The most files a plan may have: `SCM_RIGHTS` carries at most 253 descriptors.
pub const MAX_FILES: usize = 64;

/// The version of this conversation that this build speaks.
pub const LAUNCHER_VERSION: u16 = 2;

/// The first version that takes control groups as directories.
pub const GROUPS_AS_DIRECTORIES: u16 = 2;

/// The oldest version of this conversation that this build still understands: an upgrade leaves the
/// launcher of before running.
pub const OLDEST_LAUNCHER_VERSION: u16 = 1;

/// What the launcher was started with. An `ashd` that was started with something else would be
/// refused at its first sandbox; it can say so at its start.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Greeting {
    /// [`LAUNCHER_VERSION`] of its build.
    pub version: u16,
    /// The control group that it was given for sandboxes, from the root of the hierarchy; absent
    /// when it is no service of its own.
    pub group: Option<String>,
    /// The directory that writable mounts must come from.
    pub sessions_dir: String,
    /// The directory of brokers' sockets.
    pub broker_dir: String,
    /// The first uid that sandboxes may have.
    pub uid_base: u32,
    /// How many there are.
    pub uid_count: u32,
}

/// One sandbox to make.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The sandbox's UUID.
    pub sandbox: String,
    /// The uid (and gid) of the bridge.
    pub bridge_uid: u32,
    /// The uid (and gid) of everything of the agent.
    pub agent_uid: u32,
    /// What the sandbox calls itself.
    pub hostname: String,
    /// What is mounted and made, in this order, in an empty root.
    pub mounts: Vec<Mount>,
    /// Root-owned read-only files made in the root after the mounts; contents come as memfds.
    pub files: Vec<File>,
    /// Limits of every process.
    pub rlimits: Rlimits,
    /// Seconds after which a bridge that no `ashd` has greeted ends its sandbox.
    pub orphan_timeout_s: u64,
}

/// One step of building the root. Paths are absolute, without `.` and `..`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Mount {
    /// A host path, read-only. With `optional`, a missing source is skipped.
    ReadOnly {
        /// Path on the host.
        source: String,
        /// Path in the sandbox.
        target: String,
        /// Skip it when the source does not exist.
        optional: bool,
    },
    /// A host directory of this session, writable. The launcher accepts sources under its
    /// configured sessions directory only.
    Writable {
        /// Path on the host.
        source: String,
        /// Path in the sandbox.
        target: String,
    },
    /// A fresh tmpfs.
    Tmpfs {
        /// Path in the sandbox.
        target: String,
        /// Its size in bytes.
        size: u64,
        /// Its mode, for instance 0o1777.
        mode: u32,
    },
    /// A directory in the root.
    Dir {
        /// Path in the sandbox.
        target: String,
        /// Its mode.
        mode: u32,
    },
    /// A symbolic link in the root.
    Symlink {
        /// What it says.
        points_to: String,
        /// Path in the sandbox.
        target: String,
    },
    /// A fresh procfs.
    Proc {
        /// Path in the sandbox.
        target: String,
    },
    /// A minimal `/dev`: null, zero, full, random, urandom, tty, pts, and a tmpfs at `shm`.
    Dev {
        /// Path in the sandbox.
        target: String,
        /// Size of `shm` in bytes.
        shm_size: u64,
    },
}

/// A file in the root; its content is the memfd with the same index.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Path in the sandbox.
    pub target: String,
    /// Its mode.
    pub mode: u32,
}

/// Resource limits (`setrlimit(2)`), soft and hard alike. There is none on address space: the
/// CLI's JavaScript engine reserves 73 GB of it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimits {
    /// `RLIMIT_FSIZE`, bytes.
    pub file_size: u64,
    /// `RLIMIT_NOFILE`.
    pub open_files: u64,
}

/// The launcher's answer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The launch is under way; the bridge answers on its socket, or the pipe says why not.
    Launched {
        /// Process id of the outermost process, as the launcher sees it.
        pid: u32,
    },
    /// The plan was refused or could not be carried out; nothing was started.
    Refused {
        /// One sentence.
        reason: String,
    },
}
