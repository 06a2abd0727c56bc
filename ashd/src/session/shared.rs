//! What every session's driver uses.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::admission::{Admission, Entry, Gates};
use super::api::{Happened, Refusal};
use super::clearing::Clearing;
use super::cli::{self, Conversation, Defaults};
use super::copies::Copies;
use super::disk::Disk;
use super::garbage::Garbage;
use super::gathering::Gathering;
use super::keeping::remove_beside;
use super::ladder::{Ladder, Times, Whose};
use super::places::Places;
use super::pool::Pool;
use super::registry::Registry;
use super::retention::{Keeping, Retention};
use super::under_way::{Begun, UnderWay};
use super::unsynced::Syncing;
use crate::domain::{Event, EventKind, SandboxId, Session, SessionId, check};
use crate::fault;
use crate::sandbox::admission::{self, NoRoom, Room};
use crate::sandbox::lease::Slots;
use crate::sandbox::limits::Limits;
use crate::sandbox::plan::PlacedFile;
use crate::sandbox::{NewSandbox, Running, SandboxError, Sandboxes, Way};
use crate::snapshot::Snapshots;
use crate::store::{EventRange, Store, StoreError};
use crate::telemetry::message;
use crate::telemetry::metrics::Metrics;
use crate::tree::{Tree, TreeError, TreeLimits};

/// How long to wait for a sandbox that nobody uses to make room for another one. Whoever wants that one
/// waits as long.
pub(super) const MAKING_ROOM: Duration = Duration::from_secs(5);

/// The largest CLAUDE.md, in bytes: what the characters of the longest system prompt can take.
pub(super) const PROMPT_LIMIT: u64 = 4 * check::LONGEST_PROMPT as u64;

/// What the configuration says about sessions.
#[derive(Clone, Debug)]
pub struct Options {
    /// The most messages that may wait for a session.
    pub queue_limit: usize,
    /// How the CLI is started.
    pub cli: Defaults,
    /// Bounds of an agent's folder.
    pub folder: TreeLimits,
    /// The first of the user ids that are leased to sessions, and how many sessions they are for.
    pub uids: (u32, u32),
    /// The most sandboxes that may live.
    pub max_sandboxes: u64,
    /// The most of them that may wait for a session that is yet to be made.
    pub max_spares: u64,
    /// Bytes that must stay free on the disk.
    pub disk_reserve: u64,
    /// Bytes of memory that must stay available.
    pub memory_reserve: u64,
    /// Bytes of the largest attachment.
    pub max_attachment: u64,
    /// How often what no point needs is removed.
    pub collect_every: Duration,
    /// How often what was kept long enough is looked for.
    pub retain_every: Duration,
    /// Where it is counted what happens.
    pub metrics: Arc<Metrics>,
    /// What can change while the daemon runs, as it is at its start.
    pub live: Live,
}

/// What can change while the daemon runs.
#[derive(Clone, Debug)]
pub struct Live {
    /// Directories beneath which agents may be deployed by path.
    pub agent_roots: Vec<PathBuf>,
    /// Points that were made by themselves and are kept of a session; the newest is in any case.
    pub keep_points: u32,
    /// How long what is kept.
    pub keeping: Keeping,
    /// When sandboxes that nobody uses rest.
    pub times: Times,
    /// Bounds of sandboxes that are made from now on.
    pub limits: Limits,
    /// How much is begun at a time.
    pub admission: Admission,
}

/// Room for a sandbox that is being made: it counts among those that live while this does, also when the
/// future that holds it is dropped.
pub(super) type Taken = Begun<SandboxId>;

pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) sandboxes: Arc<Sandboxes>,
    pub(super) snapshots: Snapshots,
    pub(super) slots: Slots,
    pub(super) registry: Registry,
    /// Sandboxes that have room, until it is known that they live.
    pub(super) launching: UnderWay<SandboxId>,
    pub(super) gates: Gates,
    pub(super) options: Options,
    pub(super) live: RwLock<Live>,
    pub(super) places: Places,
    pub(super) happened: broadcast::Sender<Happened>,
    pub(super) shutting_down: AtomicBool,
    /// Sandboxes that are gone, and what they have written may not be on the disk.
    pub(super) resting: Arc<Gathering<(SessionId, SandboxId)>>,
    /// What was built, and is to be put on the disk.
    pub(super) syncing: Syncing,
    pub(super) disk: Disk,
    pub(super) garbage: Garbage,
    /// Sessions that are being made or purged, with their places in the range of uids: what there is of them
    /// is not recorded yet, or no more.
    pub(super) making: UnderWay<(SessionId, u32)>,
    /// Names in the state directory: of what comes in, what goes out of workspaces, and copies of the
    /// database.
    pub(super) asides: UnderWay<String>,
    /// Sessions whose attachments are being changed: until it is done, rows and contents differ.
    pub(super) attaching: UnderWay<SessionId>,
    pub(super) copies: Copies,
    pub(super) retention: Retention,
    pub(super) ladder: Ladder,
    pub(super) clearing: Clearing,
    /// Sandboxes that wait for a session.
    pub(super) pool: Pool,
}

impl Shared {
    /// Tells those who watch. Nobody may.
    pub(super) fn tell(&self, happened: Happened) {
        let _ = self.happened.send(happened);
    }

    /// What the configuration says now.
    pub(super) fn live(&self) -> Live {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Relaxed)
    }

    /// Room for this sandbox, taken from then on. When as many live as may, one goes that nobody uses.
    /// Whether there is memory for it is not looked at.
    ///
    /// # Errors
    /// [`Refusal::Capacity`] when none of them can go in time, or the disk is short.
    pub(super) async fn room(&self, sandbox: SandboxId) -> Result<Taken, Refusal> {
        let end = Instant::now() + MAKING_ROOM;
        loop {
            let room = self.look_for_room();
            if let Err(no_room) = admission::admit(&room) {
                if self.is_shutting_down() {
                    return Err(Refusal::ShuttingDown);
                }
                let is_full = room.live >= room.max;
                let one_went = is_full
                    && (self.make_place_now().await
                        || self.pool.has_one_gone(end).await
                        || self.evict(Whose::Anybody, end).await);
                // Or one has ended meanwhile for a reason of its own.
                if one_went || is_full && admission::admit(&self.look_for_room()).is_ok() {
                    continue;
                }
                return Err(self.refuse(no_room));
            }
            // Somebody else may have been quicker.
            if let Some(taken) = self.take_room(sandbox) {
                return Ok(taken);
            }
        }
    }

    /// Room for a sandbox that nobody waits for: none has to go for it.
    ///
    /// # Errors
    /// [`Refusal::Capacity`] when there is none.
    pub(super) fn room_to_spare(&self, sandbox: SandboxId) -> Result<Taken, Refusal> {
        let room = self.look_for_room();
        admission::admit(&room)?;
        admission::ease(&self.strain())?;
        let quicker = "somebody who waits was quicker".to_owned();
        let none = Refusal::Capacity { reason: quicker, retry_after_s: 1 };
        self.take_room(sandbox).ok_or(none)
    }

    /// Room for a sandbox, unless as many as may have it already.
    fn take_room(&self, sandbox: SandboxId) -> Option<Taken> {
        let most = self.options.max_sandboxes;
        self.launching.begin_if(sandbox, |taken| self.in_use(taken.iter().copied()) < most)
    }

    /// How many sandboxes live, are being made, or have room.
    fn in_use(&self, taken: impl IntoIterator<Item = SandboxId>) -> u64 {
        self.sandboxes.count_with(&taken.into_iter().collect())
    }

    fn look_for_room(&self) -> Room {
        let live = self.in_use(self.launching.all());
        let max = self.options.max_sandboxes;
        Room { live, max, ..self.disk() }
    }

    /// Whether something new may be written.
    pub(super) fn disk_has_room(&self) -> Result<(), Refusal> {
        self.disk_takes(0)
    }

    /// Whether so many bytes may be written.
    pub(super) fn disk_takes(&self, bytes: u64) -> Result<(), Refusal> {
        let room = self.disk();
        let disk_free = room.disk_free.saturating_sub(bytes);
        let disk = admission::admit(&Room { max: 1, disk_free, ..room });
        disk.map_err(|no_room| self.refuse(no_room))
    }

    /// What cannot be read does not stand in the way.
    pub(super) fn disk(&self) -> Room {
        let disk_free = admission::disk_free(&self.places.data_dir).unwrap_or(u64::MAX);
        Room { disk_free, disk_reserve: self.options.disk_reserve, ..Room::default() }
    }

    /// Makes a sandbox for a session, which has been let in.
    pub(super) async fn launch(
        &self,
        session: &Session,
        entry: &mut Entry,
    ) -> Result<Running, Refusal> {
        self.launch_in(&self.places.session(session.id), session, entry).await
    }

    /// Makes a sandbox for a session whose workspace and home lie in `root`.
    pub(super) async fn launch_in(
        &self,
        root: &Path,
        session: &Session,
        entry: &mut Entry,
    ) -> Result<Running, Refusal> {
        let room = match entry.take_room() {
            Some(room) => room,
            // It has let others in, and what is short is not waited for again.
            None => {
                let room = self.room(entry.sandbox).await?;
                self.strain().memory().map_err(|no_room| self.refuse(no_room))?;
                room
            }
        };
        let launched = self.launch_as((Way::Broker, room), root, session, entry.sandbox).await;
        entry.let_others_in();
        launched
    }

    /// Makes a sandbox for a session that nobody has yet. No broker has its socket before
    /// [`Sandboxes::open`].
    pub(super) async fn launch_spare(
        &self,
        room: Taken,
        session: &Session,
    ) -> Result<Running, Refusal> {
        let root = self.places.session(session.id);
        self.launch_as((Way::Nowhere, room), &root, session, session.sandbox).await
    }

    async fn launch_as(
        &self,
        (way, room): (Way, Taken),
        root: &Path,
        session: &Session,
        sandbox: SandboxId,
    ) -> Result<Running, Refusal> {
        let slot = session.slot.ok_or_else(|| internal("the session has no uids"))?;
        let prompt = self.prompt(session).await?;
        let files = cli::files(session, &prompt).into_iter();
        let new = NewSandbox {
            id: sandbox,
            session: session.id,
            uids: self.slots.uids(slot),
            workspace: root.join("workspace"),
            home: root.join("home"),
            files: files
                .map(|(target, bytes)| PlacedFile { target: target.to_owned(), mode: 0o444, bytes })
                .collect(),
            limits: self.live().limits,
            hostname: session.agent.as_str().chars().take(63).collect(),
            way,
        };
        let launched = self.sandboxes.launch(new).await;
        // It counts among those that live from here on, or not at all.
        drop(room);
        // Control groups, sockets, and what is left of a sandbox have no other name.
        if launched.is_ok() {
            tracing::info!(
                ash_session = %session.id, ash_agent = %session.agent, ash_tenant = %session.tenant,
                ash_sandbox = %sandbox, "sandbox made"
            );
        }
        launched.map_err(|error| {
            tracing::error!(
                message_id = message::NO_SANDBOX, ash_session = %session.id,
                ash_agent = %session.agent, ash_tenant = %session.tenant,
                error = error.in_full(), "no sandbox"
            );
            Refusal::from(error)
        })
    }

    /// Ends a sandbox and waits until nothing of it is left; false if something is.
    pub(super) async fn end_sandbox(&self, running: Running) -> bool {
        is_gone(running.id, self.sandboxes.end(running.id).await)
    }

    /// Like [`end_sandbox`](Self::end_sandbox), of one whose agent stands still.
    pub(super) async fn end_sandbox_at_once(&self, running: Running) -> bool {
        is_gone(running.id, self.sandboxes.end_at_once(running.id).await)
    }

    /// Like [`end_sandbox`](Self::end_sandbox), of one of which nothing is kept.
    pub(super) async fn discard_sandbox(&self, running: Running) -> bool {
        is_gone(running.id, self.sandboxes.discard(running.id).await)
    }

    /// The CLAUDE.md of the session's agent version, unless the session has a prompt of its own.
    async fn prompt(&self, session: &Session) -> Result<Bytes, Refusal> {
        if session.settings.system_prompt.is_some() {
            return Ok(Bytes::new());
        }
        let folder = self.places.version(&session.tenant, &session.agent, session.agent_version);
        let read = move || Tree::open(&folder)?.read("CLAUDE.md", PROMPT_LIMIT);
        let prompt = tokio::task::spawn_blocking(read).await;
        let unreadable = |error: String| {
            tracing::error!(ash_session = %session.id, error, "the agent's CLAUDE.md cannot be read");
            internal("the agent's CLAUDE.md cannot be read")
        };
        match prompt {
            Ok(Ok(prompt)) => Ok(prompt.into()),
            Ok(Err(error)) => Err(unreadable(error.to_string())),
            Err(error) => Err(unreadable(error.to_string())),
        }
    }

    /// How the CLI is to begin, by the transcripts that it has. A fork begins with its parent's,
    /// until it has made one of its own out of it.
    pub(super) async fn conversation(&self, session: &Session) -> Result<Conversation, Refusal> {
        let home = self.places.session(session.id).join("home");
        let (known, own) = (session.cli_session.clone(), session.id.to_string());
        let forked = session.parent.is_some() && known != own;
        let look = move || -> Result<Option<Conversation>, TreeError> {
            let home = Tree::open(&home)?;
            if !home.exists_file(&cli::transcript(&known))? {
                return Ok(None);
            }
            let fork = forked && !home.exists_file(&cli::transcript(&own))?;
            Ok(Some(if fork { Conversation::Forked } else { Conversation::Resumed }))
        };
        let found = tokio::task::spawn_blocking(look).await;
        let found = found.map_err(|error| error.to_string());
        match found.and_then(|found| found.map_err(|error| error.to_string())) {
            Ok(Some(conversation)) => Ok(conversation),
            Ok(None) if self.has_answered(session.id).await? => Ok(Shared::lost(session)),
            Ok(None) => Ok(Conversation::New),
            Err(error) => {
                tracing::error!(ash_session = %session.id, error, "the agent's home cannot be read");
                Err(internal("the agent's home cannot be read"))
            }
        }
    }

    /// Whether an agent has ever answered in this session, so that it has a transcript.
    async fn has_answered(&self, session: SessionId) -> Result<bool, Refusal> {
        let kinds = vec![EventKind::Result];
        let range = EventRange { after: 0, limit: 1, kinds, undone: false };
        Ok(!self.store.events(session, range).await?.is_empty())
    }

    fn lost(session: &Session) -> Conversation {
        tracing::warn!(
            ash_session = %session.id, ash_agent = %session.agent, ash_tenant = %session.tenant,
            "the transcript is gone from the agent's home: the conversation begins anew"
        );
        Conversation::Lost
    }

    /// One event.
    pub(super) async fn event(
        &self,
        session: SessionId,
        seq: u64,
    ) -> Result<Option<Event>, StoreError> {
        let range = EventRange { after: seq - 1, limit: 1, kinds: vec![], undone: true };
        let found = self.store.events(session, range).await?;
        Ok(found.into_iter().find(|event| event.seq == seq))
    }

    /// Removes the files of a session. What is kept of them is in its points.
    ///
    /// They leave their place first, as one: what is found there is whole, also by a daemon that
    /// comes after one that died in here, and makes a last point of it.
    pub(super) async fn remove_files(&self, session: &Session) -> Result<(), Refusal> {
        let (id, places) = (session.id, self.places.clone());
        let (snapshots, tenant) = (self.snapshots.clone(), session.tenant.clone());
        let remove = move || -> Result<(), String> {
            remove_at_once(&places.sessions(), id)?;
            // Of a tenant that has left in between nothing is left, and no vault is made for it.
            let known = snapshots.known_vault(&tenant);
            let forgotten = known.and_then(|vault| vault.map_or(Ok(()), |vault| vault.forget(id)));
            forgotten.map_err(|error| error.to_string())
        };
        let done = tokio::task::spawn_blocking(remove).await;
        let failed = |error: String| {
            tracing::error!(ash_session = %id, error, "the session's files could not be removed");
            Refusal::Internal("the session's files could not be removed".to_owned())
        };
        done.map_err(|error| failed(error.to_string()))?.map_err(failed)
    }
}

/// Where a directory of this name is removed.
pub(super) fn aside(name: &str) -> String {
    format!("{name}.gone")
}

/// Removes a session's directory so that at any moment all of it is in its place, or nothing.
fn remove_at_once(parent: &Path, id: SessionId) -> Result<(), String> {
    let (name, remove) = (id.to_string(), || remove_beside(parent, id));
    // What a daemon has left that died behind the move.
    remove().map_err(|error| error.to_string())?;
    match std::fs::rename(parent.join(&name), parent.join(aside(&name))) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        moved => moved.map_err(|error| error.to_string())?,
    }
    let synced = std::fs::File::open(parent).and_then(|parent| parent.sync_all());
    synced.map_err(|error| error.to_string())?;
    fault::point("files.aside");
    remove().map_err(|error| error.to_string())
}

/// Whether nothing of a sandbox is left.
fn is_gone(sandbox: SandboxId, ended: Result<(), SandboxError>) -> bool {
    if let Err(error) = &ended {
        let error = error.in_full();
        tracing::error!(ash_sandbox = %sandbox, error, "something of a sandbox is left");
    }
    ended.is_ok()
}

fn internal(what: &str) -> Refusal {
    Refusal::Internal(what.to_owned())
}

// Shared::refuse counts it as well.
impl From<NoRoom> for Refusal {
    fn from(NoRoom { reason, retry_after_s, .. }: NoRoom) -> Refusal {
        Refusal::Capacity { reason, retry_after_s }
    }
}

impl From<SandboxError> for Refusal {
    fn from(error: SandboxError) -> Refusal {
        match error {
            SandboxError::ShuttingDown => Refusal::ShuttingDown,
            error => Refusal::Sandbox(format!("{error}; the server's log says why")),
        }
    }
}
