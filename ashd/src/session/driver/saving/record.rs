//! What becomes of a cut: points, or why there are none.

use super::{Moment, Saving};
use crate::domain::{Changed, Point, PointName, SessionChange, SessionId, Which};
use crate::fault;
use crate::session::api::Refusal;
use crate::session::driver::Driver;
use crate::session::keeping::{point_of, unkept};
use crate::snapshot::{Cut, SnapshotError};
use crate::store::{Commit, StoreError};

/// What is said of a point whose cut was given up, or had no moment.
const OVERTAKEN: &str = "The session's files could not be saved beside all else that happens to it";

impl Driver {
    /// Makes points of what was cut, and tells those who wait.
    pub(super) async fn record_cut(&mut self, result: Result<Cut, SnapshotError>, saving: Saving) {
        let cancelled = saving.is_cancelled();
        let Saving { moment, mut wishes, of_changes, .. } = saving;
        let cut = match (result, moment) {
            (Ok(cut), Some(moment)) if !cancelled => Ok((cut, moment)),
            (Ok(_), _) => Err(SnapshotError::Cancelled),
            (Err(error), _) => Err(error),
        };
        let (cut, moment) = match cut {
            Ok(cut) => cut,
            Err(error) => {
                if !matches!(error, SnapshotError::Cancelled) || !wishes.is_empty() {
                    let why = why(&error);
                    self.logs.system(&format!("the session's files were not saved: {why}"));
                }
                self.note_unsaved(&error).await;
                let refusal = unkept_or_cancelled(self.session.id, error);
                for wish in wishes {
                    let _ = wish.reply.send(Err(refusal.clone()));
                }
                return;
            }
        };
        if wishes.is_empty() {
            let recorded = self.record_by_itself(&cut, &moment, of_changes).await;
            if let Err(error) = recorded {
                tracing::warn!(ash_session = %self.session.id, %error, "a point was not recorded");
            }
        } else {
            self.changes_point = None;
        }
        for wish in wishes.drain(..) {
            let point = self.record_point(&cut, &moment, wish.name).await;
            let _ = wish.reply.send(point.map_err(named_twice));
        }
        // From here on the points keep what was cut from being collected.
        drop(cut);
    }

    /// What cannot be saved stays as it is, whatever becomes of the machine: the newest point may be of
    /// long ago.
    async fn note_unsaved(&mut self, why: &SnapshotError) {
        if matches!(why, SnapshotError::Cancelled) || self.session.changed == Changed::Kept {
            return;
        }
        let change = SessionChange { changed: Some(Changed::Kept), ..SessionChange::none() };
        if let Err(error) = self.commit(change, vec![]).await {
            tracing::warn!(ash_session = %self.session.id, %error, "it counts as saved");
        }
    }

    /// Makes a point that nobody asked for. Of those that were made for changes from outside alone,
    /// at the same place in history, only the newest is kept.
    async fn record_by_itself(
        &mut self,
        cut: &Cut,
        moment: &Moment,
        of_changes: bool,
    ) -> Result<(), StoreError> {
        let (store, id) = (self.shared.store.clone(), self.session.id);
        let newest = store.point(id, Which::Newest).await?;
        let point = self.record_point(cut, moment, None).await?;
        let Some(newest) = newest.filter(|newest| newest.id != point.id) else { return Ok(()) };
        let before = std::mem::replace(&mut self.changes_point, of_changes.then_some(point.id));
        if of_changes && before == Some(newest.id) && newest.seq == point.seq {
            store.remove_point(id, newest.id).await?;
        }
        Ok(())
    }

    async fn record_point(
        &mut self,
        cut: &Cut,
        Moment { session, changes, .. }: &Moment,
        name: Option<PointName>,
    ) -> Result<Point, StoreError> {
        let left = self.changes.since(*changes, self.execs.is_idle());
        let changed = (left < self.session.changed).then_some(left);
        let change = SessionChange { changed, ..SessionChange::none() };
        let newest = self.shared.store.point(self.session.id, Which::Newest).await?;
        let left_out = newest.as_ref().map_or(0, |newest| newest.left_out);
        let same = |newest: &Point| newest.root == cut.root && newest.seq == session.last_seq;
        if let Some(newest) = newest.as_ref().filter(|newest| name.is_none() && same(newest)) {
            if changed.is_some() {
                self.commit(change, vec![]).await?;
            }
            self.kept = Some((*changes, newest.id));
            return Ok(newest.clone());
        }
        let point = point_of(cut, session, name).behind(newest.as_ref());
        let keep = if self.keeps_all { u32::MAX } else { self.shared.live().keep_points };
        let recorded = Some((point.clone(), keep));
        let commit = Commit { point: recorded, ..Commit::of(self.session.id, change, vec![]) };
        self.commit_as(commit).await?;
        self.kept = Some((*changes, point.id));
        self.shared.copies.wake(self.session.id);
        fault::point("point.recorded");
        tracing::debug!(
            ash_session = %self.session.id, seq = point.seq, files = cut.files, written = cut.written,
            held = cut.held, "point saved"
        );
        if point.left_out != left_out && point.left_out > 0 {
            self.logs.system(&format!("not in the point: {}", cut.left_out));
        }
        Ok(point)
    }
}

/// Why files were not saved, for a session's log. What the store says of its own files names places
/// of this machine, and is for the daemon's.
pub(super) fn why(error: &SnapshotError) -> String {
    match error {
        SnapshotError::Store(_) | SnapshotError::Index(_) => {
            "the snapshot store cannot be used".to_owned()
        }
        error => error.to_string(),
    }
}

fn named_twice(error: StoreError) -> Refusal {
    match error {
        StoreError::Exists { .. } => Refusal::NameTaken,
        error => error.into(),
    }
}

fn unkept_or_cancelled(session: SessionId, error: SnapshotError) -> Refusal {
    match error {
        SnapshotError::Cancelled => Refusal::Overtaken(OVERTAKEN),
        error => unkept(session, error),
    }
}
