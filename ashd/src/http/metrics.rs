//! `GET /metrics`, and what is counted of requests.
//!
//! Each route tags its answers with what is counted of it, and the front counts them: whatever else
//! answers, the front among it, counts as no route.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::middleware::map_response_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use http::header::CONTENT_TYPE;

use super::context::Context;
use super::health;
use crate::domain::Status;
use crate::session::api::Health;
use crate::telemetry::metrics::labels::{
    ColdSource, Denied, Eviction, Gated, PoolState, Resting, ResumePath, Scarce, Verb, Word as _,
};
use crate::telemetry::metrics::{Metrics, Route, TEXT_FORMAT, follow, set};
use crate::telemetry::psi;

/// What no route answers.
const NO_ROUTE: &str = "none";

/// The route that the front answers, when it can.
const HOT_ROUTE: &str = "/api/sessions/{id}";

/// Says all that is counted and measured. Nothing is looked for: what it takes does not grow with the number
/// of sessions.
pub(super) async fn metrics(State(context): State<Context>) -> Response {
    let service = &context.service;
    let health = service.health().await;
    let text = service.metrics().told(|metrics| {
        tell(metrics, &health);
        metrics.tell_pressure(Path::new(psi::DIR));
    });
    ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response()
}

/// Tells how things are now.
fn tell(metrics: &Metrics, health: &Health) {
    set(&metrics.uptime, health.uptime_s);
    set(&metrics.missing_layers, health.missing.len() as u64);
    set(&metrics.damaged_checkpoints, health.damaged_checkpoints);
    set(&metrics.active_sessions, health.sessions.of(Status::Active));
    set(&metrics.active_sandboxes, health.live_sandboxes);
    for status in Status::ALL {
        set(metrics.sessions.of(status), health.sessions.of(status));
    }
    let pool = health::pool(health);
    set(&metrics.pool_max, pool.max_capacity);
    set(&metrics.pool_max_warm, pool.max_warm);
    for (state, number) in [
        (PoolState::Cold, pool.cold),
        (PoolState::Warming, pool.warming),
        (PoolState::Warm, pool.warm),
        (PoolState::Waiting, pool.waiting),
        (PoolState::Running, pool.running),
    ] {
        set(metrics.pool.of(state), number);
    }
    tell_ladder(metrics, health);
    follow(metrics.evictions.of(Eviction::Capacity), pool.evictions);
    follow(metrics.evictions.of(Eviction::Idle), pool.cooled.saturating_sub(pool.evictions));
    let admission = &health.admission;
    for (what, places) in [(Gated::Turns, admission.turns), (Gated::Launches, admission.launches)] {
        set(metrics.admission_running.of(what), places.taken);
        set(metrics.admission_waiting.of(what), places.waiting);
        set(metrics.admission_limit.of(what), places.max);
    }
    for of in Scarce::ALL {
        set(metrics.admission_short.of(*of), admission.short.contains(of).into());
    }
    follow(metrics.resumes.of(ResumePath::Warm), pool.resume_warm_hits);
    follow(metrics.resumes.of(ResumePath::Cold), pool.resume_cold_hits);
    follow(metrics.resumes.of(ResumePath::Prewarm), pool.pre_warm_hits);
    follow(metrics.cold_resumes.of(ColdSource::Local), pool.resume_cold_local_hits);
    follow(metrics.cold_resumes.of(ColdSource::Cloud), pool.resume_cold_cloud_hits);
    follow(metrics.cold_resumes.of(ColdSource::Fresh), pool.resume_cold_fresh_hits);
}

/// Tells what has become of sandboxes that nobody uses, and when it does.
fn tell_ladder(metrics: &Metrics, health: &Health) {
    let (rested, times) = (&health.rested, &health.times);
    for (step, number) in [(Resting::Frozen, rested.frozen), (Resting::Reclaimed, rested.reclaimed)]
    {
        set(metrics.resting.of(step), number);
    }
    follow(&metrics.freezes, rested.freezes);
    follow(&metrics.reclaimed_bytes, rested.reclaimed_bytes);
    follow(&metrics.cleared, rested.cleared);
    follow(&metrics.cleared_bytes, rested.cleared_bytes);
    // A step that is switched off has no time.
    metrics.resting_after.reset();
    for (step, after) in [
        ("freeze", times.freeze),
        ("reclaim", times.reclaim),
        ("cool", times.cool),
        ("clear", times.clear),
    ] {
        if let Some(after) = after {
            metrics.resting_after.with_label_values(&[step]).set(after.as_secs_f64());
        }
    }
    set(&metrics.resting_per_look, times.at_once as u64);
    set(&metrics.resting_background, times.background.as_secs());
}

/// A router whose routes tag their answers.
pub(super) struct Routes {
    router: Router<Context>,
    metrics: Arc<Metrics>,
}

impl Routes {
    /// One without routes.
    pub(super) fn new(metrics: Arc<Metrics>) -> Routes {
        Routes { router: Router::new(), metrics }
    }

    /// Adds a route.
    pub(super) fn route(self, path: &'static str, methods: MethodRouter<Context>) -> Routes {
        let Routes { router, metrics } = self;
        let route = Arc::new(metrics.route(path));
        let tagged: MethodRouter<Context> = methods.layer(map_response_with_state(route, tag));
        Routes { router: router.route(path, tagged), metrics }
    }

    /// The router.
    pub(super) fn router(self) -> Router<Context> {
        self.router
    }
}

/// Says which route an answer is of.
async fn tag(State(route): State<Arc<Route>>, mut response: Response) -> Response {
    response.extensions_mut().insert(route);
    response
}

/// What the front counts.
pub struct Tally {
    metrics: Arc<Metrics>,
    /// What no route answers.
    pub(super) none: Arc<Route>,
    /// What it answers itself.
    pub(super) hot: Arc<Route>,
}

impl Tally {
    /// Counts there.
    pub fn new(metrics: Arc<Metrics>) -> Tally {
        let (none, hot) = (Arc::new(metrics.route(NO_ROUTE)), Arc::new(metrics.route(HOT_ROUTE)));
        Tally { metrics, none, hot }
    }

    /// Counts somebody who was refused.
    pub(super) fn denied(&self, reason: Denied) {
        self.metrics.denied.of(reason).inc();
    }
}

/// A request that is to be answered.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    verb: Verb,
    at: Instant,
}

impl Asked {
    /// One that has come just now.
    pub(super) fn now(method: &http::Method) -> Asked {
        Asked { verb: Verb::of(method.as_str()), at: Instant::now() }
    }

    /// The head of its answer is there.
    pub(super) fn answered(self, route: &Route, response: &Response) {
        route.answered(self.verb, response.status().as_u16(), self.at.elapsed());
    }

    /// The same, when the answer says which route it is of.
    pub(super) fn answered_by(self, none: &Route, response: &mut Response) {
        let route = response.extensions_mut().remove::<Arc<Route>>();
        self.answered(route.as_deref().unwrap_or(none), response);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use axum::routing::get;
    use http::{Method, Request};
    use tower::Service as _;

    use super::*;
    use crate::session::api::{Admitted, Places, Rested, Times};

    #[tokio::test]
    async fn answers_say_which_route_they_are_of() {
        let metrics = Arc::new(Metrics::new());
        let tally = Tally::new(metrics.clone());
        let layer = map_response_with_state(Arc::new(metrics.route("/a/{b}")), tag);
        let mut router: Router = Router::new().route("/a/{b}", get(|| async { "b" }).layer(layer));
        for path in ["/a/1", "/a/2", "/nowhere"] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let mut response = router.call(request).await.unwrap();
            Asked::now(&Method::GET).answered_by(&tally.none, &mut response);
            assert!(response.extensions().get::<Arc<Route>>().is_none());
        }
        let text = metrics.text();
        for line in [
            "ash_http_requests_total{method=\"GET\",route=\"/a/{b}\",status=\"2xx\"} 2\n",
            "ash_http_requests_total{method=\"GET\",route=\"none\",status=\"4xx\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }

    fn health() -> Health {
        Health {
            sessions: [(Status::Active, 9), (Status::Ended, 4)].into_iter().collect(),
            live_sandboxes: 5,
            running: 2,
            waiting: 2,
            warming: 1,
            warm: 1,
            pre_warm_hits: 3,
            max_warm: 16,
            cold: 6,
            rested: Rested {
                frozen: 2,
                freezes: 8,
                reclaimed_bytes: 4096,
                cooled: 5,
                evictions: 1,
                cleared: 2,
                cleared_bytes: 8192,
                ..Rested::default()
            },
            times: Times {
                freeze: Some(Duration::from_millis(1500)),
                clear: Some(Duration::from_secs(90)),
                at_once: 20,
                background: Duration::from_secs(7),
                ..Times::default()
            },
            max_sandboxes: 100,
            resume_warm_hits: 7,
            resume_cold_hits: 4,
            resume_fresh_hits: 1,
            resume_cloud_hits: 1,
            uptime_s: 60,
            damaged_checkpoints: 3,
            missing: vec!["no landlock".into()],
            model_key: Some(true),
            copying: None,
            gone: None,
            admission: Admitted {
                turns: Places { max: 32, taken: 2, waiting: 3 },
                launches: Places { max: 2, taken: 1, waiting: 0 },
                short: vec![Scarce::Processes],
                ..Admitted::default()
            },
        }
    }

    #[test]
    fn what_is_told_is_what_health_says() {
        let health = health();
        let metrics = Metrics::new();
        for _ in 0..2 {
            let text = metrics.told(|metrics| tell(metrics, &health));
            for line in [
                "ash_uptime_seconds 60",
                "ash_missing_layers 1",
                "ash_damaged_checkpoints 3",
                "ash_active_sessions 9",
                "ash_active_sandboxes 5",
                "ash_sessions{status=\"active\"} 9",
                "ash_sessions{status=\"ended\"} 4",
                "ash_sessions{status=\"paused\"} 0",
                "ash_pool_max_capacity 100",
                "ash_pool_max_warm 16",
                "ash_pool_sandboxes{state=\"warming\"} 1",
                "ash_pool_sandboxes{state=\"waiting\"} 2",
                "ash_pool_sandboxes{state=\"running\"} 2",
                "ash_pool_sandboxes{state=\"cold\"} 6",
                "ash_pool_sandboxes{state=\"warm\"} 1",
                "ash_resting_sandboxes{step=\"frozen\"} 2",
                "ash_freezes_total 8",
                "ash_reclaimed_bytes_total 4096",
                "ash_cleared_sessions_total 2",
                "ash_cleared_bytes_total 8192",
                "ash_resting_after_seconds{step=\"freeze\"} 1.5",
                "ash_resting_after_seconds{step=\"clear\"} 90",
                "ash_resting_per_look 20",
                "ash_resting_background_seconds 7",
                "ash_evictions_total{reason=\"idle\"} 4",
                "ash_evictions_total{reason=\"capacity\"} 1",
                "ash_admission_running{what=\"launches\"} 1",
                "ash_admission_waiting{what=\"turns\"} 3",
                "ash_admission_limit{what=\"turns\"} 32",
                "ash_admission_short{resource=\"memory\"} 0",
                "ash_admission_short{resource=\"processes\"} 1",
                "ash_resume_total{path=\"warm\"} 7",
                "ash_resume_total{path=\"cold\"} 4",
                "ash_resume_total{path=\"prewarm\"} 3",
                "ash_resume_cold_total{source=\"local\"} 2",
                "ash_resume_cold_total{source=\"cloud\"} 1",
                "ash_resume_cold_total{source=\"fresh\"} 1",
            ] {
                assert!(text.lines().any(|known| known == line), "{line} is not in {text}");
            }
            assert!(!text.contains("step=\"cool\""), "it is never done");
        }
    }
}
