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
        self.shared.throw_away_of(&caller.tenant, Some(name)).await;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{Scope, Session, SessionChange, Tenant};
    use crate::session::stage::Stage;
    use crate::store::Commit;

    /// How long it is looked whether somebody waits.
    const A_WHILE: Duration = Duration::from_millis(100);

    fn caller() -> Caller {
        Caller { tenant: Tenant::default(), scope: Scope::Manage }
    }

    /// A session that is being made, as a fork is.
    async fn arriving(stage: &Stage) -> SessionId {
        let parent = Some(SessionId::random());
        let session = Session { status: Status::Starting, parent, ..Session::example(1) };
        stage.add(&session).await;
        session.id
    }

    #[tokio::test]
    async fn whoever_ends_a_session_that_is_being_made_waits_until_it_is() {
        for purge in [false, true] {
            let stage = Stage::set().await;
            let (store, id, caller) = (&stage.shared.store, arriving(&stage).await, caller());
            let made = stage.shared.making.begin((id, 0));
            // Others are made as well, and are nobody's concern.
            let other = stage.shared.making.begin((SessionId::random(), 1));
            let mut ending = Box::pin(stage.service.end_when_made(&caller, id, purge));
            assert!(tokio::time::timeout(A_WHILE, &mut ending).await.is_err());
            drop(other);
            assert!(tokio::time::timeout(A_WHILE, &mut ending).await.is_err());
            let change = SessionChange::status(Status::Paused);
            store.commit(Commit::of(id, change, vec![])).await.unwrap();
            drop(made);
            assert_eq!(ending.await.unwrap().session.status, Status::Ended);
            let left = store.session(id).await.unwrap().map(|session| session.status);
            assert_eq!(left, (!purge).then_some(Status::Ended));
        }
    }

    #[tokio::test]
    async fn one_that_could_not_be_made_is_not_there() {
        let stage = Stage::set().await;
        let (id, caller) = (arriving(&stage).await, caller());
        let made = stage.shared.making.begin((id, 0));
        let mut ending = Box::pin(stage.service.end_when_made(&caller, id, false));
        assert!(tokio::time::timeout(A_WHILE, &mut ending).await.is_err());
        stage.shared.store.purge_session(id).await.unwrap();
        drop(made);
        assert!(matches!(ending.await, Err(Refusal::NoSession)));
    }

    /// Its row is there before the driver that has its sandbox: another one would not know of that.
    #[tokio::test]
    async fn one_that_is_recorded_and_has_no_driver_yet_gets_no_other_one() {
        let stage = Stage::set().await;
        let (session, caller) = (Session::example(1), caller());
        let made = stage.shared.making.begin((session.id, 0));
        stage.add(&session).await;
        let asked = stage.service.interrupt(&caller, session.id).await;
        assert!(matches!(asked, Err(Refusal::Arriving)));
        assert!(stage.shared.registry.handle(session.id).is_none());
        let mut ending = Box::pin(stage.service.end_when_made(&caller, session.id, false));
        assert!(tokio::time::timeout(A_WHILE, &mut ending).await.is_err());
        drop(made);
        assert_eq!(ending.await.unwrap().session.status, Status::Ended);
    }

    /// Whoever was making it has failed half-way, and has left its row to the next start.
    #[tokio::test]
    async fn one_that_nobody_makes_is_not_waited_for() {
        let stage = Stage::set().await;
        let id = arriving(&stage).await;
        let ended = stage.service.end_when_made(&caller(), id, true).await;
        assert!(matches!(ended, Err(Refusal::Arriving)));
        assert!(stage.shared.store.session(id).await.unwrap().is_some());
    }
}
