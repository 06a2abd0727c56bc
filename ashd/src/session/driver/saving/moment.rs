//! What an agent has said at the moment of a cut.
//!
//! In mid-turn it stands still then, and what it has said is in its transcript, and may be on its way
//! here: in its socket, in the bridge, in ours. It belongs to the same moment, and is committed before
//! that is noted. Silence does not tell that this was all, so the bridge is asked: it answers behind all
//! that the agent has handed out (see `bridge/src/bridge/drain.rs` for what that is). Meanwhile it is
//! heard and acknowledged as ever, so that one that waits for room in its log gets it.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Moment, Saving};
use crate::sandbox::link::Incoming;
use crate::session::driver::{BATCH, Driver};
use crate::session::keeping::Noting;
use crate::session::machine::Turn;

/// How long a bridge may take to answer. Shorter than a cut waits for its moment to be noted, so that
/// what was heard can be noted when nothing more is to be hoped for.
const ANSWER: Duration = Duration::from_millis(60);

/// How long a line takes at most from an agent that stands still, by way of a bridge that cannot be
/// asked, until it is here.
const ON_ITS_WAY: Duration = Duration::from_millis(2);

/// How long such a bridge is listened to.
const ALL_OF_IT: Duration = Duration::from_millis(30);

/// For how long a moment is put off at which a bridge does not say that all was heard. One that has much
/// to send has sent it by then; one that is hostile holds up nothing but its own points.
const HEARD_BY: Duration = Duration::from_secs(5);

impl Saving {
    /// Whether its moment has come, and is to be noted.
    fn has_moment(&self) -> bool {
        self.noting.is_some() && !self.is_cancelled()
    }

    /// Puts its moment off for another one, at which all may be heard. False when it has been noted, or
    /// that was tried for so long that it has to be noted as it is.
    fn put_off(&mut self) -> bool {
        if self.noting.is_none() {
            return false;
        }
        let since = *self.unheard.get_or_insert_with(Instant::now);
        let noting = self.noting.take_if(|_| since.elapsed() < HEARD_BY);
        self.is_put_off = noting.is_some();
        noting.into_iter().for_each(Noting::refuse);
        self.is_put_off
    }
}

impl Driver {
    /// Notes the moment of a cut, if that has come, when what belongs to it was heard, or puts it off.
    /// What is heard may end a turn and begin the next: then it has been noted in between.
    pub(in crate::session::driver) async fn hear_moment(&mut self, batch: &mut Vec<Incoming>) {
        let has_come = self.saving.as_ref().is_some_and(Saving::has_moment);
        if has_come
            && !self.hear_all(batch).await
            && self.saving.as_mut().is_some_and(Saving::put_off)
        {
            return;
        }
        self.note_moment();
    }

    /// Notes what the session is at the moment of a cut, if that has come. What was to be in another one
    /// is in this.
    pub(super) fn note_moment(&mut self) {
        let Some(saving) = &mut self.saving else { return };
        let Some(noting) = saving.noting.take() else { return };
        let before = saving.moment.as_ref().is_some_and(|moment| moment.again);
        let again = before || !saving.is_cancelled() && std::mem::take(&mut saving.again);
        let (session, changes) = (self.session.clone(), self.changes);
        saving.moment = Some(Moment { session, changes, again });
        drop(noting);
    }

    /// Before the moment of a cut is noted: hears what the agent has said until then. False when the
    /// bridge does not say in time that this was all. When the agent does not stand still, because
    /// nothing had to be stopped, more may follow, which is as good as behind the moment.
    async fn hear_all(&mut self, batch: &mut Vec<Incoming>) -> bool {
        if self.state.turn == Turn::None {
            return true;
        }
        let turn = self.session.turn.map(|turn| turn.id);
        let is_all = match self.link.as_ref().map(|link| link.sender.drain()) {
            Some(Ok(Some(id))) => self.listen((ANSWER, ANSWER), Some(id), batch).await,
            Some(Err(_)) => false,
            Some(Ok(None)) | None => {
                self.listen((ON_ITS_WAY, ALL_OF_IT), None, batch).await;
                true
            }
        };
        // The next one has begun, of which the files know nothing.
        if self.session.turn.is_some_and(|now| Some(now.id) != turn) {
            self.put_off_capture();
        }
        is_all
    }

    /// Hears the bridge until it has answered, has been silent for so long, or has been heard for so
    /// long in all. Returns whether it has answered, or is gone, which leaves nothing to be heard.
    async fn listen(
        &mut self,
        (silence, all): (Duration, Duration),
        asked: Option<u64>,
        batch: &mut Vec<Incoming>,
    ) -> bool {
        let is_answer =
            |said: &Incoming| matches!(said, Incoming::Drained { id } if Some(*id) == asked);
        let end = Instant::now() + all;
        while let Some(link) = &mut self.link {
            let until = end.min(Instant::now() + silence);
            let said = timeout_at(until, link.receiver.recv_batch(batch, BATCH)).await;
            let Ok(said) = said else { return false };
            let answered = batch.iter().any(is_answer);
            self.said(said, batch).await;
            // Somebody who never stops is always in time.
            if answered || Instant::now() >= end {
                return answered;
            }
        }
        true
    }
}
