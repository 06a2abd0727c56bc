//! Where a session goes back to.

use super::api::Refusal;
use super::going_on;
use super::shared::Shared;
use crate::domain::{EventKind, Point, PointId, Session, SessionId, Which};
use crate::store::EventRange;

/// Events that are looked through at a time: what is looked for is among the first.
const FEW: u32 = 8;

/// Events of what happened to a session that are looked through at a time: they are short.
const MANY: u32 = 100;

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
            let between = self.between(id, 0, message).await?;
            if session.began_unaltered(message) && between.is_nothing_since(None) {
                return Ok(Target::Start(before));
            }
            let nearest = "none: it is older than the first checkpoint".to_owned();
            return Err(Refusal::NotAtCheckpoint { nearest });
        };
        let between = self.between(id, point.seq, message).await?;
        if point.turn.is_none() && between.is_nothing_since(Some(point.id)) {
            return Ok(Target::Point(Box::new(point)));
        }
        // Of two at the same place in history it was at the older one.
        if let Between::At(Some(other)) = between
            && let Some(other) = self.store.point(id, Which::Id(other)).await?
            && other.turn.is_none()
        {
            return Ok(Target::Point(Box::new(other)));
        }
        Err(Refusal::NotAtCheckpoint { nearest: point.id.to_string() })
    }

    async fn is_message(&self, id: SessionId, number: u64) -> Result<bool, Refusal> {
        let (after, kinds) = (number.saturating_sub(1), vec![EventKind::User]);
        let range = EventRange { after, limit: 1, kinds, undone: false };
        let found = self.store.events(id, range).await?;
        Ok(found.first().is_some_and(|event| event.seq == number))
    }

    /// What is behind a number of history and in front of a message.
    async fn between(&self, id: SessionId, after: u64, message: u64) -> Result<Between, Refusal> {
        // What was before that does not count.
        let (mut after, between) = match self.last_at(id, after, message).await? {
            Some((seq, point)) => (seq, Between::At(point)),
            None => (after, Between::Nothing),
        };
        loop {
            let range = EventRange { after, limit: FEW, kinds: vec![], undone: false };
            let events = self.store.events(id, range).await?;
            let Some(last) = events.last().map(|event| event.seq) else {
                return Ok(Between::Missed);
            };
            for event in &events {
                if event.seq == message {
                    return Ok(between);
                }
                if going_on::is_missed(event) {
                    return Ok(Between::Missed);
                }
            }
            after = last;
        }
    }

    /// The last event behind a number and in front of a message that says at which point the session was,
    /// and which.
    pub(super) async fn last_at(
        &self,
        id: SessionId,
        mut after: u64,
        message: u64,
    ) -> Result<Option<(u64, Option<PointId>)>, Refusal> {
        let mut found = None;
        loop {
            let kinds = vec![EventKind::Lifecycle];
            let range = EventRange { after, limit: MANY, kinds, undone: false };
            let events = self.store.events(id, range).await?;
            let before = events.iter().filter(|event| event.seq < message);
            found = before
                .filter_map(|event| Some((event.seq, going_on::was_at(event)?)))
                .last()
                .or(found);
            match events.last() {
                Some(last) if last.seq < message => after = last.seq,
                _ => return Ok(found),
            }
        }
    }
}

/// What is between a place in history and a message.
#[derive(Clone, Copy)]
enum Between {
    /// Something that a point of there would miss.
    Missed,
    /// Nothing that counts.
    Nothing,
    /// The session was at this point, or as it was made, and nothing that counts came then.
    At(Option<PointId>),
}

impl Between {
    /// Whether the session was still as it was at this point, or as it was made.
    fn is_nothing_since(self, point: Option<PointId>) -> bool {
        match self {
            Between::Missed => false,
            Between::Nothing => true,
            Between::At(other) => other == point,
        }
    }
}
