//! Packs that are held open for reading: those that were used last, so many of all vaults together.
//! Each takes a file descriptor, and there may be any number of tenants.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::SnapshotError;

/// The most packs that are held open for reading.
pub const OPEN_PACKS: usize = 256;

/// The packs of all vaults that are open.
pub(super) struct OpenPacks {
    most: usize,
    /// None is closed while this is locked, for which all tenants wait: of one that was removed the disk gets
    /// its room back then.
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// By the number of the vault, and by name: two vaults may have packs of one name.
    packs: HashMap<(u64, Uuid), Open>,
    /// How many vaults there have been.
    vaults: u64,
    /// How often packs were asked for.
    uses: u64,
}

struct Open {
    file: Arc<File>,
    /// When it was used last, by the count of uses.
    used: u64,
}

/// The packs of one vault that are open. They are let go of with it.
pub(super) struct OwnPacks {
    all: Arc<OpenPacks>,
    vault: u64,
    /// Held while one is opened or let go of, so that none is held that has been let go of.
    changing: Mutex<()>,
}

impl OpenPacks {
    /// Holds no more than so many.
    pub(super) fn new(most: usize) -> Arc<OpenPacks> {
        Arc::new(OpenPacks { most, held: Mutex::default() })
    }

    /// Those of one more vault.
    pub(super) fn of_vault(self: &Arc<Self>) -> OwnPacks {
        let mut held = self.lock();
        held.vaults += 1;
        OwnPacks { all: self.clone(), vault: held.vaults, changing: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn find(&mut self, key: (u64, Uuid)) -> Option<Arc<File>> {
        self.uses += 1;
        let open = self.packs.get_mut(&key)?;
        open.used = self.uses;
        Some(open.file.clone())
    }

    /// Lets go of those that were not used for longest until there is room for one more, and holds it.
    /// Returns those.
    fn hold(&mut self, key: (u64, Uuid), file: Arc<File>, most: usize) -> Vec<Open> {
        let mut gone = vec![];
        while self.packs.len() >= most {
            let oldest = self.packs.iter().min_by_key(|(_, open)| open.used).map(|(key, _)| *key);
            let Some(oldest) = oldest.and_then(|oldest| self.packs.remove(&oldest)) else { break };
            gone.push(oldest);
        }
        self.packs.insert(key, Open { file, used: self.uses });
        gone
    }

    /// Lets go of all of a vault. Returns them.
    fn let_go(&mut self, vault: u64) -> Vec<Open> {
        self.packs.extract_if(|key, _| key.0 == vault).map(|(_, open)| open).collect()
    }
}

impl OwnPacks {
    /// A pack, which is opened if it is not.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn get(
        &self,
        name: Uuid,
        open: impl FnOnce() -> Result<File, SnapshotError>,
    ) -> Result<Arc<File>, SnapshotError> {
        let key = (self.vault, name);
        let found = self.all.lock().find(key);
        if let Some(file) = found {
            return Ok(file);
        }
        let _changing = self.changing();
        // Somebody else may have opened it meanwhile.
        let found = self.all.lock().find(key);
        if let Some(file) = found {
            return Ok(file);
        }
        let file = Arc::new(open()?);
        let gone = self.all.lock().hold(key, file.clone(), self.all.most);
        drop(gone);
        Ok(file)
    }

    /// Lets go of a pack. Whoever is reading it reads on.
    pub(super) fn close(&self, name: Uuid) {
        let _changing = self.changing();
        let gone = self.all.lock().packs.remove(&(self.vault, name));
        drop(gone);
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OwnPacks {
    fn drop(&mut self) {
        let gone = self.all.lock().let_go(self.vault);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn open() -> Result<File, SnapshotError> {
        Ok(tempfile::tempfile()?)
    }

    /// Whether a pack is held.
    fn holds(packs: &OwnPacks, n: u128) -> bool {
        packs.all.lock().packs.contains_key(&(packs.vault, name(n)))
    }

    #[test]
    fn what_was_not_used_for_longest_goes_whosesoever_it_is() {
        let all = OpenPacks::new(3);
        let [one, two] = [all.of_vault(), all.of_vault()];
        let first = one.get(name(1), open).unwrap();
        // The same name of another vault is another pack.
        assert!(!Arc::ptr_eq(&first, &two.get(name(1), open).unwrap()));
        two.get(name(2), open).unwrap();
        assert!(Arc::ptr_eq(&first, &one.get(name(1), open).unwrap()), "it was opened again");
        two.get(name(3), open).unwrap();
        assert_eq!([1, 2, 3].map(|n| holds(&two, n)), [false, true, true]);
        assert!(holds(&one, 1));
        one.get(name(4), open).unwrap();
        assert_eq!([1, 2, 3].map(|n| holds(&two, n)), [false, false, true]);
        assert_eq!(all.lock().packs.len(), 3);
    }

    #[test]
    fn none_is_closed_while_others_wait() {
        let mut held = Held::default();
        let file = || Arc::new(tempfile::tempfile().unwrap());
        let (first, second) = (file(), file());
        assert!(held.hold((1, name(1)), first.clone(), 1).is_empty());
        let gone = held.hold((2, name(1)), second.clone(), 1);
        assert!(gone.len() == 1 && Arc::ptr_eq(&gone[0].file, &first));
        assert!(held.let_go(1).is_empty());
        let gone = held.let_go(2);
        assert!(gone.len() == 1 && Arc::ptr_eq(&gone[0].file, &second) && held.packs.is_empty());
    }

    #[test]
    fn what_is_let_go_of_is_closed() {
        let all = OpenPacks::new(9);
        let [one, two] = [all.of_vault(), all.of_vault()];
        let packs = [&one, &one, &two].into_iter().zip(1..);
        let weak = |(of, n): (&OwnPacks, u128)| Arc::downgrade(&of.get(name(n), open).unwrap());
        let files: Vec<_> = packs.map(weak).collect();
        let are_open = || files.iter().map(|file| file.upgrade().is_some()).collect::<Vec<_>>();
        one.close(name(2));
        two.close(name(2));
        assert_eq!(are_open(), [true, false, true]);
        drop(one);
        assert_eq!(are_open(), [false, false, true]);
    }

    #[test]
    fn one_that_cannot_be_opened_is_not_held() {
        let packs = OpenPacks::new(9).of_vault();
        let fails = || Err(SnapshotError::Store("no".to_owned()));
        assert!(packs.get(name(1), fails).is_err() && !holds(&packs, 1));
        packs.get(name(1), open).unwrap();
        // It is open: nobody opens it again.
        packs.get(name(1), fails).unwrap();
    }
}
