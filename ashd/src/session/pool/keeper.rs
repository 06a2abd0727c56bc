//! Who sees to it that there are as many spares as there should be.

use std::collections::HashMap;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::shelves::End;
use super::warm::{self, Spare};
use super::{Kind, NO_DAY, Stamp, day_of, throw_away};
use crate::domain::{Agent, Tenant};
use crate::sandbox::admission;
use crate::session::api::{Happened, Refusal};
use crate::session::gate::Place;
use crate::session::owners::Counted;
use crate::session::shared::Shared;
use crate::session::under_way::Begun;
use crate::store::StoreError;
use crate::telemetry::metrics::labels::SpareEnd;

/// Spares that are made at a time, of those that may: who waits for a session of its own comes first.
const AT_ONCE: usize = 2;

/// How long one counts as one of these. What takes longer waits for something, as a CLI that does not answer
/// does, and takes little of the machine: nobody else's is to wait for that.
const LONG: Duration = Duration::from_secs(5);

/// How long behind the beginning of one the next may begin, while what runs lacks processors or disks: then
/// they are made one after the other, too.
const SLOWLY: Duration = Duration::from_secs(1);

/// How often it is looked whether the machine has room, and whether fewer come than before.
const EVERY: Duration = Duration::from_secs(5);

/// How long whoever has taken a spare comes first, with a session and its first message: a CLI that starts
/// takes all that a processor has.
const FIRST: Duration = Duration::from_millis(250);

/// Memory that a spare takes, in bytes: a CLI at rest has 110 to 125 MB, and more at its start.
const SPARE: u64 = 300 * 1024 * 1024;

/// Keeps spares, as long as the daemon does not end.
pub(in crate::session) async fn keep_for_ever(shared: Arc<Shared>) {
    let mut keeper = Keeper::new(shared);
    let mut happened = keeper.shared.happened.subscribe();
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !keeper.shared.pool.is_closed() {
        if keeper.shared.pool.is_in_doubt() {
            keeper.read_all().await;
        }
        keeper.see_to_all();
        keeper.wait(&mut happened, &mut tick).await;
        keeper.give_way().await;
    }
}

struct Keeper {
    shared: Arc<Shared>,
    /// Agents that want spares.
    agents: HashMap<Kind, Wanting>,
    /// Whether these are all.
    is_known: bool,
    at_once: Arc<Semaphore>,
    /// Tells when the model API's key may have become another one.
    keys: watch::Receiver<u64>,
    /// When one was begun last.
    begun_at: Option<Instant>,
}

/// An agent that wants spares.
struct Wanting {
    agent: Agent,
    /// What they are made with, as far as it is known.
    stamp: Option<Stamp>,
}

impl Wanting {
    fn new(agent: Agent) -> Wanting {
        if day_of(&agent).is_none() {
            tracing::warn!(
                ash_agent = %agent.name, ash_tenant = %agent.tenant, error = NO_DAY,
                "no spare sandboxes are made"
            );
        }
        Wanting { agent, stamp: None }
    }
}

impl Keeper {
    fn new(shared: Arc<Shared>) -> Keeper {
        let at_once = Arc::new(Semaphore::new(AT_ONCE));
        let keys = shared.sandboxes.key_changes();
        Keeper { shared, agents: HashMap::new(), is_known: false, at_once, keys, begun_at: None }
    }

    /// Reads all agents, at the start and when it is not known what has happened.
    async fn read_all(&mut self) {
        let noted = self.shared.pool.departures();
        let read = self.wanting().await;
        self.is_known = read.is_ok();
        match read {
            Ok(agents) => {
                let wanting = |agent| (Kind::of(&agent), Wanting::new(agent));
                self.agents = agents.into_iter().map(wanting).collect();
                self.shared.pool.settle(noted);
            }
            Err(error) => unknown(&error),
        }
    }

    /// Agents that want spares, of tenants that stay.
    async fn wanting(&self) -> Result<Vec<Agent>, StoreError> {
        let mut agents = self.shared.store.all_agents().await?;
        let leaving = self.shared.store.leaving_tenants().await?;
        agents.retain(|agent| wants_any(agent, &leaving));
        Ok(agents)
    }

    /// Waits until there is something to look at. Most of what happens concerns sessions, and comes with
    /// every turn.
    async fn wait(&mut self, happened: &mut broadcast::Receiver<Happened>, tick: &mut Interval) {
        let (shared, held_back_until) = (self.shared.clone(), self.held_back_until());
        loop {
            let heard = tokio::select! {
                () = shared.pool.stirred() => return,
                Ok(()) = self.keys.changed() => return,
                () = reached(held_back_until) => return,
                _ = tick.tick() => return self.ticked().await,
                heard = happened.recv() => heard,
            };
            if self.heard(heard, happened).await {
                return;
            }
        }
    }

    /// Lets whoever has taken a spare a moment ago begin with it. Nobody else is waited for.
    async fn give_way(&self) {
        if let Some(taken_at) = self.shared.pool.taken_at() {
            sleep_until(taken_at + FIRST).await;
        }
    }

    /// Learns what has happened to agents; false when it was something else.
    async fn heard(
        &mut self,
        heard: Result<Happened, RecvError>,
        happened: &mut broadcast::Receiver<Happened>,
    ) -> bool {
        match heard {
            Ok(
                Happened::AgentDeployed(tenant, agent, _)
                | Happened::AgentChanged(tenant, agent)
                | Happened::AgentDeleted(tenant, agent),
            ) => {
                // It may have been deployed anew by now.
                self.read(Kind { tenant, agent }).await;
            }
            Ok(_) | Err(RecvError::Closed) => return false,
            Err(RecvError::Lagged(_)) => {
                *happened = happened.resubscribe();
                self.read_all().await;
            }
        }
        true
    }

    async fn read(&mut self, kind: Kind) {
        match self.wanting_one(&kind).await {
            Ok(Some(agent)) => drop(self.agents.insert(kind, Wanting::new(agent))),
            Ok(None) => drop(self.agents.remove(&kind)),
            Err(error) => {
                self.is_known = false;
                unknown(&error);
            }
        }
    }

    async fn wanting_one(&self, kind: &Kind) -> Result<Option<Agent>, StoreError> {
        let agent = self.shared.store.agent(&kind.tenant, &kind.agent).await?;
        let leaving = self.shared.store.leaving_tenants().await?;
        Ok(agent.filter(|agent| wants_any(agent, &leaving)))
    }

    /// What is to be done from time to time.
    async fn ticked(&mut self) {
        if !self.is_known {
            self.read_all().await;
        }
        self.make_room();
        // What they may have may be less by now; and one was being made when a session came that needed
        // its room.
        self.agents.keys().for_each(|kind| self.shared.shed_spares(&kind.owner()));
    }

    /// Has what is missing made, and throws away what serves nobody.
    fn see_to_all(&mut self) {
        self.stamp_all();
        let pool = &self.shared.pool;
        // What is dropped clears itself away. Where it is not known what they are made with, nobody could have
        // them, and all others would wait behind a shelf that lacks what cannot be made.
        let is_unknown = |wanting: &Wanting| wanting.stamp.is_none();
        let gone = pool.clear(|kind| self.agents.get(kind).is_none_or(is_unknown));
        self.shared.count_ended(&gone, SpareEnd::Gone);
        drop(gone);
        for (kind, Wanting { agent, stamp }) in &self.agents {
            if let Some(stamp) = stamp {
                let off = pool.set_up(kind, stamp, agent.config.spares());
                let (old, more): (Vec<_>, Vec<_>) = off.iter().partition(|it| it.stamp != *stamp);
                self.shared.count_ended(old, SpareEnd::Outdated);
                self.shared.count_ended(more, SpareEnd::Surplus);
            }
        }
        while let Some((kind, is_full)) = self.next()
            && let Some(Wanting { agent, stamp: Some(stamp) }) = self.agents.get(&kind)
            && let Some(start) = self.start(&kind, is_full)
            && let Some(gone) = pool.begin_one(&kind, stamp)
        {
            let (shared, agent) = (self.shared.clone(), agent.clone());
            tokio::spawn(begin(shared, agent, (stamp.clone(), gone), start));
            self.begun_at = Some(Instant::now());
        }
    }

    /// Sees to it that it is known what spares are made with now. Of an agent that is as it was, under the
    /// conditions of before, it is known already.
    fn stamp_all(&mut self) {
        let conditions = self.shared.conditions();
        for Wanting { agent, stamp } in self.agents.values_mut() {
            let is_known =
                |stamp: &Stamp| stamp.conditions == conditions && Some(stamp.day) == day_of(agent);
            if !stamp.as_ref().is_some_and(is_known) {
                *stamp = self.shared.stamp(agent).ok();
            }
        }
    }

    /// Who gets one more, if anybody does, and whether there are as many as may be.
    fn next(&self) -> Option<(Kind, bool)> {
        if !self.may_make() {
            return None;
        }
        let pool = &self.shared.pool;
        let is_full = pool.all() >= self.shared.options.max_spares;
        let may_have = |kind: &Kind| self.shared.exceeding(&kind.owner(), 1).is_none();
        Some((pool.poorest(is_full, may_have)?, is_full))
    }

    /// Lets one more be begun, if nobody who asks for a session has to wait because of it.
    fn start(&self, kind: &Kind, is_full: bool) -> Option<Start> {
        let pool = &self.shared.pool;
        let permit = self.at_once.clone().try_acquire_owned().ok()?;
        let is_alone = self.at_once.available_permits() + 1 == AT_ONCE;
        if !is_alone && self.is_slow() {
            return None;
        }
        let place = self.shared.gates.launch_to_spare()?;
        let step = match is_full {
            false => Step::Make(place),
            // Last: none is given in vain. The place is for others while that one ends.
            true => {
                let given = pool.give_to(kind)?;
                self.shared.count_ended([&given], SpareEnd::Capacity);
                Step::MakeRoom(Box::new(given))
            }
        };
        let counted = self.shared.gates.spares.count(&kind.owner());
        Some(Start { permit, step, counted, _there: pool.there.begin(kind.clone()) })
    }

    /// Whether one more would leave enough for those who ask for sessions.
    fn may_make(&self) -> bool {
        let is_ending = self.shared.pool.is_closed() || self.shared.is_shutting_down();
        !is_ending && self.has_room(2 * SPARE) && self.held_back_until().is_none()
    }

    /// Until when no other one is begun although it is missing, if that is so.
    fn held_back_until(&self) -> Option<Instant> {
        let until = self.begun_at? + SLOWLY;
        (until > Instant::now() && self.is_slow()).then_some(until)
    }

    /// Whether what runs lacks processors or disks. A CLI that starts takes all that it can have of them.
    fn is_slow(&self) -> bool {
        self.shared.sandboxes.pressure().is_slow()
    }

    /// Whether so much memory is there beyond what must stay free, and nothing stands still for want of it.
    fn has_room(&self, bytes: u64) -> bool {
        let free = admission::memory_available().unwrap_or(u64::MAX);
        let is_enough = free >= self.shared.options.memory_reserve.saturating_add(bytes);
        is_enough && !self.shared.sandboxes.pressure().memory
    }

    /// Gives memory back when it gets short: one spare each time.
    fn make_room(&self) {
        if !self.has_room(SPARE) && self.shared.make_place() {
            tracing::info!("memory is short: a spare sandbox goes");
        }
    }
}

/// Waits for a time, or for ever.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// A spare may be begun.
struct Start {
    /// It is one of few, until it is ready or takes long.
    permit: OwnedSemaphorePermit,
    step: Step,
    /// It is one that its agent and its tenant have.
    counted: Counted,
    /// Whoever has them go waits for this.
    _there: Begun<Kind>,
}

/// What is done for a spare.
enum Step {
    /// It is made, in this place.
    Make(Place),
    /// As many are there as may be: the one that somebody else has given for it ends.
    MakeRoom(Box<Spare>),
}

/// Whether an agent wants spares, and is of a tenant that stays.
fn wants_any(agent: &Agent, leaving: &[Tenant]) -> bool {
    agent.config.spares() > 0 && !leaving.contains(&agent.tenant)
}

fn unknown(error: &StoreError) {
    tracing::error!(%error, "it is not known for which agents sandboxes are to be kept warm");
}

/// Makes a spare and puts it on its shelf, or makes room for it.
async fn begin(
    shared: Arc<Shared>,
    agent: Agent,
    (stamp, gone): (Stamp, CancellationToken),
    Start { permit, step, counted, _there }: Start,
) {
    match step {
        Step::Make(place) => {
            make_one(&shared, &agent, (stamp, &gone), (permit, place, counted)).await;
        }
        Step::MakeRoom(given) => {
            given.clear_away().await;
            end_one(&shared, (&Kind::of(&agent), &gone), End::Room);
            drop((permit, counted));
        }
    }
    shared.pool.look_again();
}

/// Makes a spare and puts it on its shelf.
async fn make_one(
    shared: &Arc<Shared>,
    agent: &Agent,
    (stamp, gone): (Stamp, &CancellationToken),
    (permit, place, counted): (OwnedSemaphorePermit, Place, Counted),
) {
    let (kind, begun) = (Kind::of(agent), Instant::now());
    let making = warm::make(shared, agent, (stamp, gone), (place, counted));
    let made = with_permit(shared, permit, making).await;
    if let Err(refusal) = &made
        && !gone.is_cancelled()
    {
        log(agent, refusal);
    }
    let end = match &made {
        Ok(_) => End::Made(begun.elapsed()),
        Err(Refusal::Capacity { .. }) => End::NoRoom,
        Err(_) => End::Failed,
    };
    let unwanted = made.ok().and_then(|spare| shared.pool.put(&kind, spare));
    // Behind that: it must not be missed in between.
    end_one(shared, (&kind, gone), end);
    let why = if gone.is_cancelled() { SpareEnd::Gone } else { SpareEnd::Outdated };
    shared.count_ended(&unwanted, why);
    throw_away(unwanted.into_iter().collect()).await;
}

/// Makes a spare with a permit, which is somebody else's when that takes long.
async fn with_permit<T>(
    shared: &Shared,
    permit: OwnedSemaphorePermit,
    making: impl Future<Output = T>,
) -> T {
    let mut making = pin!(making);
    let quick = timeout(LONG, &mut making).await;
    drop(permit);
    match quick {
        Ok(made) => made,
        Err(_) => {
            shared.pool.look_again();
            making.await
        }
    }
}

/// One is not being made any more. A shelf that came in the place of its own knows nothing of it.
fn end_one(shared: &Shared, (kind, gone): (&Kind, &CancellationToken), end: End) {
    if !gone.is_cancelled() {
        if matches!(end, End::Failed) {
            shared.metrics().spares_ended.of(SpareEnd::Failed).inc();
        }
        shared.pool.end_one(kind, end, Instant::now());
    }
}

/// Says why there is none.
fn log(agent: &Agent, refusal: &Refusal) {
    match refusal {
        Refusal::Capacity { reason, .. } => {
            tracing::debug!(ash_agent = %agent.name, reason, "no spare sandbox for now");
        }
        refusal => tracing::warn!(
            ash_agent = %agent.name, ash_tenant = %agent.tenant, error = %refusal,
            "no spare sandbox could be made"
        ),
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
