//! Removing from the object store what no point needs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::NotCopied;
use super::fetch::packs_of;
use super::send::{manifests, read};
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
        let old =
            |object: &crate::objects::Listed| object.at.elapsed().is_ok_and(|age| age >= grace);
        for object in objects.list(&Place::Events(tenant, id)).await?.iter().filter(|it| old(it)) {
            let Ok(name) = object.name.parse::<HistoryName>() else { continue };
            if !stretches.contains(&name) {
                objects.remove(&Place::History(tenant, id, name)).await?;
                removed += 1;
            }
        }
    }
    for object in objects.list(&Place::Packs(tenant)).await? {
        let Ok(name) = Uuid::try_parse(&object.name) else { continue };
        if !needed.contains(&name) && object.at.elapsed().is_ok_and(|age| age >= grace) {
            shared.copies.forget_packs(tenant);
            objects.remove(&Place::Pack(tenant, name)).await?;
            removed += 1;
        }
    }
    Ok(removed)
}
