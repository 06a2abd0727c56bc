//! How a session gets a sandbox and loses it.

use std::sync::Arc;

use ash_wire::words::CliState;
use bytes::Bytes;
use serde_json::json;

use super::replay::read_stubbornly;
use super::times::{resumed, source_of};
use super::{Driver, Replay, Reply, RunningCli, refusal};
use crate::domain::{Changed, EventKind, Session, SessionChange, Status, TurnOptions};
use crate::fault;
use crate::sandbox::Running;
use crate::sandbox::cgroup::OutOfMemory;
use crate::sandbox::link::Incoming;
use crate::session::api::Refusal;
use crate::session::cli::{Controls, Conversation, StartKey};
use crate::session::frames::Numbering;
use crate::session::keeping::{Found, Life};
use crate::session::machine::{Event, Sandbox, State, Turn};
use crate::session::owners::Counted;
use crate::session::registry::SessionView;
use crate::session::unsynced::Built;
use crate::store::StoreError;
use crate::telemetry::message;
use crate::telemetry::metrics::labels::Resumed;

/// What becomes of a conversation whose transcript is gone.
const LOST: &str = "the transcript of the conversation is gone from the agent's home: the agent \
                    begins anew, and knows nothing of what history shows";

/// A sandbox with a CLI that was started for a session with nothing of its own.
pub(in crate::session) struct Claimed {
    pub(in crate::session) running: Running,
    /// What the CLI was started with.
    pub(in crate::session) controls: Controls,
    /// What the bridge has said till now, not acknowledged.
    pub(in crate::session) heard: Vec<Incoming>,
}

/// How a session's driver begins.
pub(in crate::session) enum Begin {
    /// Without a sandbox.
    Cold,
    /// With a fresh sandbox, which is counted.
    Launched(Running, Counted),
    /// With a sandbox that was made before anybody asked, and in it a CLI that is ready.
    Claimed(Claimed, Counted),
    /// With a sandbox that an earlier daemon left.
    Adopted(Running, Replay),
}

impl Driver {
    pub(super) async fn begin_life(&mut self, begin: Begin) {
        match begin {
            Begin::Cold => self.read_again().await,
            Begin::Launched(running, counted) => {
                self.tell_made();
                self.looked_back = true;
                self.counted = Some(counted);
                self.attach(running);
                self.start_cli(Conversation::New, &TurnOptions::default());
            }
            Begin::Claimed(Claimed { running, controls, mut heard }, counted) => {
                self.tell_made();
                self.looked_back = true;
                self.counted = Some(counted);
                self.attach(running);
                let key = StartKey::default();
                self.cli = Some(RunningCli { key, controls: Some(controls), cost: 0.0 });
                self.heard(&mut heard).await;
            }
            Begin::Adopted(running, replay) => {
                self.execs.begun_before(running.welcome.commands_ms);
                self.adopt(running, replay).await;
            }
        }
        // What a daemon before this one has left unsaved is in no cut of ours.
        self.changes.all += u64::from(self.session.changed > Changed::No);
    }

    /// The row that this driver was started with may be from before another one ended the session.
    async fn read_again(&mut self) {
        match self.row().await {
            Some(session) if session.status != Status::Ended => {
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

    /// The session's row. While it cannot be read, waits and tries again: whoever finds no driver
    /// any more takes the session for one that has ended.
    async fn row(&mut self) -> Option<Session> {
        let (shared, id) = (&self.shared, self.session.id);
        let read = || shared.store.session(id);
        read_stubbornly((id, "a session"), read, || shared.is_shutting_down()).await.ok().flatten()
    }

    fn attach(&mut self, running: Running) {
        let turn = self.session.turn.map_or(Turn::None, |turn| Turn::Ours(turn.id));
        self.state = State::live(self.session.status, turn, self.shared.options.queue_limit);
        self.idle.tasks_run(running.welcome.tasks);
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
        self.idle.is_starting = running.welcome.cli == CliState::Starting;
        self.attach(running);
        self.replay = replay;
        if self.session.cold {
            // It was to be ended, and was not: from now on it can be lost.
            let change = SessionChange { cold: Some(false), ..SessionChange::none() };
            if let Err(error) = self.commit(change, vec![]).await {
                tracing::warn!(ash_session = %self.session.id, %error, "it counts as cold");
            }
        }
        if let Some(turn) = self.session.turn
            && let Ok(Some(user)) = self.stored(turn.user_seq).await
        {
            self.show_beginning(&user, |_| {});
        }
        self.caught_up().await;
    }

    pub(super) async fn launched(&mut self, result: Result<Life, Refusal>) {
        (self.launching, self.slow_at) = (None, None);
        let recorded = match result {
            Ok(life) => self.record_life(life).await,
            Err(refusal) => Err(refusal),
        };
        match recorded {
            Ok(conversation) => self.begin_work(conversation).await,
            Err(refusal) => self.launch_failed(refusal).await,
        }
        self.grant_wishes().await;
    }

    /// Records the new sandbox, and in the same breath that the session is active, if that was
    /// wanted. The store must know the sandbox before anything of it is kept.
    async fn record_life(&mut self, life: Life) -> Result<Conversation, Refusal> {
        let Life { running, found, built, conversation, counted } = life;
        // First, for what follows has the numbers behind it.
        let missed = self.record_missed_end().await;
        let mut change = SessionChange {
            sandbox: Some(running.id),
            restore: self.session.restore.map(|_| None),
            cold: self.session.cold.then_some(false),
            ..SessionChange::none()
        };
        let mut events = vec![];
        if self.state.resuming {
            change.status = Some(Status::Active);
        }
        // That a message has it go on is in no history, but what the agent has lost by then is.
        if self.state.resuming || conversation == Conversation::Lost {
            events.push(self.event(EventKind::Lifecycle, None, resumed_cold(found, conversation)));
        }
        if self.execs.are_waiting() {
            // Said here, so that they need not wait for a commit of their own.
            change.changed = Some(self.session.changed.max(Changed::Maybe));
        }
        fault::point("resume.launched");
        let recorded = match missed {
            Ok(()) => self.commit(change, events).await,
            Err(error) => Err(error),
        };
        if let Some(since) = built {
            // Not before: whoever commits waits for a disk that is busy with this.
            let (session, build) = (self.session.id, running.id);
            self.shared.sync_later(Built { session, build, since });
        }
        if let Err(error) = recorded {
            self.shared.end_sandbox(running).await;
            return Err(error.into());
        }
        fault::point("resume.recorded");
        let source = source_of(found, conversation);
        self.times.resume_ended(Some(resumed(source)));
        self.times.launch_ended(source);
        self.idle.tasks_run(running.welcome.tasks);
        self.link = Some(running);
        self.counted = Some(counted);
        self.is_synced = false;
        self.cli = None;
        self.own_turn = false;
        self.replay = Replay::default();
        (self.last_number, self.owed) = (0, 0);
        self.launch_error = None;
        Ok(conversation)
    }

    /// Lets the agent begin: nothing of it has run till now.
    async fn begin_work(&mut self, conversation: Conversation) {
        if self.state.resuming {
            self.tell_status(Status::Active);
        }
        for reply in std::mem::take(&mut self.resuming) {
            let _ = reply.send(Ok(self.view()));
        }
        self.note_lost(conversation);
        self.end_capture().await;
        let options = self.waiting_options();
        self.start_cli(conversation, &options);
        // What fails of a turn that begins now is told to whoever sent the message.
        let _ = self.step(Event::Launched).await;
        self.release_waiting();
        self.run_waiting_execs().await;
    }

    /// Tells in history of a conversation that begins anew in a sandbox that lives.
    pub(super) async fn record_lost(&mut self, conversation: Conversation) -> Result<(), Refusal> {
        if conversation == Conversation::Lost {
            let body =
                json!({ "action": "resumed", "path": "warm", "source": "fresh" }).to_string();
            let event = self.event(EventKind::Lifecycle, None, body.into());
            self.commit(SessionChange::none(), vec![event]).await?;
        }
        self.note_lost(conversation);
        Ok(())
    }

    /// Tells in the session's log of a conversation that begins anew.
    fn note_lost(&self, conversation: Conversation) {
        if conversation == Conversation::Lost {
            self.logs.system(LOST);
        }
    }

    /// Says in the session's log what stands in the way. What the store says, which may name files
    /// of this machine, is for the daemon's.
    pub(super) fn log_refusal(&self, refusal: &Refusal) {
        if let Refusal::Store(error) = refusal {
            tracing::error!(ash_session = %self.session.id, %error, "the store failed");
        }
        self.logs.system(&refusal.public_text());
    }

    pub(super) async fn launch_failed(&mut self, refusal: Refusal) {
        self.log_refusal(&refusal);
        self.launch_error = Some(refusal.clone());
        let _ = self.step(Event::LaunchFailed).await;
        self.refuse_launch(&refusal);
    }

    /// Whoever waited for the launch, to run a command or for the session to be active again, waited in
    /// vain.
    fn refuse_launch(&mut self, why: &Refusal) {
        self.times.resume_ended(None);
        self.execs.refuse_waiting(why);
        for reply in std::mem::take(&mut self.resuming) {
            let _ = reply.send(Err(why.clone()));
        }
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
            ash_agent = %self.session.agent, ash_tenant = %self.session.tenant,
            ash_turn = self.session.turn.map(|turn| turn.id.to_string()), why, "sandbox lost"
        );
        self.shared.metrics().lost.inc();
        self.logs.system(&format!("the sandbox was lost: {why}"));
        let text = self.why_lost("it worked by itself");
        if let Err(refusal) = self.fail_own_turn(&text, None).await {
            self.log_refusal(&refusal);
        }
        let _ = self.step(Event::SandboxLost).await;
        // Also one that the session had given up already.
        if self.link.is_some() {
            self.end_sandbox().await;
        }
    }

    /// Ends a sandbox that is neither ended nor left by anybody else, when something that it said
    /// could not be kept: history would lack it.
    pub(super) async fn end_unheard(&mut self) {
        let goes = self.over || self.is_leaving() || self.shared.is_shutting_down();
        if self.is_deaf && !goes {
            self.lost("what it said could not be stored").await;
        }
    }

    /// Why the sandbox is gone, for a person, when something ran in it. Asked before it is ended.
    pub(super) fn why_lost(&self, what_ran: &str) -> String {
        let sandboxes = &self.shared.sandboxes;
        match self.link.as_ref().and_then(|link| sandboxes.out_of_memory(link.id)) {
            Some(OutOfMemory::Sandbox) => "The sandbox ran out of memory and was ended".to_owned(),
            Some(OutOfMemory::Server) => {
                "The server ran out of memory, and the sandbox was ended".to_owned()
            }
            None => format!("The sandbox was lost while {what_ran}"),
        }
    }

    /// Ends the sandbox, or the attempt to make one, and waits until nothing of it is left.
    pub(super) async fn end_sandbox(&mut self) {
        (self.entering, self.slow_at) = (None, None);
        let launched = match self.launching.take() {
            Some(task) => task.await.ok().and_then(Result::ok),
            None => None,
        };
        let launched = launched.map(|Life { running, built, counted, .. }| {
            if let Some(since) = built {
                let (session, build) = (self.session.id, running.id);
                self.shared.sync_later(Built { session, build, since });
            }
            self.counted = Some(counted);
            running
        });
        let why_lost = self.why_lost("the command ran");
        if let Some(link) = &self.link {
            self.shared.count_oom_kills(link.id);
        }
        let still = self.idle.leave();
        if let Some(running) = self.link.take().or(launched) {
            let sandbox = running.id;
            let ended = match &still {
                _ if self.is_purged => self.shared.discard_sandbox(running).await,
                Some(_) => self.shared.end_sandbox_at_once(running).await,
                None => self.shared.end_sandbox(running).await,
            };
            if ended {
                self.shared.rest_later(self.session.id, sandbox);
            }
        }
        self.counted = None;
        self.cli = None;
        self.own_turn = false;
        self.is_deaf = false;
        self.changes.all += 1;
        self.execs.lost(&Refusal::Sandbox(why_lost));
        self.refuse_launch(&Refusal::NotActive(self.state.status));
    }

    pub(super) async fn resume(&mut self, reply: Reply<Arc<SessionView>>) {
        if !matches!(self.state.status, Status::Active | Status::Ended) {
            self.times.resume_began();
        }
        let result = match self.state.step(Event::Resume) {
            Ok(effects) => self.carry_out(effects).await,
            Err(denied) => Err(refusal(denied, "use")),
        };
        match result {
            Err(refusal) => {
                self.times.resume_ended(None);
                let _ = reply.send(Err(refusal));
            }
            Ok(()) if self.state.sandbox == Sandbox::Launching => self.resuming.push(reply),
            Ok(()) => {
                self.times.resume_ended(Some(Resumed::Warm));
                self.note_end();
                let _ = reply.send(Ok(self.view()));
            }
        }
        if self.untold.is_some() {
            // Whoever asked goes first: it is woken on this processor, where the log and all who watch
            // would be served before.
            tokio::task::yield_now().await;
            self.tell_recorded();
        }
    }

    /// Sets the session aside. As long as that is not recorded, what waits goes on waiting.
    pub(super) async fn pause(&mut self) -> Result<Arc<SessionView>, Refusal> {
        let before = self.state.clone();
        let denied = |denied| refusal(denied, "pause");
        for effect in self.state.step(Event::Pause).map_err(denied)? {
            // The status is the first, and the only one that can fail.
            if let Err(refusal) = self.perform(vec![effect]).await {
                self.state = before;
                return Err(refusal);
            }
        }
        Ok(self.view())
    }

    pub(super) async fn stop(&mut self) -> Result<Arc<SessionView>, Refusal> {
        let denied = |denied| refusal(denied, "stop");
        let effects = self.state.step(Event::Stop).map_err(denied)?;
        self.perform(effects).await.map(|()| self.view())
    }

    /// The daemon goes away, with or without the sandbox.
    pub(super) async fn shutdown(&mut self, end: bool) {
        if end {
            let _ = self.step(Event::Shutdown).await;
        }
        // What was about to end is left to the next daemon as well, which may be long in coming.
        self.stay_warm();
        self.thaw();
        // What was changed from outside is known to nobody else.
        let unsettled = self.settles_at.take().is_some();
        if unsettled {
            self.save();
        }
        if end || unsettled {
            self.finish_saving().await;
        }
        self.execs.lost(&Refusal::ShuttingDown);
        self.over = true;
    }

    /// Commits a status with the lifecycle event that goes with it; others are still to be
    /// [told](Self::tell_recorded).
    pub(super) async fn commit_status(&mut self, status: Status) -> Result<(), Refusal> {
        let recorded = self.record_status(status).await;
        if recorded.is_err() {
            // What is not on disk is not so.
            self.state.status = self.session.status;
        }
        recorded?;
        self.untold = Some(status);
        Ok(())
    }

    async fn record_status(&mut self, status: Status) -> Result<(), StoreError> {
        self.record_missed_end().await?;
        let event = self.event(EventKind::Lifecycle, None, Driver::lifecycle(status));
        let reason = self.launch_error.as_ref().filter(|_| status == Status::Error);
        let last_error = reason.map(|refusal| Some(refusal.public_text()));
        let change = SessionChange { last_error, ..SessionChange::status(status) };
        self.commit(change, vec![event]).await
    }

    /// The body of the lifecycle event that goes with a status.
    fn lifecycle(status: Status) -> Bytes {
        let body = match status {
            Status::Active => json!({ "action": "resumed", "path": "warm" }),
            Status::Paused => json!({ "action": "paused" }),
            Status::Stopped => json!({ "action": "stopped" }),
            Status::Ended => json!({ "action": "ended" }),
            Status::Starting | Status::Error => json!({ "action": status.as_str() }),
        };
        body.to_string().into()
    }
}

/// The body of the lifecycle event of a session that is active again in a new sandbox.
fn resumed_cold(found: Found, conversation: Conversation) -> Bytes {
    let source = match (conversation, found) {
        (Conversation::Lost, _) => "fresh",
        (_, Found::Objects) => "cloud",
        _ => "local",
    };
    let from = match found {
        Found::Place => "disk",
        Found::Store => "store",
        Found::Objects => "objects",
    };
    json!({ "action": "resumed", "path": "cold", "source": source, "from": from })
        .to_string()
        .into()
}
