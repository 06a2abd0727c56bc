//! How a session is made: workspace, sandbox, row, driver; undone when a later step fails. One that
//! was made before anybody asked ([`pool`](super::pool)) only needs its row and its driver.

use std::sync::Arc;

use super::admission::Entry;
use super::agents;
use super::api::{Caller, NewSession, Refusal};
use super::disk::Since;
use super::driver::{Begin, Driver};
use super::owners::Counted;
use super::pool::Claim;
use super::registry::SessionView;
use super::service::{Result, Service, blocking, detached};
use super::shared::Shared;
use super::unsynced::Built;
use crate::domain::{
    Agent, AgentId, Changed, EventKind, NewEvent, SandboxId, Session, SessionId, Settings, Status,
    Timestamp,
};
use crate::fault;
use crate::sandbox::Running;
use crate::telemetry::metrics::labels::SpawnPhase;
use crate::telemetry::metrics::timed;

/// What comes of looking for a spare.
enum OfSpare {
    /// It is a session now.
    Made(Arc<SessionView>),
    /// There is none: what is to be made is counted all the same.
    None(Counted),
}

impl Service {
    /// Makes a session, of a spare or as soon as its sandbox may be made; returns when its bridge is
    /// ready. A tenant or an agent that has as many as it may gives up one that nobody uses.
    pub async fn create(&self, caller: &Caller, new: NewSession) -> Result<Arc<SessionView>> {
        let (agent, _) = self.settle(caller, new.clone()).await?;
        let counted = self.shared.count(&(agent.tenant, agent.name)).await?;
        // It may have waited, and the agent be another one by now: by an old one new spares would be thrown
        // away.
        let (agent, settings) = self.settle(caller, new.clone()).await?;
        // What is begun is brought to its end, whoever hangs up.
        let service = self.clone();
        let of_spare = async move { service.make_of_spare((&agent, &settings), counted).await };
        let counted = match detached(of_spare).await? {
            OfSpare::Made(view) => return Ok(view),
            OfSpare::None(counted) => counted,
        };
        // But whoever hangs up while it waits waits no longer.
        let entry = self.shared.let_in(counted, None).await?;
        let (service, caller) = (self.clone(), caller.clone());
        detached(async move { service.create_now(&caller, new, entry).await }).await
    }

    async fn create_now(
        &self,
        caller: &Caller,
        new: NewSession,
        mut entry: Entry,
    ) -> Result<Arc<SessionView>> {
        // Once more: the agent may be another one by now.
        let (agent, settings) = self.settle(caller, new).await?;
        let slot = match self.shared.take_any_slot().await {
            Ok(slot) => slot,
            Err(_) => {
                // Others wait for no uids, and need not wait until somebody gives some back.
                entry.let_others_in();
                self.shared.take_new_slot().await?
            }
        };
        let session = draft(&agent, settings, (slot, entry.sandbox));
        let _making = self.shared.making.begin((session.id, slot));
        self.make(agent.id, session, entry).await
    }

    /// The agent, and what holds for a new session of it.
    async fn settle(&self, caller: &Caller, new: NewSession) -> Result<(Agent, Settings)> {
        if self.shared.is_shutting_down() {
            return Err(Refusal::ShuttingDown);
        }
        let agent = self.shared.store.agent(&caller.tenant, &new.agent).await?;
        let agent = agent.ok_or_else(|| agents::named(&new.agent))?;
        let settings = settled(&agent, new.settings)?;
        Ok((agent, settings))
    }

    /// Makes a session of a spare, if there is one for it.
    async fn make_of_spare(
        &self,
        (agent, settings): (&Agent, &Settings),
        counted: Counted,
    ) -> Result<OfSpare> {
        let shared = &self.shared;
        shared.disk_has_room()?;
        let Some(taken) = shared.take_spare(agent, settings).await else {
            return Ok(OfSpare::None(counted));
        };
        // The one waits for the disk, the other for another process. What is shown then is written meanwhile.
        let record = self.record(agent.id, &taken.session, taken.since);
        let sandbox = taken.claimed.running.id;
        let view = async { as_recorded(&taken.session) };
        let (recorded, is_open, view) =
            tokio::join!(biased; record, shared.open_spare(sandbox), view);
        let made = match recorded {
            Ok(()) if is_open => {
                self.begin(&view, Begin::Claimed(taken.claimed, counted), taken.since);
                drop(taken.making);
                Ok(OfSpare::Made(view))
            }
            // Whoever makes another one is told why this one has no way out.
            Ok(()) => self.take_back(taken).await.map(|()| OfSpare::None(counted)),
            Err(refusal) => {
                shared.throw_away_taken(taken).await;
                Err(refusal)
            }
        };
        // Last: nobody waits for the next.
        shared.pool.look_again();
        made
    }

    /// Takes back a session that is recorded and that nobody was told of: it never was. When that cannot be
    /// recorded it is a session like any other, without a sandbox, and has its uids and its files.
    async fn take_back(&self, taken: Claim) -> Result<()> {
        let shared = &self.shared;
        fault::point("create.unrecord");
        let _attachments = shared.attaching.begin(taken.session.id);
        match shared.store.purge_session(taken.session.id).await {
            Ok(_) => {
                // Who lists sessions may have found it, and attached something.
                shared.forget_attachments(taken.session.id).await;
                // Its uids are free behind that, and no sooner.
                shared.throw_away_taken(taken).await;
                Ok(())
            }
            Err(error) => {
                shared.end_sandbox(taken.claimed.running).await;
                Err(error.into())
            }
        }
    }

    /// Makes the workspace, the sandbox and the row of a session; undoes what was made when a
    /// later step fails.
    async fn make(
        &self,
        agent: AgentId,
        mut session: Session,
        mut entry: Entry,
    ) -> Result<Arc<SessionView>> {
        let (shared, since) = (&self.shared, self.shared.disk.now());
        let laid_out = lay_out(shared, &session).await;
        fault::point("create.laid_out");
        let made = match laid_out {
            Ok(model) => {
                session.settings.model = session.settings.model.take().or(model);
                self.launch_and_record(agent, &session, &mut entry, since).await
            }
            Err(refusal) => Err(refusal),
        };
        match made {
            Ok(running) => {
                let view = as_recorded(&session);
                self.begin(&view, Begin::Launched(running, entry.into_counted()), since);
                Ok(view)
            }
            Err(refusal) => {
                fault::point("create.undo");
                shared.unmake(&session).await;
                Err(refusal)
            }
        }
    }

    async fn launch_and_record(
        &self,
        agent: AgentId,
        session: &Session,
        entry: &mut Entry,
        since: Since,
    ) -> Result<Running> {
        // Once more, now that it counts as being made: whoever ends the daemon waits for it.
        if self.shared.is_shutting_down() {
            return Err(Refusal::ShuttingDown);
        }
        let running = self.shared.launch(session, entry).await?;
        match self.record(agent, session, since).await {
            Ok(()) => Ok(running),
            Err(refusal) => {
                self.shared.end_sandbox(running).await;
                Err(refusal)
            }
        }
    }

    /// Records a session that has everything else, if its agent is still there: what it was made of may be
    /// another one's by now, that is called like it. Its files were laid out `since` then.
    async fn record(&self, agent: AgentId, session: &Session, since: Since) -> Result<()> {
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
        let store = &self.shared.store;
        let is_recorded = store.begin_session(agent, session.clone(), vec![created]).await?;
        if !is_recorded {
            return Err(agents::named(&session.agent));
        }
        fault::point("create.recorded");
        self.shared.note_doubt(session.id, since).await;
        Ok(())
    }

    /// Begins a session that is recorded, and whose files were laid out `since` then. Its driver tells of it.
    fn begin(&self, view: &Arc<SessionView>, begin: Begin, since: Since) {
        let (shared, session) = (self.shared.clone(), view.session.clone());
        let built = Built { session: session.id, build: session.sandbox, since };
        self.shared.registry.begin(view, || Driver::spawn(shared, session, begin));
        // Nobody waits for the disk.
        self.shared.sync_made_later(built);
    }
}

/// A session as it is when it is recorded, with its first event.
fn as_recorded(session: &Session) -> Arc<SessionView> {
    SessionView::with(Session { last_seq: 1, ..session.clone() })
}

impl Shared {
    /// Leaves nothing of a session that did not come about. The uids come back only when nothing is
    /// left that belongs to them, or runs with them; the rest is found at the next start.
    pub(super) async fn unmake(&self, session: &Session) {
        if self.see_off(session).await.is_err() {
            return;
        }
        if let (Ok(()), Some(slot)) = (self.remove_files(session).await, session.slot) {
            self.slots.give_back(slot);
        }
    }
}

/// Lays workspace and home of a session out; returns the model that the agent's folder names.
pub(super) async fn lay_out(shared: &Shared, session: &Session) -> Result<Option<String>> {
    let root = shared.places.session(session.id);
    let owner = session.slot.map_or(0, |slot| shared.slots.uids(slot).agent);
    let (places, options) = (shared.places.clone(), shared.options.clone());
    let (tenant, agent, version) =
        (session.tenant.clone(), session.agent.clone(), session.agent_version);
    let lay_out = move || {
        let version = (&tenant, &agent, version);
        let model = agents::folder_model(&places, version);
        agents::lay_out(&places, version, &root, owner, &options).map(|()| model)
    };
    timed(shared.metrics().spawn_phases.of(SpawnPhase::LayOut), blocking(lay_out)).await
}

/// Makes a spare the session of somebody who wants these settings: it begins now.
pub(super) fn become_session(session: &mut Session, settings: &Settings, model: Option<String>) {
    let now = Timestamp::now();
    session.settings = settings.clone();
    session.settings.model = session.settings.model.take().or(model);
    (session.created_at, session.last_active_at) = (now, now);
}

/// What holds for a session from now on: its own settings and, behind them, its agent's. Whatever
/// is said of the agent later holds for sessions that are made later.
pub(super) fn settled(agent: &Agent, mut settings: Settings) -> Result<Settings> {
    let given = std::mem::take(&mut settings.extra_env);
    settings.extra_env = agent.env.clone().into_iter().chain(given).collect();
    let unread = |unfit| Refusal::Internal(format!("the agent's {unfit}"));
    agent.config.complete(&mut settings).map_err(unread)?;
    settings.check_sums()?;
    Ok(settings)
}

/// A session that is about to be made.
pub(super) fn draft(
    agent: &Agent,
    settings: Settings,
    (slot, sandbox): (u32, SandboxId),
) -> Session {
    let (id, now) = (SessionId::random(), Timestamp::now());
    Session {
        id,
        tenant: agent.tenant.clone(),
        agent: agent.name.clone(),
        agent_version: agent.version,
        status: Status::Active,
        sandbox,
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
    use crate::domain::{AgentConfig, Tenant};
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
            settled(&agent, settings)
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
