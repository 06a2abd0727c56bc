//! What history does not tell of changes of files, when the daemon that knew of them is gone.
//!
//! What others than turns change is told in front of the next message, and until then only the
//! driver knows of it. What is in no point, the store knows of. All else shows by what is kept: it
//! is on record when such a change first came, and without one points behind a turn do not differ.

use super::api::Refusal;
use super::going_on;
use super::shared::Shared;
use crate::domain::{Point, PointId, Session, SessionId, Which};
use crate::store::EventRange;

impl Shared {
    /// The point that has what others than turns have changed of a session's files since its newest
    /// turn, when what is kept shows that they have, and history does not say so. For when no turn
    /// runs, and all is saved.
    pub(super) async fn untold(&self, session: &Session) -> Result<Option<PointId>, Refusal> {
        let (id, end) = (session.id, session.last_seq);
        let Some(now) = self.store.point(id, Which::Upto(end)).await? else { return Ok(None) };
        if now.turn.is_some() || self.is_spoken_behind(id, now.seq).await? {
            return Ok(None);
        }
        let points = self.store.points(id).await?;
        let Some(since) = self.changed_since(session, &points, &now).await? else {
            return Ok(None);
        };
        let said = self.last_at(id, since, end + 1).await?.and_then(|(_, point)| point);
        let is_said = points.iter().any(|point| Some(point.id) == said && point.root == now.root);
        Ok((!is_said).then_some(now.id))
    }

    /// A number of history behind which others than turns have changed the files, and nothing was
    /// said.
    async fn changed_since(
        &self,
        session: &Session,
        points: &[Point],
        now: &Point,
    ) -> Result<Option<u64>, Refusal> {
        let id = session.id;
        // 0 says that it is not known.
        if let Some(first) = session.altered.filter(|first| *first > 0)
            && !self.is_spoken_behind(id, first).await?
        {
            return Ok(Some(first));
        }
        // Newest first: behind all that come later something was said as well.
        for other in points.iter().filter(|other| other.turn.is_none() && other.root != now.root) {
            if self.is_spoken_behind(id, other.seq).await? {
                break;
            }
            let upto = self.store.point(id, Which::Upto(other.seq)).await?;
            let is_undone = upto.is_none_or(|upto| upto.seq != other.seq);
            if !is_undone {
                return Ok(Some(other.seq));
            }
        }
        Ok(None)
    }

    /// Whether something was said behind a number of history, and not undone.
    pub(super) async fn is_spoken_behind(
        &self,
        id: SessionId,
        number: u64,
    ) -> Result<bool, Refusal> {
        let kinds = going_on::SPOKEN.to_vec();
        let range = EventRange { after: number, limit: 1, kinds, undone: false };
        Ok(!self.store.events(id, range).await?.is_empty())
    }
}
