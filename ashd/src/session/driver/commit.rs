//! What is put on the disk of a session, and then into memory.

use std::time::Duration;

use bytes::Bytes;

use super::Driver;
use crate::domain::{EventKind, NewEvent, Session, SessionChange, Timestamp, TurnId};
use crate::session::api::{Happened, Refusal};
use crate::session::registry::SessionView;
use crate::store::{Commit, StoreError};
use crate::telemetry::message;

/// How long to wait before what the store failed to do is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(1);

impl Driver {
    /// The next event of the session.
    pub(super) fn event(&self, kind: EventKind, turn: Option<TurnId>, body: Bytes) -> NewEvent {
        NewEvent {
            seq: self.session.last_seq + 1,
            kind,
            turn,
            origin: None,
            replaces: false,
            body,
            at: Timestamp::now(),
        }
    }

    /// Puts a change and events on disk, then into memory.
    pub(super) async fn commit(
        &mut self,
        change: SessionChange,
        events: Vec<NewEvent>,
    ) -> Result<(), StoreError> {
        self.commit_as(Commit::of(self.session.id, change, events)).await
    }

    pub(super) async fn commit_as(&mut self, commit: Commit) -> Result<(), StoreError> {
        let last = commit.events.last().map_or(self.session.last_seq, |event| event.seq);
        let (session, change) = (self.session.id, commit.change.clone());
        let turns = change.turn.is_some();
        // What is shown behind it is written while the disk is at work.
        let before = &self.session;
        let showing = async {
            (change != SessionChange::none()).then(|| {
                let mut session = Session { last_seq: last, ..before.clone() };
                change.apply(&mut session);
                SessionView::with(session)
            })
        };
        let committing = self.shared.store.commit(commit);
        let (committed, view) = tokio::join!(biased; committing, showing);
        committed?;
        self.session.last_seq = last;
        change.apply(&mut self.session);
        if let Some(view) = view {
            self.shared.registry.publish(view);
        }
        if turns {
            self.logs.in_turn(self.session.turn.map(|turn| turn.id));
            self.shared.tell(Happened::SessionTurned(self.session.tenant.clone(), session));
        }
        Ok(())
    }

    /// Commits; while the disk is full or fails, waits and tries again. The bridge keeps what comes
    /// in the meantime and holds the CLI back if it becomes too much.
    pub(super) async fn commit_stubbornly(
        &mut self,
        change: SessionChange,
        events: Vec<NewEvent>,
    ) -> Result<(), Refusal> {
        let mut fails = false;
        loop {
            match self.commit(change.clone(), events.clone()).await {
                Err(error @ (StoreError::Full | StoreError::Database(_)))
                    if !self.shared.is_shutting_down() && !self.is_leaving() =>
                {
                    if !std::mem::replace(&mut fails, true) {
                        tracing::error!(
                            message_id = message::NOT_STORED, ash_session = %self.session.id,
                            ash_agent = %self.session.agent, ash_tenant = %self.session.tenant, %error,
                            "what happens in the session cannot be stored; it waits until it can"
                        );
                    }
                    tokio::time::sleep(RETRY).await;
                }
                result => {
                    if fails && result.is_ok() {
                        tracing::info!(ash_session = %self.session.id, "what happened is stored");
                    }
                    return Ok(result?);
                }
            }
        }
    }
}
