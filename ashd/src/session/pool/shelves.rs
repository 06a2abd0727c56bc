//! The shelves that spares wait on, one for each agent that wants some. All of them are under one lock, and
//! nobody waits for anything while it is held.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::size::{self, Demand, Rate};
use super::spread::Spread;
use super::warm::Spare;
use super::{Kind, Stamp};
use crate::domain::{Session, SessionId, Settings};
use crate::session::cli;
use crate::session::ladder::Whose;
use crate::session::under_way::UnderWay;

/// How long those are waited for that end already, before another one has to go.
const GOING: Duration = Duration::from_secs(2);

/// How long a spare takes to be made, until it is known.
const USUALLY: Duration = Duration::from_secs(1);

/// Of a new spare's time, how much counts: one that was slow by chance must not count for long.
const NEW: f64 = 0.25;

/// The pause after a spare could not be made or was lost, at first and at most.
pub(super) const PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// So many times as long nobody gives a spare for one that would be made there.
const DOUBT: u32 = 12;

/// How the making of a spare ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// It is there, after this time.
    Made(Duration),
    /// The machine is full, which is no failure.
    NoRoom,
    /// Something went wrong.
    Failed,
    /// It was not begun: there is room for it now.
    Room,
}

/// The spares of one agent.
pub(super) struct Shelf {
    stamp: Stamp,
    /// As many as its config wants.
    count: u32,
    pub(super) spares: VecDeque<Spare>,
    /// How many are being made.
    making: u32,
    /// Whoever makes one for it learns by this when it is gone.
    gone: CancellationToken,
    _goes: DropGuard,
    arrivals: Rate,
    /// When a session had one last.
    taken_at: Option<Instant>,
    takes: Duration,
    /// After a failure: none is made before.
    pub(super) rests_until: Option<Instant>,
    /// And nobody gives one for it before.
    pub(super) doubted_until: Option<Instant>,
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
            taken_at: None,
            takes: USUALLY,
            rests_until: None,
            doubted_until: None,
            failures: 0,
        }
    }

    /// Is for these from now on. Takes off what serves nobody any more, or is too much.
    fn set_up(&mut self, stamp: &Stamp, count: u32, now: Instant) -> Vec<Spare> {
        self.count = count;
        if self.stamp != *stamp {
            self.stamp = stamp.clone();
            // What went wrong may be mended.
            (self.rests_until, self.doubted_until, self.failures) = (None, None, 0);
        }
        let mut room = self.wanted(now) as usize;
        self.take_off(|spare| {
            let stays = spare.stamp == *stamp && room > 0;
            room -= usize::from(stays);
            !stays
        })
    }

    /// How many there should be.
    fn wanted(&self, now: Instant) -> u32 {
        let per_s = self.arrivals.per_s(now);
        size::wanted(Demand { count: self.count, per_s, takes: self.takes })
    }

    /// Whether one more is to be made.
    fn lacks_one(&self, now: Instant) -> bool {
        !is_before(self.rests_until, now) && self.wanted(now) > self.there()
    }

    /// Whether it is likely that another one would be given for nothing.
    fn is_doubted(&self, now: Instant) -> bool {
        is_before(self.doubted_until, now)
    }

    /// How many there are, those included that are being made.
    pub(super) fn there(&self) -> u32 {
        self.waiting().saturating_add(self.making)
    }

    /// How many wait for a session.
    fn waiting(&self) -> u32 {
        u32::try_from(self.spares.len()).unwrap_or(u32::MAX)
    }

    /// Takes the oldest spare that serves a session with these settings, and those that serve nobody
    /// any more. That somebody came is noted if a spare serves such a one: none need be made for others.
    fn take_one(
        &mut self,
        stamp: &Stamp,
        settings: &Settings,
        now: Instant,
    ) -> (Option<Spare>, Vec<Spare>) {
        let old = self.take_off(|spare| spare.stamp != *stamp);
        if !serves(&stamp.settings, settings) {
            return (None, old);
        }
        self.arrivals.note(now);
        let taken = self.spares.pop_front();
        if taken.is_some() {
            (self.taken_at, self.doubted_until, self.failures) = (Some(now), None, 0);
        }
        (taken, old)
    }

    /// Takes spares off it.
    fn take_off(&mut self, which: impl FnMut(&Spare) -> bool) -> Vec<Spare> {
        let (off, on) = self.spares.drain(..).partition::<Vec<_>, _>(which);
        self.spares = on.into();
        off
    }

    /// Counts one as being made, if one with this stamp is missing; returns what says that the shelf is
    /// gone.
    fn begin_one(&mut self, stamp: &Stamp, now: Instant) -> Option<CancellationToken> {
        if self.stamp != *stamp || !self.lacks_one(now) {
            return None;
        }
        self.making += 1;
        Some(self.gone.clone())
    }

    /// One is not being made any more.
    fn end_one(&mut self, end: End, now: Instant) {
        self.making = self.making.saturating_sub(1);
        match end {
            End::Made(takes) => self.takes = self.takes.mul_f64(1.0 - NEW) + takes.mul_f64(NEW),
            End::NoRoom => self.rests_until = self.rests_until.max(Some(now + PAUSE)),
            End::Failed => self.rest(now),
            End::Room => {}
        }
    }

    /// Forgets one that was lost.
    fn lose(&mut self, session: SessionId, now: Instant) {
        drop(self.take_off(|spare| spare.id == session));
        self.rest(now);
    }

    /// Something went wrong: none is made for a while, and none given for much longer, each time for longer.
    fn rest(&mut self, now: Instant) {
        let pause = PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.rests_until = Some(now + pause);
        self.doubted_until = Some(now + pause * DOUBT);
    }
}

/// All spares.
#[derive(Default)]
pub(in crate::session) struct Pool {
    shelves: Mutex<HashMap<Kind, Shelf>>,
    /// Sandboxes of spares whose CLI is not ready yet.
    pub(super) starting: AtomicU64,
    /// Sessions that have taken one.
    pub(super) hits: AtomicU64,
    closed: AtomicBool,
    /// Whose spares there are, from before they are made until a session has them or nothing of them is
    /// left.
    pub(super) there: UnderWay<Kind>,
    /// Spares that end, by their sessions: their room is free behind that.
    pub(super) going: UnderWay<SessionId>,
    /// How often agents went away, and up to which time that is known to the keeper. As long as it is not,
    /// no shelf is set up. Changes while shelves are locked.
    departures: AtomicU64,
    known_departures: AtomicU64,
    /// Something has changed that the keeper should look at.
    stir: Notify,
}

impl Pool {
    pub(super) fn shelves(&self) -> MutexGuard<'_, HashMap<Kind, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the shelf of an agent, if it has one.
    fn on_shelf<T>(&self, kind: &Kind, act: impl FnOnce(&mut Shelf) -> T) -> Option<T> {
        self.shelves().get_mut(kind).map(act)
    }

    /// Spares that wait for a session.
    pub(in crate::session) fn ready(&self) -> u64 {
        self.shelves().values().map(|shelf| shelf.spares.len() as u64).sum()
    }

    /// All spares, those included that are being made.
    pub(super) fn all(&self) -> u64 {
        self.shelves().values().map(|shelf| u64::from(shelf.there())).sum()
    }

    /// When a session had one last; `None` when it is long ago.
    pub(super) fn taken_at(&self) -> Option<Instant> {
        self.shelves().values().filter_map(|shelf| shelf.taken_at).max()
    }

    /// Spares that have a sandbox and are not ready.
    pub(in crate::session) fn starting(&self) -> u64 {
        self.starting.load(Ordering::Relaxed)
    }

    /// Sessions that took a spare.
    pub(in crate::session) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Something has changed that decides about spares, or may have.
    pub(in crate::session) fn look_again(&self) {
        self.stir.notify_one();
    }

    /// Waits until something has.
    pub(super) async fn stirred(&self) {
        self.stir.notified().await;
    }

    /// From now on there are none.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.look_again();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Agents are about to go away, whose spares are not wanted any more.
    pub(super) fn note_departure(&self) {
        let _shelves = self.shelves();
        self.departures.fetch_add(1, Ordering::Relaxed);
        self.look_again();
    }

    /// How often agents went away.
    pub(super) fn departures(&self) -> u64 {
        self.departures.load(Ordering::Relaxed)
    }

    /// So many departures are known.
    pub(super) fn settle(&self, departures: u64) {
        let _shelves = self.shelves();
        self.known_departures.store(departures, Ordering::Relaxed);
    }

    /// Whether agents went away that the keeper may not know to be gone.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.departures() != self.known_departures.load(Ordering::Relaxed)
    }

    /// Has a shelf for these; returns spares on it that serve nobody any more, or are too many.
    pub(super) fn set_up(&self, kind: &Kind, stamp: &Stamp, count: u32) -> Vec<Spare> {
        let (mut shelves, now) = (self.shelves(), Instant::now());
        if self.is_closed() || self.is_in_doubt() {
            return vec![];
        }
        let new = || Shelf::new(stamp.clone(), count, now);
        shelves.entry(kind.clone()).or_insert_with(new).set_up(stamp, count, now)
    }

    /// Whether an agent has a shelf, be it an empty one.
    pub(super) fn has_shelf(&self, kind: &Kind) -> bool {
        self.shelves().contains_key(kind)
    }

    /// Who misses a spare most, of those who lack one and may have it: an agent of the tenant that has fewest,
    /// and of its agents the one that has fewest. Nobody gets a second one before everybody has one, except
    /// that whoever may not be able to keep one comes last, and has nothing that was given for others. When
    /// there are as many as may be nobody counts for whom nobody gives one, such a one among them.
    pub(super) fn poorest(&self, is_full: bool, may_have: impl Fn(&Kind) -> bool) -> Option<Kind> {
        let (now, shelves) = (Instant::now(), self.shelves());
        let spread = spread(&shelves);
        let is_given = |kind: &Kind, shelf: &Shelf| {
            !shelf.is_doubted(now) && spread.giver((&kind.tenant, shelf.there())).is_some()
        };
        let lacking = shelves.iter().filter(|(kind, shelf)| {
            shelf.lacks_one(now) && may_have(kind) && (!is_full || is_given(kind, shelf))
        });
        let poor = |kind: &Kind, shelf: &Shelf| {
            (shelf.is_doubted(now), spread.all_of(&kind.tenant), shelf.there())
        };
        let poorest = lacking.min_by_key(|(kind, shelf)| (poor(kind, shelf), *kind));
        poorest.map(|(kind, _)| kind.clone())
    }

    /// Counts one as being made, if one with this stamp is missing; returns what says that its shelf is
    /// gone.
    pub(super) fn begin_one(&self, kind: &Kind, stamp: &Stamp) -> Option<CancellationToken> {
        self.on_shelf(kind, |shelf| shelf.begin_one(stamp, Instant::now())).flatten()
    }

    /// One is not being made any more.
    pub(super) fn end_one(&self, kind: &Kind, end: End, now: Instant) {
        self.on_shelf(kind, |shelf| shelf.end_one(end, now));
    }

    /// Puts a spare on its shelf; gives it back when it is not wanted there any more.
    pub(super) fn put(&self, kind: &Kind, spare: Spare) -> Option<Spare> {
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

    /// Takes the oldest spare that serves a session with these settings, and those that serve nobody
    /// any more. That somebody came is noted if a spare serves such a one.
    pub(super) fn take_one(
        &self,
        kind: &Kind,
        stamp: &Stamp,
        settings: &Settings,
    ) -> (Option<Spare>, Vec<Spare>) {
        let take = |shelf: &mut Shelf| shelf.take_one(stamp, settings, Instant::now());
        self.on_shelf(kind, take).unwrap_or_default()
    }

    /// Forgets a spare that was lost.
    pub(super) fn lost(&self, session: &Session) {
        let kind = Kind::of_session(session);
        self.on_shelf(&kind, |shelf| shelf.lose(session.id, Instant::now()));
        self.look_again();
    }

    /// The newest spare of whoever has most: the one that is missed least.
    pub(super) fn spare_one(&self) -> Option<Spare> {
        self.spare_one_of(Whose::Anybody)
    }

    /// The same, of these.
    pub(super) fn spare_one_of(&self, whose: Whose<'_>) -> Option<Spare> {
        let mut shelves = self.shelves();
        let shelf = match whose {
            Whose::Anybody => {
                let tenant = spread(&shelves).richest()?.clone();
                fullest(&mut shelves, |kind| kind.tenant == tenant)
            }
            Whose::Tenant(tenant) => fullest(&mut shelves, |kind| kind.tenant == *tenant),
            Whose::Agent(owner) => fullest(&mut shelves, |kind| kind.owner() == *owner),
        };
        shelf?.spares.pop_back()
    }

    /// The same, for an agent that lacks one where there are as many as may be: of a tenant that has no fewer
    /// than its own then, or of an agent of its own tenant that has no fewer than it. So nobody keeps more
    /// than its part while others want some, and none goes to and fro.
    pub(super) fn give_to(&self, kind: &Kind) -> Option<Spare> {
        let mut shelves = self.shelves();
        let there = shelves.get(kind)?.there();
        let giver = spread(&shelves).giver((&kind.tenant, there))?.clone();
        fullest(&mut shelves, |kind| kind.tenant == giver)?.spares.pop_back()
    }

    /// Waits until those have ended that do, until then at most and not for long; false when none does, or they
    /// take longer.
    pub(in crate::session) async fn has_one_gone(&self, end: Instant) -> bool {
        timeout_at(end.min(Instant::now() + GOING), self.going.wait_for(|_| true))
            .await
            .unwrap_or(false)
    }

    /// Takes everything off the shelves of these agents, and the shelves away.
    pub(super) fn clear(&self, which: impl Fn(&Kind) -> bool) -> Vec<Spare> {
        let mut shelves = self.shelves();
        let (gone, kept) = shelves.drain().partition::<HashMap<_, _>, _>(|(kind, _)| which(kind));
        *shelves = kept;
        gone.into_values().flat_map(|shelf| shelf.spares).collect()
    }
}

/// Whether a CLI that was started with these settings serves a session that wants those: in everything but
/// what it can be told later.
fn serves(made_with: &Settings, wanted: &Settings) -> bool {
    let takes_mode = match (made_with.permission_mode, wanted.permission_mode) {
        (Some(from), Some(to)) => cli::takes_mode(from, to),
        (from, to) => from == to,
    };
    let (model, permission_mode) = (made_with.model.clone(), made_with.permission_mode);
    takes_mode && Settings { model, permission_mode, ..wanted.clone() } == *made_with
}

/// Whether a time is still to come.
fn is_before(until: Option<Instant>, now: Instant) -> bool {
    until.is_some_and(|until| now < until)
}

/// How many each tenant has.
fn spread(shelves: &HashMap<Kind, Shelf>) -> Spread<'_> {
    Spread::of(shelves.iter().map(|(kind, shelf)| (&kind.tenant, shelf.there(), shelf.waiting())))
}

/// The shelf of whoever of these has most.
fn fullest(
    shelves: &mut HashMap<Kind, Shelf>,
    which: impl Fn(&Kind) -> bool,
) -> Option<&mut Shelf> {
    let these = shelves.iter_mut().filter(|(kind, _)| which(kind));
    these.max_by_key(|(kind, shelf)| (shelf.spares.len(), *kind)).map(|(_, shelf)| shelf)
}
