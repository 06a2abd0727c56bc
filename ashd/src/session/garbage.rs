//! Removing from the snapshot store what no point needs: now and then, and at once when a session is
//! purged.
//!
//! Whatever was purged of a tenant is collected beside that of the others: who saves for long is waited for
//! by nobody else. All tenants are collected one after the other, but for those who are at it already: they
//! do it behind that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};

use super::api::Refusal;
use super::fsck::{Failed, Found, content, kept, tenants, tenants_if_known};
use super::service::{Service, blocking, detached};
use super::shared::Shared;
use crate::domain::{Root, SessionId, Tenant};
use crate::snapshot::{Collected, Collecting, Extent, Survey};

/// Packs younger than this stay, unless something was purged that lies in them.
const GRACE: Duration = Duration::from_secs(600);

/// How often the database's log is tried to be emptied, and the time in between: readers may be in
/// the way.
const SCRUBS: u32 = 20;
const SCRUB_PAUSE: Duration = Duration::from_millis(500);

/// How long to wait for who is in the way: who saves since before it was known what may go, or may rely on
/// anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often that is doubled at most for who saves, when it was too short for a tenant each time.
const DOUBLED: u32 = 3;

/// Tenants of whom something that was purged is collected at a time. Most of them wait: each has a thread
/// meanwhile.
const AT_ONCE: usize = 16;

/// How long to wait before what was purged is collected once more, when others were in the way: all points
/// are followed again.
const AGAIN: Duration = Duration::from_secs(5);

/// How long what was purged waits for what else is, at least and at most, behind a collecting for what was
/// purged before that.
const GATHERING: Duration = Duration::from_secs(1);
const LONGEST_GATHERING: Duration = Duration::from_secs(5);

/// Who has left something that is to go.
#[derive(Default)]
pub(super) struct Garbage {
    tenants: Mutex<Leaving>,
    there: Notify,
}

#[derive(Default)]
struct Leaving {
    /// Something of theirs was purged.
    purged: BTreeSet<Tenant>,
    /// Their turn has come while they were being collected.
    due: BTreeSet<Tenant>,
    /// They are being collected, or rest behind that.
    busy: BTreeSet<Tenant>,
    /// All of theirs is removed: nobody looks through it for what goes.
    all: BTreeSet<Tenant>,
}

impl Garbage {
    /// Something of this tenant was purged.
    pub(super) fn left_by(&self, tenant: &Tenant) {
        self.lock().purged.insert(tenant.clone());
        self.there.notify_one();
    }

    /// From now on all of this tenant is removed.
    pub(super) fn leaves(&self, tenant: &Tenant) {
        self.lock().all.insert(tenant.clone());
    }

    /// Nothing of this tenant is left. Another may come that is called like that.
    pub(super) fn has_left(&self, tenant: &Tenant) {
        self.lock().all.remove(tenant);
    }

    /// Those who have left something and are not being collected: from now on they are, until they are
    /// [`done`](Self::done). Also which packs are looked through for what goes.
    fn take(&self) -> Vec<(Tenant, Extent)> {
        let mut leaving = self.lock();
        let Leaving { purged, due, busy, all } = &mut *leaving;
        let stays = |tenant: &&Tenant| !busy.contains(*tenant) && !all.contains(*tenant);
        let taken: Vec<Tenant> = purged.union(due).filter(stays).cloned().collect();
        let taken = taken.into_iter().map(|tenant| {
            purged.remove(&tenant);
            busy.insert(tenant.clone());
            let extent = if due.remove(&tenant) { Extent::Worthwhile } else { Extent::Purged };
            (tenant, extent)
        });
        let taken = taken.collect();
        // What these have left goes with everything else.
        purged.retain(|tenant| !all.contains(tenant));
        due.retain(|tenant| !all.contains(tenant));
        taken
    }

    /// The turn of a tenant has come. Whether it is to be collected now, until it is [`done`](Self::done): if
    /// that is being done for something that was purged, more is done behind that.
    fn comes(&self, tenant: &Tenant) -> bool {
        let mut leaving = self.lock();
        if leaving.all.contains(tenant) {
            return false;
        }
        let is_free = leaving.busy.insert(tenant.clone());
        if !is_free {
            leaving.due.insert(tenant.clone());
        }
        is_free
    }

    /// A tenant was collected.
    fn done(&self, tenant: &Tenant) {
        let mut leaving = self.lock();
        leaving.busy.remove(tenant);
        if leaving.purged.contains(tenant) || leaving.due.contains(tenant) {
            self.there.notify_one();
        }
    }

    /// Only those that stay.
    pub(super) fn staying(&self, mut tenants: BTreeSet<Tenant>) -> BTreeSet<Tenant> {
        let leaving = self.lock();
        tenants.retain(|tenant| !leaving.all.contains(tenant));
        tenants
    }

    fn lock(&self) -> MutexGuard<'_, Leaving> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often in a row a tenant could not be collected. Whoever is in the way of it once may always be, with
/// saves that take long: they are waited for longer each time, and behind the others.
#[derive(Default)]
struct Delayed(BTreeMap<Tenant, u32>);

impl Delayed {
    fn times(&self, tenant: &Tenant) -> u32 {
        self.0.get(tenant).copied().unwrap_or(0)
    }

    /// How long to wait for who saves.
    fn patience(&self, tenant: &Tenant) -> Duration {
        PATIENCE * (1_u32 << self.times(tenant).min(DOUBLED))
    }

    /// Who was delayed least often goes first: no other waits for who is always delayed.
    fn in_order(&self, tenants: BTreeSet<Tenant>) -> Vec<Tenant> {
        let mut tenants: Vec<Tenant> = tenants.into_iter().collect();
        tenants.sort_by_key(|tenant| self.times(tenant));
        tenants
    }

    fn note(&mut self, tenant: &Tenant, is_delayed: bool) {
        if is_delayed {
            *self.0.entry(tenant.clone()).or_default() += 1;
        } else {
            self.0.remove(tenant);
        }
    }
}

/// What was collected of a tenant, or would be.
#[derive(Clone, Debug)]
pub struct Collection {
    /// Whose.
    pub tenant: Tenant,
    /// What; absent when somebody was in the way all the time.
    pub collected: Option<Collected>,
}

impl Service {
    /// Removes what no point needs, of all tenants, or only says what would be removed.
    ///
    /// # Errors
    /// When a store cannot be read; what was collected before stays so.
    pub async fn collect(&self, preview: bool) -> Result<Vec<Collection>, Refusal> {
        let shared = self.shared.clone();
        detached(async move {
            let mut all = vec![];
            for tenant in shared.garbage.staying(tenants(&shared).await?) {
                let how = (Extent::Worthwhile, preview);
                let collected = collect(&shared, &tenant, how, PATIENCE).await?;
                all.push(Collection { tenant, collected });
            }
            Ok(all)
        })
        .await
    }

    /// Reads every chunk of every point of all tenants. What is damaged is noted, and stored again
    /// with the next point of a session that still has it.
    ///
    /// # Errors
    /// When a store cannot be read.
    pub async fn check_snapshots(&self) -> Result<Found, Refusal> {
        let shared = self.shared.clone();
        detached(async move {
            let mut found = Found::default();
            for tenant in tenants(&shared).await? {
                let survey =
                    Arc::new(content((&shared.snapshots, &shared.store), &tenant, true).await?);
                found.add(&*shared.store, &tenant, &survey).await?;
                set_right(&shared, &tenant, survey).await?;
            }
            Ok(found)
        })
        .await
    }
}

async fn set_right(shared: &Shared, tenant: &Tenant, survey: Arc<Survey>) -> Result<(), Refusal> {
    let (snapshots, whose) = (shared.snapshots.clone(), tenant.clone());
    // One that was deleted meanwhile is not made again.
    let set = move || match snapshots.known_vault(&whose)? {
        Some(vault) => vault.set_right(&survey),
        None => Ok(false),
    };
    let set = spawn_blocking(set).await.map_err(|error| Refusal::Internal(error.to_string()))?;
    if set.map_err(Failed::from)? {
        tracing::warn!(ash_tenant = %tenant, "what is damaged is stored again when it is there");
    }
    Ok(())
}

/// Collects as long as the daemon lives.
pub(super) async fn collect_for_ever(shared: Arc<Shared>) {
    // What was purged when the daemon before this one ended.
    finish_purges(&shared).await;
    let left = tenants_if_known(&shared).await.into_iter();
    let left = left.filter(|tenant| was_purged(&shared, tenant));
    left.for_each(|tenant| shared.garbage.left_by(&tenant));
    let (delayed, threads) = (Mutex::default(), Semaphore::new(AT_ONCE));
    let collector = Arc::new(Collector { shared, delayed, threads });
    tokio::join!(collector.collect_purged(), collector.collect_all());
}

/// What those have in common who collect.
struct Collector {
    shared: Arc<Shared>,
    delayed: Mutex<Delayed>,
    threads: Semaphore,
}

impl Collector {
    /// Collects those of whom something was purged, each beside the others.
    async fn collect_purged(self: &Arc<Self>) {
        let (garbage, mut rested) = (&self.shared.garbage, Instant::now());
        let mut under_way = JoinSet::new();
        loop {
            garbage.there.notified().await;
            sleep_until(rested).await;
            while under_way.try_join_next().is_some() {}
            let (begun, left) = (Instant::now(), garbage.take());
            if left.is_empty() {
                continue;
            }
            // Also of those whose content was collected meanwhile: their rows may have come into the log since.
            scrub(&self.shared).await;
            rested = Instant::now() + rest(begun.elapsed());
            for (tenant, extent) in left {
                let collector = self.clone();
                under_way.spawn(async move { collector.collect_one(&tenant, extent).await });
            }
        }
    }

    /// Collects all tenants when their turn has come, one after the other: whatever is purged meanwhile, and
    /// however often.
    async fn collect_all(&self) {
        let garbage = &self.shared.garbage;
        // Unless that is never.
        while let Some(turn) = Instant::now().checked_add(self.shared.options.collect_every) {
            sleep_until(turn).await;
            let all = garbage.staying(tenants_if_known(&self.shared).await);
            if all.iter().any(|tenant| was_purged(&self.shared, tenant)) {
                scrub(&self.shared).await;
            }
            let in_order = self.delayed().in_order(all);
            for tenant in in_order {
                if garbage.comes(&tenant) {
                    self.collect(&tenant, Extent::Worthwhile).await;
                    garbage.done(&tenant);
                }
            }
        }
    }

    /// Collects a tenant of whom something was purged, and rests behind that. What may be left of it is
    /// collected once more.
    async fn collect_one(&self, tenant: &Tenant, extent: Extent) {
        let (garbage, begun) = (&self.shared.garbage, Instant::now());
        if extent == Extent::Worthwhile || was_purged(&self.shared, tenant) {
            let is_left = match self.threads.acquire().await {
                Ok(_thread) => self.collect(tenant, extent).await,
                // Nobody closes it.
                Err(_) => false,
            };
            match is_left {
                true => {
                    sleep(AGAIN).await;
                    garbage.left_by(tenant);
                }
                false => sleep(rest(begun.elapsed())).await,
            }
        }
        garbage.done(tenant);
    }

    /// Collects a tenant. Returns whether something that was purged may be left.
    async fn collect(&self, tenant: &Tenant, extent: Extent) -> bool {
        let patience = self.delayed().patience(tenant);
        let collected = collect(&self.shared, tenant, (extent, false), patience).await;
        self.delayed().note(tenant, matches!(collected, Ok(None)));
        match collected {
            Ok(Some(collected)) => {
                say(tenant, collected);
                // Somebody was at what was purged, and is not for long: nobody finds it any more.
                collected.read > 0
            }
            // Somebody was in the way all the time: later.
            Ok(None) => true,
            Err(error) => {
                tracing::error!(ash_tenant = %tenant, %error, "snapshots could not be collected");
                false
            }
        }
    }

    fn delayed(&self) -> MutexGuard<'_, Delayed> {
        self.delayed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long nothing is collected of a tenant for the sake of what is purged, behind a collecting that took so
/// long, nor the database's log emptied behind an emptying: each follows all points, or has whoever commits
/// wait. So sessions that are purged one after the other go together, and one alone goes at once.
fn rest(took: Duration) -> Duration {
    took.clamp(GATHERING, LONGEST_GATHERING)
}

/// Whether something of a tenant was purged and may be left. A file is looked for; no more.
fn was_purged(shared: &Shared, tenant: &Tenant) -> bool {
    shared.snapshots.was_purged(tenant)
}

/// Sees to it that rows that were removed are not in the database's log any more.
pub(super) async fn scrub(shared: &Shared) {
    finish_purges(shared).await;
    for _ in 0..SCRUBS {
        match shared.store.scrub().await {
            Ok(true) => return,
            Ok(false) => sleep(SCRUB_PAUSE).await,
            Err(error) => {
                tracing::error!(%error, "what was purged may be in the database's log");
                return;
            }
        }
    }
    tracing::warn!("what was purged may be in the database's log until that is written anew");
}

async fn finish_purges(shared: &Shared) {
    if let Err(error) = shared.store.finish_purges().await {
        tracing::error!(%error, "rows of what was purged are still in the database");
    }
}

impl Shared {
    /// What the points of a session have, for who purges it.
    pub(super) async fn content_of(&self, id: SessionId) -> Result<Vec<Root>, Refusal> {
        Ok(self.store.points(id).await?.iter().map(|point| point.root).collect())
    }
}

fn say(tenant: &Tenant, collected: Collected) {
    let Collected { bytes, packs, damaged, held, .. } = collected;
    if damaged > 0 {
        tracing::error!(
            ash_tenant = %tenant, damaged, held,
            "checkpoints are damaged, and what they may need is not collected; \
             `ashctl snapshot check` says which"
        );
    }
    if packs > 0 {
        tracing::info!(ash_tenant = %tenant, bytes, packs, "snapshots collected");
    }
}

/// Collects what a tenant's points do not need; `None` when somebody was in the way. Who saves is waited for
/// as long as is said, and nobody else for longer than ever.
async fn collect(
    shared: &Arc<Shared>,
    tenant: &Tenant,
    (extent, preview): (Extent, bool),
    patience_with_saves: Duration,
) -> Result<Option<Collected>, Refusal> {
    let (shared, tenant) = (shared.clone(), tenant.clone());
    let collect = move || -> Result<Option<Collected>, Refusal> {
        // One that was deleted meanwhile is not made again.
        let vault = shared.snapshots.known_vault(&tenant).map_err(Failed::from)?;
        let Some(vault) = vault else { return Ok(Some(Collected::default())) };
        let patience = PATIENCE;
        let how = Collecting { extent, grace: GRACE, preview, patience, patience_with_saves };
        Ok(vault.collect(&how, || kept(&shared, &tenant))?)
    };
    blocking(collect).await
}

#[cfg(test)]
#[path = "garbage_tests.rs"]
mod tests;
