//! Going back: to a point, or to before a message.

use std::sync::Arc;

use super::Driver;
use crate::domain::{Event as Durable, Point, SessionChange, Timestamp};
use crate::fault;
use crate::session::api::Refusal;
use crate::session::going_on;
use crate::session::machine::Effect;
use crate::session::registry::SessionView;
use crate::session::rewind::{Goal, Target};
use crate::store::Commit;

/// What becomes of a turn that was running at the point.
const RETURNED: &str = "Interrupted: the session was brought back to a checkpoint in mid-turn";

impl Driver {
    /// Brings conversation, workspace and home back to a point. What is there now is saved first,
    /// so that this can be undone as well. What happened since keeps its numbers and is undone.
    ///
    /// The files are built beside their place, so that a point that cannot be brought back changes
    /// nothing. The commit decides: a daemon that is killed behind it builds them once more.
    pub(super) async fn go_back(&mut self, to: Goal) -> Result<Arc<SessionView>, Refusal> {
        self.record_missed_end().await?;
        // First: whoever is refused waits for no cut, behind which a message may be given a place for its
        // turn, and pins nothing, which would hold up whoever collects.
        self.may_go_cold("restore")?;
        // What is being saved may be what is wanted.
        self.finish_saving().await;
        // From before the point is looked up until the session is at it again: others can remove it.
        let mut pin = self.shared.pinned(&self.session.tenant, self.session.id).await?;
        let target = self.shared.target(&self.session, to).await?;
        if let Target::Point(point) = &target {
            pin.only(point.root);
        }
        let effects = self.begin_cold("restore").await?;
        // What is saved meanwhile must not push out the point itself.
        self.keeps_all = true;
        let returned = self.return_to(target, effects).await;
        self.keeps_all = false;
        returned
    }

    async fn return_to(
        &mut self,
        target: Target,
        effects: Vec<Effect>,
    ) -> Result<Arc<SessionView>, Refusal> {
        self.perform(effects).await?;
        // What is lost cannot be saved, and is why one goes back.
        if self.has_own_files().await? {
            self.save_now().await?;
        }
        let point = match self.build(target).await {
            Ok(point) => point,
            Err(refusal) => {
                self.shared.discard(self.session.id).await;
                return Err(refusal);
            }
        };
        fault::point("back.built");
        if let Err(error) = self.record_return(&point).await {
            self.shared.discard(self.session.id).await;
            return Err(error);
        }
        fault::point("back.recorded");
        self.arrive().await
    }

    /// Puts what was built in its place. The session has gone back, also when it cannot be noted
    /// that this is done: then the files are built once more before they are used.
    pub(super) async fn arrive(&mut self) -> Result<Arc<SessionView>, Refusal> {
        self.shared.put_in_place(self.session.id).await?;
        fault::point("back.placed");
        let change = SessionChange { restore: Some(None), ..SessionChange::none() };
        if let Err(error) = self.commit(change, vec![]).await {
            tracing::warn!(ash_session = %self.session.id, %error, "its files will be built again");
        }
        Ok(self.view())
    }

    /// Builds the files beside their place. Of what nobody has saved there is a point then.
    async fn build(&mut self, target: Target) -> Result<Point, Refusal> {
        let point = match target {
            Target::Point(point) => *point,
            Target::Start(seq) => self.shared.start_point(&self.session, seq).await?,
        };
        self.shared.build(&self.session, &point).await?;
        Ok(point)
    }

    /// Commits that the session is at the point again, and shows it.
    async fn record_return(&mut self, point: &Point) -> Result<(), Refusal> {
        let now = (self.session.last_seq, Timestamp::now());
        let events = going_on::events(point, now, RETURNED, &going_on::restored(point));
        let change = SessionChange {
            cli_session: Some(point.cli_session.clone()),
            restore: Some(Some(point.id)),
            last_active_at: Some(Timestamp::now()),
            last_error: Some(None),
            ..SessionChange::none()
        };
        let seq = self.session.last_seq + events.len() as u64;
        // The same content under the number that history has then: from there on it goes on.
        let again = point.again(self.session.id, seq);
        let commit = Commit {
            back_to: Some(point.id),
            point: Some((again, self.shared.live().keep_points)),
            ..Commit::of(self.session.id, change, events.clone())
        };
        self.commit_as(commit).await?;
        // Whatever had been changed by then, history says where the session is.
        self.told_of = self.changes;
        self.shared.copies.wake(self.session.id);
        self.show_events(&events);
        Ok(())
    }

    fn show_events(&mut self, events: &[Durable]) {
        for event in events {
            let frames = self.encoder.event(event, &mut self.numbering);
            self.journal.append(frames);
        }
    }
}
