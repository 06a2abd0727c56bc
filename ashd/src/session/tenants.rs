//! Deleting a tenant, and everything of it.
//!
//! A mark comes first, with which its keys go: from then on nothing is added to it, and a daemon that
//! dies on the way is followed by one that finishes. What is in the object store goes before the mark
//! does; while that store is away, all else is gone and the mark stays.

use std::time::Duration;

use super::api::{Caller, Refusal};
use super::garbage;
use super::keys::KeyRing;
use super::service::{Result, Service, blocking, detached};
use crate::domain::{Scope, Tenant};
use crate::fault;
use crate::objects::Place;
use crate::store::SessionFilter;
use crate::tree::remove_all;

/// How long to wait until nobody saves or brings back.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was deleted with a tenant.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Deleted {
    /// Sessions.
    pub sessions: u64,
    /// Agents.
    pub agents: u64,
    /// API keys.
    pub keys: u64,
}

/// Finishes what a daemon has left that died in deleting tenants, beside everything else. What cannot
/// be finished now is said, and stays marked.
pub(super) async fn finish(service: Service) {
    let tenants = match service.shared.store.leaving_tenants().await {
        Ok(tenants) => tenants,
        Err(error) => {
            return tracing::error!(%error, "tenants that are to be deleted are not known");
        }
    };
    for tenant in tenants {
        match service.finish_tenant(&tenant).await {
            Ok(_) => tracing::warn!(ash_tenant = %tenant, "finished deleting a tenant"),
            Err(error) => {
                tracing::error!(ash_tenant = %tenant, %error, "a tenant is not deleted yet");
            }
        }
    }
}

impl Service {
    /// How many tenants have something that is kept, each in a vault of its own.
    pub fn count_vaults(&self) -> u32 {
        let tenants = self.shared.snapshots.tenants();
        tenants.map_or(0, |tenants| u32::try_from(tenants.len()).unwrap_or(u32::MAX))
    }

    /// Deletes a tenant: its keys, sessions, agents, checkpoints, attachments, and its copies in the
    /// object store. Goes on when the caller is gone.
    ///
    /// # Errors
    /// When there is no such tenant; when a store or the disk fails: then what is left goes with the
    /// next attempt, or at the next start.
    pub async fn delete_tenant(&self, keys: &KeyRing, tenant: &Tenant) -> Result<Deleted> {
        let (service, keys, tenant) = (self.clone(), keys.clone(), tenant.clone());
        detached(async move {
            let revoked = keys.leave(&tenant).await?.ok_or(Refusal::NoTenant)?;
            fault::point("tenant.marked");
            let deleted = service.finish_tenant(&tenant).await?;
            Ok(Deleted { keys: revoked, ..deleted })
        })
        .await
    }

    /// Removes everything of a tenant that is marked.
    async fn finish_tenant(&self, tenant: &Tenant) -> Result<Deleted> {
        let caller = Caller { tenant: tenant.clone(), scope: Scope::Manage };
        // Each session leaves something, which goes with everything else.
        self.shared.garbage.leaves(tenant);
        let sessions = self.purge_all(&caller).await?;
        fault::point("tenant.purged");
        let no_deployment = self.deployments.pause().await;
        self.shared.throw_away_of(tenant, None).await;
        let agents = self.shared.store.agents(tenant).await?;
        // What is on its way to the object store is of a session that is gone by now.
        let nobody_sends = self.shared.copies.sending.lock().await;
        self.remove_tenant_files(tenant).await?;
        fault::point("tenant.removed");
        if let Some(objects) = self.shared.copies.objects() {
            self.shared.copies.forget_packs(tenant);
            objects.remove_all(&Place::Tenant(tenant)).await.map_err(|error| {
                tracing::error!(ash_tenant = %tenant, %error, "the object store failed");
                Refusal::ObjectStore
            })?;
        }
        self.shared.store.tenant_left(tenant).await?;
        self.shared.garbage.has_left(tenant);
        drop((no_deployment, nobody_sends));
        garbage::scrub(&self.shared).await;
        fault::point("tenant.left");
        let deleted = Deleted { sessions, agents: agents.len() as u64, keys: 0 };
        tracing::info!(ash_tenant = %tenant, sessions, agents = deleted.agents, "tenant deleted");
        for agent in agents {
            let gone = super::api::Happened::AgentDeleted(agent.tenant, agent.name);
            self.shared.tell(gone);
        }
        Ok(deleted)
    }

    /// Ends and purges sessions until there are none.
    async fn purge_all(&self, caller: &Caller) -> Result<u64> {
        let mut purged = 0;
        loop {
            let page = SessionFilter { limit: Some(100), ..SessionFilter::default() };
            let (sessions, _) = self.shared.store.sessions(&caller.tenant, page).await?;
            if sessions.is_empty() {
                return Ok(purged);
            }
            for session in sessions {
                match self.end_when_made(caller, session.id, true).await {
                    Ok(_) => purged += 1,
                    // A client of its own was quicker.
                    Err(Refusal::NoSession) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    async fn remove_tenant_files(&self, tenant: &Tenant) -> Result<()> {
        let (shared, tenant) = (self.shared.clone(), tenant.clone());
        blocking(move || {
            let internal = |error: &dyn std::fmt::Display| Refusal::Internal(error.to_string());
            let removed = shared.snapshots.remove(&tenant, PATIENCE);
            removed.map_err(|error| internal(&error))?;
            let removed = remove_all(&shared.places.agents(), tenant.as_str());
            removed.map_err(|error| internal(&error))
        })
        .await
    }
}
