//! What goes by itself because of its age, or because there is too much of it.
//!
//! Now and then, in small steps: whoever writes meanwhile waits for none of them longer than for a page
//! of rows. What is old by the clock of the moment is asked of the store, so that the clock is an
//! argument of everything here.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::api::{Caller, Refusal};
use super::service::{Result, Service};
use super::shared::Shared;
use crate::domain::{Scope, SessionId, Timestamp};
use crate::snapshot::SnapshotError;

/// Rows that one step takes.
const STEP: u32 = 200;

/// Points that go in one pass because of their size: what this gives back is known behind it.
const MOST_OVER: u32 = 1000;

/// How long something is kept, and how much. What is absent is kept for ever.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Keeping {
    /// Sessions that have ended, since they were last active.
    pub ended: Option<Duration>,
    /// What events say.
    pub events: Option<Duration>,
    /// Points without a name.
    pub points: Option<Duration>,
    /// Bytes of all points.
    pub bytes: Option<u64>,
}

impl Keeping {
    /// Whether everything is kept.
    fn is_all(&self) -> bool {
        *self == Keeping::default()
    }
}

/// What has gone since the daemon started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Gone {
    /// Sessions that were purged.
    pub sessions: u64,
    /// Events whose content was forgotten.
    pub events: u64,
    /// Points that were removed.
    pub points: u64,
    /// Bytes that points take beyond what they may, as of the newest pass; what is left are the newest
    /// of each session, and those with a name.
    pub over: u64,
    /// Whether the newest pass failed.
    pub failing: bool,
}

/// What is told of it.
#[derive(Default)]
pub(super) struct Retention(Mutex<Gone>);

impl Retention {
    fn change(&self, change: impl FnOnce(&mut Gone)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What has gone.
    pub(super) fn gone(&self) -> Gone {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// What has gone; `None`: everything is kept.
    pub(super) fn gone(&self) -> Option<Gone> {
        (!self.live().keeping.is_all()).then(|| self.retention.gone())
    }
}

/// Keeps to what the configuration says, as long as the daemon lives.
pub(super) async fn keep_for_ever(service: Service) {
    let every = service.shared.options.retain_every;
    while !service.shared.is_shutting_down() {
        tokio::time::sleep(every).await;
        let before = service.shared.retention.gone();
        let done = service.retain(Timestamp::now()).await;
        service.shared.retention.change(|gone| gone.failing = done.is_err());
        match done {
            Ok(()) => say(before, service.shared.retention.gone()),
            Err(Refusal::ShuttingDown) => return,
            Err(error) => tracing::error!(%error, "what is too old was not all removed"),
        }
    }
}

fn say(before: Gone, now: Gone) {
    let (sessions, events) = (now.sessions - before.sessions, now.events - before.events);
    let points = now.points - before.points;
    if sessions + events + points > 0 {
        tracing::info!(sessions, events, points, "removed what was kept long enough");
    }
    if now.over > 0 && now.over != before.over {
        tracing::warn!(
            bytes = now.over,
            "checkpoints take more than retention.checkpoint_bytes; what is left are named ones and \
             the newest of each session"
        );
    }
}

impl Service {
    /// Removes what is too old at a time, and what there is too much of.
    async fn retain(&self, now: Timestamp) -> Result<()> {
        let keeping = self.shared.live().keeping;
        if keeping.is_all() {
            self.shared.retention.change(|gone| gone.over = 0);
            return Ok(());
        }
        if let Some(age) = keeping.ended {
            self.purge_ended(before(now, age)).await?;
        }
        if let Some(age) = keeping.events {
            self.forget_old(before(now, age)).await?;
        }
        if let Some(age) = keeping.points {
            self.remove_old(before(now, age)).await?;
        }
        self.remove_over(keeping.bytes).await
    }

    async fn purge_ended(&self, before: Timestamp) -> Result<()> {
        loop {
            let sessions = self.shared.store.ended_before(before, STEP).await?;
            let count = sessions.len();
            for (tenant, id) in sessions {
                self.may_go_on()?;
                let caller = Caller { tenant, scope: Scope::Manage };
                match self.end(&caller, id, true).await {
                    Ok(_) => self.shared.retention.change(|gone| gone.sessions += 1),
                    // Somebody else was quicker.
                    Err(Refusal::NoSession) => {}
                    Err(error) => return Err(error),
                }
            }
            if count < STEP as usize {
                return Ok(());
            }
        }
    }

    async fn forget_old(&self, before: Timestamp) -> Result<()> {
        let store = &self.shared.store;
        let mut after: Option<SessionId> = None;
        loop {
            let sessions = store.sessions_with_old_events(before, after, STEP).await?;
            for id in &sessions {
                loop {
                    self.may_go_on()?;
                    let forgotten = store.forget_events(*id, before, STEP).await?;
                    self.shared.retention.change(|gone| gone.events += forgotten);
                    if forgotten < STEP.into() {
                        break;
                    }
                }
            }
            match sessions.last() {
                Some(last) => after = Some(*last),
                None => return Ok(()),
            }
        }
    }

    async fn remove_old(&self, before: Timestamp) -> Result<()> {
        loop {
            self.may_go_on()?;
            let removed = self.shared.store.remove_old_points(before, STEP).await?;
            self.shared.retention.change(|gone| gone.points += removed);
            if removed < STEP.into() {
                return Ok(());
            }
        }
    }

    /// Removes the oldest points until the others take no more than so many bytes.
    async fn remove_over(&self, most: Option<u64>) -> Result<()> {
        let Some(most) = most else {
            self.shared.retention.change(|gone| gone.over = 0);
            return Ok(());
        };
        let mut over = self.points_take().await?.saturating_sub(most);
        let (mut freed, mut removed) = (0, 0);
        while freed < over && removed < MOST_OVER.into() {
            self.may_go_on()?;
            let left = over - freed;
            let (points, bytes) = self.shared.store.remove_oldest_points(left, STEP).await?;
            self.shared.retention.change(|gone| gone.points += points);
            (freed, removed) = (freed + bytes, removed + points);
            if points < STEP.into() {
                break;
            }
        }
        if removed > 0 {
            self.collect(false).await?;
            over = self.points_take().await?.saturating_sub(most);
        }
        self.shared.retention.change(|gone| gone.over = over);
        Ok(())
    }

    /// Bytes of all packs of all tenants.
    async fn points_take(&self) -> Result<u64> {
        let snapshots = self.shared.snapshots.clone();
        let sum = move || -> std::result::Result<u64, SnapshotError> {
            let mut sum = 0;
            for tenant in snapshots.tenants()? {
                sum += snapshots.vault(&tenant)?.all_packs()?.iter().map(|it| it.1).sum::<u64>();
            }
            Ok(sum)
        };
        let summed = spawn_blocking(sum).await.unwrap_or(Err(SnapshotError::Cancelled));
        summed.map_err(|error| Refusal::Internal(error.to_string()))
    }

    fn may_go_on(&self) -> Result<()> {
        match self.shared.is_shutting_down() {
            true => Err(Refusal::ShuttingDown),
            false => Ok(()),
        }
    }
}

fn before(now: Timestamp, age: Duration) -> Timestamp {
    let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    Timestamp(now.0.saturating_sub(age))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_reckoned_from_the_clock() {
        assert_eq!(before(Timestamp(10_000), Duration::from_secs(3)), Timestamp(7_000));
        assert_eq!(before(Timestamp(0), Duration::MAX), Timestamp(-i64::MAX));
        assert!(Keeping::default().is_all());
        assert!(!Keeping { bytes: Some(0), ..Keeping::default() }.is_all());
    }
}
