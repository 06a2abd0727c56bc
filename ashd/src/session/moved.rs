//! Sessions that move from one machine to another, through the object store.

mod agent;

use std::sync::Arc;
use std::time::Duration;

use super::api::{Caller, Happened, Refusal};
use super::copies::NotCopied;
use super::copies::choose::of_point;
use super::copies::fetch::{first_stored, packs_of, stretch};
use super::copies::graves::{bury, is_buried};
use super::copies::send::{manifests, read};
use super::going_on;
use super::registry::SessionView;
use super::service::{Result, Service, detached};
use crate::domain::{Point, PointId, Session, SessionChange, SessionId, Status, Tenant, Timestamp};
use crate::fault;
use crate::objects::{Claimed, Manifest, ManifestName, Objects, Place};
use crate::snapshot::{Pin, SnapshotError};
use crate::store::Commit;
use crate::telemetry::message;

/// What becomes of a turn that was running at the point.
const TAKEN_OVER: &str =
    "Interrupted: the session was taken over by another server while it answered";

/// How long to wait before what fails behind the claim is tried again: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));

/// A session in the object store, looked through.
struct Found {
    name: ManifestName,
    manifest: Manifest,
}

/// An import: from where, for whom, and what keeps what came from being collected until a point needs it.
#[derive(Clone, Copy)]
struct Import<'a> {
    objects: &'a Objects,
    tenant: &'a Tenant,
    pin: &'a Pin,
}

/// A point that becomes this machine's, and what was undone in its history.
type Adopted = (Point, Vec<(u64, u64)>);

impl Found {
    /// Session and point, as they become here.
    fn rows(&self, tenant: &Tenant, slot: u32) -> Result<(Session, Point)> {
        let wrong = |error: crate::objects::NotRecord| damage(error.to_string());
        let session = self.manifest.session(tenant).map_err(wrong)?;
        let point = self.manifest.point().map_err(wrong)?;
        Ok((Session { slot: Some(slot), ..session }, point))
    }
}

impl Service {
    /// Takes a session over from the machine that has it, through the object store: as it was at its
    /// newest point there, or at another one. Goes on when the caller is gone.
    pub async fn import(
        &self,
        caller: &Caller,
        id: SessionId,
        point: Option<PointId>,
    ) -> Result<Arc<SessionView>> {
        let (service, caller) = (self.clone(), caller.clone());
        detached(async move { service.import_now(&caller, id, point).await }).await
    }

    async fn import_now(
        &self,
        caller: &Caller,
        id: SessionId,
        point: Option<PointId>,
    ) -> Result<Arc<SessionView>> {
        let shared = &self.shared;
        if shared.is_shutting_down() {
            return Err(Refusal::ShuttingDown);
        }
        let objects = shared.copies.objects().ok_or(Refusal::NoObjectStore)?.clone();
        shared.disk_has_room()?;
        let _one_at_a_time = shared.copies.importing.lock().await;
        let (objects, tenant) = (&objects, &caller.tenant);
        let trouble = |error| Refusal::from(Trouble(id, error));
        // What was purged here is nobody's before it is looked for, also when it is still there.
        bury(shared, objects, id).await.map_err(trouble)?;
        let generation = objects.generation(tenant, id).await.map_err(|error| failed(id, error))?;
        let was_here = self.may_come(caller, id, generation).await?;
        let generation = generation.ok_or(Refusal::NotStored)?;
        if is_buried(objects, (tenant, id), generation).await.map_err(trouble)? {
            return Err(Refusal::NotStored);
        }
        // Everything that is large comes before it is taken: what cannot be brought here stays where
        // it is, and the other machine goes on for as long as it takes.
        let found = look(objects, tenant, id, point).await?;
        let pin = &shared.pinned(tenant, id).await?;
        let import = Import { objects, tenant, pin };
        self.bring(import, &found).await?;
        let named = self.bring_named(import, &found).await?;
        let slot = shared.take_new_slot().await?;
        if was_here && let Err(refusal) = self.make_way(caller, id).await {
            shared.slots.give_back(slot);
            return Err(refusal);
        }
        // What is still here of one that was purged goes by its id, also when it had no uids any more.
        shared.making.wait_for(|(gone, _)| *gone == id).await;
        shared.attaching.wait_for(|gone| *gone == id).await;
        let _making = shared.making.begin((id, slot));
        shared.copies.losing.wait_for(|lost| *lost == id).await;
        let made = self.take(import, (found, named), (point, slot), generation + 1).await;
        if made.is_err() {
            self.unmake(id, slot).await;
        }
        made
    }

    /// Takes a session whose files are here. Its history comes first as well, into a row of one that
    /// is being made: what a daemon leaves that is killed from here on is found by it.
    async fn take(
        &self,
        import: Import<'_>,
        (found, named): (Found, Vec<Adopted>),
        (point, slot): (Option<PointId>, u32),
        generation: u32,
    ) -> Result<Arc<SessionView>> {
        let Import { objects, tenant, .. } = import;
        let (store, id) = (&self.shared.store, SessionId(found.manifest.session_id()));
        self.begin_import(objects, (tenant, &found), slot).await?;
        // What was purged here is what was here before, and not what comes.
        store.forget_purged(id).await?;
        let mut pause = PAUSE.0;
        let last = loop {
            let claimed = self.claim(import, &found, (point, slot), generation).await;
            match claimed {
                // From here on nobody else goes on with it.
                Err(Refusal::ObjectStore)
                    if pause <= PAUSE.1 && !self.shared.is_shutting_down() =>
                {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                claimed => break claimed?,
            }
        };
        store.set_generation(id, generation).await?;
        let (last, named) = last.unwrap_or((found, named));
        self.finish_import((tenant, &last, named), slot).await
    }

    /// Makes a session this machine's. What was put there up to now counts; what is put there from
    /// now on does not: returns what is newer than what was found, brought here as well.
    async fn claim(
        &self,
        import: Import<'_>,
        found: &Found,
        (point, slot): (Option<PointId>, u32),
        generation: u32,
    ) -> Result<Option<(Found, Vec<Adopted>)>> {
        let Import { objects, tenant, .. } = import;
        let id = SessionId(found.manifest.session_id());
        let claimed = objects.claim(tenant, id, generation).await;
        match claimed.map_err(|error| failed(id, error))? {
            Claimed::Ours => {}
            Claimed::Purged { .. } => return Err(Refusal::NotStored),
            Claimed::Inherited | Claimed::Taken => return Err(Refusal::TakenElsewhere),
        }
        fault::point("import.claimed");
        match self.bring_last(import, found, (point, slot)).await {
            // It is with nobody else any more, and what was found is whole.
            Err(Refusal::Damaged { .. } | Refusal::NoCheckpoint) => {
                self.begin_anew(objects, (tenant, found), slot).await?;
                Ok(None)
            }
            // All of it was removed: by a machine that says nothing when it purges, or with its tenant.
            Err(Refusal::NotStored) => {
                let ours = Place::Owner(tenant, id, generation);
                objects.remove(&ours).await.map_err(|error| failed(id, error))?;
                Err(Refusal::NotStored)
            }
            brought => brought,
        }
    }

    /// Brings what was put there between the look and the claim.
    async fn bring_last(
        &self,
        import: Import<'_>,
        found: &Found,
        (point, slot): (Option<PointId>, u32),
    ) -> Result<Option<(Found, Vec<Adopted>)>> {
        let Import { objects, tenant, .. } = import;
        let id = SessionId(found.manifest.session_id());
        let last = look(objects, tenant, id, point).await?;
        // Names may have gone, which is put there as what was there.
        if last.name == found.name && last.manifest == found.manifest {
            return Ok(None);
        }
        // The agent has come before, and is the same: whoever deletes it waits for this session.
        self.bring_content(import, &last).await?;
        // What was the newest till then may have a name.
        let named = self.bring_named(import, &last).await?;
        self.begin_anew(objects, (tenant, &last), slot).await?;
        Ok(Some((last, named)))
    }

    async fn begin_anew(
        &self,
        objects: &Objects,
        found: (&Tenant, &Found),
        slot: u32,
    ) -> Result<()> {
        self.shared.store.purge_session(SessionId(found.1.manifest.session_id())).await?;
        self.begin_import(objects, found, slot).await
    }

    /// A session that is here can be taken over only when it has ended because another machine did.
    /// Says whether it is here.
    async fn may_come(&self, caller: &Caller, id: SessionId, there: Option<u32>) -> Result<bool> {
        let shared = &self.shared;
        let Some(session) = shared.store.session(id).await? else { return Ok(false) };
        if session.tenant != caller.tenant {
            return Err(Refusal::NotStored);
        }
        let ours = shared.store.generation(id).await?;
        if session.status != Status::Ended || there <= ours {
            return Err(Refusal::HereAlready);
        }
        Ok(true)
    }

    /// Removes what is left here of a session that comes back.
    async fn make_way(&self, caller: &Caller, id: SessionId) -> Result<()> {
        match self.end(caller, id, true).await {
            // Its owner was quicker.
            Err(Refusal::NoSession) => Ok(()),
            ended => ended.map(drop),
        }
    }

    /// Brings the content of a point, and the agent, here.
    async fn bring(&self, import: Import<'_>, found: &Found) -> Result<()> {
        self.bring_content(import, found).await?;
        self.bring_agent(import.tenant, &found.manifest).await
    }

    async fn bring_content(&self, import: Import<'_>, found: &Found) -> Result<()> {
        let Import { objects, tenant, pin } = import;
        let id = SessionId(found.manifest.session_id());
        let packs = packs_of(&found.manifest);
        match self.shared.fetch_packs(objects, (tenant, pin), packs).await {
            Err(error) => Err(damaged(objects, tenant, id, found.name, error).await),
            Ok(_) => Ok(()),
        }
    }

    /// Brings the content of the other points up to this one that have a name, oldest first: they move
    /// along. One that is not whole stays where it is, and is said in the log.
    async fn bring_named(&self, import: Import<'_>, found: &Found) -> Result<Vec<Adopted>> {
        let Import { objects, tenant, .. } = import;
        let id = SessionId(found.manifest.session_id());
        let trouble = |error| Refusal::from(Trouble(id, error));
        let mut names = manifests(objects, tenant, id).await.map_err(trouble)?;
        names.retain(|name| name.seq <= found.name.seq && name.point != found.name.point);
        // What lost its name may still be there, and what an owner of before put there since.
        if let Some(named) = &found.manifest.named {
            names.retain(|name| named.contains(&name.point.0));
        }
        names.sort_unstable();
        let mut named: Vec<Adopted> = vec![];
        for name in names {
            match self.bring_if_named(import, id, name).await {
                Ok(Some(point)) => {
                    // A name that was given again is the newer one's.
                    named.retain(|(other, _)| other.id != point.0.id && other.name != point.0.name);
                    named.push(point);
                }
                Ok(None) => {}
                Err(error) if error.is_passing() => return Err(trouble(error)),
                Err(error) => tracing::error!(
                    ash_session = %id, point = %name.point, %error, "a checkpoint did not move along"
                ),
            }
        }
        Ok(named)
    }

    async fn bring_if_named(
        &self,
        import: Import<'_>,
        id: SessionId,
        name: ManifestName,
    ) -> std::result::Result<Option<Adopted>, NotCopied> {
        let Import { objects, tenant, pin } = import;
        let manifest = read(objects, tenant, id, name).await?;
        let Ok(point) = manifest.point() else { return Ok(None) };
        if point.name.is_none() {
            return Ok(None);
        }
        let packs = manifest.packs.iter().copied().collect();
        self.shared.fetch_packs(objects, (tenant, pin), packs).await?;
        Ok(Some((point, manifest.undone)))
    }

    /// Makes the row of a session that comes here, and writes its history down.
    async fn begin_import(
        &self,
        objects: &Objects,
        (tenant, found): (&Tenant, &Found),
        slot: u32,
    ) -> Result<()> {
        let store = &self.shared.store;
        let (session, point) = found.rows(tenant, slot)?;
        let id = session.id;
        store.create_session(session, vec![]).await?;
        fault::point("import.begun");
        let mut last = 0;
        for part in &found.manifest.history {
            let mut events = match stretch(objects, (tenant, id), *part).await {
                Ok(events) => events,
                Err(error) => return Err(damaged(objects, tenant, id, found.name, error).await),
            };
            events.retain(|event| event.seq > last && event.seq <= point.seq);
            last = events.last().map_or(last, |event| event.seq);
            store.commit(Commit::of(id, SessionChange::none(), events)).await?;
        }
        if last != point.seq {
            return Err(damage("its history is not whole".to_owned()));
        }
        fault::point("import.history");
        Ok(())
    }

    /// Makes a session of what was brought here.
    async fn finish_import(
        &self,
        (tenant, found, named): (&Tenant, &Found, Vec<Adopted>),
        slot: u32,
    ) -> Result<Arc<SessionView>> {
        let store = &self.shared.store;
        let (session, point) = found.rows(tenant, slot)?;
        let id = session.id;
        let mut points = named;
        points.retain(|(other, _)| other.id != point.id && other.name != point.name);
        points.push((point.clone(), found.manifest.undone.clone()));
        store.adopt_points(points).await?;
        let at = (point.seq, session.last_active_at);
        let events = going_on::events(&point, at, TAKEN_OVER, &imported(&point));
        let last_seq = point.seq + events.len() as u64;
        let change = SessionChange::status(Status::Paused);
        store.commit(Commit::of(id, change, events)).await?;
        fault::point("import.recorded");
        let made = Session { status: Status::Paused, last_seq, ..session };
        tracing::info!(
            message_id = message::SESSION_CREATED, ash_session = %id, ash_agent = %made.agent,
            ash_tenant = %tenant, point = %point.id, "session imported from the object store"
        );
        self.shared.tell(Happened::SessionCreated(tenant.clone(), id));
        self.shared.copies.wake(id);
        Ok(SessionView::of(&made))
    }

    /// Leaves nothing of an import that did not come about.
    async fn unmake(&self, id: SessionId, slot: u32) {
        match self.shared.store.purge_session(id).await {
            Ok(_) => self.shared.slots.give_back(slot),
            Err(error) => {
                tracing::error!(ash_session = %id, %error, "an import was not undone");
            }
        }
    }
}

/// Looks for a point of a session: the newest, or one that is named.
async fn look(
    objects: &Objects,
    tenant: &Tenant,
    id: SessionId,
    point: Option<PointId>,
) -> Result<Found> {
    let trouble = |error| Refusal::from(Trouble(id, error));
    let names = manifests(objects, tenant, id).await.map_err(trouble)?;
    if names.is_empty() {
        return Err(Refusal::NotStored);
    }
    let name = match point {
        Some(point) => of_point(&names, point),
        None => names.into_iter().max(),
    };
    let name = name.ok_or(Refusal::NoCheckpoint)?;
    match read(objects, tenant, id, name).await {
        Ok(manifest) => Ok(Found { name, manifest }),
        Err(error) => Err(damaged(objects, tenant, id, name, error).await),
    }
}

/// What is said of a point that is not whole there: which older one is.
async fn damaged(
    objects: &Objects,
    tenant: &Tenant,
    id: SessionId,
    name: ManifestName,
    error: NotCopied,
) -> Refusal {
    let unusable = match &error {
        NotCopied::Objects(error) => error.unusable().map(str::to_owned),
        _ => None,
    };
    let is_rotten = matches!(&error, NotCopied::Snapshots(SnapshotError::Damaged { .. }));
    if unusable.is_none() && !is_rotten {
        return Trouble(id, error).into();
    }
    tracing::error!(ash_session = %id, %error, "a point in the object store is damaged");
    let mut older = manifests(objects, tenant, id).await.unwrap_or_default();
    older.retain(|other| *other < name);
    older.sort_unstable_by(|one, other| other.cmp(one));
    let older: Vec<PointId> = older.iter().map(|name| name.point).collect();
    // What is damaged here may be in these as well.
    let whole = first_stored(objects, (tenant, id), &older, unusable.as_deref()).await;
    let whole = whole.unwrap_or_default();
    Refusal::Damaged { how: "it is damaged in the object store".to_owned(), whole }
}

fn damage(how: String) -> Refusal {
    Refusal::Damaged { how, whole: None }
}

/// What the session's history says of how it came here.
fn imported(point: &Point) -> serde_json::Value {
    serde_json::json!({
        "action": "imported",
        "checkpoint": point.id,
        "sequence": point.seq,
        "at": Timestamp::now(),
    })
}

/// A failure on the way from the object store, of a session.
struct Trouble(SessionId, NotCopied);

impl From<Trouble> for Refusal {
    fn from(Trouble(id, error): Trouble) -> Refusal {
        match error {
            NotCopied::Store(error) => error.into(),
            NotCopied::Snapshots(error) => super::keeping::unkept(id, error),
            error => failed(id, error),
        }
    }
}

/// What an API user reads of an object store that fails: the rest is for the log.
fn failed(id: SessionId, error: impl std::fmt::Display) -> Refusal {
    tracing::error!(ash_session = %id, %error, "the object store failed");
    Refusal::ObjectStore
}
