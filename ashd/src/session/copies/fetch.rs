//! How what is in the object store comes back.

use std::collections::BTreeSet;
use std::fs::File;

use uuid::Uuid;

use super::NotCopied;
use super::choose::of_point;
use super::send::{blocking, manifests, packs_there, read};
use crate::domain::{Event, PointId, SessionId, Tenant};
use crate::objects::{HistoryName, Limit, Manifest, Objects, ObjectsError, Place, history};
use crate::session::shared::Shared;
use crate::snapshot::{LARGEST_PACK, Pin, SnapshotError};

/// The largest stretch of history: a page of events, and one more, however long its line.
const STRETCH: Limit = Limit(64 << 20);

impl Shared {
    /// Brings packs that are not here, or not whole, into the vault, which is pinned until what needs
    /// them is recorded and whole.
    pub(in crate::session) async fn fetch_packs(
        &self,
        objects: &Objects,
        (tenant, pin): (&Tenant, &Pin),
        packs: BTreeSet<Uuid>,
    ) -> Result<(), NotCopied> {
        for pack in packs {
            let (snapshots, owned, held) = (self.snapshots.clone(), tenant.clone(), pin.clone());
            let begin = move || -> Result<_, SnapshotError> {
                let vault = snapshots.vault(&owned)?;
                let arriving = match vault.has_whole(&held, pack)? {
                    true => None,
                    false => Some(vault.arriving(pack)?),
                };
                Ok((vault, arriving))
            };
            let (vault, arriving) = blocking(begin).await??;
            let Some(arriving) = arriving else { continue };
            let place = Place::Pack(tenant, pack);
            objects.fetch(tenant, &place, Limit(LARGEST_PACK), arriving.writer()?).await?;
            let pin = pin.clone();
            let taken = blocking(move || vault.take_in_pack(&pin, &arriving)).await?;
            taken.map_err(|error| of_object(&place, error))?;
        }
        Ok(())
    }

    /// A pack to be sent: it takes the place of one that is there. So one that is damaged here is brought
    /// from there first, which mends it.
    pub(super) async fn whole_pack(
        &self,
        objects: &Objects,
        (tenant, pack): (&Tenant, Uuid),
    ) -> Result<File, NotCopied> {
        let (snapshots, owned) = (self.snapshots.clone(), tenant.clone());
        let open = move || {
            let vault = snapshots.vault(&owned)?;
            // Of one that is open nothing goes before it is sent.
            Ok::<_, SnapshotError>((vault.open_whole_pack(pack), vault))
        };
        let (opened, vault) = blocking(open).await??;
        let damaged = match opened {
            Err(damaged @ SnapshotError::Damaged { .. }) => damaged,
            opened => return Ok(opened?),
        };
        let pinned = vault.clone();
        let pin = blocking(move || pinned.pin()).await?;
        match self.fetch_packs(objects, (tenant, &pin), BTreeSet::from([pack])).await {
            Ok(()) => {
                tracing::warn!(
                    ash_tenant = %tenant, %pack,
                    "a damaged pack was mended from the object store"
                );
                Ok(blocking(move || vault.open_whole_pack(pack)).await??)
            }
            Err(error) if error.is_passing() => Err(error),
            Err(_) => Err(damaged.into()),
        }
    }

    /// Whether a pack there is sealed with the key that there is now. With the one of before it is of no
    /// use to whoever imports what would name it.
    pub(super) async fn is_open(
        &self,
        objects: &Objects,
        (tenant, pack): (&Tenant, Uuid),
    ) -> Result<bool, NotCopied> {
        if self.copies.packs.get(tenant, pack).is_some_and(|there| there.is_opened) {
            return Ok(true);
        }
        let place = Place::Pack(tenant, pack);
        let is_open = objects.opens(tenant, &place, Limit(LARGEST_PACK)).await?;
        if is_open {
            self.copies.packs.opened(tenant, pack);
        }
        Ok(is_open)
    }

    /// Brings what a point of a session is made of into the vault; false when the object store does
    /// not have it. The vault is pinned until somebody has followed the point to all of it.
    pub(in crate::session) async fn fetch_point(
        &self,
        (tenant, pin): (&Tenant, &Pin),
        id: SessionId,
        point: PointId,
    ) -> Result<bool, NotCopied> {
        let Some(objects) = self.copies.objects() else { return Ok(false) };
        let names = manifests(objects, tenant, id).await?;
        let Some(name) = of_point(&names, point) else {
            return Ok(false);
        };
        let manifest = read(objects, tenant, id, name).await?;
        let packs = manifest.packs.into_iter().collect();
        self.fetch_packs(objects, (tenant, pin), packs).await?;
        tracing::info!(ash_session = %id, %point, "a point came back from the object store");
        Ok(true)
    }
}

/// The newest of some points of a session, the newest first, of which all is in the object store, and that
/// does not need an object of which it is known that it is of no use.
pub(in crate::session) async fn first_stored(
    objects: &Objects,
    (tenant, id): (&Tenant, SessionId),
    points: &[PointId],
    unusable: Option<&str>,
) -> Result<Option<PointId>, NotCopied> {
    let names = manifests(objects, tenant, id).await?;
    let there = packs_there(objects, tenant).await?;
    for point in points {
        let Some(name) = of_point(&names, *point) else { continue };
        let Ok(manifest) = read(objects, tenant, id, name).await else { continue };
        let is_whole = packs_of(&manifest).iter().all(|pack| there.contains_key(pack));
        if is_whole && !unusable.is_some_and(|it| needs(&manifest, (tenant, id), it)) {
            return Ok(Some(*point));
        }
    }
    Ok(None)
}

/// What came is not what it has to be: so is what is there, and everything that needs it.
fn of_object(place: &Place<'_>, error: SnapshotError) -> NotCopied {
    match error {
        SnapshotError::Damaged { how, .. } => {
            let (what, how) = (place.to_string(), how.to_owned());
            ObjectsError::Damaged { what, how }.into()
        }
        error => error.into(),
    }
}

/// Whether a point of a session cannot be brought here without an object.
fn needs(manifest: &Manifest, (tenant, id): (&Tenant, SessionId), object: &str) -> bool {
    let packs = packs_of(manifest).into_iter().map(|pack| Place::Pack(tenant, pack).to_string());
    let history = manifest.history.iter().map(|(generation, first, last)| {
        let name = HistoryName { generation: *generation, first: *first, last: *last };
        Place::History(tenant, id, name).to_string()
    });
    packs.chain(history).any(|place| place == object)
}

/// The history that a manifest names, a stretch at a time.
pub(in crate::session) async fn stretch(
    objects: &Objects,
    (tenant, id): (&Tenant, SessionId),
    (generation, first, last): (u32, u64, u64),
) -> Result<Vec<Event>, NotCopied> {
    let name = HistoryName { generation, first, last };
    let place = Place::History(tenant, id, name);
    let bytes = objects.get(tenant, &place, STRETCH).await?;
    let decode = move || history::decode(&bytes, (first, last), STRETCH.0 as usize);
    blocking(decode).await?.map_err(|error| {
        let what = place.to_string();
        NotCopied::Objects(ObjectsError::Damaged { what, how: error.to_string() })
    })
}

/// Every pack that a manifest names.
pub(in crate::session) fn packs_of(manifest: &Manifest) -> BTreeSet<Uuid> {
    manifest.packs.iter().chain(&manifest.agent.packs).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::{Agent, AgentId, Point, Root, Session, Timestamp};
    use crate::objects::tests::open;
    use crate::objects::{AgentCopy, FORMAT, FolderCopy, ManifestName, PointCopy, SessionCopy};
    use crate::session::stage::Stage;

    /// A point of a session that needs these packs, and all of history up to its event.
    fn manifest(session: &Session, seq: u64, packs: Vec<Uuid>) -> Manifest {
        let agent = Agent {
            id: AgentId(Uuid::nil()),
            tenant: session.tenant.clone(),
            name: session.agent.clone(),
            version: 1,
            env: BTreeMap::new(),
            config: serde_json::from_str("{}").unwrap(),
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
        };
        let folder = FolderCopy { digest: [0; 32], root: Root([0; 32]), packs: vec![] };
        Manifest {
            format: FORMAT,
            session: SessionCopy::from(session),
            point: PointCopy::from(&Point::example(seq)),
            undone: vec![],
            history: vec![(1, 1, seq)],
            packs,
            named: None,
            agent: AgentCopy::of(&agent, &folder),
        }
    }

    /// Whoever goes back to what is offered must not meet what is damaged once more.
    #[tokio::test]
    async fn what_needs_the_same_damaged_object_is_not_offered() {
        let bucket = tempfile::tempdir().unwrap();
        let (objects, session) = (open(bucket.path(), "a"), Session::example(1));
        let (tenant, id) = (&session.tenant, session.id);
        let [shared, own] = [1, 2].map(Uuid::from_u128);
        let points = [(3, vec![shared]), (2, vec![shared]), (1, vec![own])];
        for pack in [shared, own] {
            objects.put(tenant, &Place::Pack(tenant, pack), b"content").await.unwrap();
        }
        for (seq, packs) in &points {
            let point = Point::example(*seq).id;
            let name = ManifestName { generation: 1, seq: *seq, at: 0, point };
            let content = manifest(&session, *seq, packs.clone()).encode();
            objects.put(tenant, &Place::Point(tenant, id, name), &content).await.unwrap();
        }
        let ids = points.map(|(seq, _)| Point::example(seq).id);
        let pack = Place::Pack(tenant, shared).to_string();
        let history = HistoryName { generation: 1, first: 1, last: 3 };
        let history = Place::History(tenant, id, history).to_string();
        for (unusable, expected) in
            [(None, ids[0]), (Some(&*pack), ids[2]), (Some(&*history), ids[1])]
        {
            let offered = first_stored(&objects, (tenant, id), &ids, unusable).await.unwrap();
            assert_eq!(offered, Some(expected), "{unusable:?}");
        }
    }

    /// Else what needs it as well would be offered.
    #[tokio::test]
    async fn a_pack_that_is_not_what_it_has_to_be_is_named() {
        let bucket = tempfile::tempdir().unwrap();
        let objects = open(bucket.path(), "a");
        let stage = Stage::with(Some(objects.clone())).await;
        let (shared, tenant, pack) = (&stage.shared, Tenant::default(), Uuid::from_u128(1));
        let place = Place::Pack(&tenant, pack);
        objects.put(&tenant, &place, b"no pack").await.unwrap();
        let pin = shared.snapshots.vault(&tenant).unwrap().pin();
        let fetched = shared.fetch_packs(&objects, (&tenant, &pin), BTreeSet::from([pack])).await;
        let Err(NotCopied::Objects(error)) = &fetched else { panic!("{fetched:?}") };
        assert_eq!(error.unusable(), Some(place.to_string().as_str()));
    }
}
