//! In what store, disk, control groups, processes and snapshots can differ.

use std::fmt;
use std::path::PathBuf;

use crate::domain::{AgentName, PointId, PointName, SandboxId, SessionId, Tenant};
use crate::sandbox::Stray;

/// One thing that is not as another says it is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Difference {
    /// A session counts as running, and nothing runs.
    SandboxGone(SessionId),
    /// The machine went down while a session's files were in use.
    FilesUnsure(SessionId),
    /// A fork was begun and not finished.
    HalfFork(SessionId),
    /// A session has ended and was not put away.
    HalfEnded(SessionId),
    /// Something of a sandbox is there, and no session has it.
    SandboxLeft(SandboxId),
    /// A process under a leased user is in no sandbox.
    Stray(Stray),
    /// Something is mounted where nothing should be.
    Mount(PathBuf),
    /// A directory among those of sessions belongs to none.
    SessionDir(String),
    /// A deployment was begun and not finished.
    Staged(String),
    /// A folder of an agent that there is no more.
    AgentDir(String, String),
    /// A folder of a version that was never recorded.
    VersionDir(String, String, String),
    /// The folder of a version that is needed is not there.
    VersionGone(Tenant, AgentName, u32),
    /// In a session's folder of attachments (in none: beside these folders) lies something of this name
    /// that belongs to no attachment.
    Attachment(PathBuf, String),
    /// A copy of the database that a backup has left.
    BackupCopy(String),
    /// A session has no files in place, but a point.
    FilesAway(SessionId),
    /// A session has neither files nor a point.
    FilesLost(SessionId),
    /// A session's files belong to somebody else.
    Owner {
        /// Whose files.
        session: SessionId,
        /// Who owns them.
        owner: u32,
        /// Who should.
        should: u32,
    },
    /// A place in the range of users is taken, by no session.
    Lease(u32),
    /// A place in the range of users is held.
    LeaseHeld(u32),
    /// What was kept of an ended session before there were points.
    OldKept(SessionId),
    /// The index of what is kept of a tenant is damaged.
    Index(Tenant, String),
    /// A pack cannot be used.
    Pack(Tenant, uuid::Uuid, String),
    /// A point is not whole.
    Point {
        /// Whose it is.
        session: SessionId,
        /// Which.
        point: PointId,
        /// What it is called.
        name: Option<String>,
        /// What is wrong with it.
        how: String,
    },
    /// The database is not sound.
    Database(String),
}

/// Who mends a difference. The order is that of how bad it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Mending {
    /// `ashd` does at its next start, or when a session goes on.
    Itself,
    /// Whoever administers the machine has to.
    ByHand,
    /// Something that was kept is lost, unless it comes from elsewhere.
    Damage,
}

impl Mending {
    /// As it is written for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Mending::Itself => "itself",
            Mending::ByHand => "by-hand",
            Mending::Damage => "damage",
        }
    }
}

impl Difference {
    /// The name of a point, for [`Difference::Point`].
    pub(super) fn name_of(name: Option<&PointName>) -> Option<String> {
        name.map(|name| name.as_str().to_owned())
    }

    /// The word for its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Difference::FilesUnsure(_) => "files-unsure",
            Difference::HalfFork(_) => "half-fork",
            Difference::HalfEnded(_) => "half-ended",
            Difference::SandboxGone(_) => "sandbox-gone",
            Difference::SandboxLeft(_) => "sandbox-left",
            Difference::Stray(_) => "process",
            Difference::Mount(_) => "mount",
            Difference::SessionDir(_) => "session-directory",
            Difference::Staged(_) => "half-deployment",
            Difference::AgentDir(..) => "agent-directory",
            Difference::VersionDir(..) => "version-directory",
            Difference::VersionGone(..) => "version-gone",
            Difference::Attachment(..) => "attachment",
            Difference::BackupCopy(_) => "backup-copy",
            Difference::FilesAway(_) => "files-away",
            Difference::FilesLost(_) => "files-lost",
            Difference::Owner { .. } => "owner",
            Difference::Lease(_) => "lease",
            Difference::LeaseHeld(_) => "lease-held",
            Difference::OldKept(_) => "old-snapshot",
            Difference::Index(..) => "index",
            Difference::Pack(..) => "pack",
            Difference::Point { .. } => "checkpoint",
            Difference::Database(_) => "database",
        }
    }

    /// The session that it is about.
    pub fn session(&self) -> Option<SessionId> {
        match self {
            Difference::FilesUnsure(id)
            | Difference::HalfFork(id)
            | Difference::HalfEnded(id)
            | Difference::SandboxGone(id)
            | Difference::FilesAway(id)
            | Difference::FilesLost(id)
            | Difference::OldKept(id)
            | Difference::Owner { session: id, .. }
            | Difference::Point { session: id, .. } => Some(*id),
            _ => None,
        }
    }

    /// Whether it is about sessions that run or should, and what is left of those that did: their
    /// files are not to be touched before.
    pub(super) fn is_of_what_runs(&self) -> bool {
        matches!(
            self,
            Difference::FilesUnsure(_)
                | Difference::HalfFork(_)
                | Difference::HalfEnded(_)
                | Difference::SandboxGone(_)
                | Difference::SandboxLeft(_)
                | Difference::Stray(_)
        )
    }

    /// Whether the daemon can serve as long as this is not mended.
    pub(super) fn can_wait(&self) -> bool {
        !matches!(
            self,
            Difference::FilesUnsure(_) | Difference::HalfFork(_) | Difference::SandboxGone(_)
        )
    }

    /// Who mends it.
    pub fn mending(&self) -> Mending {
        match self {
            Difference::Mount(_) | Difference::Owner { .. } => Mending::ByHand,
            Difference::VersionGone(..)
            | Difference::FilesLost(_)
            | Difference::Pack(..)
            | Difference::Point { .. }
            | Difference::Database(_) => Mending::Damage,
            _ => Mending::Itself,
        }
    }

    /// How it is mended, for a person.
    pub fn advice(&self) -> String {
        match self {
            Difference::FilesAway(_) => {
                "they are built from the newest checkpoint when it goes on".into()
            }
            Difference::Mount(path) => format!("run: umount {}", path.display()),
            Difference::Owner { .. } => {
                "set sandbox.uid_base to what it was when the session was made".into()
            }
            Difference::VersionGone(_, agent, _) => {
                format!("take it out of a backup, or deploy {agent} again for new sessions")
            }
            Difference::FilesLost(_) => {
                "take the data directory out of a backup, or end the session".into()
            }
            Difference::Pack(..) => "`ashctl snapshot check` says which checkpoints need it; \
                                     put it back out of a backup and restart ashd"
                .into(),
            Difference::Point { session, point, .. } => {
                format!("forget it: ashctl session checkpoint delete {session} {point}")
            }
            Difference::Database(_) => {
                "stop ashd and restore a backup: this cannot be mended while it runs".into()
            }
            _ => "ashd mends it at its next start: ashctl restart".into(),
        }
    }
}

impl Difference {
    /// The sentence, of what the checkpoints lie in.
    fn tell_stored(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Index(tenant, how) => {
                write!(f, "the index of the checkpoints of {tenant} is damaged: {how}")
            }
            Difference::Pack(tenant, pack, how) => {
                write!(f, "pack {pack} of {tenant} cannot be used: {how}")
            }
            Difference::Point { session, point, name, how } => {
                let name = name.as_ref().map(|name| format!("(\"{name}\") ")).unwrap_or_default();
                write!(f, "checkpoint {point} {name}of session {session} is damaged: {how}")
            }
            _ => Ok(()),
        }
    }
}

/// The sentence.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::FilesUnsure(id) => write!(
                f,
                "the machine went down while session {id} was in use, or before its files were known to be \
                 on the disk: it goes on with those of its newest checkpoint"
            ),
            Difference::HalfFork(id) => write!(f, "session {id} is a fork that was not finished"),
            Difference::HalfEnded(id) => write!(f, "session {id} has ended and was not put away"),
            Difference::SandboxGone(id) => {
                write!(f, "session {id} counts as running, and its sandbox is gone")
            }
            Difference::SandboxLeft(id) => write!(f, "sandbox {id} is left, and no session has it"),
            Difference::Stray(Stray { pid, uid, name, .. }) => {
                write!(f, "process {pid} ({name}) of uid {uid} is in no sandbox")
            }
            Difference::Mount(path) => {
                write!(f, "something is mounted at {}, which only sandboxes use", path.display())
            }
            Difference::SessionDir(name) => {
                write!(f, "directory {name} among those of sessions belongs to none")
            }
            Difference::Staged(name) => write!(f, "deployment {name} was not finished"),
            Difference::AgentDir(tenant, name) => {
                write!(f, "a folder is left of agent {name} of {tenant}, which is deleted")
            }
            Difference::VersionDir(tenant, name, version) => {
                write!(f, "version {version} of agent {name} of {tenant} was never recorded")
            }
            Difference::VersionGone(tenant, name, version) => {
                write!(f, "the folder of version {version} of agent {name} of {tenant} is gone")
            }
            Difference::Attachment(folder, name) => {
                write!(f, "{} among attachments belongs to none", folder.join(name).display())
            }
            Difference::BackupCopy(name) => write!(f, "database copy {name} is left of a backup"),
            Difference::FilesAway(id) => write!(f, "the files of session {id} are not in place"),
            Difference::FilesLost(id) => {
                write!(f, "the files of session {id} are lost: they are in no checkpoint either")
            }
            Difference::Owner { session, owner, should } => {
                write!(f, "the files of session {session} belong to uid {owner}, not to {should}")
            }
            Difference::Lease(slot) => {
                write!(f, "user id slot {slot} is taken, and no session has it")
            }
            Difference::LeaseHeld(slot) => {
                write!(f, "user id slot {slot} is kept from others: something of it is left")
            }
            Difference::OldKept(id) => {
                write!(f, "what is kept of ended session {id} is not a checkpoint yet")
            }
            Difference::Database(how) => write!(f, "the database is damaged: {how}"),
            Difference::Index(..) | Difference::Pack(..) | Difference::Point { .. } => {
                self.tell_stored(f)
            }
        }
    }
}
