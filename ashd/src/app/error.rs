//! What can keep the daemon from starting.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use crate::backup::BackupError;
use crate::config::ConfigError;
use crate::objects::ObjectsError;
use crate::sandbox::StartError;
use crate::sandbox::cgroup::CgroupError;
use crate::sandbox::launcher::LauncherError;
use crate::session::api::Refusal;
use crate::session::keys::KeysError;
use crate::store::StoreError;
use crate::store::lock::LockError;
use crate::telemetry::TelemetryError;

/// What keeps the daemon from starting. Each is a sentence for a person.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Logging.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// Signals.
    #[error("signals cannot be listened to: {0}")]
    Signals(io::Error),
    /// The address is taken or not ours.
    #[error(
        "cannot listen on {address}: {error}; choose another port (ASH_PORT) or end what uses it"
    )]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// What a socket unit gave is of no use.
    #[error("the socket that the service manager passed cannot be used: {0}; see ashd.socket")]
    Inherited(io::Error),
    /// The address that was bound is not known.
    #[error("the listener's address cannot be read: {0}")]
    Address(io::Error),
    /// The state directory.
    #[error(transparent)]
    State(#[from] LockError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The machine, the launcher or the broker.
    #[error(transparent)]
    Sandboxes(#[from] StartError),
    /// The service that makes the sandboxes has ended, and is not started again.
    #[error(
        "ash-sandboxes.service has failed: `systemctl status ash-sandboxes` says why; mend that, and \
         `systemctl start ashd` starts both"
    )]
    Holder,
    /// A backup.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A restore was interrupted.
    #[error(
        "restoring a backup into the data directory was interrupted; run `ashctl restore DIRECTORY` \
         again"
    )]
    Restoring,
    /// No threads.
    #[error("a thread cannot be started: {0}")]
    Threads(io::Error),
    /// Which boot of the machine this is is not known.
    #[error("/proc/sys/kernel/random/boot_id cannot be read: {0}; see random(4) and proc(5)")]
    Boot(io::Error),
    /// There is nothing to look at.
    #[error("there is no database in {}; ashd has never run on it", .0.display())]
    NothingThere(std::path::PathBuf),
    /// The database is still to be brought up to date.
    #[error(
        "the database has schema {found}, and this ashd brings it to {known} when it starts; start \
         it, and look then"
    )]
    Older {
        /// The schema of the database.
        found: u32,
        /// The schema that this program works with.
        known: u32,
    },
    /// The object store.
    #[error("{0}; see snapshots.url")]
    Objects(#[from] ObjectsError),
    /// The file that says which daemon this is.
    #[error("the file `node` in the data directory cannot be used: {0}")]
    Node(io::Error),
    /// What was found of earlier sessions.
    #[error("the sessions of before cannot be gone on with: {0}")]
    Sessions(#[from] Refusal),
}

impl AppError {
    /// The exit code: 78 when only a person can mend it (configuration, sysexits(3)), so that a
    /// service manager does not try again; 1 otherwise.
    pub fn exit_code(&self) -> ExitCode {
        if self.needs_a_person() { ExitCode::from(78) } else { ExitCode::FAILURE }
    }

    /// Whether only a person can mend it.
    pub(super) fn needs_a_person(&self) -> bool {
        match self {
            AppError::Config(_)
            | AppError::State(LockError::Open { .. } | LockError::Foreign { .. })
            | AppError::Restoring
            | AppError::Objects(_)
            | AppError::Holder
            | AppError::Store(StoreError::Newer { .. }) => true,
            AppError::State(LockError::Unusable { source, .. }) => is_closed(source),
            AppError::Sandboxes(error) => is_lasting(error),
            _ => false,
        }
    }
}

/// Whether the unit keeps something closed.
fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ReadOnlyFilesystem
}

/// Whether another start would find the same.
fn is_lasting(error: &StartError) -> bool {
    matches!(error, StartError::Io { error, .. } if is_closed(error))
        || matches!(
            error,
            StartError::BelowFloor(_)
                | StartError::LongRunDir(_)
                | StartError::Cgroup(
                    CgroupError::NotMounted
                        | CgroupError::Missing { .. }
                        | CgroupError::Outside { .. }
                        | CgroupError::NotHeld { .. }
                )
                | StartError::Launcher(LauncherError::Differs { .. } | LauncherError::Version(_))
        )
}
