//! How a session is made: workspace, sandbox, row, driver; undone when a later step fails.

use std::sync::Arc;

use super::agents;
use super::api::{Caller, Happened, NewSession, Refusal};
use super::driver::{Begin, Driver};
use super::registry::SessionView;
use super::service::{Result, Service, detached};
use super::shared::Taken;
use crate::domain::{
    Agent, Changed, EventKind, NewEvent, SandboxId, Session, SessionId, Settings, Status, Timestamp,
};
use crate::fault;
use crate::sandbox::Running;
use crate::telemetry::message;

impl Service {
    /// Makes a session; returns when its bridge is ready.
    pub async fn create(&self, caller: &Caller, new: NewSession) -> Result<Arc<SessionView>> {
        let (service, caller) = (self.clone(), caller.clone());
        detached(async move { service.create_now(&caller, new).await }).await
    }

    async fn create_now(&self, caller: &Caller, new: NewSession) -> Result<Arc<SessionView>> {
        if self.shared.is_shutting_down() {
            return Err(Refusal::ShuttingDown);
        }
        let shared = &self.shared;
        let agent = shared.store.agent(&caller.tenant, &new.agent).await?;
        let agent = agent.ok_or_else(|| agents::named(&new.agent))?;
        let settings = settled(&agent, new)?;
        let room = shared.room().await?;
        let slot = shared.take_slot()?;
        let session = draft(&agent, settings, slot);
        let _making = shared.making.begin((session.id, slot));
        self.make(room, session, agent).await
    }

    /// Makes the workspace, the sandbox and the row of a session; undoes what was made when a
    /// later step fails.
    async fn make(
        &self,
        room: Taken<'_>,
        mut session: Session,
        agent: Agent,
    ) -> Result<Arc<SessionView>> {
        let shared = &self.shared;
        let root = shared.places.session(session.id);
        let owner = session.slot.map_or(0, |slot| shared.slots.uids(slot).agent);
        let (places, options) = (shared.places.clone(), shared.options.clone());
        let lay_out = move || {
            let model = agents::folder_model(&places, &agent);
            let version = (&agent.tenant, &agent.name, agent.version);
            agents::lay_out(&places, version, &root, owner, &options).map(|()| model)
        };
        let laid_out = tokio::task::spawn_blocking(lay_out).await;
        let laid_out = laid_out.unwrap_or_else(|error| Err(Refusal::Internal(error.to_string())));
        fault::point("create.laid_out");
        let made = match laid_out {
            Ok(model) => {
                session.settings.model = session.settings.model.take().or(model);
                self.launch_and_record(room, &session).await
            }
            Err(refusal) => Err(refusal),
        };
        match made {
            Ok(running) => Ok(self.begin(&session, running)),
            Err(refusal) => {
                fault::point("create.undo");
                // The uids come back only when nothing is left that belongs to them; the rest is
                // found at the next start.
                if let (Ok(()), Some(slot)) = (shared.remove_files(&session).await, session.slot) {
                    shared.slots.give_back(slot);
                }
                Err(refusal)
            }
        }
    }

    async fn launch_and_record(&self, room: Taken<'_>, session: &Session) -> Result<Running> {
        // Once more, now that it counts as being made: whoever ends the daemon waits for it.
        if self.shared.is_shutting_down() {
            return Err(Refusal::ShuttingDown);
        }
        let running = self.shared.launch(room, session, session.sandbox).await?;
        let body = serde_json::json!({
            "action": "created",
            "agentName": session.agent.as_str(),
            "model": session.settings.model,
        });
        let created = NewEvent {
            seq: 1,
            kind: EventKind::Lifecycle,
            turn: None,
            origin: None,
            replaces: false,
            body: body.to_string().into(),
            at: session.created_at,
        };
        fault::point("create.launched");
        let recorded = match self.shared.store.begin_session(session.clone(), vec![created]).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(agents::named(&session.agent)),
            Err(error) => Err(error.into()),
        };
        if let Err(refusal) = recorded {
            self.shared.end_sandbox(running).await;
            return Err(refusal);
        }
        fault::point("create.recorded");
        Ok(running)
    }

    fn begin(&self, session: &Session, running: Running) -> Arc<SessionView> {
        let session = Session { last_seq: 1, ..session.clone() };
        let (shared, started) = (self.shared.clone(), session.clone());
        let spawn = || Driver::spawn(shared, started, Begin::Launched(running));
        self.shared.registry.handle_or(&session, spawn);
        let (id, tenant) = (session.id, session.tenant.clone());
        tracing::info!(
            message_id = message::SESSION_CREATED, ash_session = %id, ash_agent = %session.agent,
            ash_tenant = %session.tenant, "session created"
        );
        self.shared.tell(Happened::SessionCreated(tenant, id));
        SessionView::of(&session)
    }
}

/// What holds for a session from now on: its own settings and, behind them, its agent's. Whatever
/// is said of the agent later holds for sessions that are made later.
fn settled(agent: &Agent, new: NewSession) -> Result<Settings> {
    let mut settings = new.settings;
    let given = std::mem::take(&mut settings.extra_env);
    settings.extra_env = agent.env.clone().into_iter().chain(given).collect();
    let unread = |unfit| Refusal::Internal(format!("the agent's {unfit}"));
    agent.config.complete(&mut settings).map_err(unread)?;
    settings.check_sums()?;
    Ok(settings)
}

/// A session that is about to be made.
fn draft(agent: &Agent, settings: Settings, slot: u32) -> Session {
    let (id, now) = (SessionId::random(), Timestamp::now());
    Session {
        id,
        tenant: agent.tenant.clone(),
        agent: agent.name.clone(),
        agent_version: agent.version,
        status: Status::Active,
        sandbox: SandboxId::random(),
        settings,
        cli_session: id.to_string(),
        cli_version: None,
        parent: None,
        restore: None,
        cold: false,
        changed: Changed::No,
        altered: None,
        last_error: None,
        turn: None,
        slot: Some(slot),
        last_seq: 0,
        created_at: now,
        last_active_at: now,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::domain::{AgentConfig, AgentId, Tenant};
    use crate::session::stage::Stage;

    /// How long it is looked whether somebody waits.
    const A_WHILE: Duration = Duration::from_millis(100);

    /// An environment of half a MiB and more.
    fn env(name: &str) -> serde_json::Value {
        let variable = |n: usize| (format!("{name}{n}"), json!("x".repeat(120_000)));
        (0..5).map(variable).collect::<serde_json::Map<_, _>>().into()
    }

    #[test]
    fn what_a_session_and_its_agent_add_up_to_can_be_passed_to_programs() {
        let tools: Vec<String> = (0..60).map(|n| format!("{n:01000}")).collect();
        let config = json!({ "allowedTools": tools });
        let agent = Agent {
            id: AgentId::random(),
            tenant: Tenant::default(),
            name: "agent".parse().unwrap(),
            version: 1,
            env: serde_json::from_value(env("A")).unwrap(),
            config: AgentConfig::new("", config.as_object().unwrap().clone()).unwrap(),
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
        };
        let settled = |settings: serde_json::Value| {
            let settings = Settings::read("", settings.to_string().as_bytes()).unwrap();
            settled(&agent, NewSession { agent: agent.name.clone(), settings })
        };
        assert!(settled(json!({ "allowedTools": tools, "extraEnv": env("A") })).is_ok());
        let too_much = json!(vec!["b".repeat(1000); 80]);
        for (settings, said) in [
            (
                json!({ "allowedTools": too_much }),
                "allowedTools with the agent's: must not be longer than 130000 bytes in all",
            ),
            (
                json!({ "extraEnv": env("B") }),
                "extraEnv with the agent's: must not be longer than 1048576 bytes in all",
            ),
        ] {
            assert_eq!(settled(settings).unwrap_err().to_string(), said);
        }
    }

    #[tokio::test]
    async fn a_daemon_that_ends_with_its_sandboxes_waits_for_those_that_are_being_made() {
        let stage = Stage::set().await;
        let made = stage.shared.making.begin((SessionId::random(), 0));
        // One that leaves them to the next waits for none.
        stage.service.shut_down(false).await;
        let mut ending = Box::pin(stage.service.shut_down(true));
        assert!(tokio::time::timeout(A_WHILE, &mut ending).await.is_err());
        drop(made);
        ending.await;
    }
}
