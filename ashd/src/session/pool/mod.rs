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
mod shelves;
mod size;
mod spread;
mod warm;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use futures_util::future::join_all;
use tokio::task::JoinHandle;

use super::api::Refusal;
use super::create;
use super::disk::Since;
use super::driver::Claimed;
use super::ladder::Whose;
use super::owners::Owner;
use super::shared::Shared;
use super::under_way::Begun;
use crate::domain::{Agent, AgentId, AgentName, Day, SandboxId, Session, Settings, Tenant};
use crate::sandbox::Running;
use crate::sandbox::admission::NoRoom;
use crate::sandbox::limits::Limits;
use crate::telemetry::metrics::labels::{SpareEnd, Want};

pub(super) use keeper::keep_for_ever;
pub(super) use shelves::Pool;
use warm::Spare;

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

    fn owner(&self) -> Owner {
        (self.tenant.clone(), self.agent.clone())
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
    conditions: Conditions,
    /// The CLI reads once which day it is, and says at the first prompt of another one that it has changed.
    day: Day,
}

/// What a session of any agent is made with at a time.
#[derive(Clone, Debug, PartialEq)]
struct Conditions {
    limits: Limits,
    runtime: PathBuf,
    /// How often the model API's key may have become another one.
    key_epoch: u64,
}

/// A session that has come out of a spare, ready to be recorded.
pub(super) struct Claim {
    pub(super) session: Session,
    pub(super) claimed: Claimed,
    /// From before its files were laid out.
    pub(super) since: Since,
    /// Until it is recorded, nobody takes what there is of it for a leftover.
    pub(super) making: warm::Making,
}

impl Shared {
    /// A spare for a session of this agent with these settings; `None` when it has to be made. Whoever has
    /// it has its sandbox [opened](Self::open_spare), and the keeper look again.
    pub(super) async fn take_spare(
        self: &Arc<Self>,
        agent: &Agent,
        settings: &Settings,
    ) -> Option<Claim> {
        let kind = Kind::of(agent);
        if !self.pool.has_shelf(&kind) {
            return None;
        }
        let (stamp, asked) = (self.stamp(agent).ok()?, self.spelled_out(settings.clone()));
        let (mut taken, folder_model) = loop {
            let (spare, old) = self.pool.take_one(&kind, &stamp, &asked);
            self.count_ended(&old, SpareEnd::Outdated);
            drop(old);
            let Some(spare) = spare else {
                self.pool.look_again();
                return None;
            };
            // One that was lost a moment ago is followed by the next.
            if let Some(taken) = spare.take().await {
                break taken;
            }
        };
        // What differs else is told in front of each turn.
        if let Some(mode) = asked.permission_mode
            && stamp.settings.permission_mode != Some(mode)
            && let Err(error) = warm::set_mode(&mut taken.claimed, mode).await
        {
            tracing::warn!(ash_agent = %agent.name, %error, "a spare sandbox is not of this mode");
            self.metrics().spares_ended.of(SpareEnd::Failed).inc();
            // Whoever asks has another one made beside its end.
            drop(self.let_go(taken, self.pool.there.begin(kind)));
            self.pool.look_again();
            return None;
        }
        create::become_session(&mut taken.session, settings, folder_model);
        Some(taken)
    }

    /// Has the sandbox of a spare that was taken lead to the model; false when it cannot.
    pub(super) async fn open_spare(&self, sandbox: SandboxId) -> bool {
        let opened = self.sandboxes.open(sandbox).await;
        match &opened {
            Ok(()) => drop(self.pool.hits.fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                tracing::warn!(error = error.in_full(), "a spare sandbox has no way out");
            }
        }
        opened.is_ok()
    }

    /// What a session of this agent is made with that asks for nothing.
    fn stamp(&self, agent: &Agent) -> Result<Stamp, Refusal> {
        Ok(Stamp {
            agent: agent.id,
            version: agent.version,
            settings: self.spelled_out(create::settled(agent, Settings::default())?),
            conditions: self.conditions(),
            day: day_of(agent).ok_or_else(|| Refusal::Internal(NO_DAY.to_owned()))?,
        })
    }

    /// Settings that say what they mean: whoever names what is usual anyway wants nothing of its own.
    fn spelled_out(&self, settings: Settings) -> Settings {
        let usual = self.options.cli.permission_mode;
        Settings { permission_mode: settings.permission_mode.or(Some(usual)), ..settings }
    }

    /// What it is made with now, whosever agent it is.
    fn conditions(&self) -> Conditions {
        Conditions {
            limits: self.live().limits,
            runtime: self.sandboxes.runtime(),
            key_epoch: self.sandboxes.key_epoch(),
        }
    }

    /// Who has more sandboxes than it may, spares included, or would have with so many more: an agent, or its
    /// tenant.
    fn exceeding<'a>(&self, owner: &'a Owner, more: u64) -> Option<Whose<'a>> {
        let admission = self.live.read().unwrap_or_else(PoisonError::into_inner).admission;
        let is_exceeded = |max: u64, there: u64| max > 0 && there + more > max;
        let (sessions, spares) = (self.gates.owners.of(owner), self.gates.spares.of(owner));
        if is_exceeded(admission.max_per_agent, sessions.agent + spares.agent) {
            return Some(Whose::Agent(owner));
        }
        let is_its_tenant = is_exceeded(admission.max_per_tenant, sessions.tenant + spares.tenant);
        is_its_tenant.then_some(Whose::Tenant(&owner.0))
    }

    /// Throws spares away with which an agent or its tenant has more sandboxes than it may. Nobody waits for
    /// that.
    pub(super) fn shed_spares(&self, owner: &Owner) {
        while let Some(whose) = self.exceeding(owner, 0) {
            let Some(spare) = self.pool.spare_one_of(whose) else { return };
            let (tenant, agent) = owner;
            tracing::debug!(
                ash_agent = %agent, ash_tenant = %tenant,
                "a spare sandbox goes: these are as many as may be"
            );
            self.count_ended([&spare], SpareEnd::Capacity);
            drop(spare);
        }
    }

    /// Gives the place of a spare to whoever needs it; false when there is none.
    pub(super) fn make_place(&self) -> bool {
        let spare = self.pool.spare_one();
        self.count_ended(&spare, SpareEnd::Capacity);
        spare.is_some()
    }

    /// As [`make_place`](Self::make_place), and waits until nothing of the spare is left.
    pub(super) async fn make_place_now(&self) -> bool {
        let Some(spare) = self.pool.spare_one() else { return false };
        self.count_ended([&spare], SpareEnd::Capacity);
        spare.clear_away().await;
        true
    }

    /// A place in the range of leased uids that nobody has, not even a spare. Not to have found one is no
    /// refusal yet: that is for whoever asks for the last time to [count](Self::refuse).
    pub(super) fn take_slot(&self) -> Result<u32, NoRoom> {
        let taken = self.slots.take().map_err(|none| none.to_string());
        taken.map_err(|reason| NoRoom { want: Want::Uids, reason, retry_after_s: 30 })
    }

    /// A place in the range of leased uids; when all are taken, that of a spare.
    pub(super) async fn take_any_slot(&self) -> Result<u32, NoRoom> {
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
        self.pool.close();
        self.throw_away_all(|_| true).await;
    }

    /// From here on none is begun of these.
    async fn throw_away_all(&self, which: impl Fn(&Kind) -> bool) {
        let gone = self.pool.clear(&which);
        self.count_ended(&gone, SpareEnd::Gone);
        throw_away(gone).await;
        self.pool.there.wait_for(which).await;
    }

    /// Counts spares that end. One that was lost is counted by whoever hears of that.
    fn count_ended<'a>(&self, spares: impl IntoIterator<Item = &'a Spare>, why: SpareEnd) {
        let ended = spares.into_iter().filter(|spare| !spare.is_lost()).count();
        self.metrics().spares_ended.of(why).inc_by(ended as u64);
    }

    /// Ends a spare that somebody had in hand, beside whatever that one does next. Whoever has to know that
    /// nothing is left of it waits for what is returned, or for what says that it is there.
    fn let_go(self: &Arc<Self>, taken: Claim, there: Begun<Kind>) -> JoinHandle<()> {
        // It goes from now on, whenever that is begun.
        let (shared, going) = (self.clone(), self.pool.going.begin(taken.session.id));
        tokio::spawn(async move {
            shared.end_taken(taken).await;
            drop((going, there));
        })
    }

    /// Ends a spare that was for a session and cannot be it.
    pub(super) async fn throw_away_taken(&self, taken: Claim) {
        self.metrics().spares_ended.of(SpareEnd::Failed).inc();
        self.end_taken(taken).await;
    }

    /// Ends a spare that somebody had in hand.
    async fn end_taken(&self, taken: Claim) {
        let Claim { session, claimed, making, .. } = taken;
        self.clear_away(&session, claimed.running).await;
        drop(making);
    }

    /// Leaves nothing of a session that nobody has. What its hooks began may go on when not all of its sandbox
    /// can be ended: its uids stay taken then, and the next start sees to it.
    async fn clear_away(&self, session: &Session, running: Running) {
        self.count_oom_kills(running.id);
        if self.end_sandbox(running).await {
            self.unmake(session).await;
        }
    }
}

/// Why it is not known which day it is for an agent's CLI.
const NO_DAY: &str = "TZ in the agent's environment is no name of a time zone that is known here";

/// Which day it is for an agent's CLI; `None` when that is not known.
fn day_of(agent: &Agent) -> Option<Day> {
    match agent.env.get("TZ") {
        Some(zone) => Day::today_in(zone),
        None => Some(Day::today()),
    }
}

/// Ends spares; returns when nothing of them is left. Whoever does not wait for that drops them.
async fn throw_away(spares: Vec<Spare>) {
    join_all(spares.into_iter().map(Spare::clear_away)).await;
}

#[cfg(test)]
mod tests;
