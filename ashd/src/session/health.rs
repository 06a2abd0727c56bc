//! How the daemon is.

use super::api::Health;
use super::service::Service;
use crate::domain::Status;
use crate::telemetry::metrics::labels::Resumed;

impl Service {
    /// How the daemon is. What the store does not say is 0.
    pub async fn health(&self) -> Health {
        let shared = &self.shared;
        let sessions = shared.store.count_sessions().await.unwrap_or_default();
        // Whoever has a sandbox is one of the two.
        let may_have_sandbox = sessions.of(Status::Active) + sessions.of(Status::Paused);
        let live_sandboxes = shared.sandboxes.live();
        let (running, warm) = (shared.registry.running(), shared.pool.ready());
        let of_sessions = live_sandboxes.saturating_sub(warm + shared.pool.starting());
        let resumes = |how| shared.metrics().resume_times.of(how).get_sample_count();
        let (cloud, fresh) = (resumes(Resumed::Cloud), resumes(Resumed::Fresh));
        Health {
            sessions,
            live_sandboxes,
            running,
            waiting: of_sessions.saturating_sub(running),
            warming: shared.launching.all().len() as u64 + shared.pool.starting(),
            warm,
            pre_warm_hits: shared.pool.hits(),
            max_warm: shared.options.max_spares,
            cold: may_have_sandbox.saturating_sub(of_sessions),
            rested: shared.ladder.rested(),
            times: shared.times(),
            max_sandboxes: shared.options.max_sandboxes,
            resume_warm_hits: resumes(Resumed::Warm),
            resume_cold_hits: resumes(Resumed::Local) + cloud + fresh,
            resume_fresh_hits: fresh,
            resume_cloud_hits: cloud,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::Session;
    use crate::session::api::Times;
    use crate::session::stage::Stage;

    #[tokio::test]
    async fn sessions_are_counted_by_status() {
        let stage = Stage::set().await;
        let all = [Status::Active, Status::Active, Status::Paused, Status::Ended];
        for (number, status) in (1..).zip(all) {
            stage.add(&Session { status, ..Session::example(number) }).await;
        }
        let health = stage.service.health().await;
        let counts = Status::ALL.map(|status| health.sessions.of(status));
        assert_eq!((counts, health.sessions.all()), ([0, 2, 1, 0, 1, 0], 4));
        assert_eq!(health.cold, 3, "those that have ended never get a sandbox again");
    }

    #[tokio::test]
    async fn a_step_that_is_never_taken_has_no_time() {
        let stage = Stage::set().await;
        // Whatever the machine has of swap: nobody stands still.
        let cool = Some(Duration::from_secs(9));
        let times = Times { reclaim: Some(Duration::from_secs(5)), cool, ..Times::default() };
        stage.shared.live.write().unwrap().times = times;
        let shown = stage.service.health().await.times;
        assert_eq!(shown, Times { cool, ..Times::default() });
    }
}
