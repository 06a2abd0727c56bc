//! The facts that survive: keys, agents, sessions, events, points, attachments, usage.
//!
//! [`Store`] is written in verbs of the domain, so that another database can stand behind it.
//! Every verb that changes something returns after the change is on disk.

pub mod lock;
pub mod sqlite;

use std::path::Path;

use async_trait::async_trait;

use crate::domain::{
    Agent, AgentId, AgentName, Attachment, AttachmentId, Changed, Event, EventKind, NewEvent,
    Point, PointId, Root, SandboxId, Scope, Session, SessionChange, SessionCounts, SessionId,
    Status, Tenant, Timestamp, Which,
};

/// An API key, as stored: never the key itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Key {
    /// Identifies the key in listings.
    pub id: uuid::Uuid,
    /// Whose requests it authorises.
    pub tenant: Tenant,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// What it is for, in words.
    pub label: String,
    /// What it lets its holder do.
    pub scope: Scope,
    /// Time of creation.
    pub created_at: Timestamp,
}

/// One commit to a session: a change of its row and events, all or nothing.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The session.
    pub session: SessionId,
    /// What changes in its row. `last_seq` follows from the events.
    pub change: SessionChange,
    /// Events, in order, numbered without gaps from the session's `last_seq + 1`.
    pub events: Vec<NewEvent>,
    /// First of all, history goes back to this point of the session: what happened behind it is
    /// undone, what was undone at its time is so again, and nothing else.
    pub back_to: Option<PointId>,
    /// Last of all, a point of the session is added, as [`Store::add_point`] does.
    pub point: Option<(Point, u32)>,
}

impl Commit {
    /// A change and events; history goes on.
    pub fn of(session: SessionId, change: SessionChange, events: Vec<NewEvent>) -> Commit {
        Commit { session, change, events, back_to: None, point: None }
    }
}

/// Which history to copy, and where to.
#[derive(Clone, Copy, Debug)]
pub struct Copying {
    /// The point at which it ends.
    pub point: PointId,
    /// The session that gets it. Its newest event says where to go on.
    pub to: SessionId,
    /// At most this many events.
    pub limit: u32,
}

/// In the place of the sandbox that files were built for: nobody can find out whether they are on the disk.
pub const IN_DOUBT: SandboxId = SandboxId(uuid::Uuid::nil());

/// Files of a session that may be lost when the machine goes down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unsynced {
    /// Whose they are.
    pub session: SessionId,
    /// Its newest sandbox.
    pub sandbox: SandboxId,
    /// The sandbox that all of them were built for, while none of them may be on the disk; or [`IN_DOUBT`].
    pub build: Option<SandboxId>,
    /// Whether the machine has gone down since.
    pub lost: bool,
    /// What of them may be in no point.
    pub changed: Changed,
}

/// What a session still had when it was purged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Purged {
    /// Its place in the range of uids.
    pub slot: Option<u32>,
}

/// A session that was purged, and that the object store may still have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PurgedCopy {
    /// Whose it was.
    pub tenant: Tenant,
    /// Which one.
    pub session: SessionId,
    /// In which generation this machine had it; 0 when that is not known.
    pub generation: u32,
}

/// Points that stay although they are old, or too many.
#[derive(Clone, Debug, Default)]
pub struct Spared {
    /// Tenants, all of whose points stay.
    pub tenants: Vec<Tenant>,
    /// Content that is known to be damaged: of a session that would be brought back from it all points
    /// stay, for it has to go on from an older one.
    pub damaged: Vec<Root>,
}

/// Which sessions to list.
#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    /// Only of this agent.
    pub agent: Option<AgentName>,
    /// Only with this status.
    pub status: Option<Status>,
    /// At most this many; all when absent.
    pub limit: Option<u32>,
    /// Skip this many.
    pub offset: u32,
}

/// Which events to read.
#[derive(Clone, Debug)]
pub struct EventRange {
    /// Only numbers strictly above this.
    pub after: u64,
    /// At most this many; fewer when they are large, but one if there is one.
    pub limit: u32,
    /// Only these kinds; empty means all.
    pub kinds: Vec<EventKind>,
    /// Also those that are undone.
    pub undone: bool,
}

/// Tokens and cost of one model call or one turn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// The model, as the API named it.
    pub model: String,
    /// Tokens of the prompt that were not cached.
    pub input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// Tokens written to the cache.
    pub cache_creation_tokens: u64,
    /// Tokens read from the cache.
    pub cache_read_tokens: u64,
    /// US dollars, as the CLI reckons; 0 in rows of single calls.
    pub cost_usd: f64,
    /// Model calls counted in here.
    pub calls: u64,
}

/// Why the store could not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No room left on the device; nothing was changed.
    #[error("the disk that holds the database is full; free some space")]
    Full,
    /// The database was made by a newer ashd.
    #[error(
        "the database has schema {found}, this ashd knows up to {known}; \
         install the newer ashd again or restore a backup made before the upgrade"
    )]
    Newer {
        /// The schema of the database.
        found: u32,
        /// The newest schema that this program knows.
        known: u32,
    },
    /// What should be new is there already.
    #[error("{what} exists already")]
    Exists {
        /// What it is.
        what: &'static str,
    },
    /// What should be changed is not there.
    #[error("{what} does not exist")]
    Missing {
        /// What it is.
        what: &'static str,
    },
    /// Events that do not follow on the session's last one.
    #[error("event {found} does not follow event {last} of the session")]
    Gap {
        /// The session's newest event.
        last: u64,
        /// The first of the events to commit.
        found: u64,
    },
    /// The database is damaged or cannot be read or written.
    #[error("the database cannot be used: {0}")]
    Database(String),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

/// A shorthand for results of the store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// The facts that survive, and what can be done to them.
#[async_trait]
pub trait Store: Send + Sync {
    /// Every API key.
    async fn keys(&self) -> Result<Vec<Key>>;
    /// Adds an API key.
    async fn add_key(&self, key: Key) -> Result<()>;
    /// Removes an API key of a tenant and returns it as it was; `None` if there is none.
    async fn remove_key(&self, tenant: &Tenant, id: uuid::Uuid) -> Result<Option<Key>>;

    /// Records a deployment. The agent's version must be one more than the stored one (1 for a new
    /// agent), else [`StoreError::Exists`]; `id` and `created_at` of a known agent stay.
    async fn deploy(&self, agent: Agent) -> Result<Agent>;
    /// Writes environment, config and `updated_at` of an agent, which is known by its id; false if
    /// there is none.
    async fn change_agent(&self, agent: Agent) -> Result<bool>;
    /// An agent by name.
    async fn agent(&self, tenant: &Tenant, name: &AgentName) -> Result<Option<Agent>>;
    /// Every agent of a tenant, by name.
    async fn agents(&self, tenant: &Tenant) -> Result<Vec<Agent>>;
    /// Every agent of every tenant, for start-up.
    async fn all_agents(&self) -> Result<Vec<Agent>>;
    /// Removes an agent; false if there was none.
    async fn delete_agent(&self, tenant: &Tenant, name: &AgentName) -> Result<bool>;

    /// Records a session that begins with this agent, and its first events; false if it is not there any
    /// more: another one may be called like it.
    async fn begin_session(
        &self,
        agent: AgentId,
        session: Session,
        events: Vec<NewEvent>,
    ) -> Result<bool>;
    /// Records a session that comes of another one, with its first events.
    async fn create_session(&self, session: Session, events: Vec<NewEvent>) -> Result<()>;
    /// Changes a session and appends events in one commit.
    async fn commit(&self, commit: Commit) -> Result<()>;
    /// A session by id, whoever owns it.
    async fn session(&self, id: SessionId) -> Result<Option<Session>>;
    /// Sessions of a tenant, newest first, and how many there are without limit and offset.
    async fn sessions(&self, tenant: &Tenant, filter: SessionFilter)
    -> Result<(Vec<Session>, u64)>;
    /// Every session that is not ended or still has uids, for start-up.
    async fn unended_sessions(&self) -> Result<Vec<Session>>;
    /// Sessions that have not ended, run no turn, have their files, and have no point as new as their
    /// newest message, answer, error or change of files.
    async fn unsaved_sessions(&self) -> Result<Vec<Session>>;
    /// How many sessions there are of each status, over all tenants, at one moment. Costs the same
    /// however many there are.
    async fn count_sessions(&self) -> Result<SessionCounts>;
    /// Removes a session and everything that belongs to it, and says what it still had; `None` if
    /// there was none. From the first commit on it is not there for anybody; its history goes in steps,
    /// between which others commit. What cannot be removed then is left to
    /// [`finish_purges`](Store::finish_purges).
    async fn purge_session(&self, id: SessionId) -> Result<Option<Purged>>;
    /// Removes what is left of sessions that were purged: the process or the disk failed meanwhile.
    async fn finish_purges(&self) -> Result<()>;
    /// Copies the history up to a point into another session, as much of it at a time as is asked
    /// for, under the same numbers and with what was undone. From which sandbox events came is
    /// forgotten. Returns the other session's newest number.
    async fn copy_events(&self, copying: Copying) -> Result<u64>;

    /// Records a point, of the newest event or an earlier one. A name that another point of the session
    /// has is [`StoreError::Exists`]. Of the session's points without a name, only the newest `keep` are
    /// kept, and at least one.
    async fn add_point(&self, point: Point, keep: u32) -> Result<()>;
    /// Every point of a session, newest first.
    async fn points(&self, id: SessionId) -> Result<Vec<Point>>;
    /// One point of a session.
    async fn point(&self, id: SessionId, which: Which) -> Result<Option<Point>>;
    /// Takes a point's name away; false if there is no such point.
    async fn unname_point(&self, id: SessionId, point: PointId) -> Result<bool>;
    /// Removes a point of a session; false if there was none, or the session is about to be brought back
    /// to it.
    async fn remove_point(&self, id: SessionId, point: PointId) -> Result<bool>;
    /// The points of a tenant with this content.
    async fn points_with(&self, tenant: &Tenant, root: Root) -> Result<Vec<Point>>;
    /// The content of every point of a tenant, each once.
    async fn roots(&self, tenant: &Tenant) -> Result<Vec<Root>>;

    /// Records that the files of a session are built for a sandbox, and may not be on the disk until
    /// they are [`synced`](Store::synced).
    async fn note_unsynced(&self, id: SessionId, build: SandboxId) -> Result<()>;
    /// The sandbox that a session's files were built for, while none of them may be on the disk.
    async fn unsynced_build(&self, id: SessionId) -> Result<Option<SandboxId>>;
    /// Records that what was built of sessions for these sandboxes is on the disk.
    async fn synced(&self, builds: Vec<(SessionId, SandboxId)>) -> Result<()>;
    /// Records that files of sessions that were used or built in this boot are [`IN_DOUBT`], until all of them
    /// are built anew, or it is recorded that this is [`synced`](Store::synced).
    async fn doubt(&self, ids: Vec<SessionId>) -> Result<()>;
    /// Records that the files of sessions are on the disk and were last used by these sandboxes, which
    /// are gone; those of a session that has another one since are in use again.
    async fn at_rest(&self, sandboxes: Vec<(SessionId, SandboxId)>) -> Result<()>;
    /// Records that sessions have sandboxes in this boot, of which that is not recorded yet.
    async fn in_use(&self, ids: Vec<SessionId>) -> Result<()>;
    /// Sessions that have or had a sandbox since their files were at rest, and have not ended or still
    /// have uids.
    async fn unsynced(&self) -> Result<Vec<Unsynced>>;
    /// What [`unsynced`](Store::unsynced) has of one of them, without a look at the others.
    async fn unsynced_of(&self, id: SessionId) -> Result<Option<Unsynced>>;
    /// Records that a session is to be brought back to its newest point, if it has one, unless it is to
    /// be brought back to another one anyway; and what is to be told of it. What is in place counts as
    /// lost.
    async fn build_again(&self, id: SessionId, told: Option<NewEvent>) -> Result<()>;
    /// Sessions that have uids, may have no sandbox, and to which nothing has happened since a time, those
    /// first that ran a turn longest ago; none of which something may be in no point, or whose files were
    /// built and may not be on the disk.
    async fn resting_sessions(&self, before: Timestamp, limit: u32) -> Result<Vec<SessionId>>;
    /// Records that a session is to be brought back to this point; false if it has no such point, runs a
    /// turn, is to be brought back anyway, or something of it may be in no point. What is in place counts
    /// as lost.
    async fn put_away(&self, id: SessionId, point: PointId) -> Result<bool>;

    /// Records an attachment; false, and nothing is recorded, when the session has `most` already.
    async fn add_attachment(&self, attachment: Attachment, most: u32) -> Result<bool>;
    /// Every attachment of a session, oldest first.
    async fn attachments(&self, id: SessionId) -> Result<Vec<Attachment>>;
    /// Every attachment of every session.
    async fn all_attachments(&self) -> Result<Vec<Attachment>>;
    /// One attachment, whoever owns it.
    async fn attachment(&self, id: AttachmentId) -> Result<Option<Attachment>>;
    /// Removes an attachment; false if there was none.
    async fn remove_attachment(&self, id: AttachmentId) -> Result<bool>;
    /// Sessions with points that the object store does not have.
    async fn sessions_to_copy(&self) -> Result<Vec<SessionId>>;
    /// The points of a session that the object store is to have and has not, the newest last: those
    /// with a name, and the newest one.
    async fn points_to_copy(&self, id: SessionId) -> Result<Vec<Point>>;
    /// Records that the object store has a point as it was, and which others had a name then: older ones
    /// without a name it need not have. When names have gone since, it is still to be copied.
    async fn copied(&self, id: SessionId, point: Point, named: Vec<PointId>) -> Result<()>;
    /// What was undone in a point's history.
    async fn undone_at(&self, point: PointId) -> Result<Vec<(u64, u64)>>;
    /// The generation in which this machine has a session in the object store; 0 stands for one that
    /// came from a backup, until it is copied again.
    async fn generation(&self, id: SessionId) -> Result<Option<u32>>;
    /// Records that this machine is about to take a session in the object store: until it is recorded in which
    /// generation it has it, that is not known, and when it is purged something may be there.
    async fn note_claim(&self, id: SessionId) -> Result<()>;
    /// Records the generation in which this machine has a session in the object store.
    async fn set_generation(&self, id: SessionId, generation: u32) -> Result<()>;
    /// Sessions that were purged, and that the object store may still have.
    async fn purged_copies(&self) -> Result<Vec<SessionId>>;
    /// What is known of one of them.
    async fn purged_copy(&self, id: SessionId) -> Result<Option<PurgedCopy>>;
    /// Records that the object store has nothing of a purged session any more.
    async fn forget_purged(&self, id: SessionId) -> Result<()>;
    /// Records points that came from the object store, each with what was undone in its history.
    /// What is undone in the session's is that of the last.
    async fn adopt_points(&self, points: Vec<(Point, Vec<(u64, u64)>)>) -> Result<()>;
    /// Records an agent that came from the object store, at any version. Of one that is known the id
    /// must be the same and the version newer, else [`StoreError::Exists`].
    async fn adopt_agent(&self, agent: Agent) -> Result<()>;

    /// Events of a session in order.
    async fn events(&self, id: SessionId, range: EventRange) -> Result<Vec<Event>>;
    /// The newest event that came from the sandbox with this epoch: of this kind, if one is given.
    async fn newest(
        &self,
        id: SessionId,
        epoch: u64,
        kind: Option<EventKind>,
    ) -> Result<Option<Event>>;
    /// The events behind `after` that came from the sandbox with this epoch, in order: their
    /// numbers there, and here.
    async fn origins(&self, id: SessionId, epoch: u64, after: u64) -> Result<Vec<(u64, u64)>>;

    /// Adds to the usage of a session.
    async fn add_usage(&self, id: SessionId, at: Timestamp, usage: Usage) -> Result<()>;
    /// The sum of a session's usage; `model` is that of the newest row.
    async fn usage(&self, id: SessionId) -> Result<Usage>;

    /// Sessions whose end was before a time, those that were active longest ago first, without the
    /// first `skip`.
    async fn ended_before(
        &self,
        before: Timestamp,
        skip: u32,
        limit: u32,
    ) -> Result<Vec<(Tenant, SessionId)>>;
    /// Removes points of before a time, the oldest first, and says how many. Those with a name stay,
    /// the newest of each session, the one that a session is to be brought back to, and what is spared.
    async fn remove_old_points(
        &self,
        before: Timestamp,
        spared: &Spared,
        limit: u32,
    ) -> Result<u64>;
    /// Removes the oldest points, of those that may go by their age, until so many bytes were written
    /// for them. Says how many points, and how many bytes.
    async fn remove_oldest_points(
        &self,
        bytes: u64,
        spared: &Spared,
        limit: u32,
    ) -> Result<(u64, u64)>;
    /// Sessions with events of before a time that are not forgotten, by their ids, behind one.
    async fn sessions_with_old_events(
        &self,
        before: Timestamp,
        after: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<SessionId>>;
    /// Forgets the oldest events of a session that are of before a time, and says how many. They keep
    /// their numbers and times, and are lifecycle events from then on. Of a session that has not ended
    /// the newest two turns stay.
    async fn forget_events(&self, id: SessionId, before: Timestamp, limit: u32) -> Result<u64>;

    /// Marks a tenant as one that is being deleted: neither sessions nor agents are added to it any
    /// more. Removes its keys and returns them; `None` when there is nothing of the tenant.
    async fn leave_tenant(&self, tenant: &Tenant) -> Result<Option<Vec<Key>>>;
    /// Tenants that are being deleted.
    async fn leaving_tenants(&self) -> Result<Vec<Tenant>>;
    /// Removes all that is left of a tenant but keys, and its mark.
    async fn tenant_left(&self, tenant: &Tenant) -> Result<()>;

    /// Empties the write-ahead log, in which rows that were removed are still to be read; false when
    /// somebody who reads is in the way. Nobody who writes waits for long.
    async fn scrub(&self) -> Result<bool>;
    /// Copies the database, as it is at one moment, into a file that must not be there yet.
    async fn copy_to(&self, file: &Path) -> Result<()>;
    /// Reads all of the database; what is wrong with it, if anything is.
    async fn check(&self) -> Result<Option<String>>;

    /// Waits until everything accepted is on disk, and closes. Reads that go on for long are not waited
    /// for.
    async fn close(&self);
}
