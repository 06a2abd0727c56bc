//! Sandboxes that are made before anybody asks, so that a session that is made can begin at once.
//!
//! A **spare** is a session that nobody has yet. It has an id, uids, files laid out from its agent's
//! folder, a sandbox, and in it a CLI that has been started, has answered, and has been primed. What
//! it lacks is a row: whoever makes a session of that agent takes the spare, and one commit makes it
//! the session. So nothing in it was ever anybody's, and there is nothing to be cleaned between two.
//!
//! A spare is of one version of one agent of one tenant, and of everything else that a session is
//! made with ([`Stamp`]). When any of that changes it is thrown away. A session that wants something
//! of its own which the CLI takes only at its start gets none.
//!
//! ```text
//!  keeper ─► warm::make ─► shelf ─► take ─► create
//!               │            └─► throw away: another stamp, lost, no room, the daemon ends
//!               └─ no broker has its socket before a session has it: nothing leaves the machine
//! ```

mod keeper;
mod size;
mod warm;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::api::Refusal;
use super::create;
use super::driver::Claimed;
use super::shared::Shared;
use super::under_way::UnderWay;
use crate::domain::{Agent, AgentId, AgentName, Day, Session, Settings, Tenant};
use crate::sandbox::Running;
use crate::sandbox::limits::Limits;
use size::{Demand, Rate};

pub(super) use keeper::keep_for_ever;
use warm::Spare;

/// How long a spare takes to be made, until it is known.
const USUALLY: Duration = Duration::from_secs(1);

/// The pause after a spare could not be made or was lost, at first and at most.
const PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// Whose spares they are.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Kind {
    tenant: Tenant,
    agent: AgentName,
}

impl Kind {
    fn of(agent: &Agent) -> Kind {
        Kind { tenant: agent.tenant.clone(), agent: agent.name.clone() }
    }

    fn of_session(session: &Session) -> Kind {
        Kind { tenant: session.tenant.clone(), agent: session.agent.clone() }
    }
}

/// Everything that a session is made with when it asks for nothing of its own. A spare serves only
/// those who would be made with the same.
#[derive(Clone, Debug, PartialEq)]
struct Stamp {
    /// One that was deleted and deployed anew has the same name, and versions from 1 on.
    agent: AgentId,
    version: u32,
    /// The agent's environment and config are in here.
    settings: Settings,
    limits: Limits,
    runtime: PathBuf,
    /// Counts changes of what else there is: of the model API's key.
    epoch: u64,
    /// The CLI reads once which day it is, and says at the first prompt of another one that it has changed.
    day: Day,
}

/// The spares of one agent.
struct Shelf {
    stamp: Stamp,
    /// As many as its config wants.
    count: u32,
    spares: VecDeque<Spare>,
    /// How many are being made.
    making: u32,
    /// Whoever makes one for it learns by this when it is gone.
    gone: CancellationToken,
    _goes: DropGuard,
    arrivals: Rate,
    takes: Duration,
    /// After a failure: none is made before.
    rests_until: Option<Instant>,
    /// Failures since a session had one. That one could be made tells little: it may be lost at once.
    failures: u32,
}

impl Shelf {
    fn new(stamp: Stamp, count: u32, now: Instant) -> Shelf {
        let gone = CancellationToken::new();
        Shelf {
            stamp,
            count,
            spares: VecDeque::new(),
            making: 0,
            _goes: gone.clone().drop_guard(),
            gone,
            arrivals: Rate::none(now),
            takes: USUALLY,
            rests_until: None,
            failures: 0,
        }
    }

    /// How many there should be.
    fn wanted(&self, now: Instant) -> u32 {
        let per_s = self.arrivals.per_s(now);
        size::wanted(Demand { count: self.count, per_s, takes: self.takes })
    }

    /// Whether one more is to be made.
    fn lacks_one(&self, now: Instant) -> bool {
        let rests = self.rests_until.is_some_and(|until| now < until);
        !rests && self.wanted(now) > self.there()
    }

    /// How many there are, those included that are being made.
    fn there(&self) -> u32 {
        u32::try_from(self.spares.len()).unwrap_or(u32::MAX).saturating_add(self.making)
    }

    /// Takes spares off it.
    fn take_off(&mut self, which: impl FnMut(&Spare) -> bool) -> Vec<Spare> {
        let (off, on) = self.spares.drain(..).partition::<Vec<_>, _>(which);
        self.spares = on.into();
        off
    }

    /// Something went wrong: none is made for a while, each time for longer.
    fn rest(&mut self, now: Instant) {
        let pause = PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.rests_until = Some(now + pause);
    }
}

/// All spares.
#[derive(Default)]
pub(super) struct Pool {
    shelves: Mutex<HashMap<Kind, Shelf>>,
    /// Sandboxes of spares whose CLI is not ready yet.
    starting: AtomicU64,
    /// Sessions that have taken one.
    hits: AtomicU64,
    epoch: AtomicU64,
    closed: AtomicBool,
    /// Whose spares there are, from before they are made until a session has them or nothing of them is
    /// left.
    there: UnderWay<Kind>,
    /// How often agents went away, and up to which time that is known to the keeper. As long as it is not,
    /// no shelf is set up. Changes while shelves are locked.
    departures: AtomicU64,
    known_departures: AtomicU64,
    /// Something has changed that the keeper should look at.
    stir: Notify,
}

impl Pool {
    fn shelves(&self) -> MutexGuard<'_, HashMap<Kind, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Spares that wait for a session.
    pub(super) fn ready(&self) -> u64 {
        self.shelves().values().map(|shelf| shelf.spares.len() as u64).sum()
    }

    /// Spares that have a sandbox and are not ready.
    pub(super) fn starting(&self) -> u64 {
        self.starting.load(Ordering::Relaxed)
    }

    /// Sessions that took a spare.
    pub(super) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// The model API's key has changed: what was made before serves nobody.
    pub(super) fn renew(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        self.stir.notify_one();
    }

    /// Something of the configuration may have changed.
    pub(super) fn look_again(&self) {
        self.stir.notify_one();
    }

    /// Agents are about to go away, whose spares are not wanted any more.
    fn note_departure(&self) {
        let _shelves = self.shelves();
        self.departures.fetch_add(1, Ordering::Relaxed);
        self.stir.notify_one();
    }

    /// Whether agents went away that the keeper may not know to be gone.
    fn is_in_doubt(&self) -> bool {
        let noted = self.departures.load(Ordering::Relaxed);
        noted != self.known_departures.load(Ordering::Relaxed)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Takes the oldest spare that serves a session with these settings, and those that serve nobody
    /// any more. That somebody came is noted.
    fn take_one(
        &self,
        kind: &Kind,
        stamp: &Stamp,
        settings: &Settings,
    ) -> (Option<Spare>, Vec<Spare>) {
        let mut shelves = self.shelves();
        let Some(shelf) = shelves.get_mut(kind) else { return (None, vec![]) };
        shelf.arrivals.note(Instant::now());
        let old = shelf.take_off(|spare| spare.stamp != *stamp);
        // What the CLI is told between turns needs no other CLI.
        let model = stamp.settings.model.clone();
        let is_served = Settings { model, ..settings.clone() } == stamp.settings;
        let taken = if is_served { shelf.spares.pop_front() } else { None };
        if taken.is_some() {
            shelf.failures = 0;
        }
        (taken, old)
    }

    /// Puts a spare on its shelf; gives it back when it is not wanted there any more.
    fn put(&self, kind: &Kind, spare: Spare) -> Option<Spare> {
        let mut shelves = self.shelves();
        match shelves.get_mut(kind) {
            // It is off the shelf already.
            Some(_) if spare.is_lost() => None,
            Some(shelf) if !self.is_closed() && shelf.stamp == spare.stamp => {
                shelf.spares.push_back(spare);
                None
            }
            _ => Some(spare),
        }
    }

    /// Forgets a spare that was lost.
    fn lost(&self, session: &Session) {
        if let Some(shelf) = self.shelves().get_mut(&Kind::of_session(session)) {
            drop(shelf.take_off(|spare| spare.id == session.id));
            shelf.rest(Instant::now());
        }
        self.stir.notify_one();
    }

    /// The newest spare of whoever has most: the one that is missed least.
    fn spare_one(&self) -> Option<Spare> {
        let mut shelves = self.shelves();
        let fullest = shelves.values_mut().max_by_key(|shelf| shelf.spares.len())?;
        fullest.spares.pop_back()
    }

    /// Takes everything off the shelves of these agents, and the shelves away.
    fn clear(&self, which: impl Fn(&Kind) -> bool) -> Vec<Spare> {
        let mut shelves = self.shelves();
        let (gone, kept) = shelves.drain().partition::<HashMap<_, _>, _>(|(kind, _)| which(kind));
        *shelves = kept;
        gone.into_values().flat_map(|shelf| shelf.spares).collect()
    }
}

/// A session that has come out of a spare, ready to be recorded.
pub(super) struct Claim {
    pub(super) session: Session,
    pub(super) claimed: Claimed,
    /// Until it is recorded, nobody takes what there is of it for a leftover.
    pub(super) making: warm::Making,
}

impl Shared {
    /// A spare for a session of this agent with these settings; `None` when it has to be made.
    pub(super) async fn take_spare(&self, agent: &Agent, settings: &Settings) -> Option<Claim> {
        let kind = Kind::of(agent);
        if !self.pool.shelves().contains_key(&kind) {
            return None;
        }
        let stamp = self.stamp(agent).ok()?;
        let (mut taken, folder_model) = loop {
            let (spare, old) = self.pool.take_one(&kind, &stamp, settings);
            self.pool.stir.notify_one();
            drop(old);
            // One that was lost a moment ago is followed by the next.
            if let Some(taken) = spare?.take().await {
                break taken;
            }
        };
        if let Err(error) = self.sandboxes.open(taken.claimed.running.id).await {
            tracing::warn!(error = error.in_full(), "a spare sandbox has no way out");
            self.throw_away_taken(taken).await;
            // Nor has the next: whoever makes one is told why.
            return None;
        }
        create::become_session(&mut taken.session, settings, folder_model);
        self.pool.hits.fetch_add(1, Ordering::Relaxed);
        Some(taken)
    }

    /// What a session of this agent is made with that asks for nothing.
    fn stamp(&self, agent: &Agent) -> Result<Stamp, Refusal> {
        Ok(Stamp {
            agent: agent.id,
            version: agent.version,
            settings: create::settled(agent, Settings::default())?,
            limits: self.live().limits,
            runtime: self.sandboxes.runtime(),
            epoch: self.pool.epoch.load(Ordering::Relaxed),
            day: Day::today(),
        })
    }

    /// Gives the place of a spare to whoever needs it; false when there is none.
    pub(super) fn make_place(&self) -> bool {
        self.pool.spare_one().is_some()
    }

    /// As [`make_place`](Self::make_place), and waits until nothing of the spare is left.
    pub(super) async fn make_place_now(&self) -> bool {
        let Some(spare) = self.pool.spare_one() else { return false };
        spare.clear_away().await;
        true
    }

    /// A place in the range of leased uids; when all are taken, that of a spare.
    pub(super) async fn take_any_slot(&self) -> Result<u32, Refusal> {
        loop {
            match self.take_slot() {
                // What comes back may be taken by the next spare.
                Err(_) if self.make_place_now().await => {}
                taken => return taken,
            }
        }
    }

    /// Ends all spares of an agent that is gone, or of a tenant that goes; returns when nothing of them is
    /// left, and none is being made.
    pub(super) async fn throw_away_of(&self, tenant: &Tenant, agent: Option<&AgentName>) {
        let which =
            |kind: &Kind| kind.tenant == *tenant && agent.is_none_or(|agent| kind.agent == *agent);
        self.pool.note_departure();
        self.throw_away_all(which).await;
    }

    /// Ends all spares, and makes no more.
    pub(super) async fn close_pool(&self) {
        self.pool.closed.store(true, Ordering::Relaxed);
        self.pool.stir.notify_one();
        self.throw_away_all(|_| true).await;
    }

    /// From here on none is begun of these.
    async fn throw_away_all(&self, which: impl Fn(&Kind) -> bool) {
        throw_away(self.pool.clear(&which)).await;
        self.pool.there.wait_for(which).await;
    }

    /// Ends a spare that somebody had in hand.
    pub(super) async fn throw_away_taken(&self, taken: Claim) {
        let Claim { session, claimed, making } = taken;
        self.clear_away(&session, claimed.running).await;
        drop(making);
    }

    /// Leaves nothing of a session that nobody has. What its hooks began may go on when not all of its sandbox
    /// can be ended: its uids stay taken then, and the next start sees to it.
    async fn clear_away(&self, session: &Session, running: Running) {
        if self.end_sandbox(running).await {
            self.unmake(session).await;
        }
    }
}

/// Ends spares; returns when nothing of them is left. Whoever does not wait for that drops them.
async fn throw_away(spares: Vec<Spare>) {
    join_all(spares.into_iter().map(Spare::clear_away)).await;
}

#[cfg(test)]
mod tests;
