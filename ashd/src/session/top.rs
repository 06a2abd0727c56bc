//! What sessions cost right now: the machine and the model.

use std::sync::Arc;

use super::Service;
use super::api::{Caller, Refusal};
use super::ladder::{Place, Rung};
use super::registry::SessionView;
use crate::domain::Status;
use crate::sandbox::cgroup::Stats;
use crate::store::Usage;

/// What a session costs.
pub struct Load {
    /// The session.
    pub view: Arc<SessionView>,
    /// What its sandbox uses; nothing when it has none.
    pub stats: Stats,
    /// What its sandbox does, in a word; empty when it has none, and another word when it has no files on the
    /// disk either.
    pub sandbox: &'static str,
    /// Tokens and cost so far.
    pub usage: Usage,
}

impl Service {
    /// The caller's sessions that are in memory and have not ended, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn top(&self, caller: &Caller) -> Result<Vec<Load>, Refusal> {
        let mut views = self.shared.registry.views();
        views.retain(|view| {
            view.session.tenant == caller.tenant && view.session.status != Status::Ended
        });
        views.sort_by_key(|view| std::cmp::Reverse((view.session.created_at, view.session.id)));
        let mut loads = Vec::with_capacity(views.len());
        for (view, stats) in self.stats(views).await? {
            let usage = self.shared.store.usage(view.session.id).await?;
            let none = if view.session.slot.is_none() { "cleared" } else { "" };
            let sandbox = self.shared.ladder.place(view.session.id).map_or(none, word);
            loads.push(Load { view, stats, sandbox, usage });
        }
        Ok(loads)
    }

    /// Files of the kernel are quick to read, but there may be thousands.
    async fn stats(
        &self,
        views: Vec<Arc<SessionView>>,
    ) -> Result<Vec<(Arc<SessionView>, Stats)>, Refusal> {
        let sandboxes = self.shared.sandboxes.clone();
        let read = move || {
            let with_stats = |view: Arc<SessionView>| {
                let stats = sandboxes.stats(view.session.sandbox);
                (view, stats)
            };
            views.into_iter().map(with_stats).collect()
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|error| Refusal::Internal(error.to_string()))
    }
}

/// What a sandbox does.
fn word(place: Place) -> &'static str {
    match place {
        Place { idle_since: None, .. } => "running",
        Place { rung: Rung::Awake, has_tasks: true, .. } => "background",
        Place { rung: Rung::Awake, .. } => "waiting",
        Place { rung: Rung::Frozen | Rung::Kept, .. } => "frozen",
        Place { rung: Rung::Reclaimed, .. } => "reclaimed",
    }
}
