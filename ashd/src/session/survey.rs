//! One pass over everything that has to agree. It shows differences and mends none: at the start
//! `mend` does, while the daemon runs nobody.
//!
//! The order of reading is what makes it work beside sessions that come and go: what is under way is
//! asked first, then the store, then the machine. What was under way is no difference; what began
//! later may look like one, and is in the store or under way by the time of a second pass.

use std::collections::{BTreeSet, HashSet};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::api::Refusal;
use super::difference::Difference;
use super::places::Places;
use super::shared::Shared;
use super::{agents, attachments, backup, unsynced};
use crate::domain::{Agent, SandboxId, Session, SessionId, Status, Which};
use crate::sandbox::lease::Slots;
use crate::store::Store;

/// What is known of sessions at one moment.
#[derive(Default)]
struct Facts {
    /// Sessions that are being made, with their places in the range of uids.
    making: BTreeSet<(SessionId, u32)>,
    /// Directories in the state directory that are in use.
    asides: BTreeSet<String>,
    /// Sessions whose attachments are being changed.
    attaching: BTreeSet<SessionId>,
    /// Sessions with drivers, which know better than anybody.
    driven: HashSet<SessionId>,
    sandboxes: BTreeSet<SandboxId>,
    /// Every session that is not ended or still has uids.
    sessions: Vec<Session>,
    agents: Vec<Agent>,
}

/// Looks at everything but the content of snapshots.
///
/// # Errors
/// When the store cannot be read.
pub(super) async fn look(shared: &Arc<Shared>) -> Result<BTreeSet<Difference>, Refusal> {
    let facts = Facts::gather(shared).await?;
    let mut found = BTreeSet::new();
    facts.sessions((&shared.places, &*shared.store), &mut found).await?;
    let lost = attachments::unrecorded((&shared.places, &*shared.store), &facts.attaching);
    found.extend(lost.await?);
    let looking = shared.clone();
    let looked = spawn_blocking(move || {
        facts.machine(&looking, &mut found);
        facts.disk(&looking.places, &looking.slots, &mut found);
        found
    });
    looked.await.map_err(|error| Refusal::Internal(error.to_string()))
}

/// Looks at rows and files while no daemon runs. Of what runs nothing is known: that sandboxes are gone
/// is no difference.
///
/// # Errors
/// When the store cannot be read.
pub(super) async fn look_at_rest(
    places: &Places,
    store: &dyn Store,
    slots: &Slots,
) -> Result<BTreeSet<Difference>, Refusal> {
    let sessions = store.unended_sessions().await?;
    let agents = store.all_agents().await?;
    let facts = Facts { sessions, agents, ..Facts::default() };
    let mut found = BTreeSet::new();
    facts.sessions((places, store), &mut found).await?;
    found.extend(attachments::unrecorded((places, store), &facts.attaching).await?);
    facts.disk(places, slots, &mut found);
    found.retain(|difference| !matches!(difference, Difference::SandboxGone(_)));
    Ok(found)
}

impl Facts {
    async fn gather(shared: &Shared) -> Result<Facts, Refusal> {
        let making = shared.making.all();
        let asides = shared.asides.all();
        let attaching = shared.attaching.all();
        let driven = shared.registry.views().iter().map(|view| view.session.id).collect();
        let mut sandboxes = shared.sandboxes.known();
        sandboxes.extend(shared.registry.views().iter().map(|view| view.session.sandbox));
        let sessions = shared.store.unended_sessions().await?;
        let agents = shared.store.all_agents().await?;
        Ok(Facts { making, asides, attaching, driven, sandboxes, sessions, agents })
    }

    fn is_under_way(&self, id: SessionId) -> bool {
        self.driven.contains(&id) || self.making.iter().any(|(made, _)| *made == id)
    }

    /// What the rows of sessions say, and what is there of it.
    async fn sessions(
        &self,
        (places, store): (&Places, &dyn Store),
        found: &mut BTreeSet<Difference>,
    ) -> Result<(), Refusal> {
        let unsure = unsynced::unsure(store).await?.into_iter();
        found.extend(unsure.filter(|id| !self.is_under_way(*id)).map(Difference::FilesUnsure));
        for session in self.sessions.iter().filter(|session| !self.is_under_way(session.id)) {
            let id = session.id;
            match session.status {
                Status::Starting if session.is_arriving() => {
                    found.insert(Difference::HalfFork(id));
                    continue;
                }
                Status::Ended => {
                    found.insert(Difference::HalfEnded(id));
                    continue;
                }
                Status::Active | Status::Starting if !session.cold => {
                    found.insert(Difference::SandboxGone(id));
                }
                _ if session.turn.is_some() => {
                    found.insert(Difference::SandboxGone(id));
                }
                _ => {}
            }
            if session.restore.is_none() && !places.has_files(id) {
                let point = store.point(id, Which::Newest).await?;
                found.insert(match point {
                    Some(_) => Difference::FilesAway(id),
                    None => Difference::FilesLost(id),
                });
            }
        }
        Ok(())
    }

    /// Sandboxes, processes, mounts, leases. Blocks.
    fn machine(&self, shared: &Shared, found: &mut BTreeSet<Difference>) {
        let left = &shared.sandboxes.leftovers() - &self.sandboxes;
        found.extend(left.into_iter().map(Difference::SandboxLeft));
        found.extend(shared.sandboxes.strays().into_iter().map(Difference::Stray));
        found.extend(shared.sandboxes.mounts().into_iter().map(Difference::Mount));
        let rows = self.sessions.iter().filter_map(|session| session.slot);
        let rows: BTreeSet<u32> = rows.chain(self.making.iter().map(|(_, slot)| *slot)).collect();
        let held = shared.slots.held();
        // The drivers' sessions may have given theirs back since.
        let left = &(&shared.slots.used() - &rows) - &held;
        found.extend(left.into_iter().map(Difference::Lease));
        found.extend(held.into_iter().map(Difference::LeaseHeld));
    }

    /// What lies in the state directory. Blocks.
    fn disk(&self, places: &Places, slots: &Slots, found: &mut BTreeSet<Difference>) {
        let recorded = &self.sessions;
        let known: HashSet<SessionId> = recorded.iter().map(|session| session.id).collect();
        let own = |name: &str| name.parse().is_ok_and(|id: SessionId| known.contains(&id));
        let busy = |name: &str| {
            let id = name.split('.').next().and_then(|id| id.parse().ok());
            self.asides.contains(name) || id.is_some_and(|id| self.is_under_way(id))
        };
        let dirs = agents::names(&places.sessions()).into_iter();
        found.extend(dirs.filter(|name| !own(name) && !busy(name)).map(Difference::SessionDir));
        found.extend(agents::names(&places.staging()).into_iter().map(Difference::Staged));
        found.extend(agents::unrecorded(places, &self.agents));
        let needed = self.agents.iter().map(|it| (&it.tenant, &it.name, it.version));
        let in_use = recorded.iter().map(|it| (&it.tenant, &it.agent, it.agent_version));
        for (tenant, agent, version) in needed.chain(in_use).collect::<BTreeSet<_>>() {
            if !places.version(tenant, agent, version).is_dir() {
                found.insert(Difference::VersionGone(tenant.clone(), agent.clone(), version));
            }
        }
        for session in recorded.iter().filter(|session| !self.is_under_way(session.id)) {
            found.extend(foreign(places, slots, session));
        }
        let copies = agents::names(&places.data_dir).into_iter();
        let copies = copies.filter(|name| name.starts_with(backup::ASIDE) && !busy(name));
        found.extend(copies.map(Difference::BackupCopy));
        let kept = agents::names(&places.old_snapshots()).into_iter();
        found.extend(kept.filter_map(|name| name.parse().ok()).map(Difference::OldKept));
    }
}

/// Whether a session's workspace belongs to somebody else than its agent.
fn foreign(places: &Places, slots: &Slots, session: &Session) -> Option<Difference> {
    let should = slots.uids(session.slot?).agent;
    let workspace = places.session(session.id).join("workspace");
    let owner = std::fs::symlink_metadata(workspace).ok()?.uid();
    (owner != should).then_some(Difference::Owner { session: session.id, owner, should })
}
