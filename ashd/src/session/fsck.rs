//! Looking whether everything agrees, while the daemon runs or not, and mending nothing.
//!
//! While it runs, what is damaged is noted for whoever lists points. While it does not, nothing is changed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::api::Refusal;
use super::difference::Difference;
use super::places::Places;
use super::service::{Result, Service, blocking, detached};
use super::shared::Shared;
use super::survey;
use crate::domain::{Root, Tenant};
use crate::sandbox::lease::Slots;
use crate::snapshot::{AtRest, SnapshotError, Snapshots, Survey};
use crate::store::{Store, StoreError};

/// What a look found.
#[derive(Debug, Default)]
pub struct Found {
    /// Every difference.
    pub differences: BTreeSet<Difference>,
    /// Chunks of checkpoints that were looked at.
    pub chunks: u64,
}

impl Found {
    /// What was found of a tenant's snapshots.
    pub(super) async fn add(
        &mut self,
        store: &dyn Store,
        tenant: &Tenant,
        survey: &Survey,
    ) -> Result<()> {
        self.chunks += survey.chunks;
        let index = |how: &String| Difference::Index(tenant.clone(), how.clone());
        self.differences.extend(survey.index.iter().map(index));
        self.differences.extend(unusable(tenant, survey));
        self.differences.extend(damaged(store, tenant, survey).await?);
        Ok(())
    }
}

impl Service {
    /// Looks at store, disk, control groups, processes, mounts, sockets, leases and snapshots; with
    /// `deep`, reads every chunk of every checkpoint and all of the database. Of all tenants. What is
    /// under way is no difference: only what two looks have in common is.
    ///
    /// # Errors
    /// When the store cannot be read at all, or it cannot be found out whose snapshots there are.
    pub async fn fsck(&self, deep: bool) -> Result<Found> {
        let service = self.clone();
        detached(async move { service.fsck_now(deep).await }).await
    }

    async fn fsck_now(&self, deep: bool) -> Result<Found> {
        let shared = &self.shared;
        let differences = {
            let _no_deployment = self.deployments.pause().await;
            let first = survey::look(shared).await?;
            match first.is_empty() {
                true => first,
                false => &first & &survey::look(shared).await?,
            }
        };
        let mut found = Found { differences, chunks: 0 };
        for tenant in tenants(shared).await? {
            let survey = content((&shared.snapshots, &shared.store), &tenant, deep).await?;
            found.add(&*shared.store, &tenant, &survey).await?;
        }
        if deep {
            found.differences.extend(shared.store.check().await?.map(Difference::Database));
        }
        Ok(found)
    }
}

/// Looks at what there is while no daemon runs: database, files and snapshots, and changes none of it. Of
/// sandboxes, processes, mounts and leases nothing can be said then.
///
/// # Errors
/// When the store or the directory of snapshots cannot be read.
pub async fn look_at_rest(
    store: &Arc<dyn Store>,
    places: &Places,
    (uids, deep): ((u32, u32), bool),
) -> Result<Found> {
    let slots = Slots::new(uids.0, uids.1, []);
    let differences = survey::look_at_rest(places, &**store, &slots).await?;
    let mut found = Found { differences, chunks: 0 };
    let vaults = places.vaults();
    if vaults.is_dir() {
        for tenant in AtRest::tenants(&vaults).map_err(Failed::from)? {
            let survey = content_at_rest((&vaults, store), &tenant, deep).await?;
            found.add(&**store, &tenant, &survey).await?;
        }
    }
    if deep {
        found.differences.extend(store.check().await?.map(Difference::Database));
    }
    Ok(found)
}

/// Every tenant that has snapshots.
///
/// # Errors
/// When that cannot be found out. Whoever says that all is well has looked at all of them.
pub(super) async fn tenants(shared: &Shared) -> Result<BTreeSet<Tenant>> {
    let snapshots = shared.snapshots.clone();
    let all = move || -> Result<BTreeSet<Tenant>> {
        Ok(snapshots.tenants().map_err(Failed::from)?.into_iter().collect())
    };
    blocking(all).await
}

/// The same for those who look by themselves, now and then: none, which the log says, when that cannot be
/// found out.
pub(super) async fn tenants_if_known(shared: &Shared) -> BTreeSet<Tenant> {
    tenants(shared).await.unwrap_or_else(|error| {
        tracing::error!(%error, "it is not known whose checkpoints there are");
        BTreeSet::new()
    })
}

/// Looks at every vault behind the start, one after the other: opens it, looks through its index, and says
/// which packs cannot be used, as far as that can be told without following a point. Whoever needs a vault
/// before that opens it.
pub(super) async fn look_behind(shared: Arc<Shared>) {
    for tenant in shared.garbage.staying(tenants_if_known(&shared).await) {
        if shared.is_shutting_down() {
            return;
        }
        for difference in packs(&shared, &tenant).await {
            tracing::error!("{difference}; {}", difference.advice());
        }
    }
}

/// Packs of a tenant that cannot be used.
async fn packs(shared: &Shared, tenant: &Tenant) -> Vec<Difference> {
    let (snapshots, whose) = (shared.snapshots.clone(), tenant.clone());
    let look = move || match snapshots.known_vault(&whose)? {
        Some(vault) => vault.survey(false, || Ok::<_, SnapshotError>(vec![])),
        None => Ok(Survey::default()),
    };
    match spawn_blocking(look).await {
        Ok(Ok(survey)) => return unusable(tenant, &survey),
        Ok(Err(error)) => tracing::error!(ash_tenant = %tenant, %error, "no snapshots"),
        Err(error) => tracing::error!(ash_tenant = %tenant, %error, "no snapshots"),
    }
    vec![]
}

/// Looks at all points of a tenant.
pub(super) async fn content(
    (snapshots, store): (&Snapshots, &Arc<dyn Store>),
    tenant: &Tenant,
    deep: bool,
) -> Result<Survey> {
    let (snapshots, store, tenant) = (snapshots.clone(), store.clone(), tenant.clone());
    let look = move || -> Result<Survey> {
        // One that was deleted meanwhile is not made again.
        let vault = snapshots.known_vault(&tenant).map_err(Failed::from)?;
        let Some(vault) = vault else { return Ok(Survey::default()) };
        Ok(vault.survey(deep, || roots(&*store, &tenant))?)
    };
    blocking(look).await
}

/// Looks at all points of a tenant while no daemon runs.
async fn content_at_rest(
    (vaults, store): (&Path, &Arc<dyn Store>),
    tenant: &Tenant,
    deep: bool,
) -> Result<Survey> {
    let (vaults, store, tenant) = (vaults.to_owned(), store.clone(), tenant.clone());
    let look = move || -> Result<Survey> {
        let vault = AtRest::open(&vaults, &tenant).map_err(Failed::from)?;
        Ok(vault.survey(deep, || roots(&*store, &tenant))?)
    };
    blocking(look).await
}

/// The content of every point of a tenant, for whoever looks at its vault. Blocks.
pub(super) fn roots(store: &dyn Store, tenant: &Tenant) -> std::result::Result<Vec<Root>, Failed> {
    Handle::current().block_on(store.roots(tenant)).map_err(Failed::Store)
}

/// Everything of a tenant that stays, for whoever collects: the content of its points, and what is on its way
/// to the object store. Blocks.
pub(super) fn kept(shared: &Shared, tenant: &Tenant) -> std::result::Result<Vec<Root>, Failed> {
    let mut kept = roots(&*shared.store, tenant)?;
    let sent = shared.copies.on_its_way.all().into_iter().filter(|(whose, _)| whose == tenant);
    kept.extend(sent.map(|(_, root)| root));
    Ok(kept)
}

fn unusable(tenant: &Tenant, survey: &Survey) -> Vec<Difference> {
    let pack = |bad: &crate::snapshot::BadPack| {
        Difference::Pack(tenant.clone(), bad.pack, bad.how.clone())
    };
    survey.packs.iter().map(pack).collect()
}

/// The points that have what is damaged.
async fn damaged(store: &dyn Store, tenant: &Tenant, survey: &Survey) -> Result<Vec<Difference>> {
    let mut found = vec![];
    for damage in &survey.damaged {
        for point in store.points_with(tenant, damage.root).await? {
            found.push(Difference::Point {
                session: point.session,
                point: point.id,
                name: Difference::name_of(point.name.as_ref()),
                how: damage.to_string(),
            });
        }
    }
    Ok(found)
}

/// Why a vault and its points cannot be looked at.
pub(super) enum Failed {
    /// The store's fault.
    Store(StoreError),
    /// The vault's.
    Snapshots(SnapshotError),
}

impl From<SnapshotError> for Failed {
    fn from(error: SnapshotError) -> Failed {
        Failed::Snapshots(error)
    }
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Refusal {
        match failed {
            Failed::Store(error) => error.into(),
            Failed::Snapshots(SnapshotError::Full) => StoreError::Full.into(),
            Failed::Snapshots(error) => Refusal::Internal(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use uuid::Uuid;

    use super::super::reconcile;
    use super::super::stage::Stage;
    use super::*;

    /// The vault of a tenant, with nothing in it but a pack that is none.
    fn furnish(shared: &Shared, tenant: &Tenant) -> (PathBuf, Uuid) {
        let (vault, pack) = (shared.places.vaults().join(tenant.as_str()), Uuid::new_v4());
        for part in ["packs", "tmp"] {
            fs::create_dir_all(vault.join(part)).unwrap();
        }
        fs::write(vault.join(format!("packs/{pack}.pack")), "no pack").unwrap();
        (vault, pack)
    }

    /// However much is kept, a start does not wait for it.
    #[tokio::test]
    async fn vaults_are_opened_behind_the_start() {
        let (stage, tenant) = (Stage::set().await, Tenant::default());
        let shared = &stage.shared;
        let (vault, pack) = furnish(shared, &tenant);
        // Whoever opens it removes that.
        let left = vault.join("tmp/left");
        fs::write(&left, "half of it").unwrap();
        reconcile::run(shared, vec![]).await.unwrap();
        assert!(left.exists());
        let found = packs(shared, &tenant).await;
        assert!(!left.exists());
        assert!(matches!(&found[..], [Difference::Pack(_, it, _)] if *it == pack), "{found:?}");
    }

    #[tokio::test]
    async fn a_vault_that_is_gone_is_not_made_again_by_looking() {
        let stage = Stage::set().await;
        let (shared, tenant) = (&stage.shared, Tenant::default());
        assert!(packs(shared, &tenant).await.is_empty());
        let survey = content((&shared.snapshots, &shared.store), &tenant, true).await.unwrap();
        assert_eq!(survey.chunks, 0);
        assert!(shared.snapshots.tenants().unwrap().is_empty());
    }

    /// Else all would be well when nothing was looked at.
    #[tokio::test]
    async fn whoever_cannot_find_out_whose_snapshots_there_are_says_so() {
        let stage = Stage::set().await;
        let (service, vaults) = (&stage.service, stage.shared.places.vaults());
        let looks = async || {
            let fsck = service.fsck(false).await.is_ok();
            let checked = service.check_snapshots().await.is_ok();
            [fsck, checked, service.collect(true).await.is_ok()]
        };
        assert_eq!(looks().await, [true; 3]);
        fs::remove_dir_all(&vaults).unwrap();
        fs::write(&vaults, "in the way").unwrap();
        assert_eq!(looks().await, [false; 3]);
        assert!(tenants_if_known(&stage.shared).await.is_empty());
    }

    #[tokio::test]
    async fn what_is_kept_is_looked_at_without_a_daemon_and_stays_as_it_is() {
        let (stage, tenant) = (Stage::set().await, Tenant::default());
        let shared = &stage.shared;
        let (vault, pack) = furnish(shared, &tenant);
        let (index, left) = (vault.join("index.db"), vault.join("tmp/left"));
        let senseless = vec![7_u8; 8192];
        for path in [&index, &left] {
            fs::write(path, &senseless).unwrap();
        }
        for deep in [false, true] {
            let how = (shared.options.uids, deep);
            let found = look_at_rest(&shared.store, &shared.places, how).await.unwrap();
            let kinds: Vec<_> = found.differences.iter().map(Difference::kind).collect();
            assert_eq!(kinds, ["index", "pack"], "{found:?}");
            let names = |one: &Difference| one.to_string().contains(&pack.to_string());
            assert!(found.differences.iter().any(names), "{found:?}");
        }
        assert!([index, left].iter().all(|path| fs::read(path).unwrap() == senseless));
    }
}
