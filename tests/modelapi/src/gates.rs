//! Named places where answers wait until a test lets them go on.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Wakes everybody who waits for a condition that may just have become true.
pub(crate) struct Changes(watch::Sender<()>);

impl Default for Changes {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}

impl Changes {
    /// Something changed.
    pub(crate) fn tell(&self) {
        self.0.send_replace(());
    }

    /// Waits until `check` finds something, looking again after each change.
    pub(crate) async fn until<T>(&self, mut check: impl FnMut() -> Option<T>) -> T {
        let mut changes = self.0.subscribe();
        loop {
            if let Some(found) = check() {
                return found;
            }
            // The sender is `self`, so it cannot have gone.
            let _ = changes.changed().await;
        }
    }
}

/// All gates of a server.
#[derive(Default)]
pub(crate) struct Gates {
    gates: Mutex<HashMap<String, Gate>>,
    changes: Changes,
}

#[derive(Clone, Copy, Default)]
struct Gate {
    /// How many wait here now.
    waiting: usize,
    /// How often it was opened for those who waited.
    opened: u64,
    /// Released while nobody waited: the next one passes.
    ahead: bool,
}

impl Gates {
    /// Waits at a gate until it is released.
    pub(crate) async fn pass(&self, name: &str) {
        let Some(waiting) = self.arrive(name) else { return };
        let opened = waiting.opened;
        self.changes.until(|| (self.gate(name).opened != opened).then_some(())).await;
    }

    /// Lets everybody go on who waits there, or the next one if nobody does.
    pub(crate) fn release(&self, name: &str) {
        let mut gates = self.lock();
        let gate = gates.entry(name.to_owned()).or_default();
        if gate.waiting > 0 {
            *gate = Gate { waiting: 0, opened: gate.opened + 1, ahead: false };
        } else {
            gate.ahead = true;
        }
        drop(gates);
        self.changes.tell();
    }

    /// Waits until somebody waits there.
    pub(crate) async fn held(&self, name: &str) {
        self.changes.until(|| (self.gate(name).waiting > 0).then_some(())).await;
    }

    /// Forgets releases that nobody used.
    pub(crate) fn reset(&self) {
        self.lock().values_mut().for_each(|gate| gate.ahead = false);
    }

    fn arrive<'a>(&'a self, name: &'a str) -> Option<Waiting<'a>> {
        let mut gates = self.lock();
        let gate = gates.entry(name.to_owned()).or_default();
        if std::mem::take(&mut gate.ahead) {
            return None;
        }
        gate.waiting += 1;
        let opened = gate.opened;
        drop(gates);
        self.changes.tell();
        Some(Waiting { gates: self, name, opened })
    }

    fn gate(&self, name: &str) -> Gate {
        self.lock().get(name).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Gate>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits at a gate; counted out when its request goes away.
struct Waiting<'a> {
    gates: &'a Gates,
    name: &'a str,
    opened: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(gate) = self.gates.lock().get_mut(self.name)
            && gate.opened == self.opened
        {
            gate.waiting -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_release_lets_all_go_who_wait() {
        let gates = Arc::new(Gates::default());
        let pass = |gates: Arc<Gates>| tokio::spawn(async move { gates.pass("a").await });
        let (one, two) = (pass(gates.clone()), pass(gates.clone()));
        gates.changes.until(|| (gates.gate("a").waiting == 2).then_some(())).await;
        gates.release("a");
        one.await.unwrap();
        two.await.unwrap();
        assert_eq!(gates.gate("a").waiting, 0);
    }

    #[tokio::test]
    async fn a_release_ahead_of_time_is_remembered_once() {
        let gates = Gates::default();
        gates.release("a");
        gates.pass("a").await;
        assert!(!gates.gate("a").ahead);
    }

    #[tokio::test]
    async fn who_goes_away_is_not_counted() {
        let gates = Arc::new(Gates::default());
        let inside = gates.clone();
        let task = tokio::spawn(async move { inside.pass("a").await });
        gates.held("a").await;
        task.abort();
        assert!(task.await.is_err());
        assert_eq!(gates.gate("a").waiting, 0);
    }
}
