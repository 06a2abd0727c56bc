//! What the log and all who watch are told of a session.

use super::Driver;
use crate::domain::{Session, Status};
use crate::session::api::Happened;
use crate::telemetry::message;

impl Driver {
    /// Tells of a session that was just made: before all else that happens to it.
    pub(super) fn tell_made(&self) {
        let Session { id, agent, tenant, .. } = &self.session;
        tracing::info!(
            message_id = message::SESSION_CREATED, ash_session = %id, ash_agent = %agent,
            ash_tenant = %tenant, "session created"
        );
        self.shared.tell(Happened::SessionCreated(tenant.clone(), *id));
    }

    /// Tells of a status that was committed, if that is still to be done.
    pub(super) fn tell_recorded(&mut self) {
        if let Some(status) = self.untold.take() {
            self.tell_status(status);
        }
    }

    /// Tells of a status that was committed.
    pub(super) fn tell_status(&self, status: Status) {
        let Session { id, agent, tenant, .. } = &self.session;
        tracing::info!(
            message_id = message::SESSION_CHANGED, ash_session = %id, ash_agent = %agent,
            ash_tenant = %tenant, %status, "session changed"
        );
        self.shared.tell(Happened::SessionChanged(tenant.clone(), *id, status));
        if status == Status::Active {
            self.shared.copies.wake(*id);
        }
    }
}
