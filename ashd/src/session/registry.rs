//! The sessions that are in memory: as committed, ready to be shown, and with their drivers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::driver::Handle;
use super::journal::Journal;
use super::view::session_json;
use crate::domain::{SandboxId, Session, SessionId};

/// A session as last committed, with its JSON for the HTTP wire made once per change.
pub struct SessionView {
    /// The session.
    pub session: Session,
    /// The whole body `{"session":{…}}`.
    pub json: Bytes,
}

impl SessionView {
    /// Makes the view of a session.
    pub fn of(session: &Session) -> Arc<SessionView> {
        SessionView::with(session.clone())
    }

    /// Makes the view of a session, which it keeps.
    pub(super) fn with(session: Session) -> Arc<SessionView> {
        let json = session_json(&session);
        Arc::new(SessionView { session, json })
    }
}

struct Entry {
    view: Arc<SessionView>,
    handle: Handle,
}

/// The sessions that have a driver.
#[derive(Default)]
pub(super) struct Registry {
    entries: RwLock<HashMap<SessionId, Entry>>,
    /// How many of them run a turn. Changes with them, while they are locked.
    running: AtomicU64,
    /// Their newest sandboxes.
    sandboxes: RwLock<HashMap<SandboxId, SessionId>>,
}

impl Registry {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<SessionId, Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<SessionId, Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session as last committed.
    pub(super) fn view(&self, id: SessionId) -> Option<Arc<SessionView>> {
        self.read().get(&id).map(|entry| entry.view.clone())
    }

    /// The session's driver.
    pub(super) fn handle(&self, id: SessionId) -> Option<Handle> {
        self.read().get(&id).map(|entry| entry.handle.clone())
    }

    /// The session's driver; started by `spawn` if there is none. Two callers get the same.
    pub(super) fn handle_or(&self, session: &Session, spawn: impl FnOnce() -> Handle) -> Handle {
        self.enter(session, || Entry { view: SessionView::of(session), handle: spawn() })
    }

    /// Shows a session that was just made, with the driver that `spawn` starts.
    pub(super) fn begin(&self, view: &Arc<SessionView>, spawn: impl FnOnce() -> Handle) {
        self.enter(&view.session, || Entry { view: view.clone(), handle: spawn() });
    }

    fn enter(&self, session: &Session, make: impl FnOnce() -> Entry) -> Handle {
        self.serves(session);
        let mut entries = self.write();
        let entry = entries.entry(session.id).or_insert_with(|| {
            self.count(None, Some(session));
            make()
        });
        entry.handle.clone()
    }

    /// Shows a session as it has been committed.
    pub(super) fn publish(&self, view: Arc<SessionView>) {
        let session = &view.session;
        let mut entries = self.write();
        let Some(entry) = entries.get_mut(&session.id) else { return };
        let before = std::mem::replace(&mut entry.view, view.clone());
        self.count(Some(&before.session), Some(session));
        drop(entries);
        if before.session.sandbox != session.sandbox {
            self.sandboxes().remove(&before.session.sandbox);
            self.serves(session);
        }
    }

    /// Counts whether a session runs a turn, as it was and as it is now. Whoever calls this has the
    /// entries locked.
    fn count(&self, before: Option<&Session>, now: Option<&Session>) {
        let runs = |session: Option<&Session>| session.is_some_and(|it| it.turn.is_some());
        match (runs(before), runs(now)) {
            (false, true) => drop(self.running.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.running.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    fn serves(&self, session: &Session) {
        self.sandboxes().insert(session.sandbox, session.id);
    }

    fn sandboxes(&self) -> RwLockWriteGuard<'_, HashMap<SandboxId, SessionId>> {
        self.sandboxes.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a session.
    pub(super) fn remove(&self, id: SessionId) {
        let mut entries = self.write();
        let Some(entry) = entries.remove(&id) else { return };
        self.count(Some(&entry.view.session), None);
        drop(entries);
        self.sandboxes().remove(&entry.view.session.sandbox);
    }

    /// Forgets the driver with this journal, if it is still the session's and `is_alone` says that
    /// nobody has its handle; nobody gets it meanwhile. Whether it did.
    pub(super) fn let_go(
        &self,
        id: SessionId,
        journal: &Arc<Journal>,
        is_alone: impl FnOnce() -> bool,
    ) -> bool {
        let mut entries = self.write();
        let its = entries.get(&id).filter(|entry| Arc::ptr_eq(&entry.handle.journal, journal));
        let Some(view) = its.map(|entry| entry.view.clone()) else { return false };
        if !is_alone() {
            return false;
        }
        entries.remove(&id);
        self.count(Some(&view.session), None);
        self.sandboxes().remove(&view.session.sandbox);
        true
    }

    /// Every session, as last committed.
    pub(super) fn views(&self) -> Vec<Arc<SessionView>> {
        self.read().values().map(|entry| entry.view.clone()).collect()
    }

    /// How many sessions run a turn.
    pub(super) fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    /// Every driver.
    pub(super) fn handles(&self) -> Vec<Handle> {
        self.read().values().map(|entry| entry.handle.clone()).collect()
    }

    /// The session that a sandbox serves.
    pub(super) fn of_sandbox(&self, sandbox: SandboxId) -> Option<SessionId> {
        self.sandboxes.read().unwrap_or_else(PoisonError::into_inner).get(&sandbox).copied()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::stage::handle;
    use super::*;
    use crate::domain::TurnId;
    use crate::domain::session::RunningTurn;

    /// A session that runs a turn, or none.
    fn session(number: u128, runs: bool) -> Session {
        let turn = runs.then(|| RunningTurn { id: TurnId::random(), user_seq: 1 });
        Session { turn, ..Session::example(number) }
    }

    #[test]
    fn turns_are_counted_as_they_come_and_go() {
        let registry = Registry::default();
        let add =
            |session: &Session| registry.handle_or(session, || handle(session, mpsc::channel(1).0));
        let (one, two) = (add(&session(1, true)), add(&session(2, false)));
        assert_eq!(registry.running(), 1);
        // Nobody else gets another one, whatever the store says of it now.
        add(&session(2, true));
        assert_eq!(registry.running(), 1);
        for (number, runs, running) in
            [(2, true, 2), (2, true, 2), (1, false, 1), (1, false, 1), (3, true, 1), (1, true, 2)]
        {
            registry.publish(SessionView::with(session(number, runs)));
            assert_eq!(registry.running(), running, "{number} {runs}");
        }
        let id = |number| session(number, false).id;
        assert!(!registry.let_go(id(1), &one.journal, || false));
        assert!(!registry.let_go(id(1), &two.journal, || true));
        assert_eq!(registry.running(), 2);
        assert!(registry.let_go(id(1), &one.journal, || true));
        assert_eq!(registry.running(), 1);
        for _ in 0..2 {
            registry.remove(id(2));
            assert_eq!(registry.running(), 0);
        }
    }
}
