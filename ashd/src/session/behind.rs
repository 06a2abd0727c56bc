//! Sessions whose points are behind what happened in them.
//!
//! A turn is saved behind its end, in the background. A daemon that was killed in between has left
//! no point of it, and nothing would make one until the next message: backups and copies would go on
//! with what was before.

use futures_util::stream::{self, StreamExt as _};

use super::api::Caller;
use super::service::Service;
use crate::domain::{Scope, Session, SessionId};

/// Sessions that are saved at a time.
const AT_ONCE: usize = 4;

/// Saves what a daemon before this one has left unsaved, beside everything else.
pub(super) async fn catch_up(service: Service) {
    match service.shared.store.unsaved_sessions().await {
        Ok(sessions) => drop(service.save_each(sessions).await),
        Err(error) => tracing::error!(%error, "it is not known what is unsaved"),
    }
}

impl Service {
    /// Makes a point of each of these sessions. One that cannot be saved is left as it was saved last,
    /// which is logged; which ones, is returned.
    pub(super) async fn save_each(&self, sessions: Vec<Session>) -> Vec<SessionId> {
        let unsaved = stream::iter(sessions).map(|session| async move {
            let caller = Caller { tenant: session.tenant, scope: Scope::Manage };
            let error = self.save(&caller, session.id, None).await.err()?;
            tracing::warn!(ash_session = %session.id, %error, "not saved");
            Some(session.id)
        });
        unsaved.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await.into_iter().flatten().collect()
    }
}
