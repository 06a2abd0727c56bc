//! Points that callers make, see, go back to and remove.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::api::{Caller, Refusal};
use super::driver::Command;
use super::keeping::unkept;
use super::registry::SessionView;
use super::rewind::Goal;
use super::service::{Result, Service, detached};
use crate::domain::{Point, PointName, SessionId, Status, Which};
use crate::snapshot::SnapshotError;

/// A point, and what is known to be damaged of it.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The point.
    pub point: Point,
    /// What is damaged, a sentence; found by whoever needed it or looked for it.
    pub damage: Option<String>,
}

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
    pub async fn points(&self, caller: &Caller, id: SessionId) -> Result<Vec<Kept>> {
        self.session(caller, id).await?;
        let points = self.shared.store.points(id).await?;
        let (snapshots, tenant) = (self.shared.snapshots.clone(), caller.tenant.clone());
        let judge = move || {
            let vault = snapshots.vault(&tenant)?;
            let kept = |point: Point| {
                let damage = vault.damage(point.root).map(|damage| damage.to_string());
                Kept { point, damage }
            };
            Ok(points.into_iter().map(kept).collect())
        };
        let kept = spawn_blocking(judge).await.unwrap_or(Err(SnapshotError::Cancelled));
        kept.map_err(|error| unkept(id, error))
    }

    /// One point of a session, and what is known of it.
    pub async fn judged_point(&self, caller: &Caller, id: SessionId, which: Which) -> Result<Kept> {
        let wanted = self.point(caller, id, which).await?.id;
        let mut all = self.points(caller, id).await?.into_iter();
        all.find(|kept| kept.point.id == wanted).ok_or(Refusal::NoCheckpoint)
    }

    /// One point of a session.
    pub(super) async fn point(
        &self,
        caller: &Caller,
        id: SessionId,
        which: Which,
    ) -> Result<Point> {
        self.session(caller, id).await?;
        self.shared.store.point(id, which).await?.ok_or(Refusal::NoCheckpoint)
    }

    /// Removes a point. The newest one stays, unless it is damaged, and only loses its name: it is what a
    /// session is brought back from, and all that is left of one that has ended.
    pub async fn remove_point(&self, caller: &Caller, id: SessionId, which: Which) -> Result<()> {
        let session = self.stored(caller, id).await?;
        let Kept { point, damage } = self.judged_point(caller, id, which).await?;
        let store = &self.shared.store;
        let newest = store.point(id, Which::Newest).await?;
        let is_newest = newest.is_some_and(|newest| newest.id == point.id) && damage.is_none();
        let is_ended = session.status == Status::Ended;
        // One whose files were removed because nobody used them has them in its newest, which stays in any case.
        if is_newest && is_ended || !is_newest && session.restore == Some(point.id) {
            return Err(Refusal::LastCheckpoint);
        }
        let is_done = match (is_newest, &point.name) {
            (true, None) => return Err(Refusal::NewestCheckpoint),
            (true, Some(_)) => store.unname_point(id, point.id).await?,
            (false, _) => store.remove_point(id, point.id).await?,
        };
        // Since it was looked up.
        if !is_done {
            let text = "The checkpoint was removed, or the session brought back to it, meanwhile";
            return Err(Refusal::Overtaken(text));
        }
        self.shared.copies.wake(id);
        Ok(())
    }

    /// Brings a session back to a point. Goes on when the caller is gone.
    pub async fn go_back(
        &self,
        caller: &Caller,
        id: SessionId,
        to: Which,
    ) -> Result<Arc<SessionView>> {
        self.bring_back(caller, id, Goal::Point(to)).await
    }

    /// Brings a session back to how it was right before the message with this number. Goes on when the
    /// caller is gone.
    pub async fn rewind(
        &self,
        caller: &Caller,
        id: SessionId,
        before: u64,
    ) -> Result<Arc<SessionView>> {
        self.bring_back(caller, id, Goal::Before(before)).await
    }

    async fn bring_back(
        &self,
        caller: &Caller,
        id: SessionId,
        to: Goal,
    ) -> Result<Arc<SessionView>> {
        self.shared.disk_has_room()?;
        let (service, caller) = (self.clone(), caller.clone());
        let go_back =
            async move { service.ask(&caller, id, |reply| Command::GoBack { to, reply }).await };
        detached(go_back).await
    }
}
