//! How many sandboxes tenants and agents have, or are to have. They are counted as they come and go: nobody
//! is looked through for it, however many there are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::{AgentName, Tenant};

/// How many of a tenant have one of its own go at a time. Each looks again and again at what may go, for
/// which the broker is asked, and there may be as many as there are connections.
pub(super) const AT_ONCE: usize = 4;

/// Whose a sandbox is.
pub(super) type Owner = (Tenant, AgentName);

/// Counts the sandboxes of all owners.
#[derive(Default)]
pub(super) struct Owners(Mutex<HashMap<Tenant, Sum>>);

/// What a tenant has.
struct Sum {
    all: u64,
    agents: HashMap<AgentName, u64>,
    turns: Arc<Semaphore>,
}

impl Default for Sum {
    fn default() -> Sum {
        Sum { all: 0, agents: HashMap::new(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

/// How many sandboxes an owner has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Has {
    /// Its tenant, with all agents.
    pub(super) tenant: u64,
    /// Its agent.
    pub(super) agent: u64,
}

/// Counts a sandbox that a session has, or is to have, or one that waits for a session, while this lives.
pub(super) struct Counted {
    owners: Arc<Owners>,
    owner: Owner,
}

impl Owners {
    fn lock(&self) -> MutexGuard<'_, HashMap<Tenant, Sum>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more whether or not it may be: it is there already.
    pub(super) fn count(self: &Arc<Self>, owner: &Owner) -> Counted {
        add(&mut self.lock(), owner);
        self.counted(owner)
    }

    /// Counts one more, if `may` says so of those that there are. No other one comes in between.
    ///
    /// # Errors
    /// What `may` says.
    pub(super) fn count_if<E>(
        self: &Arc<Self>,
        owner: &Owner,
        may: impl FnOnce(Has) -> Result<(), E>,
    ) -> Result<Counted, E> {
        let mut all = self.lock();
        may(has(&all, owner))?;
        add(&mut all, owner);
        drop(all);
        Ok(self.counted(owner))
    }

    /// Waits until somebody may have one of a tenant's own go, while it has this. None when the tenant has
    /// none.
    pub(super) async fn turn(&self, tenant: &Tenant) -> Option<OwnedSemaphorePermit> {
        let turns = self.lock().get(tenant)?.turns.clone();
        turns.acquire_owned().await.ok()
    }

    /// How many somebody has.
    pub(super) fn of(&self, owner: &Owner) -> Has {
        has(&self.lock(), owner)
    }

    fn counted(self: &Arc<Self>, owner: &Owner) -> Counted {
        Counted { owners: self.clone(), owner: owner.clone() }
    }
}

impl Counted {
    /// Whose it is.
    pub(super) fn owner(&self) -> &Owner {
        &self.owner
    }
}

fn has(all: &HashMap<Tenant, Sum>, (tenant, agent): &Owner) -> Has {
    let Some(sum) = all.get(tenant) else { return Has::default() };
    Has { tenant: sum.all, agent: sum.agents.get(agent).copied().unwrap_or(0) }
}

fn add(all: &mut HashMap<Tenant, Sum>, (tenant, agent): &Owner) {
    let sum = all.entry(tenant.clone()).or_default();
    sum.all += 1;
    *sum.agents.entry(agent.clone()).or_default() += 1;
}

impl Drop for Counted {
    fn drop(&mut self) {
        let (tenant, agent) = &self.owner;
        let mut all = self.owners.lock();
        let Some(sum) = all.get_mut(tenant) else { return };
        sum.all = sum.all.saturating_sub(1);
        if let Some(of_agent) = sum.agents.get_mut(agent) {
            *of_agent = of_agent.saturating_sub(1);
            if *of_agent == 0 {
                sum.agents.remove(agent);
            }
        }
        // Whoever has none any more is not remembered.
        if sum.all == 0 {
            all.remove(tenant);
        }
    }
}

#[cfg(test)]
impl Owners {
    /// Whether nobody has any, and nobody is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

#[cfg(test)]
impl Counted {
    /// One that nobody else knows of.
    pub(super) fn any() -> Counted {
        Arc::<Owners>::default().count(&(Tenant::default(), "agent".parse().unwrap()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner(which: usize) -> Owner {
        (format!("t{}", which % 2).parse().unwrap(), format!("a{}", which / 2 % 2).parse().unwrap())
    }

    #[test]
    fn one_more_is_counted_when_it_may_be() {
        let owners = Arc::<Owners>::default();
        let at_most_one = |has: Has| if has.agent < 1 { Ok(()) } else { Err(has) };
        let one = owners.count_if(&owner(0), at_most_one).ok().unwrap();
        let refused = owners.count_if(&owner(0), at_most_one).err();
        assert_eq!(refused, Some(Has { tenant: 1, agent: 1 }));
        let other = owners.count_if(&owner(2), at_most_one).ok().unwrap();
        assert_eq!(owners.of(&owner(2)), Has { tenant: 2, agent: 1 });
        // An agent of another tenant that is called the same is another one.
        assert_eq!(owners.of(&owner(1)), Has::default());
        // One that is there already is there.
        let third = owners.count(&owner(0));
        assert_eq!(owners.of(&owner(0)), Has { tenant: 3, agent: 2 });
        drop((one, other, third));
        assert!(owners.is_empty());
    }

    proptest! {
        /// However they come and go, each counts once, and nobody is remembered who has none.
        #[test]
        fn what_is_counted_is_there(steps in prop::collection::vec((0..3u8, 0..64usize), 0..100)) {
            let owners = Arc::<Owners>::default();
            let mut there: Vec<Counted> = vec![];
            for (what, which) in steps {
                match what {
                    0 if !there.is_empty() => drop(there.remove(which % there.len())),
                    _ => there.push(owners.count(&owner(which))),
                }
                for which in 0..4 {
                    let (tenant, agent) = owner(which);
                    let of = |is_it: &dyn Fn(&Owner) -> bool| {
                        there.iter().filter(|counted| is_it(&counted.owner)).count() as u64
                    };
                    let expected = Has {
                        tenant: of(&|other| other.0 == tenant),
                        agent: of(&|other| *other == (tenant.clone(), agent.clone())),
                    };
                    prop_assert_eq!(owners.of(&(tenant.clone(), agent.clone())), expected);
                }
                prop_assert_eq!(owners.is_empty(), there.is_empty());
            }
        }
    }
}
