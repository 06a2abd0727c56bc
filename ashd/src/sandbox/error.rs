//! Why a sandbox could not be made, found or ended.

use std::io;
use std::time::Duration;

use tokio::task::JoinError;

use super::broker::BrokerError;
use super::cgroup::CgroupError;
use super::launcher::LauncherError;
use super::link::LinkError;
use super::plan::PlanError;

/// Why a sandbox could not be made, found or ended. The sentences are fit for API users; what
/// they do not tell is in the sources, for the log.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Control groups.
    #[error("the sandbox could not be bounded")]
    Cgroup(#[from] CgroupError),
    /// The plan.
    #[error("the sandbox could not be planned")]
    Plan(#[from] PlanError),
    /// The launcher.
    #[error("the sandbox could not be launched")]
    Launcher(#[from] LauncherError),
    /// The broker.
    #[error("the sandbox could not be given its way to the model")]
    Broker(#[from] BrokerError),
    /// The system.
    #[error("the sandbox could not be prepared")]
    Io(#[from] io::Error),
    /// The bridge.
    #[error("the sandbox did not come up")]
    Link {
        /// What went wrong on the socket.
        source: LinkError,
        /// What was said on standard error; for the log.
        said: String,
    },
    /// The bridge did not answer.
    #[error("the sandbox did not come up within {} s", after.as_secs())]
    Silent {
        /// How long was waited.
        after: Duration,
        /// What was said on standard error; for the log.
        said: String,
    },
    /// Processes that do not go.
    #[error("the sandbox's processes do not end")]
    Immortal,
    /// The daemon is going away.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// A step that was running in the background was lost with the runtime.
impl From<JoinError> for SandboxError {
    fn from(_: JoinError) -> Self {
        SandboxError::ShuttingDown
    }
}

impl SandboxError {
    /// Everything that is known, in one line, for the log.
    pub fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        if let SandboxError::Link { said, .. } | SandboxError::Silent { said, .. } = self
            && !said.is_empty()
        {
            text.push_str("; it said: ");
            text.push_str(said);
        }
        text
    }
}
