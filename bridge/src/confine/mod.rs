//! Giving up everything: identity, capabilities, files, system calls.
//!
//! [`STEPS`] is the order, and the order is the argument. The steps are data, so that tests can
//! take a layer away and see what the others still stop; the bridge itself takes all of them.

pub mod syscalls;

pub mod credentials;

pub mod files;

/// A layer that the bridge lays on itself and on everything that it starts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Layer {
    /// Executing a program gains nothing.
    NoNewPrivs,
    /// The system call filters.
    Syscalls,
    /// No capability in any of the five sets.
    Capabilities,
    /// A uid and a gid that nothing else has, and a process that others of this uid cannot look
    /// into.
    Identity,
    /// A landlock domain.
    Files,
}

/// A half of the bridge.
#[derive(Clone, Copy, Debug)]
pub struct Half {
    /// The uid (and gid) that it becomes.
    pub uid: u32,
    /// Enters its landlock domain.
    pub domain: fn() -> Result<(), ConfineError>,
}

/// A step, which cannot be taken back.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The layer that it belongs to.
    pub layer: Layer,
    /// Takes it.
    pub take: fn(&Half) -> Result<(), ConfineError>,
}

/// From root with three capabilities to a uid with none. Each half takes them for itself: with the
/// filters the bridge could not make the spawner where it belongs.
///
/// The filters need `no_new_privs`; to limit capabilities needs one, which becoming another user
/// takes away. The domains come last, because the steps before read files. Each half has one
/// domain: processes in separate ones cannot signal each other, and a shell must reach its jobs.
pub const STEPS: &[Step] = &[
    Step { layer: Layer::NoNewPrivs, take: |_| syscalls::forbid_new_privileges() },
    Step { layer: Layer::Syscalls, take: |_| syscalls::restrict() },
    Step { layer: Layer::Capabilities, take: |_| credentials::limit_capabilities() },
    Step { layer: Layer::Identity, take: |half| credentials::become_user(half.uid) },
    Step { layer: Layer::Capabilities, take: |_| credentials::empty_capabilities() },
    Step { layer: Layer::Files, take: |half| (half.domain)() },
];

/// Takes steps in their order.
///
/// # Errors
/// At the first step that fails; the process must not go on then.
pub fn take(steps: &[Step], half: &Half) -> Result<(), ConfineError> {
    steps.iter().try_for_each(|step| (step.take)(half))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_layers_are_laid_in_the_order_in_which_they_can_be() {
        use Layer::{Capabilities, Files, Identity, NoNewPrivs, Syscalls};
        let layers: Vec<_> = STEPS.iter().map(|step| step.layer).collect();
        assert_eq!(layers, [NoNewPrivs, Syscalls, Capabilities, Identity, Capabilities, Files]);
    }
}
