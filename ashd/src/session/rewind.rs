//! Where a session goes back to.

use super::api::Refusal;
use super::going_on;
use super::shared::Shared;
use crate::domain::{Event, EventKind, Point, Session, SessionId, Which};
use crate::store::EventRange;

/// Events that are looked through at a time: what is looked for is among the first.
const FEW: u32 = 8;

/// Where a session is to go back to.
pub(super) enum Goal {
    /// To a point.
    Point(Which),
    /// To right before the message with this number.
    Before(u64),
}

/// What is there.
pub(super) enum Target {
    /// A point.
    Point(Box<Point>),
    /// Nothing that was saved: the session was as it was made. This is the newest event.
    Start(u64),
}

impl Shared {
    /// Finds out what is where a session is to go back to.
    ///
    /// # Errors
    /// [`Refusal::NoCheckpoint`]; [`Refusal::Invalid`] when there is no such message;
    /// [`Refusal::NotAtCheckpoint`] when nothing is known of how it was before it.
    pub(super) async fn target(&self, session: &Session, goal: Goal) -> Result<Target, Refusal> {
        let which = match goal {
            Goal::Point(which) => which,
            Goal::Before(message) => return self.target_before(session, message).await,
        };
        let point = self.store.point(session.id, which).await?.ok_or(Refusal::NoCheckpoint)?;
        Ok(Target::Point(Box::new(point)))
    }

    async fn target_before(&self, session: &Session, message: u64) -> Result<Target, Refusal> {
        let id = session.id;
        let before = message.saturating_sub(1);
        if !self.is_message(id, message).await? {
            let wrong = "before: there is no message with this number";
            return Err(Refusal::Invalid(wrong.to_owned()));
        }
        let Some(point) = self.store.point(id, Which::Upto(before)).await? else {
            if session.began_unaltered(message) && self.is_next(id, 0, message).await? {
                return Ok(Target::Start(before));
            }
            let nearest = "none: it is older than the first checkpoint".to_owned();
            return Err(Refusal::NotAtCheckpoint { nearest });
        };
        match point.turn.is_none() && self.is_next(id, point.seq, message).await? {
            true => Ok(Target::Point(Box::new(point))),
            false => Err(Refusal::NotAtCheckpoint { nearest: point.id.to_string() }),
        }
    }

    async fn is_message(&self, id: SessionId, number: u64) -> Result<bool, Refusal> {
        let (after, kinds) = (number.saturating_sub(1), vec![EventKind::User]);
        let range = EventRange { after, limit: 1, kinds, undone: false };
        let found = self.store.events(id, range).await?;
        Ok(found.first().is_some_and(|event| event.seq == number))
    }

    /// Whether a message is the first behind a number of history that a point of there would miss.
    async fn is_next(&self, id: SessionId, mut after: u64, message: u64) -> Result<bool, Refusal> {
        let is_missed = |event: &&Event| event.seq == message || going_on::is_missed(event);
        loop {
            let range = EventRange { after, limit: FEW, kinds: vec![], undone: false };
            let events = self.store.events(id, range).await?;
            let Some(last) = events.last().map(|event| event.seq) else { return Ok(false) };
            if let Some(event) = events.iter().find(is_missed) {
                return Ok(event.seq == message);
            }
            after = last;
        }
    }
}
