//! Removing from the snapshot store what no point needs: now and then, and at once when a session is
//! purged.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;

use super::api::Refusal;
use super::shared::Shared;
use crate::domain::Tenant;
use crate::snapshot::{Collected, Collecting, SnapshotError};

/// Packs younger than this stay, unless something was purged.
const GRACE: Duration = Duration::from_secs(600);

/// How long to wait until nobody saves or brings back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who has left something that is to go at once.
#[derive(Default)]
pub(super) struct Garbage {
    tenants: Mutex<BTreeSet<Tenant>>,
    there: Notify,
}

impl Garbage {
    /// Something of this tenant was purged.
    pub(super) fn left_by(&self, tenant: &Tenant) {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant.clone());
        self.there.notify_one();
    }

    fn take(&self) -> BTreeSet<Tenant> {
        std::mem::take(&mut *self.tenants.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Collects as long as the daemon lives.
pub(super) async fn collect_for_ever(shared: Arc<Shared>) {
    loop {
        let purged =
            tokio::time::timeout(shared.options.collect_every, shared.garbage.there.notified());
        let purged = purged.await.is_ok();
        let (tenants, grace) = match purged {
            true => (shared.garbage.take(), Duration::ZERO),
            false => (tenants(&shared).await, GRACE),
        };
        for tenant in tenants {
            match collect(&shared, &tenant, grace).await {
                Ok(Some(Collected { packs: 0, .. })) => {}
                Ok(Some(Collected { bytes, packs, .. })) => {
                    tracing::info!(ash_tenant = %tenant, bytes, packs, "snapshots collected");
                }
                // Somebody saves all the time: later.
                Ok(None) if purged => shared.garbage.left_by(&tenant),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(ash_tenant = %tenant, %error, "snapshots could not be collected");
                }
            }
        }
    }
}

async fn tenants(shared: &Shared) -> BTreeSet<Tenant> {
    let snapshots = shared.snapshots.clone();
    let tenants = spawn_blocking(move || snapshots.tenants()).await;
    tenants.ok().and_then(Result::ok).unwrap_or_default().into_iter().collect()
}

/// Collects what a tenant's points do not need; `None` when somebody was in the way.
async fn collect(
    shared: &Arc<Shared>,
    tenant: &Tenant,
    grace: Duration,
) -> Result<Option<Collected>, Refusal> {
    let (shared, tenant) = (shared.clone(), tenant.clone());
    let collect = move || -> Result<Option<Collected>, Refusal> {
        let vault = shared.snapshots.vault(&tenant).map_err(failed)?;
        let how = Collecting { grace, preview: false, patience: PATIENCE };
        let points =
            || Handle::current().block_on(shared.store.roots(&tenant)).map_err(Failed::Store);
        vault.collect(&how, points).map_err(|error| match error {
            Failed::Store(error) => error.into(),
            Failed::Snapshots(error) => failed(error),
        })
    };
    spawn_blocking(collect).await.unwrap_or_else(|error| Err(Refusal::Internal(error.to_string())))
}

enum Failed {
    Store(crate::store::StoreError),
    Snapshots(SnapshotError),
}

impl From<SnapshotError> for Failed {
    fn from(error: SnapshotError) -> Failed {
        Failed::Snapshots(error)
    }
}

fn failed(error: SnapshotError) -> Refusal {
    Refusal::Internal(error.to_string())
}
