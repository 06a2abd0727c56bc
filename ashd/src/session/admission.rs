//! How much is begun at a time, and where what is too much waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::api::{Admitted, Refusal};
use super::gate::{Entered, Gate, Place};
use super::ladder::Whose;
use super::owners::{Counted, Has, Owner, Owners};
use super::relief::Relief;
use super::shared::{MAKING_ROOM, Shared, Taken};
use super::standing::Line;
use crate::domain::{SandboxId, Tenant};
use crate::sandbox::admission::{NoRoom, Strain, ease, memory_available, pids};
use crate::telemetry::metrics::labels::{Scarce, Want, Word as _};

/// How often it is looked whether there is room again: of memory and processes nobody tells.
const LOOK: Duration = Duration::from_millis(250);

/// The same for those who begin later: how much may be begun at a time.
const FIT: Duration = Duration::from_secs(1);

/// How long a sandbox that may be made waits while turns lack processors or disks: they go first, for no
/// longer.
const YIELD: Duration = Duration::from_millis(250);

/// When nothing has been short for so long, that is over: free memory comes and goes.
const CALM: Duration = Duration::from_secs(5);

/// Seconds after which to try again when too many turns run, or too many sandboxes are being made or are
/// somebody's.
pub(super) const RETRY_AFTER_S: u32 = 5;

/// How much is begun at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Admission {
    /// Turns that run at the same time, of all sessions.
    pub turns: usize,
    /// The same while the machine is short of memory or processes: those that run already end first.
    pub turns_when_short: usize,
    /// Sandboxes that are made at the same time. Half as many while turns lack processors or disks.
    pub launches: usize,
    /// How long it is waited at most that one may be made.
    pub patience: Duration,
    /// The most sandboxes of a tenant; 0 for any number.
    pub max_per_tenant: u64,
    /// The most sandboxes of an agent; 0 for any number.
    pub max_per_agent: u64,
}

/// Where it is waited.
pub(super) struct Gates {
    /// What turns run in that messages began.
    pub(super) turns: Arc<Gate>,
    /// What sandboxes are made in.
    launches: Arc<Gate>,
    /// Whose the sandboxes are that sessions have, or are to have.
    pub(super) owners: Arc<Owners>,
    /// Whose those are that wait for a session that is yet to be made, or are made to do so. No session waits
    /// for these: they go for it.
    pub(super) spares: Arc<Owners>,
    /// What those share that wait for memory or processes.
    pub(super) relief: Relief,
}

/// A sandbox may be made. It counts as its tenant's and its agent's.
pub(super) struct Entry {
    /// Which.
    pub(super) sandbox: SandboxId,
    /// What it is made in, as long as that takes.
    place: Option<Place>,
    /// The room that it is to have.
    room: Option<Taken>,
    counted: Counted,
}

impl Entry {
    /// The room that the sandbox is to have. None when it has let others in.
    pub(super) fn take_room(&mut self) -> Option<Taken> {
        self.room.take()
    }

    /// The sandbox is made, or something else is done for it that takes long: others need not wait for
    /// that.
    pub(super) fn let_others_in(&mut self) {
        drop((self.place.take(), self.room.take()));
    }

    /// The sandbox is there: this counts it as long as the session has it.
    pub(super) fn into_counted(self) -> Counted {
        self.counted
    }
}

impl Gates {
    pub(super) fn new(admission: &Admission) -> Gates {
        Gates {
            turns: Gate::new(admission.turns),
            launches: Gate::new(admission.launches),
            owners: Arc::default(),
            spares: Arc::default(),
            relief: Relief::default(),
        }
    }

    /// A place to make a sandbox in that nobody waits for. None when somebody might have to wait because
    /// of it.
    pub(super) fn launch_to_spare(&self) -> Option<Place> {
        self.launches.enter_aside()
    }

    /// Where a session of a tenant stands that waits.
    pub(super) fn line(&self, tenant: &Tenant) -> Arc<Line> {
        Line::new((self.launches.clone(), self.turns.clone()), tenant.clone())
    }

    /// Nothing begins any more: the daemon goes away.
    pub(super) fn close(&self) {
        self.turns.close();
        self.launches.close();
    }
}

impl Shared {
    /// Sees to it that as much is begun at a time as configuration and machine let. Returns what the machine
    /// is short of, if it is.
    pub(super) fn fit_gates(&self) -> Option<NoRoom> {
        let admission = self.live().admission;
        let short = ease(&self.strain()).err();
        let turns = if short.is_some() { admission.turns_when_short } else { admission.turns };
        let launches = admission.launches;
        self.gates.turns.resize(turns);
        self.gates.launches.resize(if self.is_crowded() { launches.div_ceil(2) } else { launches });
        short
    }

    /// Whether turns run, and stand still for want of processors or disks. What sandboxes that are made one
    /// after the other take of these is no reason to make them more slowly: then nobody has more of it.
    fn is_crowded(&self) -> bool {
        self.sandboxes.pressure().is_slow() && self.gates.turns.counts().taken > 0
    }

    /// Counts a sandbox for an agent, and waits until it may be made. Where it stands meanwhile the line of
    /// its session knows, if it has one. What need not be waited for is known when this is polled first.
    ///
    /// # Errors
    /// Those of [`count`](Self::count) and [`let_in`](Self::let_in).
    pub(super) async fn enter(&self, owner: Owner, line: Option<&Line>) -> Result<Entry, Refusal> {
        self.let_in(self.count(&owner).await?, line).await
    }

    /// Counts a sandbox that a session is to have as its tenant's and its agent's. When one of them has as
    /// many as it may, one of its own goes for it that nobody uses: for so many of a tenant at a time.
    ///
    /// # Errors
    /// [`Refusal::Capacity`] when none of its own can go in time.
    pub(super) async fn count(&self, owner: &Owner) -> Result<Counted, Refusal> {
        let end = Instant::now() + MAKING_ROOM;
        let mut turn = None;
        loop {
            let want = match self.try_count(owner) {
                Ok(counted) => return Ok(counted),
                Err(no_room) => no_room.want,
            };
            if self.is_shutting_down() {
                return Err(Refusal::ShuttingDown);
            }
            // None is to have gone in vain.
            self.disk_has_room()?;
            let whose = match want {
                Want::Agent => Whose::Agent(owner),
                _ => Whose::Tenant(&owner.0),
            };
            let may_be_counted = match turn.is_some() {
                true => self.evict(whose, end).await,
                false => {
                    let waited = timeout_at(end, self.gates.owners.turn(&owner.0)).await;
                    turn = waited.ok().flatten();
                    turn.is_some()
                }
            };
            if !may_be_counted {
                // Or one has ended meanwhile for a reason of its own.
                return self.try_count(owner).map_err(|no_room| self.refuse(no_room));
            }
        }
    }

    fn try_count(&self, owner: &Owner) -> Result<Counted, NoRoom> {
        let Admission { max_per_tenant, max_per_agent, .. } = self.live().admission;
        // The agent's first: one that goes of its own is one of its tenant's as well.
        self.gates.owners.count_if(owner, |has: Has| {
            at_most(max_per_agent, has.agent, Want::Agent)?;
            at_most(max_per_tenant, has.tenant, Want::Tenant)
        })
    }

    /// Waits until a sandbox may be made, as long as configured at most: first for its turn, then for what
    /// is short and comes back by itself, or with a sandbox that nobody uses. Last it takes the room that
    /// there is, or that such a one leaves. Spares go with which its tenant or its agent would have more than
    /// it may.
    ///
    /// # Errors
    /// [`Refusal::Capacity`] when it has waited in vain, or for nothing that comes back by itself.
    pub(super) async fn let_in(
        &self,
        counted: Counted,
        line: Option<&Line>,
    ) -> Result<Entry, Refusal> {
        self.disk_has_room()?;
        let end = Instant::now() + self.live().admission.patience;
        let place = Some(self.place_for_launch((&counted.owner().0, line), end).await?);
        let sandbox = SandboxId::random();
        let room = Some(self.room_at_ease(sandbox, end).await?);
        self.shed_spares(counted.owner());
        Ok(Entry { sandbox, place, room, counted })
    }

    /// Room for this sandbox, on a machine that is not short of what comes back.
    async fn room_at_ease(&self, sandbox: SandboxId, end: Instant) -> Result<Taken, Refusal> {
        let mut gone = 0;
        loop {
            self.wait_for_ease(&mut gone, end).await?;
            let room = self.room(sandbox).await?;
            // It may have had to wait for one to go.
            if ease(&self.strain()).is_ok() {
                return Ok(room);
            }
        }
    }

    async fn place_for_launch(
        &self,
        (tenant, line): (&Tenant, Option<&Line>),
        end: Instant,
    ) -> Result<Place, Refusal> {
        let mut ticket = match self.gates.launches.enter(tenant) {
            Entered::Place(place) => return Ok(place),
            Entered::Waiting(ticket) => ticket,
        };
        let _waiting = line.map(|line| line.wait_for_launch(ticket.number()));
        // A timer, which counts whole milliseconds, would have somebody wait who is not to.
        let granted = match Instant::now() < end {
            true => timeout_at(end, ticket.granted()).await.ok(),
            false => None,
        };
        match granted {
            Some(granted) => granted.ok_or(Refusal::ShuttingDown),
            None => {
                // If anything is short, it is what those wait for that have the places.
                let reason = "this machine is busy with making other sandboxes".to_owned();
                let busy = NoRoom { want: Want::Launches, reason, retry_after_s: RETRY_AFTER_S };
                Err(self.refuse(ease(&self.strain()).err().unwrap_or(busy)))
            }
        }
    }

    /// Waits until nothing is short that comes back, for somebody for whom so many sandboxes have gone.
    async fn wait_for_ease(&self, gone: &mut u32, end: Instant) -> Result<(), Refusal> {
        let mut pressure = self.sandboxes.pressure_changes();
        let enough = end.min(Instant::now() + YIELD);
        loop {
            let (now, strain) = (Instant::now(), self.strain());
            let until = match ease(&strain) {
                Ok(()) if now >= enough || !self.is_crowded() => return Ok(()),
                Ok(()) => enough,
                Err(_) if self.is_shutting_down() => return Err(Refusal::ShuttingDown),
                Err(no_room) if now >= end => return Err(self.refuse(no_room)),
                Err(_) => {
                    self.relieve(&strain, gone, end).await;
                    end
                }
            };
            tokio::select! {
                () = sleep_until(until.min(now + LOOK)) => {}
                // It is told as long as there are sandboxes.
                _ = pressure.changed() => {}
            }
        }
    }

    /// Refuses something for want of room.
    pub(super) fn refuse(&self, no_room: NoRoom) -> Refusal {
        self.metrics().refused.of(no_room.want).inc();
        no_room.into()
    }

    /// What has begun, what waits, and what was refused.
    pub(super) fn admitted(&self) -> Admitted {
        let refused = |want: &Want| (want.as_str(), self.metrics().refused.of(*want).get());
        Admitted {
            turns: self.gates.turns.counts(),
            launches: self.gates.launches.counts(),
            short: self.short(),
            refused: Want::ALL.iter().map(refused).collect(),
        }
    }

    /// What the machine is short of.
    fn short(&self) -> Vec<Scarce> {
        let (pressure, strain) = (self.sandboxes.pressure(), self.strain());
        let is_short = |of: &Scarce| match of {
            Scarce::Cpu => pressure.cpu,
            Scarce::Memory => strain.lacks_memory(),
            Scarce::Io => pressure.io,
            Scarce::Processes => strain.lacks_processes(),
        };
        Scarce::ALL.iter().copied().filter(is_short).collect()
    }

    /// What cannot be read does not stand in the way.
    pub(super) fn strain(&self) -> Strain {
        Strain {
            is_pressed: self.sandboxes.pressure().memory,
            memory_free: memory_available().unwrap_or(u64::MAX),
            memory_reserve: self.options.memory_reserve,
            pids: [pids(), self.sandboxes.pids()],
        }
    }
}

/// Says no when one more would be more than somebody may have.
fn at_most(max: u64, there: u64, want: Want) -> Result<(), NoRoom> {
    if max == 0 || there < max {
        return Ok(());
    }
    let reason = format!(
        "all {max} sandboxes that one {} may have at a time are in use, or cannot end just now; stop or \
         end one of its sessions",
        want.as_str()
    );
    Err(NoRoom { want, reason, retry_after_s: RETRY_AFTER_S })
}

/// Has less begin at a time while the machine is short of something. Whoever begins something asks nobody:
/// what the kernel does not tell by itself is looked at here, for all of them.
pub(super) async fn follow_pressure(shared: Arc<Shared>) {
    let mut pressure = shared.sandboxes.pressure_changes();
    let mut short_at = None;
    loop {
        // Seen first: what changes from here on is another round.
        drop(pressure.borrow_and_update());
        short_at = note(shared.fit_gates(), short_at);
        tokio::select! {
            () = sleep(FIT) => {}
            changed = pressure.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Says when something gets short, and when it is not any more; returns when it was so last, until that is
/// said.
fn note(short: Option<NoRoom>, short_at: Option<Instant>) -> Option<Instant> {
    match (short, short_at) {
        (Some(no_room), None) => {
            tracing::warn!("{no_room}: what can wait waits");
            Some(Instant::now())
        }
        (Some(_), Some(_)) => Some(Instant::now()),
        (None, Some(last)) if last.elapsed() >= CALM => {
            tracing::info!("this machine is not short of memory or processes any more");
            None
        }
        (None, last) => last,
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
