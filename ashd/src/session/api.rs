//! The words of the verbs: what goes in, what comes out, how it can be refused.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use serde::Serialize;

use crate::domain::{
    Agent, AgentConfig, AgentName, ConfigChange, EventId, PointId, Scope, SessionCounts, SessionId,
    Settings, Status, Tenant, Unfit, check, environment,
};
use crate::store::StoreError;

pub use super::copies::Copying;
pub use super::ladder::{Rested, Times};
pub use super::retention::Gone;
pub use crate::telemetry::metrics::labels::Scarce;

/// On whose behalf a verb is called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    /// Whose agents and sessions it sees.
    pub tenant: Tenant,
    /// What it may do. The edges see to it; a verb looks once more where this machine is at stake.
    pub scope: Scope,
}

/// A deployment.
pub struct Deployment {
    /// The agent.
    pub name: AgentName,
    /// Where its folder comes from.
    pub source: Source,
    /// Becomes CLAUDE.md when the folder has none.
    pub system_prompt: Option<String>,
    /// Its environment; absent keeps what is there.
    pub env: Option<BTreeMap<String, String>>,
    /// Its config; absent keeps what is there.
    pub config: Option<AgentConfig>,
}

/// A change of an agent that is no deployment.
#[derive(Clone, Debug, Default)]
pub struct AgentChange {
    /// The whole new environment.
    pub env: Option<BTreeMap<String, String>>,
    /// What changes in its config.
    pub config: Option<ConfigChange>,
}

impl AgentChange {
    /// The agent as it is then.
    ///
    /// # Errors
    /// When a value is not what it has to be.
    pub(super) fn of(self, agent: &Agent) -> Result<Agent, Unfit> {
        if let Some(env) = &self.env {
            environment::check_all("env", env)?;
        }
        let config = self.config.map(|change| agent.config.changed(change)).transpose()?;
        Ok(Agent {
            env: self.env.unwrap_or_else(|| agent.env.clone()),
            config: config.unwrap_or_else(|| agent.config.clone()),
            ..agent.clone()
        })
    }
}

impl Deployment {
    /// Checks what can be checked without looking into the folder.
    ///
    /// # Errors
    /// When a value is not what it has to be.
    pub(super) fn check(&self) -> Result<(), Unfit> {
        if let Some(prompt) = &self.system_prompt {
            check::at_most("systemPrompt", prompt, check::LONGEST_PROMPT)?;
        }
        self.env.as_ref().map_or(Ok(()), |env| environment::check_all("env", env))
    }
}

/// Where an agent's folder comes from.
pub enum Source {
    /// A directory of this machine, copied. Must lie beneath a configured root.
    Directory(PathBuf),
    /// Files, by relative path.
    Files(Vec<(String, Bytes)>),
    /// A tar archive of the folder's contents.
    Tar(Box<dyn std::io::Read + Send>),
}

/// The most rows of one page of a list or a history.
pub const LARGEST_PAGE: u32 = 1000;

/// How many rows a page of a history has when nothing is said.
pub const USUAL_PAGE: u32 = 100;

/// A session about to be made.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// The agent it talks to.
    pub agent: AgentName,
    /// What it is created with.
    pub settings: Settings,
}

/// How a command ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExecOutput {
    /// Exit code; 128 + signal when a signal ended it.
    pub exit_code: i32,
    /// Standard output, at most 10 MiB.
    pub stdout: Bytes,
    /// Standard error, at most 10 MiB.
    pub stderr: Bytes,
    /// Whether its time ran out.
    pub timed_out: bool,
    /// Whether output is missing.
    pub truncated: bool,
}

/// One server-sent event, encoded once for all readers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    /// Its place in the stream.
    pub id: EventId,
    /// Who gets it, and what it ends.
    pub class: FrameClass,
    /// The whole frame, from `id:` to the empty line.
    pub bytes: Bytes,
}

/// What a frame is to a reader.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FrameClass {
    /// For readers that asked for partial messages.
    Partial,
    /// For every reader.
    Whole,
    /// For every reader; ends the turn.
    Done,
}

/// How a reader wants a stream.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reading {
    /// Begin behind this frame; absent: with what comes next (or the running turn's beginning).
    pub after: Option<EventId>,
    /// Also partial messages.
    pub partial: bool,
    /// End with the turn's end instead of following across turns.
    pub until_done: bool,
}

/// One line of a sandbox's log.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct LogLine {
    /// Counts from 0 for the life of the daemon.
    pub index: u64,
    /// `stderr` or `system`.
    pub level: &'static str,
    /// The line.
    pub text: String,
    /// When it was read.
    pub ts: crate::domain::Timestamp,
}

/// How the daemon is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// Sessions by status, all tenants.
    pub sessions: SessionCounts,
    /// Sandboxes alive.
    pub live_sandboxes: u64,
    /// Of those, running a turn.
    pub running: u64,
    /// Of those, without a turn, and of a session.
    pub waiting: u64,
    /// Starting; some of them are alive already.
    pub warming: u64,
    /// Of those alive, waiting for a session that is yet to be made.
    pub warm: u64,
    /// Sessions that began in one of these.
    pub pre_warm_hits: u64,
    /// The most of them that there may be.
    pub max_warm: u64,
    /// Sessions that are active or paused and have no sandbox, all tenants.
    pub cold: u64,
    /// What became of sandboxes that nobody used.
    pub rested: Rested,
    /// When they take which step, without those that are never taken.
    pub times: Times,
    /// The most sandboxes that may live.
    pub max_sandboxes: u64,
    /// Resumes that found the sandbox alive.
    pub resume_warm_hits: u64,
    /// Resumes that had to start one.
    pub resume_cold_hits: u64,
    /// Those of them whose conversation began anew, because its transcript was gone.
    pub resume_fresh_hits: u64,
    /// Of the cold ones: so many needed the object store.
    pub resume_cloud_hits: u64,
    /// Seconds since start.
    pub uptime_s: u64,
    /// Layers of protection or limits that are missing, a sentence each.
    pub missing: Vec<String>,
    /// Checkpoints of all tenants that are known to be damaged; equal ones count once.
    pub damaged_checkpoints: u64,
    /// Whether there is a model API key; absent when the broker is not there, or does not say.
    pub model_key: Option<bool>,
    /// How the object store is doing; absent when there is none.
    pub copying: Option<Copying>,
    /// What has gone because it was kept long enough; absent when everything is kept.
    pub gone: Option<Gone>,
    /// What has begun, what waits, and what was refused.
    pub admission: Admitted,
}

/// What has begun, what waits, and what was refused.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Admitted {
    /// Turns that messages began.
    pub turns: Places,
    /// Sandboxes that are being made.
    pub launches: Places,
    /// What the machine is short of.
    pub short: Vec<Scarce>,
    /// How often something was refused since the start, by what there was too little of; each has its
    /// word, also when it is 0.
    pub refused: Vec<(&'static str, u64)>,
}

/// Places of one kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Places {
    /// How many there are.
    pub max: u64,
    /// How many are taken. There may be more: what ran already when the daemon began is let be.
    pub taken: u64,
    /// How many are waited for.
    pub waiting: u64,
}

/// What happened to agents and sessions, for those who watch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Happened {
    /// A version of an agent was deployed.
    AgentDeployed(Tenant, AgentName, u32),
    /// An agent's environment or config was changed.
    AgentChanged(Tenant, AgentName),
    /// An agent was deleted.
    AgentDeleted(Tenant, AgentName),
    /// A session was made.
    SessionCreated(Tenant, SessionId),
    /// A session's status changed.
    SessionChanged(Tenant, SessionId, Status),
    /// A turn of a session began or ended.
    SessionTurned(Tenant, SessionId),
    /// A session and its history were removed.
    SessionPurged(Tenant, SessionId),
}

/// Why a verb was refused. Texts are for API users: no host path, no secret.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// No such agent.
    #[error("Agent not found")]
    NoAgent,
    /// No such agent, said when a session is created.
    #[error("Agent \"{0}\" not found")]
    NoAgentNamed(AgentName),
    /// No such session.
    #[error("Session not found")]
    NoSession,
    /// No such point.
    #[error("Checkpoint not found")]
    NoCheckpoint,
    /// There is a point, but not where it is needed.
    #[error(
        "There is no checkpoint right before this message; the nearest one before it is {nearest}"
    )]
    NotAtCheckpoint {
        /// Which one is, in words.
        nearest: String,
    },
    /// Another point has this name.
    #[error("name: another checkpoint of this session has this name; choose another, or remove it")]
    NameTaken,
    /// It holds what is left of the session.
    #[error("This checkpoint is all that is left of the session; purge the session to remove it")]
    LastCheckpoint,
    /// The session would be brought back from it.
    #[error(
        "This is the newest checkpoint, which the session is brought back from when its files are \
         lost; it can be removed when there is a newer one"
    )]
    NewestCheckpoint,
    /// The session's files are gone and no point holds them.
    #[error(
        "The session's files are lost: there is neither a workspace nor a checkpoint; its history can be \
         read, and a new session be made"
    )]
    NothingKept,
    /// A point cannot be brought back.
    #[error("The checkpoint cannot be brought back: {how}; {}", older(.whole.as_ref()))]
    Damaged {
        /// What is wrong with it.
        how: String,
        /// The newest one before it that is whole.
        whole: Option<PointId>,
    },
    /// There is no object store.
    #[error("This server has no object store; set snapshots.url")]
    NoObjectStore,
    /// The object store does not know the session.
    #[error("Session not found in the object store")]
    NotStored,
    /// The session is here already.
    #[error("The session is on this server already")]
    HereAlready,
    /// Another machine was quicker.
    #[error("Another server has just taken this session; go on with it there")]
    TakenElsewhere,
    /// An agent of this name is here, with other files.
    #[error(
        "Agent \"{name}\" has other files here in version {version} than where the session comes from; \
         deploy the same folder, or delete the agent, and import again"
    )]
    OtherAgent {
        /// The agent.
        name: AgentName,
        /// The version that the session was made with.
        version: u32,
    },
    /// The object store cannot be used now.
    #[error("The object store cannot be used right now; try again later")]
    ObjectStore,
    /// Nothing is kept of the session's files.
    #[error("No workspace available for this session")]
    NoWorkspace,
    /// The session's files are being put in place.
    #[error("The session's files are being put in place; try again when it has started")]
    FilesNotReady,
    /// The session has ended, and its files with it.
    #[error(
        "Session has ended: its files can be read, and not changed; fork it to go on with them"
    )]
    ReadOnly,
    /// Something of another kind is in the way, or somebody who does not let go.
    #[error("{0}")]
    InTheWay(String),
    /// What a client takes for granted of a file is not so.
    #[error("The file is not as the request says: {0}")]
    Precondition(&'static str),
    /// More than is taken; the most bytes.
    #[error("Request body is too large (at most {0} bytes)")]
    TooLarge(u64),
    /// A body stopped coming.
    #[error("the body did not arrive in time")]
    Stalled,
    /// No such attachment.
    #[error("Attachment not found")]
    NoAttachment,
    /// An attachment that is recorded is not there.
    #[error("Attachment file not found on disk")]
    AttachmentLost,
    /// An attachment is larger than it may be; the most bytes.
    #[error("Attachment too large (max {0} bytes)")]
    AttachmentTooLarge(u64),
    /// The session has as many attachments as it may have; how many that is.
    #[error("The session has {0} attachments, and may have no more; delete some")]
    TooManyAttachments(u32),
    /// There is more of the session's files than a point can have.
    #[error("The session's files cannot be saved: {0}")]
    TooMuch(String),
    /// No such file in the session's workspace.
    #[error("File not found")]
    NoFile,
    /// There is nothing of this tenant.
    #[error("Tenant not found")]
    NoTenant,
    /// No such API key.
    #[error("Key not found")]
    NoKey,
    /// The session's status does not allow it.
    #[error("Session is {0}")]
    NotActive(Status),
    /// The session is being made out of another, or of a copy.
    #[error("Session is still being made — try again when it is there")]
    Arriving,
    /// The session's status does not allow this verb.
    #[error("Cannot {verb} session with status \"{status}\"")]
    WrongStatus {
        /// What was asked.
        verb: &'static str,
        /// What the session is.
        status: Status,
    },
    /// The session has ended.
    #[error("Session has ended — create a new session")]
    Ended,
    /// The request is not acceptable.
    #[error("{0}")]
    Invalid(String),
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// A turn is running, and the caller did not want to wait or cannot.
    #[error("Session is busy with another message; try again when it is answered, or interrupt it")]
    Busy,
    /// Something else was done at the same time; what became of this.
    #[error("{0}; try again")]
    Overtaken(&'static str),
    /// Too many messages wait already.
    #[error(
        "Too many messages are waiting for this session (limit {0}); try again when some are answered"
    )]
    QueueFull(usize),
    /// There is no room for it now.
    #[error("{reason}; try again in {retry_after_s} s")]
    Capacity {
        /// One sentence.
        reason: String,
        /// Seconds after which to try again.
        retry_after_s: u32,
    },
    /// A backup was not made.
    #[error("{0}")]
    Backup(String),
    /// The daemon is going away.
    #[error("The server is shutting down; try again when it is back")]
    ShuttingDown,
    /// The sandbox could not be made or was lost.
    #[error("{0}")]
    Sandbox(String),
    /// The store failed.
    #[error("The server cannot store anything right now: {0}")]
    Store(#[from] StoreError),
    /// Something that should not happen; details are in the log.
    #[error("Internal error: {0}")]
    Internal(String),
}

/// What to do instead.
fn older(whole: Option<&PointId>) -> String {
    match whole {
        Some(point) => format!("the newest older one that is whole is {point}: restore that"),
        None => "no older one is whole".to_owned(),
    }
}

impl From<Unfit> for Refusal {
    fn from(unfit: Unfit) -> Self {
        Refusal::Invalid(unfit.to_string())
    }
}

impl Refusal {
    /// What an API user reads. What a database says may name files of this machine: that is for
    /// the log only.
    pub fn public_text(&self) -> String {
        match self {
            Refusal::Store(StoreError::Full) => self.to_string(),
            Refusal::Store(_) => {
                "The server cannot use its database right now; try again later".to_owned()
            }
            other => other.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(prompt: &str, env: &[(&str, &str)]) -> String {
        let env = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let deployment = Deployment {
            name: "a".parse().unwrap(),
            source: Source::Files(vec![]),
            system_prompt: Some(prompt.to_owned()),
            env: Some(env),
            config: None,
        };
        deployment.check().err().map(|unfit| unfit.to_string()).unwrap_or_default()
    }

    #[test]
    fn wrong_deployments_are_explained() {
        assert_eq!(complaint("Be brief.", &[("K", "v")]), "");
        assert_eq!(
            complaint(&"x".repeat(1_000_001), &[]),
            "systemPrompt: must not be longer than 1000000 characters"
        );
        assert_eq!(
            complaint("", &[("LD_PRELOAD", "v")]),
            "env: LD_PRELOAD is reserved and cannot be set from outside"
        );
    }

    #[test]
    fn what_passes_says_when_to_try_again() {
        let full = Refusal::Capacity { reason: "no room".into(), retry_after_s: 5 };
        assert_eq!(full.public_text(), "no room; try again in 5 s");
        for passes in [
            Refusal::Busy,
            Refusal::Overtaken("It went"),
            Refusal::QueueFull(3),
            Refusal::ShuttingDown,
            Refusal::ObjectStore,
            Refusal::Arriving,
            Refusal::FilesNotReady,
            Refusal::Store(StoreError::Closed),
        ] {
            let text = passes.public_text();
            assert!(text.contains("try again"), "{text}");
        }
    }
}
