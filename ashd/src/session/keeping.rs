//! Files of sessions: saved as points, and brought back from them.
//!
//! The one place of this layer that talks to the snapshot store. What it does blocks, and is done
//! on threads for that.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;

use super::admission::Entry;
use super::api::Refusal;
use super::cli::Conversation;
use super::copies::fetch::first_stored;
use super::disk::Since;
use super::owners::Counted;
use super::places::ROOTS;
use super::shared::{Shared, aside};
use crate::domain::{
    Point, PointId, PointName, Root, Session, SessionId, Tenant, Timestamp, Which,
};
use crate::fault;
use crate::sandbox::Running;
use crate::snapshot::{Cut, Cutting, Donor, Pin, Restoring, SnapshotError, Stage};
use crate::store::{IN_DOUBT, StoreError};
use crate::telemetry::message;
use crate::tree::{TreeError, remove_all};

/// How long a cut waits until its moment is noted. An agent may stand still for it.
const NOTING: Duration = Duration::from_millis(100);

/// What a cut says of its moment.
pub(super) enum Told {
    /// This is the moment.
    Moment(Noting),
    /// The moment was the right one.
    Passed,
}

/// The moment of a cut, which is noted when this is dropped.
pub(super) struct Noting(SyncSender<()>);

impl Noting {
    /// It is not to be noted: the cut is given up.
    pub(super) fn refuse(self) {
        // There is room for one; a cut that waits no more has given up already.
        let _ = self.0.try_send(());
    }
}

/// A sandbox that was made for a session, and what it has there.
pub(super) struct Life {
    pub(super) running: Running,
    /// Where the files for it were found.
    pub(super) found: Found,
    /// Since when they were built, if they may not be on the disk.
    pub(super) built: Option<Since>,
    /// How the CLI has to begin.
    pub(super) conversation: Conversation,
    /// Counts it as its tenant's and its agent's.
    pub(super) counted: Counted,
}

/// Where a session's files were found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Found {
    /// Where they were left.
    Place,
    /// In the snapshot store.
    Store,
    /// Some of them only in the object store.
    Objects,
}

impl Shared {
    /// Saves workspace and home, which lie in `root`, as they are at one moment, of which `told`
    /// hears. What the agent does meanwhile is waited for, or stopped for a moment.
    pub(super) async fn cut(
        &self,
        session: &Session,
        root: PathBuf,
        (cancel, told): (Arc<AtomicBool>, mpsc::UnboundedSender<Told>),
    ) -> Result<Cut, SnapshotError> {
        let (snapshots, sandboxes) = (self.snapshots.clone(), self.sandboxes.clone());
        let (id, tenant, sandbox) = (session.id, session.tenant.clone(), session.sandbox);
        let cut = move || {
            let paths = ROOTS.map(|name| (name, root.join(name)));
            let there = paths.iter().filter(|(_, path)| path.is_dir());
            let roots: Vec<_> = there.map(|(name, path)| (*name, path.as_path())).collect();
            let cutting = Cutting::new(id, &roots, &cancel);
            let tell = tell(told);
            let hold = || -> std::io::Result<Box<dyn Any>> {
                let frozen = sandboxes.freeze(sandbox).map_err(std::io::Error::other)?;
                Ok(Box::new(frozen))
            };
            snapshots.vault(&tenant)?.cut(&cutting, &hold, &tell)
        };
        spawn_blocking(cut).await.unwrap_or_else(|_| Err(SnapshotError::Cancelled))
    }

    /// Like [`cut`](Self::cut), of what nobody changes: the moment is any.
    pub(super) async fn cut_at_rest(
        &self,
        session: &Session,
        root: PathBuf,
    ) -> Result<Cut, SnapshotError> {
        let (told, mut moments) = mpsc::unbounded_channel();
        let noting = tokio::spawn(async move { while moments.recv().await.is_some() {} });
        let cut = self.cut(session, root, (Arc::default(), told)).await;
        noting.abort();
        cut
    }

    /// Whether workspace and home of a session are there.
    pub(super) fn has_files(&self, id: SessionId) -> bool {
        self.places.has_files(id)
    }

    /// The point that workspace and home have to be brought back from; `None` when they are there
    /// and what they have to be.
    async fn wanted(&self, session: &Session) -> Result<Option<Point>, Refusal> {
        let which = match session.restore {
            None if self.has_files(session.id) => return Ok(None),
            None => Which::Newest,
            Some(point) => Which::Id(point),
        };
        let point = self.store.point(session.id, which).await?;
        point.map(Some).ok_or(Refusal::NothingKept)
    }

    /// Sees to it that workspace and home are there and what they have to be.
    pub(super) async fn bring_back(&self, session: &Session) -> Result<(), Refusal> {
        let Some(point) = self.wanted(session).await? else { return Ok(()) };
        self.build(session, &point).await?;
        self.placed(session, &point, true).await?;
        // What was there before is not any more.
        if self.store.unsynced_build(session.id).await? == Some(IN_DOUBT) {
            self.store.synced(vec![(session.id, IN_DOUBT)]).await?;
        }
        Ok(())
    }

    /// Like [`bring_back`](Self::bring_back), and makes a sandbox for them. It starts while they are
    /// brought back: it has them by their directories, which get their name when they are whole, and
    /// until then nothing but the bridge runs in it. Nobody waits for them to be on the disk: what is
    /// [built](Life::built) is to be [synced](Self::sync_later) when the sandbox is recorded.
    pub(super) async fn bring_to_life(
        &self,
        session: &Session,
        mut entry: Entry,
    ) -> Result<Life, Refusal> {
        let (running, (found, built), conversation) = match self.wanted(session).await? {
            None => {
                let launching = self.launch(session, &mut entry);
                let (running, conversation) = tokio::join!(launching, self.conversation(session));
                (running?, (Found::Place, None), conversation)
            }
            Some(point) => {
                let (running, from) = self.bring_back_to_life(session, &point, &mut entry).await?;
                (running, from, self.conversation(session).await)
            }
        };
        match conversation {
            Ok(conversation) => {
                Ok(Life { running, found, built, conversation, counted: entry.into_counted() })
            }
            Err(refusal) => {
                self.end_sandbox(running).await;
                Err(refusal)
            }
        }
    }

    async fn bring_back_to_life(
        &self,
        session: &Session,
        point: &Point,
        entry: &mut Entry,
    ) -> Result<(Running, (Found, Option<Since>)), Refusal> {
        let (sandbox, since) = (entry.sandbox, self.disk.now());
        let (begun, mut begins) = watch::channel(None::<PathBuf>);
        let launching = async {
            // It may fail before it begins.
            let root = begins.wait_for(Option::is_some).await.ok()?.clone()?;
            Some(self.launch_in(&root, session, entry).await)
        };
        let to = (point, self.owner(session)?);
        let building = self.build_once(session, to, How { begun, ..How::default() });
        let noting = self.store.note_unsynced(session.id, sandbox);
        let (built, noted, launched) = tokio::join!(building, noting, launching);
        let placed = match (built, noted) {
            (Ok(()), Ok(())) => Some(self.placed(session, point, false).await),
            _ => None,
        };
        match (placed, launched) {
            (Some(Ok(())), Some(launched)) => {
                return Ok((launched?, (Found::Store, Some(since))));
            }
            (placed, launched) => {
                // What it was made for is gone.
                if let Some(Ok(running)) = launched {
                    self.end_sandbox(running).await;
                }
                placed.transpose()?;
            }
        }
        // What comes from afar takes its time, and it has waited itself.
        entry.let_others_in();
        let found = self.build(session, point).await?;
        self.placed(session, point, true).await?;
        self.store.synced(vec![(session.id, sandbox)]).await?;
        Ok((self.launch(session, entry).await?, (found, None)))
    }

    async fn placed(&self, session: &Session, point: &Point, synced: bool) -> Result<(), Refusal> {
        self.put(session.id, synced).await?;
        tracing::info!(ash_session = %session.id, point = %point.id, "brought back from a point");
        Ok(())
    }

    /// Builds workspace and home of a session as they were at a point, beside their place, and on the disk.
    /// What is damaged here is brought from the object store, if it is there.
    pub(super) async fn build(&self, session: &Session, point: &Point) -> Result<Found, Refusal> {
        self.build_of(session, point, How { synced: true, ..How::default() }).await
    }

    /// The session that has a point, if its files are there for a fork of it to be copied from.
    pub(super) async fn donor(&self, point: &Point, tenant: &Tenant) -> Option<Arc<Donor>> {
        let (snapshots, tenant, session) = (self.snapshots.clone(), tenant.clone(), point.session);
        let root = self.places.session(session);
        let look = move || snapshots.vault(&tenant)?.donor(session, &root);
        // One that is gone by now gives nothing.
        spawn_blocking(look).await.ok()?.ok().map(Arc::new)
    }

    /// Builds those of a fork, beside their place: what has not changed since in the directories of the
    /// session that has the point is copied from there. Nobody waits for them to be on the disk. `filled`
    /// becomes true when most of it is done.
    pub(super) async fn build_fork(
        &self,
        fork: &Session,
        point: &Point,
        (donor, filled): (Option<Arc<Donor>>, watch::Sender<bool>),
    ) -> Result<Found, Refusal> {
        self.build_of(fork, point, How { donor, filled, ..How::default() }).await
    }

    async fn build_of(&self, session: &Session, point: &Point, how: How) -> Result<Found, Refusal> {
        let to = (point, self.owner(session)?);
        // The donor goes where files are built and is dropped there, since it may know many of them; a
        // second time does without.
        let again = How { donor: None, ..how.clone() };
        let built = match self.build_once(session, to, how).await {
            Err(damaged @ SnapshotError::Damaged { .. }) => {
                // Of what comes, whoever collects sees no need before it is whole.
                let pin = self.pinned(&session.tenant, session.id).await?;
                match self.fetch_point((&session.tenant, &pin), point.session, point.id).await {
                    Ok(true) => {
                        let built = self.build_once(session, to, again).await;
                        built.map(|()| Found::Objects)
                    }
                    Ok(false) => Err(damaged),
                    Err(error) => {
                        tracing::warn!(ash_session = %session.id, %error, "not in the object store");
                        Err(damaged)
                    }
                }
            }
            built => built.map(|()| Found::Store),
        };
        match built.map_err(|error| unkept(session.id, error)) {
            Err(Refusal::Damaged { how, .. }) => {
                let whole = self.older_whole(point, &session.tenant).await?;
                Err(Refusal::Damaged { how, whole })
            }
            built => built,
        }
    }

    /// Keeps what is there of a tenant, and what comes, from being collected before a point needs it.
    pub(super) async fn pinned(&self, tenant: &Tenant, id: SessionId) -> Result<Pin, Refusal> {
        let (snapshots, owned) = (self.snapshots.clone(), tenant.clone());
        let pin = move || Ok(snapshots.vault(&owned)?.pin());
        let pin = spawn_blocking(pin).await.unwrap_or(Err(SnapshotError::Cancelled));
        pin.map_err(|error| unkept(id, error))
    }

    pub(super) fn owner(&self, session: &Session) -> Result<u32, Refusal> {
        let slot = session.slot.ok_or_else(|| internal("the session has no uids"))?;
        Ok(self.slots.uids(slot).agent)
    }

    async fn build_once(
        &self,
        session: &Session,
        (point, owner): (&Point, u32),
        How { donor, synced, begun, filled }: How,
    ) -> Result<(), SnapshotError> {
        let (snapshots, places) = (self.snapshots.clone(), self.places.clone());
        let (id, tenant, root) = (session.id, session.tenant.clone(), point.root);
        let build = move || {
            let parent = places.sessions();
            std::fs::create_dir_all(&parent).map_err(SnapshotError::from)?;
            let name = beside(id);
            remove_all(&parent, &name)?;
            let cancel = AtomicBool::new(false);
            let tell = |root: &Path| drop(begun.send_replace(Some(root.to_owned())));
            let plain = Restoring::new(id, (&parent, &name), &cancel);
            let is_filled = || {
                filled.send_replace(true);
            };
            let restoring = Restoring {
                owner,
                synced,
                donor: donor.as_deref(),
                begun: Some(&tell),
                filled: Some(&is_filled),
                ..plain
            };
            snapshots.vault(&tenant)?.restore(root, &restoring)
        };
        let built = spawn_blocking(build).await.unwrap_or(Err(SnapshotError::Cancelled));
        built.map(drop)
    }

    /// The newest point before this one of which every chunk is here, or in the object store.
    async fn older_whole(
        &self,
        point: &Point,
        tenant: &Tenant,
    ) -> Result<Option<PointId>, Refusal> {
        let points = self.store.points(point.session).await?;
        let older = points.into_iter().skip_while(|other| other.id != point.id).skip(1);
        // Going back to the same files leads nowhere.
        let older: Vec<Point> = older.filter(|other| other.root != point.root).collect();
        let ids: Vec<PointId> = older.iter().map(|point| point.id).collect();
        let (snapshots, owned) = (self.snapshots.clone(), tenant.clone());
        let look = move || {
            let roots: Vec<Root> = older.iter().map(|point| point.root).collect();
            let whole = snapshots.vault(&owned)?.first_whole(&roots)?;
            let at = whole.and_then(|whole| roots.iter().position(|root| *root == whole));
            Ok::<_, SnapshotError>(at.map(|at| older[at].id))
        };
        let found = spawn_blocking(look).await.unwrap_or(Err(SnapshotError::Cancelled));
        let found = found.map_err(|error| unkept(point.session, error))?;
        let Some(objects) = self.copies.objects().filter(|_| found.is_none()) else {
            return Ok(found);
        };
        let stored = first_stored(objects, (tenant, point.session), &ids, None).await;
        Ok(stored.unwrap_or_else(|error| {
            tracing::warn!(ash_session = %point.session, %error, "not known what the object store has");
            None
        }))
    }

    /// Records a point, and has it copied. So many that were made by themselves are kept.
    pub(super) async fn add_point(&self, point: Point, keep: u32) -> Result<(), StoreError> {
        let session = point.session;
        self.store.add_point(point, keep).await?;
        self.copies.wake(session);
        Ok(())
    }

    /// Puts what was built in the place of what is there, on the disk as well.
    pub(super) async fn put_in_place(&self, id: SessionId) -> Result<(), Refusal> {
        self.put(id, true).await
    }

    /// Like [`put_in_place`](Self::put_in_place), on the disk only if it has to be `synced`.
    pub(super) async fn put(&self, id: SessionId, synced: bool) -> Result<(), Refusal> {
        let places = self.places.clone();
        let swap = move || -> std::io::Result<()> {
            let (parent, place) = (places.sessions(), places.session(id));
            let old = ousted(id);
            remove_all(&parent, &old).map_err(std::io::Error::other)?;
            if place.exists() {
                std::fs::rename(&place, parent.join(&old))?;
                fault::fail("place.emptied")?;
            }
            std::fs::rename(parent.join(beside(id)), &place)?;
            if synced {
                std::fs::File::open(&parent)?.sync_all()?;
            }
            fault::fail("place.filled")?;
            remove_all(&parent, &old).map_err(std::io::Error::other)
        };
        let swapped = spawn_blocking(swap).await.map_err(std::io::Error::other).flatten();
        swapped.map_err(|error| {
            tracing::error!(ash_session = %id, %error, "a session's files could not be put in place");
            internal("the session's files could not be put in place")
        })
    }

    /// Removes what was built and is not wanted.
    pub(super) async fn discard(&self, id: SessionId) {
        let parent: PathBuf = self.places.sessions();
        let removed = spawn_blocking(move || remove_all(&parent, &beside(id))).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(ash_session = %id, %error, "what was built could not be removed");
        }
    }
}

/// A point of a session, of what was cut of it just now.
pub(super) fn point_of(cut: &Cut, session: &Session, name: Option<PointName>) -> Point {
    Point {
        id: PointId::random(),
        session: session.id,
        name,
        seq: session.last_seq,
        turn: session.turn,
        cli_session: session.cli_session.clone(),
        root: cut.root,
        files: cut.files,
        bytes: cut.bytes,
        written: cut.written,
        left_out: cut.left_out.count,
        created_at: Timestamp::now(),
    }
}

/// How a point is built.
#[derive(Clone, Default)]
struct How {
    /// Where what has not changed is copied from.
    donor: Option<Arc<Donor>>,
    /// Whether it is on the disk when it is there.
    synced: bool,
    /// Learns where it is built, once that has begun.
    begun: watch::Sender<Option<PathBuf>>,
    /// Learns when everything is made but the last files.
    filled: watch::Sender<bool>,
}

/// Where a session's files are built.
pub(super) fn beside(id: SessionId) -> String {
    format!("{id}.new")
}

/// Where the files are that others have taken the place of.
fn ousted(id: SessionId) -> String {
    format!("{id}.old")
}

/// Removes whatever lies beside the place of a session's files, where sessions' files are: what was on its way
/// there or out, when something failed in between.
pub(super) fn remove_beside(sessions: &Path, id: SessionId) -> Result<(), TreeError> {
    let names = [aside(&id.to_string()), beside(id), ousted(id)];
    names.iter().try_for_each(|name| remove_all(sessions, name))
}

/// Tells whoever listens of the moment, and waits until it is noted.
fn tell(told: mpsc::UnboundedSender<Told>) -> impl Fn(Stage) -> bool + Sync {
    move |stage| match stage {
        Stage::Passed => told.send(Told::Passed).is_ok(),
        Stage::Moment => {
            let (noting, noted) = sync_channel(1);
            let heard = told.send(Told::Moment(Noting(noting))).is_ok();
            // What is noted is dropped; only what is refused sends something.
            heard && noted.recv_timeout(NOTING) == Err(RecvTimeoutError::Disconnected)
        }
    }
}

/// What a failure of the snapshot store is to the caller of a verb.
pub(super) fn unkept(session: SessionId, error: SnapshotError) -> Refusal {
    match error {
        SnapshotError::Full => Refusal::Store(StoreError::Full),
        SnapshotError::Damaged { .. } => {
            tracing::error!(
                message_id = message::CHECKPOINT_DAMAGED, ash_session = %session, %error,
                "a point is damaged"
            );
            Refusal::Damaged { how: error.to_string(), whole: None }
        }
        SnapshotError::Cancelled => Refusal::ShuttingDown,
        error @ (SnapshotError::TooMany(_) | SnapshotError::TooLong(_)) => {
            tracing::warn!(ash_session = %session, %error, "a session's files were not saved");
            Refusal::TooMuch(error.to_string())
        }
        error @ SnapshotError::Held(_) => {
            tracing::warn!(ash_session = %session, %error, "a session's files were not saved");
            Refusal::InTheWay(error.to_string())
        }
        error => {
            tracing::error!(ash_session = %session, %error, "the snapshot store failed");
            internal("the session's files could not be saved or brought back")
        }
    }
}

fn internal(what: &str) -> Refusal {
    Refusal::Internal(what.to_owned())
}
