//! What can go wrong with a backup.

use std::io;

/// Why a backup was not made, or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// What was given is no directory.
    #[error("a backup needs a directory")]
    NoDirectory,
    /// Others could read conversations there, or change them.
    #[error(
        "the directory of a backup must belong to root and be open to nobody else; run: \
         chown root DIRECTORY && chmod 0700 DIRECTORY"
    )]
    Open,
    /// Something else is in the directory.
    #[error(
        "the directory holds `{0}`, which belongs to no backup; give one that is empty, or that of \
         an earlier backup"
    )]
    Foreign(String),
    /// Somebody else writes there.
    #[error("another backup into this directory is under way; try again when it has ended")]
    InUse,
    /// There is none.
    #[error("there is no complete backup in this directory")]
    None,
    /// It was made by a newer program.
    #[error("the backup has {what} {found}, this ashd knows up to {known}; install a newer ashd")]
    Newer {
        /// What of it.
        what: &'static str,
        /// The number that it has.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// It is not what was written.
    #[error("the backup is damaged: {what} {how}; nothing was restored")]
    Damaged {
        /// Which part.
        what: String,
        /// What is wrong with it.
        how: String,
    },
    /// There is something already where it is to go.
    #[error(
        "the data directory holds `{0}` already; move what is there away, or set another \
         state.data_dir"
    )]
    NotEmpty(String),
    /// The daemon goes away.
    #[error("the daemon ends; the backup before is as it was")]
    Stopped,
    /// No room left.
    #[error("the disk is full; free some space, and begin again")]
    Full,
    /// The disk failed.
    #[error("the disk failed: {0}")]
    Disk(io::Error),
}

impl From<io::Error> for BackupError {
    fn from(error: io::Error) -> BackupError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BackupError::Full,
            _ => BackupError::Disk(error),
        }
    }
}

impl BackupError {
    /// A part that is not what was written.
    pub(super) fn damaged(what: impl ToString, how: impl ToString) -> BackupError {
        BackupError::Damaged { what: what.to_string(), how: how.to_string() }
    }
}
