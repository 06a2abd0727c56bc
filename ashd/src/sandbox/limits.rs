//! How much of the machine one sandbox may use.

/// Bounds of one sandbox.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Memory of the agent's processes, in bytes; above it the kernel ends all of them.
    pub memory: u64,
    /// Processes and threads of the agent.
    pub pids: u64,
    /// Processors' worth of time.
    pub cpus: f64,
    /// Size of `/tmp` and of `/dev/shm` each, in bytes. What lies there counts as memory, too.
    pub tmpfs: u64,
    /// The largest file that a process may write, in bytes.
    pub file_size: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Limits { memory: 2048 * MIB, pids: 512, cpus: 2.0, tmpfs: 256 * MIB, file_size: 4096 * MIB }
    }
}
