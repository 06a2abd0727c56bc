//! Giving up everything: identity, capabilities, files, system calls.
//!
//! The order is the argument, read top to bottom:
//!
//! 1. [`syscalls::restrict`], once, before the spawner is forked: both halves have the filters,
//!    and so has everything they start. `no_new_privs` is set here, which the filters require.
//! 2. [`credentials::become_user`], in each half: from root to its uid, all five capability sets
//!    emptied, and checked.
//! 3. [`files::agent`] or [`files::bridge`]: one landlock domain each. One, because processes in
//!    separate domains cannot signal each other, and a shell must reach its jobs.

pub mod syscalls;

pub mod credentials;

pub mod files;

/// Why the sandbox cannot be confined. Nothing is started then.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// A step was refused by the kernel.
    #[error("cannot {step}: {source}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The filters could not be built or loaded.
    #[error("cannot load the system call filters: {0}")]
    Filter(String),
    /// Landlock is missing, too old, or refused the rules.
    #[error("cannot enter a landlock domain (the kernel must offer ABI 2 or newer): {0}")]
    Landlock(String),
    /// A capability survived.
    #[error("capability set {0} is not empty after the drop")]
    CapabilityLeft(String),
}

/// Names the step that an I/O error belongs to.
pub(crate) fn step<T>(
    step: &'static str,
    result: Result<T, impl Into<std::io::Error>>,
) -> Result<T, ConfineError> {
    result.map_err(|source| ConfineError::Step { step, source: source.into() })
}
