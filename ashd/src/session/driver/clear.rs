//! Files and uids of a session at rest: given back, and had again when somebody wants them.
//!
//! [`clearing`](crate::session::clearing) says whose time has come, and has seen that every chunk of the
//! newest point is there. Here it is looked whether that is what lies on the disk, at which nobody else works.
//! Then one commit says that the session is to be brought back to this point: whatever becomes of the daemon
//! from there on, its files are those of the point. They are removed, and last of all the uids are free.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::Driver;
use crate::domain::{Changed, Point, PointId, SessionChange, Status, Which};
use crate::fault;
use crate::session::api::Refusal;
use crate::session::clearing::Cleared;
use crate::session::keeping::unkept;
use crate::session::registry::SessionView;
use crate::snapshot::{Cut, SnapshotError};

/// How soon it is seen that somebody asks for something, while files are looked at for nobody.
const LOOK: Duration = Duration::from_millis(10);

impl Driver {
    /// Gives files and uids back, if nobody has wanted anything for so long, and this point has all of the
    /// files. Without one nothing is done.
    ///
    /// # Errors
    /// When store or disk fails. The session has its files, be it in a point, and its uids then.
    pub(super) async fn clear(
        &mut self,
        point: Option<PointId>,
        rest: Duration,
    ) -> Result<Cleared, Refusal> {
        let Some(slot) = self.session.slot.filter(|_| self.may_be_cleared(rest)) else {
            return Ok(Cleared::Later);
        };
        let Some(point) = point else { return Ok(Cleared::May) };
        // Its sandbox may not have ended when it was told to.
        self.shared.see_off(&self.session).await?;
        let bytes = match self.session.restore {
            // What is in place is not the session's any more, if there is anything.
            Some(before) if before == point => 0,
            Some(_) => return Ok(Cleared::Later),
            None => match self.rely_on(point).await? {
                Ok(bytes) => bytes,
                Err(why) => return Ok(why),
            },
        };
        fault::point("clear.relied");
        // Whoever comes from here on reads the point.
        if self.is_in_hand() {
            return Ok(Cleared::Later);
        }
        self.shared.remove_files(&self.session).await?;
        fault::point("clear.removed");
        let change = SessionChange { slot: Some(None), ..SessionChange::none() };
        self.commit(change, vec![]).await?;
        fault::point("clear.recorded");
        self.shared.slots.give_back(slot);
        self.shared.ladder.has_cleared(bytes);
        tracing::info!(
            ash_session = %self.session.id, %point, bytes, "files of a session at rest were removed"
        );
        Ok(Cleared::Done)
    }

    /// Whether nobody uses the session, nor has for so long, nor waits for it.
    fn may_be_cleared(&self, rest: Duration) -> bool {
        let has_rested = self.idle.rested().is_some_and(|rested| rested >= rest);
        let is_saved = self.session.changed == Changed::No;
        let is_made = !matches!(self.session.status, Status::Starting | Status::Ended);
        let is_wanted = self.is_asked() || self.is_in_hand();
        has_rested && is_saved && is_made && self.is_at_rest() && !is_wanted
    }

    /// Whether somebody reads the files, or is about to add to them.
    fn is_in_hand(&self) -> bool {
        let id = self.session.id;
        self.shared.clearing.in_hand.has(|in_hand| *in_hand == id)
    }

    /// Has the session go on from this point whatever becomes of its files; how many bytes of them there
    /// are, or why not.
    async fn rely_on(&mut self, point: PointId) -> Result<Result<u64, Cleared>, Refusal> {
        let (shared, id) = (self.shared.clone(), self.session.id);
        let newest = shared.store.point(id, Which::Newest).await?;
        let Some(newest) = newest.filter(|newest| newest.id == point) else {
            return Ok(Err(Cleared::Later));
        };
        if let Err(why) = self.is_all_kept(&newest).await? {
            return Ok(Err(why));
        }
        // Whoever has come meanwhile comes first.
        let is_wanted = self.is_asked() || self.is_in_hand();
        if is_wanted || !shared.store.put_away(id, point).await? {
            return Ok(Err(Cleared::Later));
        }
        self.session.restore = Some(point);
        shared.registry.publish(SessionView::of(&self.session));
        Ok(Ok(newest.bytes))
    }

    /// Whether a point has all that is in the session's place; if not, why the files stay. What is not in it
    /// is saved, beside everything else.
    async fn is_all_kept(&mut self, point: &Point) -> Result<Result<(), Cleared>, Refusal> {
        let (shared, id) = (self.shared.clone(), self.session.id);
        // What is not sure to be on the disk is not sure to be what was saved.
        let is_unsure = shared.store.unsynced_build(id).await?.is_some();
        if is_unsure || point.turn.is_some() {
            return Ok(Err(Cleared::Kept));
        }
        let place = shared.places.session(id);
        let is_spoken = shared.is_spoken_behind(id, point.seq).await?;
        // Of one that cannot be looked at nobody knows what is there.
        let is_there = place.try_exists().map_err(|error| Refusal::Internal(error.to_string()))?;
        let is_same = match is_there {
            // It may be long gone.
            false => true,
            true => match self.cut_unless_asked(place).await {
                Ok(Some(cut)) => is_all(&cut, point),
                Ok(None) => return Ok(Err(Cleared::Later)),
                Err(error) => return Err(unkept(id, error)),
            },
        };
        if is_spoken || !is_same {
            self.save();
            return Ok(Err(Cleared::Kept));
        }
        Ok(Ok(()))
    }

    /// Cuts what lies in the session's place, which nobody changes: any moment is the right one. `None`: it was
    /// given up, because somebody asks for something, and is not to wait until much was read.
    pub(super) async fn cut_unless_asked(
        &mut self,
        place: PathBuf,
    ) -> Result<Option<Cut>, SnapshotError> {
        let (shared, session) = (self.shared.clone(), self.session.clone());
        let (told, mut moments) = mpsc::unbounded_channel();
        let cancel = Arc::new(AtomicBool::new(false));
        let mut cutting = pin!(shared.cut(&session, place, (cancel.clone(), told)));
        let cut = loop {
            if self.is_asked() {
                cancel.store(true, Ordering::Relaxed);
            }
            tokio::select! {
                cut = &mut cutting => break cut,
                // It is noted by being dropped.
                Some(_) = moments.recv() => {}
                () = sleep(LOOK) => {}
            }
        };
        match cut {
            Err(SnapshotError::Cancelled) => Ok(None),
            cut => cut.map(Some),
        }
    }

    /// Whether somebody asks for something.
    fn is_asked(&self) -> bool {
        !self.commands.is_empty() || self.is_leaving()
    }

    /// Before files are built or a sandbox is made: sees to it that the session has uids. Those of one whose
    /// files were removed are somebody else's by now.
    ///
    /// # Errors
    /// [`Refusal::Capacity`] when all are taken; when the store fails.
    pub(super) async fn have_uids(&mut self) -> Result<(), Refusal> {
        if self.session.slot.is_some() {
            return Ok(());
        }
        let slot = match self.shared.take_any_slot().await {
            Ok(slot) => slot,
            Err(no_room) => {
                // Nobody waits for another driver here: that one may wait for this one.
                self.shared.clearing.look_now();
                return Err(self.shared.refuse(no_room));
            }
        };
        // Till it is recorded, this says whose they are.
        let making = self.shared.making.begin((self.session.id, slot));
        let change = SessionChange { slot: Some(Some(slot)), ..SessionChange::none() };
        let recorded = self.commit(change, vec![]).await;
        drop(making);
        if let Err(error) = recorded {
            self.shared.slots.give_back(slot);
            return Err(error.into());
        }
        fault::point("clear.returned");
        Ok(())
    }
}

/// Whether a point has all that was cut. In sockets of a sandbox that is gone nobody answers any more: that
/// they are in no point loses nothing.
fn is_all(cut: &Cut, point: &Point) -> bool {
    cut.root == point.root && cut.left_out.count == cut.left_out.sockets
}
