//! Deleting an agent.

use std::sync::Arc;

use super::agents;
use super::api::{Caller, Happened, Refusal};
use super::registry::SessionView;
use super::service::{Result, Service, detached};
use crate::domain::{AgentName, SessionId, Status};
use crate::fault;
use crate::store::SessionFilter;
use crate::telemetry::message;

impl Service {
    /// Deletes an agent; ends its sessions first. Goes on when the caller is gone.
    pub async fn delete_agent(&self, caller: &Caller, name: &AgentName) -> Result<()> {
        let (service, caller, name) = (self.clone(), caller.clone(), name.clone());
        detached(async move { service.delete_agent_now(&caller, &name).await }).await
    }

    async fn delete_agent_now(&self, caller: &Caller, name: &AgentName) -> Result<()> {
        let agent = self.agent(caller, name).await?;
        self.end_all_of(caller, name).await?;
        let _no_deployment = self.deployments.pause().await;
        self.shared.store.delete_agent(&caller.tenant, name).await?;
        // Those that began meanwhile. From here on none does.
        self.end_all_of(caller, name).await?;
        fault::point("delete.recorded");
        let (places, gone) = (self.shared.places.clone(), agent.clone());
        let removed = tokio::task::spawn_blocking(move || agents::remove(&places, &gone)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(ash_agent = %name, %error, "the agent's folder could not be removed");
        }
        tracing::info!(
            message_id = message::AGENT_DELETED, ash_agent = %name, ash_tenant = %agent.tenant,
            "agent deleted"
        );
        self.shared.tell(Happened::AgentDeleted(agent.tenant, agent.name));
        Ok(())
    }

    /// Ends every session of an agent.
    async fn end_all_of(&self, caller: &Caller, name: &AgentName) -> Result<()> {
        let filter = SessionFilter { agent: Some(name.clone()), ..SessionFilter::default() };
        let (sessions, _) = self.shared.store.sessions(&caller.tenant, filter).await?;
        for session in sessions.iter().filter(|session| session.status != Status::Ended) {
            match self.end_when_made(caller, session.id, false).await {
                // Its owner was quicker.
                Ok(_) | Err(Refusal::NoSession) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(())
    }

    /// Ends a session; waits for one that is being made.
    pub(super) async fn end_when_made(
        &self,
        caller: &Caller,
        id: SessionId,
        purge: bool,
    ) -> Result<Arc<SessionView>> {
        loop {
            match self.end(caller, id, purge).await {
                Err(Refusal::Arriving) => {
                    let waited = self.shared.making.wait_for(|(made, _)| *made == id).await;
                    // What is left of it is mended at the next start.
                    if !waited && self.stored(caller, id).await?.is_arriving() {
                        return Err(Refusal::Arriving);
                    }
                }
                ended => return ended,
            }
        }
    }
}
