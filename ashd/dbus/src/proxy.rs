//! The interfaces, as a client calls them. No call lets polkit ask a person; who wants that calls
//! through `inner()`, with the flag for it.

#![expect(missing_docs, reason = "the macro writes types for signals without documentation")]

use std::collections::HashMap;

use zbus::zvariant::{Fd, OwnedFd, OwnedObjectPath};

use crate::error::Result;
use crate::value::{
    AgentInfo, BackupInfo, CheckpointInfo, CollectionInfo, DeployOptions, DifferenceInfo, Event,
    FollowOptions, Health, KeyInfo, LoadInfo, LogLine, Message, SessionFilter, SessionInfo, Usage,
};

/// The daemon.
#[zbus::proxy(
    interface = "org.ashd.Ash1.Manager",
    default_service = "org.ashd.Ash1",
    default_path = "/org/ashd/Ash1"
)]
pub trait Manager {
    /// Deploys a folder as the next version of an agent and returns its object and version.
    ///
    /// `folder` is the read end of a pipe or a sealed memfd with a tar archive of the folder's
    /// contents; nothing else is taken.
    fn deploy(
        &self,
        name: &str,
        folder: Fd<'_>,
        options: DeployOptions,
    ) -> Result<(OwnedObjectPath, u32)>;

    /// Every agent, by name.
    fn list_agents(&self) -> Result<Vec<AgentInfo>>;

    /// One agent and its object.
    fn get_agent(&self, name: &str) -> Result<(OwnedObjectPath, AgentInfo)>;

    /// Sessions, newest first, and their number without limit and offset.
    fn list_sessions(&self, filter: SessionFilter) -> Result<(Vec<SessionInfo>, u64)>;

    /// One session and its object. A session that has ended gets an object for reading; the
    /// newest 64 of those stay.
    fn get_session(&self, id: &str) -> Result<(OwnedObjectPath, SessionInfo)>;

    /// Makes a session and returns its object and id when it takes messages.
    ///
    /// `settings` is a JSON object as in the body of the HTTP request, without `agent`; empty text
    /// means none.
    fn create_session(&self, agent: &str, settings: &str) -> Result<(OwnedObjectPath, String)>;

    /// Takes a session over from another machine, through the object store, and returns its object
    /// and id. `checkpoint` is the id of one; empty text means the newest.
    fn import_session(&self, id: &str, checkpoint: &str) -> Result<(OwnedObjectPath, String)>;

    /// What the sessions cost that the daemon has in memory, newest first. Those that nobody has
    /// used since it started are not among them.
    fn top(&self) -> Result<Vec<LoadInfo>>;

    /// Makes an API key with a scope (`read`, `run` or `manage`) and returns its id and the key,
    /// which is not kept: nobody can show it again.
    fn create_key(&self, name: &str, scope: &str) -> Result<(String, String)>;

    /// Every API key, oldest first.
    fn list_keys(&self) -> Result<Vec<KeyInfo>>;

    /// Takes an API key away, at once.
    fn revoke_key(&self, id: &str) -> Result<()>;

    /// Looks at store, disk, control groups, processes, mounts, sockets, leases and checkpoints of all
    /// tenants, and changes nothing; the worst comes first, at most 10,000. With `deep` every chunk of
    /// every checkpoint is read. Also returns how many chunks were looked at.
    fn fsck(&self, deep: bool) -> Result<(Vec<DifferenceInfo>, u64)>;

    /// Reads every chunk of every checkpoint. What is damaged is stored again with the next checkpoint
    /// of a session that still has it.
    fn check_snapshots(&self) -> Result<(Vec<DifferenceInfo>, u64)>;

    /// Removes what no checkpoint needs, of all tenants; with `preview` only says what would be
    /// removed.
    fn collect_snapshots(&self, preview: bool) -> Result<Vec<CollectionInfo>>;

    /// Brings everything into a directory that belongs to root and is closed to others. What an
    /// earlier backup has brought there is not written again; it stays until this one is whole.
    fn backup(&self, directory: Fd<'_>) -> Result<BackupInfo>;

    /// Deletes a tenant and everything of it. Returns how many sessions, agents and API keys that
    /// were.
    fn delete_tenant(&self, name: &str) -> Result<(u64, u64, u64)>;

    /// Version of the daemon.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> zbus::Result<String>;

    /// How the daemon is.
    #[zbus(property(emits_changed_signal = "false"))]
    fn status(&self) -> zbus::Result<Health>;

    /// A version of an agent was deployed.
    #[zbus(signal)]
    fn agent_deployed(&self, name: &str, version: u32) -> zbus::Result<()>;

    /// An agent was deleted.
    #[zbus(signal)]
    fn agent_deleted(&self, name: &str) -> zbus::Result<()>;

    /// A session was made.
    #[zbus(signal)]
    fn session_added(&self, id: &str, path: OwnedObjectPath) -> zbus::Result<()>;

    /// A session ended or was purged.
    #[zbus(signal)]
    fn session_removed(&self, id: &str, path: OwnedObjectPath) -> zbus::Result<()>;
}

/// An agent at its newest version.
#[zbus::proxy(interface = "org.ashd.Ash1.Agent", default_service = "org.ashd.Ash1")]
pub trait Agent {
    /// Deletes the agent; ends its sessions.
    fn delete(&self) -> Result<()>;

    /// Merges members into the config and returns it. Sessions that are made from then on have it.
    ///
    /// `changes` is a JSON object as in the body of the HTTP request; null removes a member. Empty
    /// text changes nothing.
    fn configure(&self, changes: &str) -> Result<String>;

    /// What holds for sessions that will be made with it: a JSON object.
    ///
    /// No property: with many agents, `GetManagedObjects` would be larger than a bus carries.
    fn get_config(&self) -> Result<String>;

    /// Replaces its environment. Sessions that are made from then on have it.
    fn set_env(&self, env: &HashMap<&str, &str>) -> Result<()>;

    /// Stays the same across versions.
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> zbus::Result<String>;

    /// Unique name.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> zbus::Result<String>;

    /// Counts deployments from 1.
    #[zbus(property)]
    fn version(&self) -> zbus::Result<u32>;

    /// Names of the variables in its environment.
    #[zbus(property)]
    fn env_names(&self) -> zbus::Result<Vec<String>>;

    /// Time of the first deployment.
    #[zbus(property(emits_changed_signal = "const"))]
    fn created_at(&self) -> zbus::Result<String>;

    /// Time of the newest deployment or change.
    #[zbus(property)]
    fn updated_at(&self) -> zbus::Result<String>;
}

/// One conversation.
///
/// Streams are read ends of pipes that the daemon makes. Closing one detaches the reader and
/// leaves the turn alone; a reader that takes nothing for a minute is detached as well.
#[zbus::proxy(interface = "org.ashd.Ash1.Session", default_service = "org.ashd.Ash1")]
pub trait Session {
    /// Sends a message and returns its stream: server-sent events, to `done`.
    ///
    /// `content` is JSON: a string or an array of content blocks. `options` is a JSON object as in
    /// the body of the HTTP request, without `content`; empty text means none.
    fn send(&self, content: &str, options: &str) -> Result<OwnedFd>;

    /// Follows the stream of the session: server-sent events.
    fn follow(&self, options: FollowOptions) -> Result<OwnedFd>;

    /// Interrupts the running turn; false if there was none.
    fn interrupt(&self) -> Result<bool>;

    /// Runs a shell command in the workspace, at most `timeout` milliseconds (0: 30,000).
    ///
    /// Returns standard output, standard error, and a pipe that gives one JSON line when the
    /// command has ended: `{"exitCode":0,"timedOut":false,"truncated":false}` or
    /// `{"error":"…","message":"…"}`. The command runs to its end whoever reads.
    fn exec(&self, command: &str, timeout: u64) -> Result<(OwnedFd, OwnedFd, OwnedFd)>;

    /// Sets the session aside; its sandbox stays.
    fn pause(&self) -> Result<SessionInfo>;

    /// Sets the session aside and ends its sandbox.
    fn stop(&self) -> Result<SessionInfo>;

    /// Makes the session active again.
    fn resume(&self) -> Result<SessionInfo>;

    /// Ends the session for good; its history stays readable.
    fn end(&self) -> Result<SessionInfo>;

    /// Ends the session for good, and removes its history and workspace.
    fn purge(&self) -> Result<SessionInfo>;

    /// Messages with numbers above `after`, in order, at most `limit` (0: 100; at most 1000).
    ///
    /// A page also ends at 4 MiB: the history is over when a page is empty.
    fn messages(&self, after: u64, limit: u32) -> Result<Vec<Message>>;

    /// Durable events of these kinds (none: all) with numbers above `after`; pages as `Messages`.
    fn events(&self, after: u64, limit: u32, kinds: &[&str]) -> Result<Vec<Event>>;

    /// Lines of the sandbox's log with an index above `after` (-1: all that are kept); pages end
    /// at 4 MiB.
    fn logs(&self, after: i64) -> Result<Vec<LogLine>>;

    /// Makes a checkpoint, also in mid-turn; an empty name means none.
    fn save(&self, name: &str) -> Result<CheckpointInfo>;

    /// Every checkpoint, newest first.
    fn checkpoints(&self) -> Result<Vec<CheckpointInfo>>;

    /// Removes a checkpoint, by its id or its name.
    fn remove_checkpoint(&self, checkpoint: &str) -> Result<()>;

    /// Brings conversation and workspace back to a checkpoint, by its id or its name.
    fn restore(&self, checkpoint: &str) -> Result<SessionInfo>;

    /// Brings conversation and workspace back to how they were before the message with this number.
    fn rewind(&self, before: u64) -> Result<SessionInfo>;

    /// Makes a session of its own out of this one as it was at a checkpoint, by its id or its name,
    /// or as it is now when that is empty. The new one is paused.
    fn fork(&self, checkpoint: &str) -> Result<(OwnedObjectPath, String)>;

    /// Tokens and cost so far.
    fn usage(&self) -> Result<Usage>;

    /// A UUID.
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> zbus::Result<String>;

    /// Object of the agent it talks to.
    #[zbus(property(emits_changed_signal = "const"))]
    fn agent(&self) -> zbus::Result<OwnedObjectPath>;

    /// The agent's version that it was made with.
    #[zbus(property(emits_changed_signal = "const"))]
    fn agent_version(&self) -> zbus::Result<u32>;

    /// Whose it is.
    #[zbus(property(emits_changed_signal = "const"))]
    fn tenant(&self) -> zbus::Result<String>;

    /// Version of the CLI that it was made with; empty while that is not known.
    #[zbus(property)]
    fn cli_version(&self) -> zbus::Result<String>;

    /// Why the newest turn failed, or why the session is in error; empty otherwise.
    #[zbus(property)]
    fn last_error(&self) -> zbus::Result<String>;

    /// `starting`, `active`, `paused`, `stopped`, `ended` or `error`.
    #[zbus(property)]
    fn status(&self) -> zbus::Result<String>;

    /// The model it was created with: its own, its agent's or its folder's; empty when the daemon's
    /// applies.
    #[zbus(property(emits_changed_signal = "const"))]
    fn model(&self) -> zbus::Result<String>;

    /// Id of the running turn; empty when none runs.
    #[zbus(property)]
    fn turn(&self) -> zbus::Result<String>;

    /// Number of the newest durable event.
    #[zbus(property)]
    fn last_seq(&self) -> zbus::Result<u64>;

    /// Time of creation.
    #[zbus(property(emits_changed_signal = "const"))]
    fn created_at(&self) -> zbus::Result<String>;

    /// Time of the newest turn's beginning or end.
    #[zbus(property)]
    fn last_active_at(&self) -> zbus::Result<String>;
}
