//! Removing from the object store what no point needs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::fetch::packs_of;
use super::send::{manifests, packs_there, read};
use super::{Copies, NotCopied, graves};
use crate::domain::{SessionId, Tenant};
use crate::objects::{HistoryName, ManifestName, Objects, ObjectsError, Place};
use crate::session::fsck::tenants_if_known;
use crate::session::shared::Shared;

/// What was put there more lately stays: who put it may not have said yet what for.
const GRACE: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often a session is listed again of which something has gone meanwhile.
const LISTED: u32 = 8;

/// Removes it, for every tenant.
pub(super) async fn sweep(shared: &Arc<Shared>) {
    let Some(objects) = shared.copies.objects() else { return };
    for tenant in tenants_if_known(shared).await {
        match sweep_tenant(shared, objects, &tenant, GRACE).await {
            Ok(0) => {}
            Ok(removed) => {
                tracing::info!(ash_tenant = %tenant, removed, "the object store was swept");
            }
            Err(error) => {
                tracing::warn!(ash_tenant = %tenant, %error, "the object store was not swept");
            }
        }
    }
}

/// Removes what no manifest names. Nothing is removed when a manifest cannot be read: what it names is
/// not known.
pub(super) async fn sweep_tenant(
    shared: &Arc<Shared>,
    objects: &Objects,
    tenant: &Tenant,
    grace: Duration,
) -> Result<u64, NotCopied> {
    let mut removed = 0;
    let mut needed: BTreeSet<Uuid> = BTreeSet::new();
    let sessions = objects.groups(&Place::Sessions(tenant)).await?;
    for id in sessions.iter().filter_map(|name| name.parse::<SessionId>().ok()) {
        let names = manifests(objects, tenant, id).await?;
        if let Some(of_nobody) = graves::sweep(objects, (tenant, id), (&names, grace)).await? {
            removed += of_nobody;
            continue;
        }
        let Named { packs, stretches } = named(objects, (tenant, id), names).await?;
        needed.extend(packs);
        let listed = objects.list(&Place::Events(tenant, id)).await?;
        for object in listed.iter().filter(|object| is_old(object.at, grace)) {
            let Ok(name) = object.name.parse::<HistoryName>() else { continue };
            if !stretches.contains(&name) {
                objects.remove(&Place::History(tenant, id, name)).await?;
                removed += 1;
            }
        }
    }
    let there = packs_there(objects, tenant).await?.into_iter();
    let spare = there.filter(|(pack, at)| !needed.contains(pack) && is_old(*at, grace));
    let spare: Vec<Uuid> = spare.map(|(pack, _)| pack).collect();
    removed += objects.remove_unfinished(&Place::Tenant(tenant), grace).await?;
    Ok(removed + remove_packs(&shared.copies, (objects, tenant), &spare, grace).await?)
}

/// What manifests of a session name.
#[derive(Default)]
struct Named {
    packs: BTreeSet<Uuid>,
    stretches: BTreeSet<HistoryName>,
}

/// What the manifests of a session name that were listed. When one is gone meanwhile, because whoever has
/// the session has put another one there, all are listed again: that one may name the same.
async fn named(
    objects: &Objects,
    (tenant, id): (&Tenant, SessionId),
    mut names: Vec<ManifestName>,
) -> Result<Named, NotCopied> {
    let mut left = LISTED;
    loop {
        match read_all(objects, (tenant, id), &names).await {
            Err(NotCopied::Objects(ObjectsError::Missing(_))) if left > 0 => {
                left -= 1;
                names = manifests(objects, tenant, id).await?;
            }
            named => return named,
        }
    }
}

async fn read_all(
    objects: &Objects,
    (tenant, id): (&Tenant, SessionId),
    names: &[ManifestName],
) -> Result<Named, NotCopied> {
    let mut named = Named::default();
    for name in names {
        let manifest = read(objects, tenant, id, *name).await?;
        named.packs.extend(packs_of(&manifest));
        named.stretches.extend(manifest.history.iter().map(|(generation, first, last)| {
            HistoryName { generation: *generation, first: *first, last: *last }
        }));
    }
    Ok(named)
}

/// Removes packs, but for those that somebody has put there anew since they were listed, and is about to
/// say what for: removing all takes long, so that is asked again before each of them.
async fn remove_packs(
    copies: &Copies,
    (objects, tenant): (&Objects, &Tenant),
    packs: &[Uuid],
    grace: Duration,
) -> Result<u64, NotCopied> {
    let mut removed = 0;
    for pack in packs {
        let place = Place::Pack(tenant, *pack);
        if objects.put_at(&place).await?.is_some_and(|at| is_old(at, grace)) {
            copies.packs.forget(tenant, *pack);
            objects.remove(&place).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

pub(super) fn is_old(at: SystemTime, grace: Duration) -> bool {
    at.elapsed().is_ok_and(|age| age >= grace)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::domain::PointId;
    use crate::objects::tests::open;

    /// Otherwise nothing would ever be removed where another machine has many sessions that are busy.
    #[tokio::test]
    async fn a_point_that_goes_meanwhile_is_no_reason_to_give_up() {
        let (dir, tenant, id) =
            (tempfile::tempdir().unwrap(), Tenant::default(), SessionId::random());
        let objects = open(dir.path(), "a");
        let gone = ManifestName { generation: 1, seq: 2, at: 3, point: PointId(Uuid::nil()) };
        let nothing = named(&objects, (&tenant, id), vec![gone]).await.unwrap();
        assert!(nothing.packs.is_empty() && nothing.stretches.is_empty());
        // One that is there and cannot be read is: what it names is not known.
        objects.put(&tenant, &Place::Point(&tenant, id, gone), b"{").await.unwrap();
        let unknown = named(&objects, (&tenant, id), vec![gone]).await;
        assert!(matches!(unknown, Err(NotCopied::Objects(ObjectsError::Damaged { .. }))));
    }

    #[tokio::test]
    async fn what_was_put_there_anew_stays() {
        let (dir, tenant) = (tempfile::tempdir().unwrap(), Tenant::default());
        let objects = open(dir.path(), "a");
        let packs: [Uuid; 4] = std::array::from_fn(|_| Uuid::new_v4());
        for pack in packs {
            let place = Place::Pack(&tenant, pack);
            objects.put(&tenant, &place, b"pack").await.unwrap();
            let file = File::options().write(true).open(dir.path().join(place.to_string()));
            file.unwrap().set_modified(SystemTime::now() - 2 * GRACE).unwrap();
        }
        let anew = [packs[1], packs[3]];
        for pack in anew {
            objects.put(&tenant, &Place::Pack(&tenant, pack), b"pack").await.unwrap();
        }
        let copies = Copies::default();
        copies.packs.list(&tenant, packs_there(&objects, &tenant).await.unwrap());
        packs.iter().for_each(|pack| copies.packs.opened(&tenant, *pack));
        let removed = remove_packs(&copies, (&objects, &tenant), &packs, GRACE).await.unwrap();
        assert_eq!(removed, 2);
        let left: BTreeSet<_> = packs_there(&objects, &tenant).await.unwrap().into_keys().collect();
        assert_eq!(left, BTreeSet::from(anew));
        // Of what may come in their place nothing is known.
        let known = packs.map(|pack| copies.packs.get(&tenant, pack).is_some());
        assert_eq!(known, [false, true, false, true]);
    }
}
