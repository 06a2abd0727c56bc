//! How the daemon is.

use std::sync::atomic::Ordering;

use super::api::Health;
use super::service::Service;
use crate::domain::Status;

impl Service {
    /// How the daemon is.
    pub async fn health(&self) -> Health {
        let shared = &self.shared;
        let active_sessions = shared.store.count_sessions(Status::Active).await.unwrap_or(0);
        let paused = shared.store.count_sessions(Status::Paused).await.unwrap_or(0);
        let live_sandboxes = shared.sandboxes.live();
        let (running, warm) = (shared.registry.running(), shared.pool.ready());
        let of_sessions = live_sandboxes.saturating_sub(warm + shared.pool.starting());
        Health {
            active_sessions,
            live_sandboxes,
            running,
            waiting: of_sessions.saturating_sub(running),
            warming: shared.launching.load(Ordering::Relaxed) + shared.pool.starting(),
            warm,
            pre_warm_hits: shared.pool.hits(),
            // Whoever has a sandbox is one of the two.
            cold: (active_sessions + paused).saturating_sub(of_sessions),
            rested: shared.ladder.rested(),
            times: shared.live().times,
            max_sandboxes: shared.options.max_sandboxes,
            resume_warm_hits: shared.warm_resumes.load(Ordering::Relaxed),
            resume_cold_hits: shared.cold_resumes.load(Ordering::Relaxed),
            resume_fresh_hits: shared.fresh_resumes.load(Ordering::Relaxed),
            resume_cloud_hits: shared.cloud_resumes.load(Ordering::Relaxed),
            uptime_s: self.started.elapsed().as_secs(),
            missing: shared.sandboxes.missing().to_vec(),
            damaged_checkpoints: shared.snapshots.damaged(),
            model_key: shared.sandboxes.has_model_key(),
            copying: shared.copies.state(),
            gone: shared.gone(),
            admission: shared.admitted(),
        }
    }
}
