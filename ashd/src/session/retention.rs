//! What goes by itself because of its age, or because there is too much of it.
//!
//! Now and then, in small steps: whoever writes meanwhile waits for none of them longer than for a page
//! of rows. What is old by the clock of the moment is asked of the store, so that the clock is an
//! argument of everything here. What fails of one session or tenant keeps no other one from being
//! looked at.
//!
//! What a point gives back is only known when its vault has been collected, for others have content in
//! common with it. So before points go because of their size, everything is collected that no point needs,
//! and a tenant of whom that cannot be done now is left alone, with what its points take: otherwise
//! each pass would find as much as the one before, and remove more, until only the newest are left.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::api::{Caller, Refusal};
use super::fsck::{Failed, kept, roots};
use super::service::{Result, Service, blocking};
use super::shared::Shared;
use crate::domain::{Root, Scope, SessionId, Tenant, Timestamp};
use crate::snapshot::{Collecting, Extent, SnapshotError, Vault};
use crate::store::Spared;

/// Rows that one step takes.
const STEP: u32 = 200;

/// Points that go in one pass because of their size: what this gives back is known behind it.
const MOST_OVER: u32 = 1000;

/// How long to wait for who is in the way of a collecting.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long something is kept, and how much. What is absent is kept for ever.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Keeping {
    /// Sessions that have ended, since their end.
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
    /// of each session, those with a name, and those of which it is not known what they would give back.
    pub over: u64,
    /// Whether something of the newest pass failed.
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
        say(before, service.shared.retention.gone());
        match done {
            Ok(()) => {}
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
            "checkpoints take more than retention.checkpoint_bytes; what is left are named ones, \
             the newest of each session, and what would give nothing back now"
        );
    }
}

/// What the points of a tenant take.
struct Take {
    tenant: Tenant,
    bytes: u64,
    /// Something that no point needs may be among it and cannot be removed now: a backup is under way,
    /// or something is damaged.
    is_stuck: bool,
}

/// Bytes that points take beyond what they may, without those of tenants that are spared.
fn over(takes: &[Take], spared: &Spared, most: u64) -> u64 {
    let counts = |take: &&Take| !spared.tenants.contains(&take.tenant);
    let sum: u64 = takes.iter().filter(counts).map(|take| take.bytes).sum();
    sum.saturating_sub(most)
}

impl Service {
    /// Removes what is too old at a time, and what there is too much of. The first failure is returned
    /// when everything else is done.
    async fn retain(&self, now: Timestamp) -> Result<()> {
        let keeping = self.shared.live().keeping;
        let mut done = Ok(());
        if let Some(age) = keeping.ended {
            done = done.and(self.purge_ended(before(now, age)).await);
        }
        if let Some(age) = keeping.events {
            done = done.and(self.forget_old(before(now, age)).await);
        }
        if let Some(age) = keeping.points {
            done = done.and(self.remove_old(before(now, age)).await);
        }
        done.and(self.remove_over(keeping.bytes).await)
    }

    async fn purge_ended(&self, before: Timestamp) -> Result<()> {
        let (mut done, mut left) = (Ok(()), 0);
        loop {
            // Those that could not be purged would be the first ones again.
            let sessions = self.shared.store.ended_before(before, left, STEP).await?;
            let count = sessions.len();
            for (tenant, id) in sessions {
                self.may_go_on()?;
                let purged = self.purge_kept(tenant, id).await;
                left += u32::from(purged.is_err());
                done = done.and(purged);
            }
            if count < STEP as usize {
                return done;
            }
        }
    }

    async fn purge_kept(&self, tenant: Tenant, id: SessionId) -> Result<()> {
        let caller = Caller { tenant, scope: Scope::Manage };
        match self.end(&caller, id, true).await {
            Ok(_) => self.shared.retention.change(|gone| gone.sessions += 1),
            // Somebody else was quicker.
            Err(Refusal::NoSession) => {}
            Err(error) => {
                tracing::warn!(ash_session = %id, %error, "not purged");
                return Err(error);
            }
        }
        Ok(())
    }

    async fn forget_old(&self, before: Timestamp) -> Result<()> {
        let store = &self.shared.store;
        let (mut done, mut after) = (Ok(()), None::<SessionId>);
        loop {
            let sessions = store.sessions_with_old_events(before, after, STEP).await?;
            for id in &sessions {
                self.may_go_on()?;
                done = done.and(self.forget_old_of(*id, before).await);
            }
            match sessions.last() {
                Some(last) => after = Some(*last),
                None => return done,
            }
        }
    }

    async fn forget_old_of(&self, id: SessionId, before: Timestamp) -> Result<()> {
        loop {
            self.may_go_on()?;
            let forgotten = self.shared.store.forget_events(id, before, STEP).await?;
            self.shared.retention.change(|gone| gone.events += forgotten);
            if forgotten < STEP.into() {
                return Ok(());
            }
        }
    }

    async fn remove_old(&self, before: Timestamp) -> Result<()> {
        let mut done = Ok(());
        let spared = self.spared(&mut done).await?;
        loop {
            self.may_go_on()?;
            let removed = self.shared.store.remove_old_points(before, &spared, STEP).await?;
            self.shared.retention.change(|gone| gone.points += removed);
            if removed < STEP.into() {
                return done;
            }
        }
    }

    /// Removes the oldest points until the others take no more than so many bytes.
    async fn remove_over(&self, most: Option<u64>) -> Result<()> {
        let mut done = Ok(());
        let over = match most {
            Some(most) => self.remove_beyond(most, &mut done).await?,
            None => 0,
        };
        self.shared.retention.change(|gone| gone.over = over);
        done
    }

    /// Removes points and says how many bytes there are too many of all the same. The first failure
    /// that kept nothing else from being done goes into `done`.
    async fn remove_beyond(&self, most: u64, done: &mut Result<()>) -> Result<u64> {
        let mut takes = self.points_take(done).await?;
        let nobody = Spared::default();
        if over(&takes, &nobody, most) > 0 {
            self.give_back(&mut takes, done).await?;
            let mut spared = self.spared(done).await?;
            let stuck = takes.iter().filter(|take| take.is_stuck);
            spared.tenants.extend(stuck.map(|take| take.tenant.clone()));
            let over = over(&takes, &spared, most);
            if self.remove_oldest(over, &spared).await? > 0 {
                self.give_back(&mut takes, done).await?;
            }
        }
        Ok(over(&takes, &nobody, most))
    }

    /// Removes the oldest points for which so many bytes were written; how many.
    async fn remove_oldest(&self, bytes: u64, spared: &Spared) -> Result<u64> {
        let (mut freed, mut removed) = (0, 0);
        while freed < bytes && removed < MOST_OVER.into() {
            self.may_go_on()?;
            let left = bytes - freed;
            let (points, written) =
                self.shared.store.remove_oldest_points(left, spared, STEP).await?;
            self.shared.retention.change(|gone| gone.points += points);
            (freed, removed) = (freed + written, removed + points);
            if points < STEP.into() {
                break;
            }
        }
        Ok(removed)
    }

    /// Removes what no point needs, all of it, and looks what is left.
    async fn give_back(&self, takes: &mut [Take], done: &mut Result<()>) -> Result<()> {
        for take in takes.iter_mut().filter(|take| !take.is_stuck) {
            self.may_go_on()?;
            let left = self.in_vault(&take.tenant, collect_all).await;
            match note(done, &take.tenant, left) {
                Some(left) => (take.bytes, take.is_stuck) = left.unwrap_or((0, false)),
                None => take.is_stuck = true,
            }
        }
        Ok(())
    }

    /// What is left alone of points: content that is known to be damaged, and tenants of whom nothing is
    /// known.
    async fn spared(&self, done: &mut Result<()>) -> Result<Spared> {
        let mut spared = Spared::default();
        for tenant in self.vaults().await? {
            let damaged = self.in_vault(&tenant, known_damaged).await;
            match note(done, &tenant, damaged) {
                Some(damaged) => spared.damaged.extend(damaged.unwrap_or_default()),
                None => spared.tenants.push(tenant),
            }
        }
        Ok(spared)
    }

    /// What the points of each tenant take.
    async fn points_take(&self, done: &mut Result<()>) -> Result<Vec<Take>> {
        let mut takes = vec![];
        for tenant in self.vaults().await? {
            let taken = self.in_vault(&tenant, |vault, _, _| Ok(bytes(vault)?)).await;
            let is_stuck = taken.is_err();
            let bytes = note(done, &tenant, taken).flatten().unwrap_or(0);
            takes.push(Take { tenant, bytes, is_stuck });
        }
        Ok(takes)
    }

    /// Every tenant that has a vault.
    async fn vaults(&self) -> Result<Vec<Tenant>> {
        let snapshots = self.shared.snapshots.clone();
        blocking(move || Ok(snapshots.tenants().map_err(Failed::from)?)).await
    }

    /// Does something with the vault of a tenant; `None` when there is none any more.
    async fn in_vault<T: Send + 'static>(
        &self,
        tenant: &Tenant,
        what: impl FnOnce(&Vault, &Shared, &Tenant) -> Looked<T> + Send + 'static,
    ) -> Result<Option<T>> {
        let (shared, tenant) = (self.shared.clone(), tenant.clone());
        blocking(move || {
            // One that was deleted meanwhile is not made again.
            let vault = shared.snapshots.known_vault(&tenant).map_err(Failed::from)?;
            let Some(vault) = vault else { return Ok(None) };
            Ok(Some(what(&vault, &shared, &tenant)?))
        })
        .await
    }

    fn may_go_on(&self) -> Result<()> {
        match self.shared.is_shutting_down() {
            true => Err(Refusal::ShuttingDown),
            false => Ok(()),
        }
    }
}

/// What was found of a tenant; the first failure is noted, and the others are looked at all the same.
fn note<T>(done: &mut Result<()>, tenant: &Tenant, found: Result<T>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(error) => {
            tracing::warn!(ash_tenant = %tenant, %error, "its checkpoints are left alone");
            if done.is_ok() {
                *done = Err(error);
            }
            None
        }
    }
}

/// What is found in a vault.
type Looked<T> = std::result::Result<T, Failed>;

/// Removes all of a vault that no point needs. Returns what is left, and whether there may be something
/// among it that no point needs.
fn collect_all(vault: &Vault, shared: &Shared, tenant: &Tenant) -> Looked<(u64, bool)> {
    let (extent, grace, preview) = (Extent::All, Duration::ZERO, false);
    let (patience, patience_with_saves) = (PATIENCE, PATIENCE);
    let how = Collecting { extent, grace, preview, patience, patience_with_saves };
    let collected = vault.collect(&how, || kept(shared, tenant))?;
    let is_all = collected.is_some_and(|it| it.held == 0 && it.read == 0);
    Ok((bytes(vault)?, !is_all))
}

/// Content of points that is known to be damaged.
fn known_damaged(vault: &Vault, shared: &Shared, tenant: &Tenant) -> Looked<Vec<Root>> {
    if vault.damaged() == 0 {
        return Ok(vec![]);
    }
    let mut roots = roots(&*shared.store, tenant)?;
    roots.retain(|root| vault.damage(*root).is_some());
    Ok(roots)
}

/// Bytes of all packs of a vault.
fn bytes(vault: &Vault) -> std::result::Result<u64, SnapshotError> {
    Ok(vault.all_packs()?.iter().map(|pack| pack.1).sum())
}

/// So long before a time.
pub(super) fn before(now: Timestamp, age: Duration) -> Timestamp {
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

    #[test]
    fn a_tenant_of_whom_nothing_can_be_given_back_does_not_count() {
        let take = |name: &str, bytes, is_stuck| {
            let tenant: Tenant = name.parse().unwrap();
            Take { tenant, bytes, is_stuck }
        };
        let takes = [take("one", 70, false), take("two", 50, true)];
        let mut spared = Spared::default();
        assert_eq!(over(&takes, &spared, 100), 20);
        spared.tenants.push(takes[1].tenant.clone());
        assert_eq!(over(&takes, &spared, 100), 0);
        assert_eq!(over(&takes, &spared, 60), 10);
    }

    #[test]
    fn the_first_failure_is_kept_and_the_others_are_looked_at() {
        let (mut done, tenant) = (Ok(()), Tenant::default());
        assert_eq!(note(&mut done, &tenant, Ok(1)), Some(1));
        assert_eq!(note::<u8>(&mut done, &tenant, Err(Refusal::NoSession)), None);
        assert_eq!(note::<u8>(&mut done, &tenant, Err(Refusal::NoAgent)), None);
        assert_eq!(note(&mut done, &tenant, Ok(2)), Some(2));
        assert!(matches!(done, Err(Refusal::NoSession)));
    }
}
