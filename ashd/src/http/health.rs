//! `GET /health`: open to everyone, so it names no tenant, no session and no path.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;

use super::context::Context;
use super::error::json;
use crate::domain::Status;
use crate::session::api::{self, Admitted, Gone, Health, Scarce, Times};
use crate::telemetry::metrics::labels::Word as _;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shape<'a> {
    status: &'static str,
    active_sessions: u64,
    active_sandboxes: u64,
    /// Seconds.
    uptime: u64,
    pool: Pool,
    idle: Idle,
    version: &'static str,
    coordinator_id: &'a str,
    remote_runners: u64,
    /// Layers of protection that this machine does not give.
    missing: &'a [String],
    /// Whether there is a model API key; absent when the broker cannot be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    model_key: Option<bool>,
    /// How the object store is doing; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    object_store: Option<ObjectStore>,
    /// What has gone because it was kept long enough; absent when everything is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<Retention>,
    admission: Admission,
}

/// What has begun, what waits, and what was refused.
#[derive(Serialize)]
struct Admission {
    turns: Places,
    launches: Places,
    /// Of what the machine can be short of, whether it is.
    pressure: BTreeMap<&'static str, bool>,
    /// How often, by what there was too little of.
    refused: BTreeMap<&'static str, u64>,
}

/// Turns, or sandboxes that are made.
#[derive(Serialize)]
struct Places {
    running: u64,
    waiting: u64,
    max: u64,
}

impl From<&Admitted> for Admission {
    fn from(admitted: &Admitted) -> Admission {
        let is_short = |of: &Scarce| (of.as_str(), admitted.short.contains(of));
        Admission {
            turns: admitted.turns.into(),
            launches: admitted.launches.into(),
            pressure: Scarce::ALL.iter().map(is_short).collect(),
            refused: admitted.refused.iter().copied().collect(),
        }
    }
}

impl From<api::Places> for Places {
    fn from(places: api::Places) -> Places {
        Places { running: places.taken, waiting: places.waiting, max: places.max }
    }
}

/// What has gone since the start.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Retention {
    /// Sessions that were purged.
    purged_sessions: u64,
    /// Events whose content was forgotten.
    forgotten_events: u64,
    /// Checkpoints that were removed.
    removed_checkpoints: u64,
    /// Bytes that checkpoints take beyond what they may.
    over_bytes: u64,
    /// Whether the newest pass failed.
    failing: bool,
}

impl From<Gone> for Retention {
    fn from(gone: Gone) -> Retention {
        Retention {
            purged_sessions: gone.sessions,
            forgotten_events: gone.events,
            removed_checkpoints: gone.points,
            over_bytes: gone.over,
            failing: gone.failing,
        }
    }
}

/// Copies of checkpoints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectStore {
    /// Sessions whose newest one is not there yet, and those that were purged here and not there.
    waiting: u64,
    /// Whether the newest attempt failed.
    failing: bool,
}

/// Every count that clients require; those of things that we do not have are 0.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pool {
    total: u64,
    pub(super) cold: u64,
    pub(super) warming: u64,
    pub(super) warm: u64,
    pub(super) waiting: u64,
    pub(super) running: u64,
    pub(super) max_capacity: u64,
    pub(super) resume_warm_hits: u64,
    pub(super) resume_cold_hits: u64,
    pub(super) resume_cold_local_hits: u64,
    pub(super) resume_cold_cloud_hits: u64,
    pub(super) resume_cold_fresh_hits: u64,
    pub(super) pre_warm_hits: u64,
    /// The most that may be warm.
    pub(super) max_warm: u64,
    /// Of those that wait: agents that stand still.
    pub(super) frozen: u64,
    /// Of those: agents that have given their memory back.
    pub(super) reclaimed: u64,
    /// Since the start: how often an agent was stopped.
    pub(super) freezes: u64,
    /// Since the start: bytes of memory that were given back.
    pub(super) reclaimed_bytes: u64,
    /// Since the start: sandboxes that were saved and ended because nobody used them.
    pub(super) cooled: u64,
    /// Since the start: of those, to make room for others.
    pub(super) evictions: u64,
    /// Since the start: sessions at rest whose files were removed, and whose uids were given back.
    pub(super) cleared: u64,
    /// Since the start: bytes of these files.
    pub(super) cleared_bytes: u64,
}

/// When sandboxes that nobody uses take which step, in milliseconds; null is never.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Idle {
    freeze_after_ms: Option<u64>,
    reclaim_after_ms: Option<u64>,
    timeout_ms: Option<u64>,
    clear_after_ms: Option<u64>,
    /// How long tasks of the CLI's hold a sandbox in which nothing else happens; 0 is not at all.
    background_ms: u64,
    /// The most that take each step at one look.
    per_tick: usize,
}

impl From<Times> for Idle {
    fn from(times: Times) -> Idle {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Idle {
            freeze_after_ms: times.freeze.map(ms),
            reclaim_after_ms: times.reclaim.map(ms),
            timeout_ms: times.cool.map(ms),
            clear_after_ms: times.clear.map(ms),
            background_ms: ms(times.background),
            per_tick: times.at_once,
        }
    }
}

/// Says how the daemon is.
pub(super) async fn health(State(context): State<Context>) -> Response {
    let health = context.service.health().await;
    json(StatusCode::OK, &shape(&health, &context.node))
}

/// What sandboxes are doing, and what resumes have found.
pub(super) fn pool(health: &Health) -> Pool {
    let rested = health.rested;
    Pool {
        total: health.live_sandboxes,
        cold: health.cold,
        warming: health.warming,
        warm: health.warm,
        waiting: health.waiting,
        running: health.running,
        max_capacity: health.max_sandboxes,
        resume_warm_hits: health.resume_warm_hits,
        resume_cold_hits: health.resume_cold_hits,
        resume_cold_local_hits: health
            .resume_cold_hits
            .saturating_sub(health.resume_fresh_hits + health.resume_cloud_hits),
        resume_cold_cloud_hits: health.resume_cloud_hits,
        resume_cold_fresh_hits: health.resume_fresh_hits,
        pre_warm_hits: health.pre_warm_hits,
        max_warm: health.max_warm,
        frozen: rested.frozen,
        reclaimed: rested.reclaimed,
        freezes: rested.freezes,
        reclaimed_bytes: rested.reclaimed_bytes,
        cooled: rested.cooled,
        evictions: rested.evictions,
        cleared: rested.cleared,
        cleared_bytes: rested.cleared_bytes,
    }
}

fn shape<'a>(health: &'a Health, node: &'a str) -> Shape<'a> {
    Shape {
        status: "ok",
        active_sessions: health.sessions.of(Status::Active),
        active_sandboxes: health.live_sandboxes,
        uptime: health.uptime_s,
        pool: pool(health),
        idle: health.times.into(),
        version: env!("CARGO_PKG_VERSION"),
        coordinator_id: node,
        remote_runners: 0,
        missing: &health.missing,
        model_key: health.model_key,
        object_store: health
            .copying
            .map(|copying| ObjectStore { waiting: copying.waiting, failing: copying.failing }),
        retention: health.gone.map(Retention::from),
        admission: Admission::from(&health.admission),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::session::api::Rested;

    fn admitted() -> Admitted {
        Admitted {
            turns: api::Places { max: 32, taken: 2, waiting: 3 },
            launches: api::Places { max: 2, taken: 1, waiting: 0 },
            short: vec![Scarce::Memory, Scarce::Processes],
            refused: vec![("disk", 0), ("turns", 4)],
        }
    }

    fn example() -> Health {
        Health {
            sessions: [(Status::Active, 9)].into_iter().collect(),
            live_sandboxes: 5,
            running: 2,
            warming: 1,
            cold: 6,
            rested: Rested {
                frozen: 2,
                reclaimed: 1,
                freezes: 8,
                cooled: 4,
                cleared: 3,
                cleared_bytes: 512,
                ..Rested::default()
            },
            times: Times {
                freeze: Some(Duration::from_secs(60)),
                at_once: 20,
                background: Duration::from_secs(7),
                ..Times::default()
            },
            warm: 1,
            pre_warm_hits: 8,
            max_warm: 16,
            waiting: 2,
            max_sandboxes: 100,
            resume_warm_hits: 7,
            resume_cold_hits: 3,
            resume_fresh_hits: 1,
            resume_cloud_hits: 0,
            uptime_s: 60,
            damaged_checkpoints: 0,
            missing: vec!["no landlock".into()],
            model_key: Some(true),
            copying: None,
            gone: None,
            admission: admitted(),
        }
    }

    #[test]
    fn has_every_count_that_clients_require() {
        let mut health = example();
        assert_eq!(
            serde_json::to_value(shape(&health, "host-1")).unwrap(),
            json!({
                "status": "ok", "activeSessions": 9, "activeSandboxes": 5, "uptime": 60,
                "pool": {
                    "total": 5, "cold": 6, "warming": 1, "warm": 1, "waiting": 2, "running": 2,
                    "maxCapacity": 100, "resumeWarmHits": 7, "resumeColdHits": 3,
                    "resumeColdLocalHits": 2, "resumeColdCloudHits": 0, "resumeColdFreshHits": 1,
                    "preWarmHits": 8, "maxWarm": 16, "frozen": 2, "reclaimed": 1, "freezes": 8,
                    "reclaimedBytes": 0, "cooled": 4, "evictions": 0, "cleared": 3,
                    "clearedBytes": 512,
                },
                "idle": {
                    "freezeAfterMs": 60_000, "reclaimAfterMs": null, "timeoutMs": null,
                    "clearAfterMs": null, "backgroundMs": 7000, "perTick": 20,
                },
                "version": env!("CARGO_PKG_VERSION"), "coordinatorId": "host-1",
                "remoteRunners": 0, "missing": ["no landlock"], "modelKey": true,
                "admission": {
                    "turns": { "running": 2, "waiting": 3, "max": 32 },
                    "launches": { "running": 1, "waiting": 0, "max": 2 },
                    "pressure": { "cpu": false, "memory": true, "io": false, "processes": true },
                    "refused": { "disk": 0, "turns": 4 },
                },
            })
        );
        health.gone = Some(Gone { sessions: 4, over: 7, ..Gone::default() });
        let shown = serde_json::to_value(shape(&health, "host-1")).unwrap();
        let wanted = json!({
            "purgedSessions": 4, "forgottenEvents": 0, "removedCheckpoints": 0, "overBytes": 7,
            "failing": false,
        });
        assert_eq!(shown["retention"], wanted);
        health.model_key = None;
        let unknown = serde_json::to_value(shape(&health, "host-1")).unwrap();
        assert_eq!(unknown.get("modelKey"), None);
    }
}
