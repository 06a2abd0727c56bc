//! How much is begun at a time, and where what is too much waits.

use std::sync::Arc;

use super::gate::Gate;

/// How much is begun at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Admission {
    /// Turns that run at the same time, of all sessions.
    pub turns: usize,
}

/// Where it is waited.
pub(super) struct Gates {
    /// What turns run in that messages began.
    pub(super) turns: Arc<Gate>,
}

impl Gates {
    pub(super) fn new(admission: &Admission) -> Gates {
        Gates { turns: Gate::new(admission.turns) }
    }

    /// Takes over what the configuration says now.
    pub(super) fn adopt(&self, admission: &Admission) {
        self.turns.resize(admission.turns);
    }

    /// Nothing begins any more: the daemon goes away.
    pub(super) fn close(&self) {
        self.turns.close();
    }
}
