//! How a session gets a sandbox and loses it.

use std::sync::Arc;

use ash_wire::words::CliState;
use bytes::Bytes;
use serde_json::json;

use super::{Begin, Driver, Launched, Replay, Reply, RunningCli};
use crate::domain::{SandboxId, SessionChange, Status, TurnOptions};
use crate::fault;
use crate::sandbox::Running;
use crate::session::api::Refusal;
use crate::session::cli::StartKey;
use crate::session::frames::Numbering;
use crate::session::keeping::Found;
use crate::session::machine::{Event, Sandbox, State, Turn};
use crate::session::registry::SessionView;
use crate::telemetry::message;

impl Driver {
    pub(super) async fn begin_life(&mut self, begin: Begin) {
        match begin {
            Begin::Cold => self.read_again().await,
            Begin::Launched(running) => {
                self.attach(running);
                self.ready_cli(&TurnOptions::default()).await;
            }
            Begin::Adopted(running, replay) => self.adopt(running, replay).await,
        }
    }

    /// The row that this driver was started with may be from before another one ended the session.
    async fn read_again(&mut self) {
        match self.shared.store.session(self.session.id).await {
            Ok(Some(session)) if session.status != Status::Ended => {
                self.state = State::cold(session.status, self.shared.options.queue_limit);
                self.numbering = Numbering::resumed(session.last_seq);
                self.session = session;
            }
            _ => {
                self.over = true;
                self.shared.registry.remove(self.session.id);
            }
        }
    }

    fn attach(&mut self, running: Running) {
        let turn = self.session.turn.map_or(Turn::None, |turn| Turn::Ours(turn.id));
        self.state = State::live(self.session.status, turn, self.shared.options.queue_limit);
        self.link = Some(running);
    }

    /// Goes on with a sandbox that an earlier daemon left: the running turn is shown from its
    /// beginning, rebuilt from the store and from what the bridge sends again.
    async fn adopt(&mut self, running: Running, replay: Replay) {
        if running.welcome.cli != CliState::Absent {
            let key = running.welcome.tag.as_deref().and_then(StartKey::from_tag);
            // What it was set to since is not known: it is set again before the next turn.
            self.cli = key.map(|key| RunningCli { key, controls: None, cost: replay.cost });
        }
        self.attach(running);
        self.replay = replay;
        if self.session.cold {
            // It was to be ended, and was not: from now on it can be lost.
            let change = SessionChange { cold: Some(false), ..SessionChange::none() };
            if let Err(error) = self.commit(change, vec![]).await {
                tracing::warn!(ash_session = %self.session.id, %error, "it counts as cold");
            }
        }
        let Some(turn) = self.session.turn else { return };
        if let Some(user) = self.shared.event(self.session.id, turn.user_seq).await {
            self.show_beginning(&user, |_| {});
        }
        self.caught_up().await;
    }

    /// Begins to make a sandbox.
    pub(super) fn launch(&mut self) {
        let shared = self.shared.clone();
        let session = self.session.clone();
        let sandbox = SandboxId::random();
        self.launching = Some(tokio::spawn(async move {
            let (running, found) = shared.bring_to_life(&session, sandbox).await?;
            Ok(Launched { running, found })
        }));
    }

    pub(super) async fn launched(&mut self, result: Result<Launched, Refusal>) {
        self.launching = None;
        let outcome = match result {
            Ok(launched) => self.launch_succeeded(launched).await,
            Err(refusal) => {
                self.logs.system(&refusal.to_string());
                self.launch_error = Some(refusal.clone());
                let _ = self.step(Event::LaunchFailed).await;
                self.execs.refuse_waiting(&refusal);
                Err(refusal)
            }
        };
        for reply in std::mem::take(&mut self.resuming) {
            let answer = match &outcome {
                Ok(()) => Ok(self.view()),
                Err(refusal) => Err(refusal.clone()),
            };
            let _ = reply.send(answer);
        }
        self.grant_wishes().await;
    }

    async fn launch_succeeded(&mut self, launched: Launched) -> Result<(), Refusal> {
        self.launch_error = None;
        let Launched { running, found } = launched;
        let restore = self.session.restore.map(|_| None);
        let cold = self.session.cold.then_some(false);
        let sandbox = Some(running.id);
        let change = SessionChange { sandbox, restore, cold, ..SessionChange::none() };
        self.link = Some(running);
        self.cli = None;
        self.own_turn = false;
        self.replay = Replay::default();
        (self.last_number, self.owed) = (0, 0);
        fault::point("resume.launched");
        // The store must know the sandbox before anything of it is kept.
        if let Err(error) = self.commit(change, vec![]).await {
            self.end_sandbox().await;
            let refusal = Refusal::from(error);
            self.launch_error = Some(refusal.clone());
            let _ = self.step(Event::LaunchFailed).await;
            return Err(refusal);
        }
        fault::point("resume.recorded");
        let options = self.waiting_options();
        self.ready_cli(&options).await;
        self.fresh_sandbox = Some(found);
        let result = self.step(Event::Launched).await;
        self.fresh_sandbox = None;
        self.run_waiting_execs();
        result
    }

    /// What the first message that waits wants: the CLI is started for it right away.
    fn waiting_options(&self) -> TurnOptions {
        let first = self.state.queue.front().and_then(|turn| self.waiting.get(turn));
        first.map(|waiting| waiting.request.options.clone()).unwrap_or_default()
    }

    /// The bridge is gone, and with it everything in the sandbox.
    pub(super) async fn lost(&mut self, why: &str) {
        tracing::warn!(
            message_id = message::SANDBOX_LOST, ash_session = %self.session.id,
            ash_agent = %self.session.agent, ash_tenant = %self.session.tenant, why, "sandbox lost"
        );
        self.logs.system(&format!("the sandbox was lost: {why}"));
        let _ = self.step(Event::SandboxLost).await;
    }

    /// Why the sandbox is gone, for a person, when something ran in it. Asked before it is ended.
    pub(super) fn why_lost(&self, what_ran: &str) -> String {
        let oom =
            self.link.as_ref().is_some_and(|link| self.shared.sandboxes.oom_kills(link.id) > 0);
        match oom {
            true => "The sandbox ran out of memory and was ended".to_owned(),
            false => format!("The sandbox was lost while {what_ran}"),
        }
    }

    /// Ends the sandbox, or the attempt to make one, and waits until nothing of it is left.
    pub(super) async fn end_sandbox(&mut self) {
        let launched = match self.launching.take() {
            Some(task) => task.await.ok().and_then(Result::ok).map(|launched| launched.running),
            None => None,
        };
        let why_lost = self.why_lost("the command ran");
        if let Some(running) = self.link.take().or(launched) {
            self.shared.end_sandbox(running).await;
        }
        self.cli = None;
        self.own_turn = false;
        self.execs.lost(&Refusal::Sandbox(why_lost));
        // Whoever waited for the launch waits in vain.
        let gone = Refusal::NotActive(self.state.status);
        self.execs.refuse_waiting(&gone);
        for reply in std::mem::take(&mut self.resuming) {
            let _ = reply.send(Err(gone.clone()));
        }
    }

    pub(super) async fn resume(&mut self, reply: Reply<Arc<SessionView>>) {
        self.shared.count_resume(self.state.status, self.state.sandbox);
        let result = self.step(Event::Resume).await;
        match result {
            Err(refusal) => drop(reply.send(Err(refusal))),
            Ok(()) if self.state.sandbox == Sandbox::Launching => self.resuming.push(reply),
            Ok(()) => drop(reply.send(Ok(self.view()))),
        }
    }

    pub(super) async fn end(&mut self, purge: bool, reply: Reply<Arc<SessionView>>) {
        let result = self.step(Event::End).await;
        self.abandon_saving().await;
        let result = match result {
            Ok(()) => self.leave(purge).await,
            Err(refusal) => Err(refusal),
        };
        self.over = result.is_ok();
        let _ = reply.send(result.map(|()| self.view()));
    }

    /// Puts the files of an ended session away and gives its uids back. What is kept of them is a
    /// last point.
    async fn leave(&mut self, purge: bool) -> Result<(), Refusal> {
        if !purge && self.session.slot.is_some() && self.has_own_files().await? {
            self.save_now().await?;
            fault::point("end.saved");
        }
        self.shared.remove_files(&self.session).await?;
        fault::point("end.removed");
        if let Some(slot) = self.session.slot {
            let change = SessionChange { slot: Some(None), ..SessionChange::none() };
            self.commit(change, vec![]).await?;
            fault::point("end.recorded");
            self.shared.slots.give_back(slot);
        }
        Ok(())
    }

    /// The daemon goes away, with or without the sandbox.
    pub(super) async fn shutdown(&mut self, end: bool) {
        if end {
            let _ = self.step(Event::Shutdown).await;
            if self.settles_at.take().is_some() {
                self.save();
            }
            self.finish_saving().await;
        }
        self.execs.lost(&Refusal::ShuttingDown);
        self.over = true;
    }

    /// The body of the lifecycle event that goes with a status.
    pub(super) fn lifecycle(&self, status: Status) -> Bytes {
        let body = match status {
            Status::Active if let Some(found) = self.fresh_sandbox => {
                let from = match found {
                    Found::InPlace => "disk",
                    Found::InStore => "store",
                };
                json!({ "action": "resumed", "path": "cold", "source": "local", "from": from })
            }
            Status::Active => json!({ "action": "resumed", "path": "warm" }),
            Status::Paused => json!({ "action": "paused" }),
            Status::Stopped => json!({ "action": "stopped" }),
            Status::Ended => json!({ "action": "ended" }),
            Status::Starting | Status::Error => json!({ "action": status.as_str() }),
        };
        body.to_string().into()
    }
}
