//! Removing from the object store what no point needs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::fetch::packs_of;
use super::send::{manifests, packs_there, read};
use super::{Copies, NotCopied};
use crate::domain::{SessionId, Tenant};
use crate::objects::{HistoryName, Objects, Place};
use crate::session::shared::Shared;

/// What was put there more lately stays: who put it may not have said yet what for.
const GRACE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Removes it, for every tenant.
pub(super) async fn sweep(shared: &Arc<Shared>) {
    let Some(objects) = shared.copies.objects() else { return };
    let snapshots = shared.snapshots.clone();
    let tenants = tokio::task::spawn_blocking(move || snapshots.tenants()).await;
    for tenant in tenants.ok().and_then(Result::ok).unwrap_or_default() {
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
        let mut stretches: BTreeSet<HistoryName> = BTreeSet::new();
        for name in manifests(objects, tenant, id).await? {
            let manifest = read(objects, tenant, id, name).await?;
            needed.extend(packs_of(&manifest));
            stretches.extend(manifest.history.iter().map(|(generation, first, last)| {
                HistoryName { generation: *generation, first: *first, last: *last }
            }));
        }
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
    Ok(removed + remove_packs(&shared.copies, (objects, tenant), &spare, grace).await?)
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
            copies.forget_packs(tenant);
            objects.remove(&place).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn is_old(at: SystemTime, grace: Duration) -> bool {
    at.elapsed().is_ok_and(|age| age >= grace)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::domain::Node;
    use crate::objects::{SealKey, Settings};

    #[tokio::test]
    async fn what_was_put_there_anew_stays() {
        let (dir, tenant) = (tempfile::tempdir().unwrap(), Tenant::default());
        let (url, region) = (format!("file://{}", dir.path().display()), String::new());
        let key = SealKey::from_hex(&"a".repeat(64)).unwrap();
        let objects = Objects::open(&Settings { url, region, key }, Node::fresh()).unwrap();
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
        let removed = remove_packs(&copies, (&objects, &tenant), &packs, GRACE).await.unwrap();
        assert_eq!(removed, 2);
        let left: BTreeSet<_> = packs_there(&objects, &tenant).await.unwrap().into_keys().collect();
        assert_eq!(left, BTreeSet::from(anew));
    }
}
