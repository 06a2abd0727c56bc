//! The sessions that are in memory: as committed, ready to be shown, and with their drivers.

use std::collections::HashMap;
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
        Arc::new(SessionView { session: session.clone(), json: session_json(session) })
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
        self.serves(session);
        let mut entries = self.write();
        let entry = entries
            .entry(session.id)
            .or_insert_with(|| Entry { view: SessionView::of(session), handle: spawn() });
        entry.handle.clone()
    }

    /// Shows a session as it has been committed.
    pub(super) fn publish(&self, session: &Session) {
        let view = SessionView::of(session);
        let before = match self.write().get_mut(&session.id) {
            Some(entry) => std::mem::replace(&mut entry.view, view).session.sandbox,
            None => return,
        };
        if before != session.sandbox {
            self.sandboxes().remove(&before);
            self.serves(session);
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
        if let Some(entry) = self.write().remove(&id) {
            self.sandboxes().remove(&entry.view.session.sandbox);
        }
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
        let Some(sandbox) = its.map(|entry| entry.view.session.sandbox) else { return false };
        if !is_alone() {
            return false;
        }
        entries.remove(&id);
        self.sandboxes().remove(&sandbox);
        true
    }

    /// Every session, as last committed.
    pub(super) fn views(&self) -> Vec<Arc<SessionView>> {
        self.read().values().map(|entry| entry.view.clone()).collect()
    }

    /// How many sessions run a turn.
    pub(super) fn running(&self) -> u64 {
        self.read().values().filter(|entry| entry.view.session.turn.is_some()).count() as u64
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
