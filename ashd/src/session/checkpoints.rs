//! Points that callers make, see, go back to and remove.

use std::sync::Arc;

use super::api::{Caller, Refusal};
use super::driver::Command;
use super::registry::SessionView;
use super::service::{Result, Service, detached};
use crate::domain::{Event, EventKind, Point, PointName, SessionId, Status, Which};
use crate::store::EventRange;

/// What a conversation is made of.
const SPOKEN: [EventKind; 5] = [
    EventKind::User,
    EventKind::Assistant,
    EventKind::ToolResult,
    EventKind::Result,
    EventKind::Error,
];

impl Service {
    /// Makes a point of a session as it is, also in mid-turn.
    pub async fn save(
        &self,
        caller: &Caller,
        id: SessionId,
        name: Option<PointName>,
    ) -> Result<Point> {
        self.shared.disk_has_room()?;
        let (service, caller) = (self.clone(), caller.clone());
        detached(async move {
            if let Some(name) = &name {
                let there = service.shared.store.point(id, Which::Named(name.clone())).await?;
                service.stored(&caller, id).await?;
                if there.is_some() {
                    return Err(Refusal::NameTaken);
                }
            }
            service.ask(&caller, id, |reply| Command::Save { name, reply }).await
        })
        .await
    }

    /// Every point of a session, newest first.
    pub async fn points(&self, caller: &Caller, id: SessionId) -> Result<Vec<Point>> {
        self.session(caller, id).await?;
        Ok(self.shared.store.points(id).await?)
    }

    /// One point of a session.
    pub async fn point(&self, caller: &Caller, id: SessionId, which: Which) -> Result<Point> {
        self.session(caller, id).await?;
        self.shared.store.point(id, which).await?.ok_or(Refusal::NoCheckpoint)
    }

    /// Removes a point. The newest one of an ended session stays: it is all that is left.
    pub async fn remove_point(&self, caller: &Caller, id: SessionId, which: Which) -> Result<()> {
        let session = self.stored(caller, id).await?;
        let point = self.point(caller, id, which).await?;
        if session.status == Status::Ended || session.restore == Some(point.id) {
            let newest = self.shared.store.point(id, Which::Newest).await?;
            if newest.is_some_and(|newest| newest.id == point.id) {
                return Err(Refusal::LastCheckpoint);
            }
        }
        self.shared.store.remove_point(id, point.id).await?;
        Ok(())
    }

    /// Brings a session back to a point. Goes on when the caller is gone.
    pub async fn go_back(
        &self,
        caller: &Caller,
        id: SessionId,
        to: Which,
    ) -> Result<Arc<SessionView>> {
        self.shared.disk_has_room()?;
        let (service, caller) = (self.clone(), caller.clone());
        let go_back =
            async move { service.ask(&caller, id, |reply| Command::GoBack { to, reply }).await };
        detached(go_back).await
    }

    /// Brings a session back to how it was right before the message with this number.
    pub async fn rewind(
        &self,
        caller: &Caller,
        id: SessionId,
        before: u64,
    ) -> Result<Arc<SessionView>> {
        let range = |after, limit, kinds| EventRange { after, limit, kinds, undone: false };
        let asked = range(before.saturating_sub(1), 1, vec![EventKind::User]);
        let message = self.history(caller, id, asked).await?.pop();
        if message.is_none_or(|message| message.seq != before) {
            return Err(Refusal::Invalid(
                "before: there is no message with this number".to_owned(),
            ));
        }
        let point = self.shared.store.point(id, Which::Upto(before.saturating_sub(1))).await?;
        let Some(point) = point else {
            let nearest = "none: it is older than the first checkpoint".to_owned();
            return Err(Refusal::NotAtCheckpoint { nearest });
        };
        // What is no part of the conversation may lie between.
        let next = self.history(caller, id, range(point.seq, 1, SPOKEN.to_vec())).await?.pop();
        if next.is_none_or(|next: Event| next.seq != before) || point.turn.is_some() {
            return Err(Refusal::NotAtCheckpoint { nearest: point.id.to_string() });
        }
        self.go_back(caller, id, Which::Id(point.id)).await
    }
}
