//! A sandbox for the session: asked for, waited for beside everything else, and then made.
//!
//! Whoever sends a message waits for the head of the answer as long as it may take no time at all: then what
//! becomes of the message is said by a status, as with what is refused right away. Who has to wait has a
//! stream instead, which says where the message stands, and keeps whatever is in between from hanging up.

use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::Driver;
use crate::domain::Session;
use crate::session::admission::Entry;
use crate::session::api::Refusal;
use crate::session::keeping::Life;
use crate::session::machine::Event;
use crate::session::owners::Owner;
use crate::session::shared::Shared;
use crate::session::unsynced::Built;

/// A launch that takes longer has to be waited for, usually for a session's files.
const LONG: Duration = Duration::from_secs(2);

/// What comes of asking whether a sandbox may be made. Dropping it asks no longer.
pub(super) type Entering = Pin<Box<dyn Future<Output = Result<Entry, Refusal>> + Send>>;

impl Driver {
    /// Has a sandbox made, for whoever waits for it.
    pub(super) fn launch(&mut self) {
        self.times.launch_began(self.state.resuming);
        self.writes.let_by();
        self.ask_for_sandbox();
    }

    fn ask_for_sandbox(&mut self) {
        let (shared, owner, line) = (self.shared.clone(), self.owner(), self.line.clone());
        self.entering = Some(Box::pin(async move { shared.enter(owner, Some(&line)).await }));
    }

    /// Gives those their streams who have to wait for the sandbox.
    pub(super) fn see_who_waits(&mut self) {
        if self.has_to_wait() || (self.launching.is_some() && self.slow_at.is_none()) {
            self.release_patient();
        }
    }

    /// The sandbox that is being made takes long.
    pub(super) fn take_long(&mut self) {
        self.slow_at = None;
        self.see_who_waits();
    }

    /// Whether it has to be waited for that a sandbox may be made. What is known right away is kept until it
    /// is its turn.
    fn has_to_wait(&mut self) -> bool {
        let Some(entering) = &mut self.entering else { return false };
        let Some(entered) = entering.as_mut().now_or_never() else { return true };
        self.entering = Some(Box::pin(ready(entered)));
        false
    }

    /// The sandbox that an earlier daemon has left counts before anybody can ask for another one.
    pub(super) fn keep_count(&mut self) {
        self.counted = Some(self.shared.gates.owners.count(&self.owner()));
    }

    fn owner(&self) -> Owner {
        (self.session.tenant.clone(), self.session.agent.clone())
    }

    /// Before something is done for the session that may take long: a place for its sandbox, of which there
    /// are few, and room would be held all the while and not used. Others have them. Returns whether it had
    /// asked.
    pub(super) fn stand_back(&mut self) -> bool {
        self.entering.take().is_some()
    }

    /// That is done: asks anew, if it had.
    pub(super) fn come_back(&mut self, had_asked: bool) {
        if had_asked {
            self.ask_for_sandbox();
            self.see_who_waits();
        }
    }

    /// Begins to make the sandbox, now that it may be made, if somebody still waits for it.
    pub(super) async fn entered(&mut self, entered: Result<Entry, Refusal>) {
        self.entering = None;
        self.withdraw_abandoned().await;
        match entered {
            Ok(entry) if self.is_sandbox_wanted() => match self.have_uids().await {
                Ok(()) => {
                    let (shared, session) = (self.shared.clone(), self.session.clone());
                    self.launching = Some(tokio::spawn(make_sandbox(shared, session, entry)));
                    self.slow_at = Some(Instant::now() + LONG);
                }
                Err(refusal) => self.launch_failed(refusal).await,
            },
            Ok(_) => self.forgo_sandbox().await,
            Err(refusal) => self.launch_failed(refusal).await,
        }
    }

    /// Whoever sent the next message, which waits for a sandbox or for a place, has hung up.
    pub(super) async fn hung_up(&mut self) {
        self.withdraw_abandoned().await;
        if self.entering.is_some() && !self.is_sandbox_wanted() {
            self.forgo_sandbox().await;
        }
    }

    /// Whether somebody waits for the sandbox.
    fn is_sandbox_wanted(&mut self) -> bool {
        self.execs.forget_abandoned();
        self.state.resuming || !self.state.queue.is_empty() || self.execs.are_waiting()
    }

    /// Nobody waits for the sandbox any more: none is made.
    async fn forgo_sandbox(&mut self) {
        self.entering = None;
        let _ = self.step(Event::LaunchFailed).await;
    }
}

/// Makes a sandbox for a session, which has been let in.
async fn make_sandbox(
    shared: Arc<Shared>,
    session: Session,
    entry: Entry,
) -> Result<Life, Refusal> {
    let (build, since) = (entry.sandbox, shared.disk.now());
    let made = shared.bring_to_life(&session, entry).await;
    if made.is_err() {
        shared.sync_abandoned(Built { session: session.id, build, since }).await;
    }
    made
}
