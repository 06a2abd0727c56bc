//! Points: when they are made, and what they are of.
//!
//! At every boundary (the end of a turn, a pause, the end of a sandbox) workspace and home are saved in
//! the background. The barrier is the moment at which they were seen whole: a turn that is about to
//! begin waits for it, so that the session can go back to before its message, but not long; what is not
//! saved at this boundary is saved at the next. A point that somebody asked for is made at once, also in
//! mid-turn: then the agent stands still for the moment itself.

mod moment;
mod record;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::{Changes, Driver, Reply};
use crate::domain::{Changed, Point, PointId, PointName, Session, SessionChange, Status};
use crate::session::api::Refusal;
use crate::session::keeping::{Noting, Told};
use crate::session::machine::Turn;
use crate::snapshot::{Cut, SnapshotError};

/// How long a turn waits at most for the moment of a cut. To look at 20,000 files takes a fifth of it; one
/// that comes when they have been looked at waits for nothing.
const PATIENCE: Duration = Duration::from_millis(250);

/// How often a cut is begun again whose moment was missed.
const TRIES: u32 = 3;

/// A cut under way.
pub(super) struct Saving {
    task: JoinHandle<Result<Cut, SnapshotError>>,
    told: mpsc::UnboundedReceiver<Told>,
    cancel: Arc<AtomicBool>,
    /// The moment has come, and is noted when this is dropped.
    noting: Option<Noting>,
    /// What was so at the moment that the cut is of, once that is noted.
    moment: Option<Moment>,
    /// Whether the files may change again.
    passed: bool,
    /// Who waits for it.
    wishes: Vec<Wish>,
    /// Something changed since that asks for another one.
    again: bool,
    /// It is made for nothing but changes of files from outside.
    of_changes: bool,
    /// How often it was begun before: its moment came, and nobody had time to note it.
    missed: u32,
    /// Since when its moments are put off, because the bridge does not say that all was heard.
    unheard: Option<Instant>,
    /// Whether this one's was.
    is_put_off: bool,
}

/// What a point is of, beside its files.
struct Moment {
    session: Session,
    /// How often files had been changed by others than turns.
    changes: Changes,
    /// Another cut was to be made, which this one stands for if it comes to a point.
    again: bool,
}

/// Somebody who asked for a point.
pub(super) struct Wish {
    name: Option<PointName>,
    reply: Reply<Point>,
    /// How often the moment of a cut for it was missed.
    missed: u32,
}

impl Wish {
    /// For a point, with a name or without.
    pub(super) fn new(name: Option<PointName>, reply: Reply<Point>) -> Wish {
        Wish { name, reply, missed: 0 }
    }
}

/// What a cut says.
pub(super) enum Saved {
    /// Of its moment.
    Told(Told),
    /// It is done.
    Done(Box<Result<Cut, SnapshotError>>),
}

impl Saving {
    /// Waits for what the cut says next. Nothing is lost when this is not waited for to its end.
    pub(super) async fn next(&mut self) -> Saved {
        // In the order in which they were said; `None` comes when the cut is done.
        if let Some(told) = self.told.recv().await {
            return Saved::Told(told);
        }
        Saved::Done(Box::new(finished((&mut self.task).await)))
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Whether another one is to be made behind it, which has failed or not.
    fn is_again(&self, has_failed: bool) -> bool {
        self.again || has_failed && self.moment.as_ref().is_some_and(|moment| moment.again)
    }

    /// Whether its moment is still to come, or that of another one behind it.
    fn is_awaited(&self) -> bool {
        !self.passed || self.again
    }
}

fn finished(
    done: Result<Result<Cut, SnapshotError>, tokio::task::JoinError>,
) -> Result<Cut, SnapshotError> {
    done.unwrap_or(Err(SnapshotError::Cancelled))
}

impl Driver {
    /// Saves the session's files in the background, if nothing does so already.
    pub(super) fn save(&mut self) {
        if self.state.status == Status::Ended {
            // It would be given up at once: one that ends has its last point behind this, or none.
            return;
        }
        if self.session.restore.is_some() || !self.shared.has_files(self.session.id) {
            // What is in their place, or on its way there, is in a point already.
            return;
        }
        match &mut self.saving {
            Some(saving) => saving.again = true,
            None => self.begin_cut(vec![]),
        }
    }

    /// Saves what was changed from outside. The point takes the place of one that was made for the
    /// same reason right before: many changes do not push out the points of turns.
    pub(super) fn save_changes(&mut self) {
        let is_free = self.saving.is_none();
        self.save();
        if let Some(saving) = self.saving.as_mut().filter(|_| is_free) {
            saving.of_changes = true;
        }
    }

    /// Whether a cut looks at the files.
    pub(super) fn is_looking(&self) -> bool {
        self.saving.as_ref().is_some_and(|saving| !saving.passed)
    }

    /// Makes a point for somebody: of the cut under way, if its moment is still to come. While a
    /// sandbox is made files may be on their way back: then it is made behind that.
    pub(super) async fn wish(&mut self, wish: Wish) {
        if self.launching.is_some() {
            return self.wishes.push(wish);
        }
        if let Err(refusal) = self.settle_files().await {
            return drop(wish.reply.send(Err(refusal)));
        }
        match &mut self.saving {
            // Its moment is noted by us: it is still to come.
            Some(saving) if saving.moment.is_none() && !saving.is_cancelled() => {
                saving.wishes.push(wish);
            }
            Some(_) => self.wishes.push(wish),
            None => self.begin_cut(vec![wish]),
        }
    }

    /// Makes the points that could not be made while a sandbox was made.
    pub(super) async fn grant_wishes(&mut self) {
        for wish in std::mem::take(&mut self.wishes) {
            self.wish(wish).await;
        }
    }

    /// Before files are saved that no sandbox uses: sees to it that they are the session's. A
    /// daemon that died on the way back to a point has left those of before in their place, or none.
    pub(super) async fn settle_files(&mut self) -> Result<(), Refusal> {
        let there = self.session.restore.is_none() && self.shared.has_files(self.session.id);
        if self.link.is_some() || there {
            return Ok(());
        }
        let had_asked = self.stand_back();
        let brought = match self.have_uids().await {
            Ok(()) => self.shared.bring_back(&self.session).await,
            Err(refusal) => Err(refusal),
        };
        self.come_back(had_asked);
        brought?;
        let change = SessionChange { restore: Some(None), ..SessionChange::none() };
        Ok(self.commit(change, vec![]).await?)
    }

    /// Like [`settle_files`](Self::settle_files); false when what should be there is lost, which leaves
    /// nothing to save.
    pub(super) async fn has_own_files(&mut self) -> Result<bool, Refusal> {
        match self.settle_files().await {
            Ok(()) => Ok(true),
            Err(Refusal::Damaged { .. } | Refusal::NothingKept) => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }

    fn begin_cut(&mut self, wishes: Vec<Wish>) {
        let (tell, told) = mpsc::unbounded_channel();
        let cancel = Arc::new(AtomicBool::new(false));
        let (shared, session) = (self.shared.clone(), self.session.clone());
        let missed = wishes.iter().map(|wish| wish.missed).max().unwrap_or(0);
        let flag = cancel.clone();
        let root = shared.places.session(session.id);
        let task = tokio::spawn(async move { shared.cut(&session, root, (flag, tell)).await });
        self.saving = Some(Saving {
            task,
            told,
            cancel,
            noting: None,
            moment: None,
            passed: false,
            wishes,
            again: false,
            of_changes: false,
            missed,
            unheard: None,
            is_put_off: false,
        });
    }

    /// Whether what is to be saved does not wait for a turn's end. One that waits for a moment has not
    /// begun.
    pub(super) fn is_for_now(&self) -> bool {
        let runs = self.session.turn.is_some() || self.state.turn == Turn::Own;
        !runs || self.session.changed == Changed::Kept
    }

    /// Begins a cut anew whose moment came while we were busy, or was put off, for the same reasons;
    /// gives it back if that is not what happened, or does not help. While a sandbox is made none is
    /// begun: whoever asked waits until that is over.
    fn missed_moment(
        &mut self,
        result: &Result<Cut, SnapshotError>,
        mut saving: Saving,
    ) -> Option<Saving> {
        let is_missed = matches!(result, Err(SnapshotError::Cancelled)) && !saving.is_cancelled();
        let is_wanted = !saving.wishes.is_empty() || self.is_for_now();
        let helps = saving.is_put_off || saving.missed < TRIES;
        if !is_missed || !is_wanted || !helps {
            return Some(saving);
        }
        let missed = saving.missed + u32::from(!saving.is_put_off);
        if self.launching.is_some() {
            let wishes = std::mem::take(&mut saving.wishes).into_iter();
            self.wishes.extend(wishes.map(|wish| Wish { missed, ..wish }));
            return Some(saving);
        }
        let again = saving.is_again(true);
        self.begin_cut(saving.wishes);
        if let Some(next) = &mut self.saving {
            (next.again, next.of_changes) = (again, saving.of_changes);
            (next.missed, next.unheard) = (missed, saving.unheard);
        }
        None
    }

    fn told(&mut self, told: Told) {
        let Some(saving) = &mut self.saving else { return };
        match told {
            Told::Moment(noting) => saving.noting = Some(noting),
            Told::Passed => saving.passed = true,
        }
    }

    pub(super) async fn saved(&mut self, said: Saved) {
        match said {
            Saved::Told(told) => self.told(told),
            Saved::Done(result) => {
                let Some(saving) = self.saving.take() else { return };
                let Some(saving) = self.missed_moment(&result, saving) else { return };
                let again = saving.is_again(result.is_err());
                self.record_cut(*result, saving).await;
                if self.launching.is_some() {
                    // Not while files may be on their way back.
                    if again {
                        self.settle_soon();
                    }
                    return;
                }
                let wishes = std::mem::take(&mut self.wishes);
                if !wishes.is_empty() || (again && self.is_for_now()) {
                    self.begin_cut(wishes);
                }
            }
        }
    }

    /// Before a turn begins: the session is to have a point of how it is now. What was said is being
    /// saved since it was, and history tells whether that was all. What was changed beside that may not
    /// be saved yet, and history has to tell of it: so the point itself is waited for.
    pub(super) async fn capture_before_turn(&mut self) {
        let end = Instant::now() + PATIENCE;
        // A command that runs may have changed something since.
        self.changes.all += u64::from(!self.execs.is_idle());
        self.execs.forget_ended();
        let is_new = self.changes_to_tell() == Some(None) && !self.is_saving_changes();
        if self.settles_at.take().is_some() || is_new {
            self.save_changes();
        }
        self.let_capture_until(end).await;
        while self.changes_to_tell() == Some(None) && self.hear_cut(end).await {}
        if self.changes_to_tell().is_none() {
            self.look_back().await;
        }
    }

    /// Takes over what a daemon before this one has saved of changes by others than turns, and had
    /// no message to tell it in front of.
    async fn look_back(&mut self) {
        if std::mem::replace(&mut self.looked_back, true) {
            return;
        }
        match self.shared.untold(&self.session).await {
            Ok(None) => {}
            Ok(Some(point)) => {
                self.changes.all += 1;
                self.kept = Some((self.changes, point));
            }
            Err(error) => {
                let id = self.session.id;
                tracing::warn!(ash_session = %id, %error, "it is not known what was changed");
                self.changes.all += 1;
            }
        }
    }

    /// Takes what the cut under way says next; false when it says nothing in time, or there is none. All
    /// that was said before has been heard.
    async fn hear_cut(&mut self, end: Instant) -> bool {
        let Some(saving) = &mut self.saving else { return false };
        let Ok(said) = timeout_at(end, saving.next()).await else { return false };
        self.saved(said).await;
        self.note_moment();
        true
    }

    /// What history has to tell, in front of a message, of changes by others than turns: the point that
    /// has them, or that none has. `None` when there were none.
    pub(super) fn changes_to_tell(&self) -> Option<Option<PointId>> {
        let kept = self.kept.filter(|(changes, _)| *changes == self.changes);
        (self.told_of != self.changes).then(|| kept.map(|(_, point)| point))
    }

    /// Whether the cut under way has all that was changed until now.
    fn is_saving_changes(&self) -> bool {
        let moment = self.saving.as_ref().and_then(|saving| saving.moment.as_ref());
        moment.is_some_and(|moment| moment.changes == self.changes)
    }

    /// Before something begins that changes the files: waits for the moment of a cut of how they are,
    /// and gives the cut up when that takes too long and nobody asked for it.
    pub(super) async fn let_capture(&mut self) {
        self.let_capture_until(Instant::now() + PATIENCE).await;
    }

    async fn let_capture_until(&mut self, end: Instant) {
        // All that was said before it has been heard.
        self.note_moment();
        while self.saving.as_ref().is_some_and(Saving::is_awaited) {
            if !self.hear_cut(end).await {
                return self.give_up_capture();
            }
        }
    }

    fn give_up_capture(&mut self) {
        if let Some(saving) = self.saving.as_ref().filter(|saving| !saving.passed)
            && saving.wishes.is_empty()
        {
            saving.cancel.store(true, Ordering::Relaxed);
        }
        if self.session.changed == Changed::Kept {
            self.settle_soon();
        }
    }

    /// Before an agent begins to run in a new sandbox: a cut whose moment has not passed by then
    /// knows nothing of this sandbox, and could not stop it.
    pub(super) async fn end_capture(&mut self) {
        self.let_capture().await;
        self.put_off_capture();
    }

    /// Gives up a cut whose moment has not passed. Whoever asked for it gets the next one.
    pub(super) fn put_off_capture(&mut self) {
        if let Some(saving) = self.saving.as_mut().filter(|saving| !saving.passed) {
            saving.cancel.store(true, Ordering::Relaxed);
            self.wishes.append(&mut saving.wishes);
        }
    }

    /// Waits until no cut is under way.
    pub(super) async fn finish_saving(&mut self) {
        let mut batch = vec![];
        while let Some(saving) = &mut self.saving {
            let said = saving.next().await;
            self.saved(said).await;
            self.hear_moment(&mut batch).await;
        }
    }

    /// Saves the files now, and waits until they are. For when nothing changes them.
    pub(super) async fn save_now(&mut self) -> Result<Point, Refusal> {
        self.finish_saving().await;
        let (reply, point) = oneshot::channel();
        self.begin_cut(vec![Wish::new(None, reply)]);
        self.finish_saving().await;
        point.await.unwrap_or(Err(Refusal::ShuttingDown))
    }

    /// Gives up what is being saved, and waits until it has ended.
    pub(super) async fn abandon_saving(&mut self) {
        if let Some(saving) = &mut self.saving {
            saving.again = false;
            saving.cancel.store(true, Ordering::Relaxed);
        }
        self.finish_saving().await;
    }
}

#[cfg(test)]
mod tests;
