//! How much is begun at a time, and where what is too much waits.

use std::sync::Arc;

use super::gate::Gate;
use super::shared::Shared;

/// How much is begun at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Admission {
    /// Turns that run at the same time, of all sessions.
    pub turns: usize,
    /// The same while the machine is short of memory: those that run already end first.
    pub turns_when_short: usize,
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

    /// Nothing begins any more: the daemon goes away.
    pub(super) fn close(&self) {
        self.turns.close();
    }
}

impl Shared {
    /// Sees to it that as much is begun at a time as configuration and machine let.
    pub(super) fn fit_gates(&self) {
        let admission = self.live().admission;
        let is_short = self.sandboxes.pressure().memory;
        let turns = if is_short { admission.turns_when_short } else { admission.turns };
        self.gates.turns.resize(turns);
    }
}

/// Has less begin at a time while the machine is short of memory.
pub(super) async fn follow_pressure(shared: Arc<Shared>) {
    let mut pressure = shared.sandboxes.pressure_changes();
    let mut was_short = false;
    loop {
        // Seen first: what changes from here on is another round.
        let is_short = pressure.borrow_and_update().memory;
        shared.fit_gates();
        if is_short != std::mem::replace(&mut was_short, is_short) {
            match is_short {
                true => tracing::warn!("this machine is short of memory: what can wait waits"),
                false => tracing::info!("this machine is not short of memory any more"),
            }
        }
        if pressure.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::Tenant;
    use crate::sandbox::pressure::Pressure;
    use crate::session::gate::Entered;
    use crate::session::stage::{Stage, TURNS};

    /// How long something may take that happens.
    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn fewer_turns_begin_while_memory_is_short() {
        let stage = Stage::set().await;
        let (turns, tenant) = (stage.shared.gates.turns.clone(), Tenant::default());
        let following = tokio::spawn(follow_pressure(stage.shared.clone()));
        let is = |places| {
            let turns = turns.clone();
            async move {
                while turns.places() != places {
                    tokio::task::yield_now().await;
                }
            }
        };
        stage.shared.sandboxes.press(Pressure { memory: true, ..Pressure::default() });
        tokio::time::timeout(LONG, is(1)).await.unwrap();
        let _running = turns.enter(&tenant);
        let Entered::Waiting(mut ticket) = turns.enter(&tenant) else { panic!("there are two") };
        // Of what else is short a turn needs little.
        stage.shared.sandboxes.press(Pressure { cpu: true, io: true, memory: false });
        tokio::time::timeout(LONG, is(TURNS)).await.unwrap();
        assert!(tokio::time::timeout(LONG, ticket.granted()).await.unwrap().is_some());
        following.abort();
    }
}
