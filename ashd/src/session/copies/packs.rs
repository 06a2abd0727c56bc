//! What is known of the packs in the object store.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use uuid::Uuid;

use crate::domain::Tenant;

/// The packs that are there, as far as is known, of each tenant whose packs were listed.
#[derive(Default)]
pub(super) struct Packs(Mutex<HashMap<Tenant, Listed>>);

type Listed = HashMap<Uuid, There>;

/// A pack that is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct There {
    /// When it was put there.
    pub(super) at: SystemTime,
    /// Whether it is known to be sealed with the key that there is now.
    pub(super) is_opened: bool,
}

impl Packs {
    fn all(&self) -> MutexGuard<'_, HashMap<Tenant, Listed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether those of a tenant were listed.
    pub(super) fn are_listed(&self, tenant: &Tenant) -> bool {
        self.all().contains_key(tenant)
    }

    /// Notes which are there of a tenant, and since when, unless that is known.
    pub(super) fn list(&self, tenant: &Tenant, listed: HashMap<Uuid, SystemTime>) {
        let there = listed.into_iter().map(|(pack, at)| (pack, There { at, is_opened: false }));
        self.all().entry(tenant.clone()).or_insert_with(|| there.collect());
    }

    /// What is known of a pack; `None` when it is not there, as far as is known.
    pub(super) fn get(&self, tenant: &Tenant, pack: Uuid) -> Option<There> {
        self.all().get(tenant)?.get(&pack).copied()
    }

    /// A pack was put there just now.
    pub(super) fn put(&self, tenant: &Tenant, pack: Uuid) {
        if let Some(listed) = self.all().get_mut(tenant) {
            listed.insert(pack, There { at: SystemTime::now(), is_opened: true });
        }
    }

    /// A pack there could be opened.
    pub(super) fn opened(&self, tenant: &Tenant, pack: Uuid) {
        let mut all = self.all();
        if let Some(there) = all.get_mut(tenant).and_then(|listed| listed.get_mut(&pack)) {
            there.is_opened = true;
        }
    }

    /// A pack is removed. What comes under its name may be somebody else's.
    pub(super) fn forget(&self, tenant: &Tenant, pack: Uuid) {
        if let Some(listed) = self.all().get_mut(tenant) {
            listed.remove(&pack);
        }
    }

    /// Those of a tenant have to be listed again.
    pub(super) fn forget_tenant(&self, tenant: &Tenant) {
        self.all().remove(tenant);
    }

    /// Those of all tenants have to be listed again.
    pub(super) fn forget_all(&self) {
        self.all().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_known_of_a_pack_is_forgotten_with_it() {
        let (packs, tenant) = (Packs::default(), Tenant::default());
        let [gone, kept, put] = std::array::from_fn(|_| Uuid::new_v4());
        let at = SystemTime::UNIX_EPOCH;
        let list = || packs.list(&tenant, [gone, kept].map(|pack| (pack, at)).into());
        let state = |pack| packs.get(&tenant, pack).map(|there| there.is_opened);
        packs.put(&tenant, put);
        assert!(!packs.are_listed(&tenant) && state(put).is_none(), "others are there as well");
        list();
        packs.put(&tenant, put);
        packs.opened(&tenant, gone);
        packs.opened(&tenant, kept);
        packs.forget(&tenant, gone);
        assert_eq!([gone, kept, put].map(state), [None, Some(true), Some(true)]);
        // As long as they are known they need not be listed again.
        list();
        assert!(packs.are_listed(&tenant) && state(gone).is_none());
        packs.forget_tenant(&tenant);
        list();
        assert_eq!([gone, kept, put].map(state), [Some(false), Some(false), None]);
        packs.forget_all();
        assert!(!packs.are_listed(&tenant));
    }
}
