//! What travels: dictionaries that may gain keys, and rows.
//!
//! Times are ISO 8601 in UTC with milliseconds and `Z`. Keys are those of the HTTP API where both
//! have the thing.

use std::collections::HashMap;

use zbus::zvariant::{DeserializeDict, OwnedValue, SerializeDict, Type, Value};

/// How the daemon is: `Manager.Status`.
#[derive(
    Clone, Debug, Default, DeserializeDict, OwnedValue, PartialEq, SerializeDict, Type, Value,
)]
#[zvariant(signature = "dict", rename_all = "camelCase")]
pub struct Health {
    /// Sessions with status active.
    pub active_sessions: u64,
    /// Sandboxes alive.
    pub live_sandboxes: u64,
    /// Of those, running a turn.
    pub running: u64,
    /// Starting; some of them are alive already.
    pub warming: u64,
    /// Of those alive, agents that stand still because nobody uses them.
    pub frozen: u64,
    /// Sessions that are active or paused and have no sandbox.
    pub cold: u64,
    /// Bytes of memory that idle agents have given back since the start.
    pub reclaimed_bytes: u64,
    /// Sandboxes that were saved and ended since the start because nobody used them.
    pub cooled: u64,
    /// Of those, to make room for others.
    pub evictions: u64,
    /// The most sandboxes that may live.
    pub max_sandboxes: u64,
    /// Turns that messages began, and that run.
    pub turns_running: u64,
    /// Messages that wait for their turns until others have ended.
    pub turns_waiting: u64,
    /// The most turns that may run; fewer while memory or processes are short.
    pub turns_max: u64,
    /// Sandboxes that are being made, warm ones among them.
    pub launches_running: u64,
    /// How many wait until others have been made.
    pub launches_waiting: u64,
    /// The most that may be made at a time.
    pub launches_max: u64,
    /// What the machine is short of: of `cpu`, `memory`, `io` and `processes`.
    pub pressure: Vec<String>,
    /// How often something was refused since the start for want of room, by what there was too little of.
    pub refused: HashMap<String, u64>,
    /// Resumes that found the sandbox alive.
    pub resume_warm_hits: u64,
    /// Resumes that had to start one.
    pub resume_cold_hits: u64,
    /// Seconds since start.
    pub uptime: u64,
    /// Layers of protection or limits that are missing, a sentence each.
    pub missing: Vec<String>,
    /// Checkpoints that are known to be damaged.
    pub damaged_checkpoints: u64,
    /// Whether there is a model API key; absent when the broker cannot be asked.
    pub model_key: Option<bool>,
    /// Sessions whose newest checkpoints the object store does not have yet, or that were purged and
    /// are still there; absent without one.
    pub copies_waiting: Option<u64>,
    /// Whether the object store refuses to take them.
    pub copies_failing: Option<bool>,
    /// Sessions that were purged since the start because they were kept long enough; absent, as the
    /// next four, when everything is kept.
    pub purged_sessions: Option<u64>,
    /// Events whose content was forgotten.
    pub forgotten_events: Option<u64>,
    /// Checkpoints that were removed.
    pub removed_checkpoints: Option<u64>,
    /// Bytes that checkpoints take beyond what they may.
    pub retention_over: Option<u64>,
    /// Whether the newest look for what was kept long enough failed.
    pub retention_failing: Option<bool>,
    /// Sessions without a sandbox whose files were removed since the start because nobody had used them for
    /// long; absent, as the next one, where an older daemon answers.
    pub cleared: Option<u64>,
    /// Bytes of these files.
    pub cleared_bytes: Option<u64>,
    /// Of the agents that stand still: those that have given their memory back. Absent, as the next six,
    /// from a daemon of before them.
    pub reclaimed: Option<u64>,
    /// How often an agent was stopped since the start because nobody used it.
    pub freezes: Option<u64>,
    /// After how many milliseconds in which nobody uses a sandbox its agent stands still; 0: never.
    pub freeze_after_ms: Option<u64>,
    /// After how many it gives its memory back; 0: never, as without swap, or where no agent stands still.
    pub reclaim_after_ms: Option<u64>,
    /// After how many the sandbox is saved and ended; 0: never.
    pub idle_timeout_ms: Option<u64>,
    /// For how many milliseconds tasks of the CLI's in the background hold a sandbox in which nothing else
    /// happens; 0: not at all.
    pub background_ms: Option<u64>,
    /// The most sandboxes that take each of these steps at one look.
    pub per_tick: Option<u64>,
    /// After how many milliseconds in which nobody uses it the files of a session without a sandbox are
    /// removed; 0: never. Absent, as the next three, from a daemon of before them.
    pub clear_after_ms: Option<u64>,
    /// Of the sandboxes alive, those that wait for a session that is yet to be made.
    pub warm: Option<u64>,
    /// Sessions that began in one of these since the start.
    pub pre_warm_hits: Option<u64>,
    /// The most of them that there may be.
    pub max_warm: Option<u64>,
}

/// What `Manager.Deploy` may be told beside the folder.
#[derive(Clone, Debug, Default, DeserializeDict, PartialEq, SerializeDict, Type)]
#[zvariant(signature = "dict", rename_all = "camelCase", deny_unknown_fields)]
pub struct DeployOptions {
    /// Environment of the agent; absent keeps that of the version before.
    pub env: Option<HashMap<String, String>>,
    /// Becomes CLAUDE.md when the folder has none.
    pub system_prompt: Option<String>,
    /// Config of the agent, a JSON object; absent keeps that of the version before.
    pub config: Option<String>,
}

/// An agent at its newest version.
#[derive(Clone, Debug, Default, DeserializeDict, PartialEq, SerializeDict, Type)]
#[zvariant(signature = "dict", rename_all = "camelCase")]
pub struct AgentInfo {
    /// Stays the same across versions.
    pub id: String,
    /// Unique.
    pub name: String,
    /// Counts deployments from 1.
    pub version: u32,
    /// Where the version lies on the daemon's machine.
    pub path: String,
    /// Names of the variables in its environment; values never leave the daemon.
    pub env_names: Vec<String>,
    /// Time of the first deployment.
    pub created_at: String,
    /// Time of the newest deployment or change.
    pub updated_at: String,
}

/// Which sessions `Manager.ListSessions` gives.
#[derive(Clone, Debug, Default, DeserializeDict, PartialEq, SerializeDict, Type)]
#[zvariant(signature = "dict", rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionFilter {
    /// Only of this agent.
    pub agent: Option<String>,
    /// Only with this status.
    pub status: Option<String>,
    /// At most this many, 1 to 1000; 1000 when absent.
    pub limit: Option<u32>,
    /// Skip this many.
    pub offset: Option<u32>,
}

/// A session.
#[derive(Clone, Debug, Default, DeserializeDict, PartialEq, SerializeDict, Type)]
#[zvariant(signature = "dict", rename_all = "camelCase")]
pub struct SessionInfo {
    /// A UUID.
    pub id: String,
    /// The agent it talks to.
    pub agent_name: String,
    /// The agent's version that it was made with.
    pub agent_version: u32,
    /// `starting`, `active`, `paused`, `stopped`, `ended` or `error`.
    pub status: String,
    /// The model it was created with: its own, its agent's or its folder's; empty when the daemon's
    /// applies.
    pub model: String,
    /// Whose it is.
    pub tenant: String,
    /// Version of the CLI that it was made with; empty while that is not known.
    pub cli_version: String,
    /// Why the newest turn failed, or why the session is in error; empty otherwise.
    pub last_error: String,
    /// Id of the running turn; empty when none runs.
    pub turn: String,
    /// Number of the newest durable event; 0 before the first.
    pub last_seq: u64,
    /// Time of creation.
    pub created_at: String,
    /// Time of the newest turn's beginning or end.
    pub last_active_at: String,
}

/// What a session costs right now: a row of `Manager.Top`.
#[derive(Clone, Debug, Default, DeserializeDict, PartialEq, SerializeDict, Type)]
#[zvariant(signature = "dict", rename_all = "camelCase")]
pub struct LoadInfo {
    /// A UUID.
    pub id: String,
    /// The agent it talks to.
    pub agent_name: String,
    /// `starting`, `active`, `paused`, `stopped` or `error`.
    pub status: String,
    /// Id of the running turn; empty when none runs.
    pub turn: String,
    /// What its sandbox does: `running`, `background`, `waiting`, `frozen` or `reclaimed`; empty when it
    /// has none, and `cleared` when it has no files on the disk either.
    pub sandbox: String,
    /// Processor time that its sandbox has used, in microseconds.
    pub cpu_us: u64,
    /// Memory in use, in bytes.
    pub memory: u64,
    /// The most memory that was in use, in bytes.
    pub memory_peak: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes read from disks.
    pub read_bytes: u64,
    /// Bytes written to disks.
    pub written_bytes: u64,
    /// Tokens of prompts that were not cached.
    pub input_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// US dollars.
    pub cost_usd: f64,
}

/// An API key; the key itself is shown only when it is made.
#[derive(Clone, Debug, Default, DeserializeDict, PartialEq, SerializeDict, Type)]
#[zvariant(signature = "dict", rename_all = "camelCase")]
pub struct KeyInfo {
    /// A UUID.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// `read`, `run` or `manage`.
    pub scope: String,
    /// Time of creation.
    pub created_at: String,
}

/// How `Session.Follow` reads.
#[derive(Clone, Debug, Default, DeserializeDict, PartialEq, SerializeDict, Type)]
#[zvariant(signature = "dict", rename_all = "camelCase", deny_unknown_fields)]
pub struct FollowOptions {
    /// Begin behind the frame with this id; absent: with the running turn or what comes next.
    pub after: Option<String>,
    /// Also deltas of messages; false when absent.
    pub include_partial_messages: Option<bool>,
    /// End with the turn instead of following across turns; false when absent.
    pub until_done: Option<bool>,
}

/// Tokens and cost of a session so far.
#[derive(Clone, Debug, Default, DeserializeDict, PartialEq, SerializeDict, Type)]
#[zvariant(signature = "dict", rename_all = "camelCase")]
pub struct Usage {
    /// The model used last; empty before the first call.
    pub model: String,
    /// Tokens of prompts that were not cached.
    pub input_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// Tokens written to the cache.
    pub cache_creation_tokens: u64,
    /// Tokens read from the cache.
    pub cache_read_tokens: u64,
    /// US dollars.
    pub cost_usd: f64,
    /// Calls of the model.
    pub calls: u64,
}

/// A checkpoint of a session: conversation and workspace as they were at one moment.
#[derive(Clone, Debug, Default, DeserializeDict, PartialEq, SerializeDict, Type)]
#[zvariant(signature = "dict", rename_all = "camelCase")]
pub struct CheckpointInfo {
    /// A UUID.
    pub id: String,
    /// The name that it was given; empty: it was made by itself.
    pub name: String,
    /// The newest event at that moment.
    pub sequence: u64,
    /// Whether a turn was running.
    pub running: bool,
    /// Files, directories and links.
    pub files: u64,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Bytes that were written to keep it.
    pub written: u64,
    /// Sockets, device nodes and the like that are not in it.
    pub left_out: u64,
    /// When it was made.
    pub created_at: String,
    /// What is known to be damaged of it; empty: nothing.
    pub damage: String,
}

/// Something that is not as another part of the system says it is.
#[derive(Clone, Debug, Default, DeserializeDict, PartialEq, SerializeDict, Type)]
#[zvariant(signature = "dict", rename_all = "camelCase")]
pub struct DifferenceInfo {
    /// A word for what it is.
    pub kind: String,
    /// Who mends it: `itself`, `by-hand`; or `damage`: something that was kept is lost.
    pub mending: String,
    /// The session that it is about; empty: none.
    pub session: String,
    /// One sentence.
    pub text: String,
    /// How it is mended.
    pub advice: String,
}

/// What was removed from a tenant's snapshots, or would be.
#[derive(Clone, Debug, Default, DeserializeDict, PartialEq, SerializeDict, Type)]
#[zvariant(signature = "dict", rename_all = "camelCase")]
pub struct CollectionInfo {
    /// Whose.
    pub tenant: String,
    /// Nothing was removed: somebody saved or brought back all the time.
    pub busy: bool,
    /// Packs; what checkpoints need of them was moved.
    pub packs: u64,
    /// Bytes that this gives back.
    pub bytes: u64,
    /// Chunks that checkpoints need.
    pub needed: u64,
    /// Checkpoints that cannot be followed; what they may need stays.
    pub damaged: u64,
    /// Packs that stay because of damage.
    pub held: u64,
}

/// A backup that was made.
#[derive(Clone, Debug, Default, DeserializeDict, PartialEq, SerializeDict, Type)]
#[zvariant(signature = "dict", rename_all = "camelCase")]
pub struct BackupInfo {
    /// A UUID.
    pub id: String,
    /// The moment that it is of.
    pub created_at: String,
    /// Sessions in it, ended ones among them.
    pub sessions: u64,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were not there from an earlier backup.
    pub written: u64,
    /// Sessions that are not in it, because they were being made.
    pub left_out: u64,
    /// Sessions that could not be saved, and are in it as they were saved last.
    pub stale: u64,
}

/// A message: event number, `user` or `assistant`, JSON, time.
pub type Message = (u64, String, String, String);

/// A durable event: number, kind, id of its turn (empty: none), JSON, time.
pub type Event = (u64, String, String, String, String);

/// A line of the sandbox's log: index, level, text, time.
pub type LogLine = (u64, String, String, String);
