//! The end of a session, for good: history and a last point of its files stay, or nothing does.

use std::sync::Arc;

use super::{Driver, Reply, refusal};
use crate::domain::{SessionChange, Status};
use crate::fault;
use crate::session::api::Refusal;
use crate::session::machine::{Effect, Event};
use crate::session::registry::SessionView;

impl Driver {
    pub(super) async fn end(&mut self, purge: bool, reply: Reply<Arc<SessionView>>) {
        let result = match purge {
            true => self.purge().await,
            false => self.end_kept().await,
        };
        let _ = reply.send(result);
    }

    async fn end_kept(&mut self) -> Result<Arc<SessionView>, Refusal> {
        let result = self.step(Event::End).await;
        self.abandon_saving().await;
        result?;
        self.leave().await?;
        self.over = true;
        Ok(self.view())
    }

    /// Puts the files of an ended session away and gives its uids back. What is kept of them is a
    /// last point.
    async fn leave(&mut self) -> Result<(), Refusal> {
        self.shared.see_off(&self.session).await?;
        if self.session.slot.is_some() && self.has_own_files().await? {
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

    /// Ends the session and leaves nothing of it. When that cannot be recorded it has lost its sandbox, and
    /// what it did then, and nothing else.
    async fn purge(&mut self) -> Result<Arc<SessionView>, Refusal> {
        let mut effects = self.state.step(Event::End).map_err(|denied| refusal(denied, "end"))?;
        // What is not there any more has no status.
        effects.retain(|effect| !matches!(effect, Effect::Status(_)));
        self.is_purged = true;
        // What cannot be recorded of it on the way is recorded later, or never has to be.
        let _ = self.perform(effects).await;
        self.is_purged = false;
        self.abandon_saving().await;
        let cleared = match self.shared.purge(&self.session).await {
            Ok(cleared) => cleared,
            Err(refusal) => {
                self.state.status = self.session.status;
                self.save();
                return Err(refusal);
            }
        };
        self.over = true;
        if self.session.status != Status::Ended {
            SessionChange::status(Status::Ended).apply(&mut self.session);
            self.tell_status(Status::Ended);
        }
        self.shared.tell_purged(&self.session);
        cleared.map(|()| self.view())
    }
}
