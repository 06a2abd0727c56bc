//! The families. The comments here are what scrapers and the reference say as well.

use std::sync::Mutex;

use prometheus::{
    Counter, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry,
};

use super::family::{Counters, Family, Gauges, Histograms, next};
use super::labels::{
    Answered, ColdSource, Denied, Dropped, Eviction, Exhausted, Gated, PoolState, Resting,
    ResumePath, Resumed, Scarce, SpareEnd, SpawnPhase, TokenKind, TurnEnd, Unanswered, Want,
};
use super::table::{Declared, Group, Traits, families};
use crate::domain::Status;

/// For what this machine does by itself, in seconds.
const SHORT: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];

/// For what a person waits for, in seconds.
const FELT: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// For what takes no time where nothing is in the way, and else as long as others take, or files from
/// elsewhere, in seconds.
const WAITED: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0, 600.0, 1800.0,
];

/// For what a model takes, in seconds.
const LONG: &[f64] =
    &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0];

/// For how much is done at once.
const SHARED: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

families! {
    "The daemon" {
        /// 1, as long as the daemon answers.
        up: IntGaugeVec = "ash_up" { labels: &["coordinator"], }
        /// 1; the version is that of the daemon.
        build: IntGaugeVec = "ash_build_info" { labels: &["version"], }
        /// Time since the daemon was started.
        uptime: IntGauge = "ash_uptime_seconds" { unit: "seconds", }
        /// Layers of protection that this machine lacks; the log says which.
        missing_layers: IntGauge = "ash_missing_layers" {}
        /// Checkpoints that are known to be damaged; equal ones count once.
        damaged_checkpoints: IntGauge = "ash_damaged_checkpoints" {}
        /// How much of the last ten seconds processes of this machine had to wait for `cpu`, `memory` or
        /// `io`: `some` of them, or all that had something to do, `full` (PSI). Absent where the kernel does
        /// not say.
        pressure: GaugeVec = "ash_pressure_ratio" { labels: &["resource", "kind"], unit: "of 1", }
    }
    "Sessions and sandboxes" {
        /// Sessions that take messages.
        active_sessions: IntGauge = "ash_active_sessions" {}
        /// Sessions, by status.
        sessions: Gauges<Status> = "ash_sessions" { labels: &["status"], }
        /// Sandboxes alive.
        active_sandboxes: IntGauge = "ash_active_sandboxes" {}
        /// Sandboxes, by what they are doing.
        pool: Gauges<PoolState> = "ash_pool_sandboxes" { labels: &["state"], }
        /// Agents that stand still because nobody uses them, and those of them that have given their
        /// memory back.
        resting: Gauges<Resting> = "ash_resting_sandboxes" { labels: &["step"], }
        /// How often an agent was stopped because nobody used it.
        freezes: IntCounter = "ash_freezes_total" {}
        /// Memory that agents have given back.
        reclaimed_bytes: IntCounter = "ash_reclaimed_bytes_total" { unit: "bytes", }
        /// Sessions without a sandbox whose files were removed from the disk, and whose user ids were given
        /// back, because nobody had used them for long; their checkpoints have the files.
        cleared: IntCounter = "ash_cleared_sessions_total" {}
        /// Bytes of these files.
        cleared_bytes: IntCounter = "ash_cleared_bytes_total" { unit: "bytes", }
        /// How long nobody has used a sandbox when it takes a step: its agent stands still (`freeze`), gives
        /// its memory back (`reclaim`), and it is saved and ended (`cool`). And how long a session without one
        /// when its files are removed (`clear`). Absent for what is never done.
        resting_after: GaugeVec = "ash_resting_after_seconds" { labels: &["step"], unit: "seconds", }
        /// The most sandboxes that take each of these steps at one look.
        resting_per_look: IntGauge = "ash_resting_per_look" {}
        /// How long tasks that the CLI runs in the background hold a sandbox in which nothing else happens.
        resting_background: IntGauge = "ash_resting_background_seconds" { unit: "seconds", }
        /// The most sandboxes that may live.
        pool_max: IntGauge = "ash_pool_max_capacity" {}
        /// The most sandboxes that may be kept warm.
        pool_max_warm: IntGauge = "ash_pool_max_warm" {}
        /// Time from when a sandbox is asked for until its bridge answers.
        spawns: Histogram = "ash_spawn_seconds" { unit: "seconds", buckets: SHORT, }
        /// Parts of that time, and laying out the folder of a new session before it. What fails is not
        /// measured.
        spawn_phases: Histograms<SpawnPhase> = "ash_spawn_phase_seconds" {
            labels: &["phase"],
            unit: "seconds",
            buckets: SHORT,
        }
        /// Time from the start of the CLI in a sandbox until it takes messages.
        cli_ready: Histogram = "ash_cli_ready_seconds" { unit: "seconds", buckets: FELT, }
        /// Sandboxes that ended without being told to. Of those that were kept warm also the ones whose CLI
        /// did, or that said too much.
        lost: IntCounter = "ash_sandboxes_lost_total" {}
        /// Processes of agents that were killed for want of memory, by whose had run out. They are counted
        /// when their sandbox ends.
        oom_kills: Counters<Exhausted> = "ash_oom_kills_total" { labels: &["reason"], }
        /// Sandboxes that were ended although nobody had asked for it, and nothing was lost with them. Those
        /// that were kept warm and no session had yet are not among them.
        evictions: Counters<Eviction> = "ash_evictions_total" { labels: &["reason"], }
        /// Sandboxes that were kept warm and have ended before a session had them: they were lost, or another
        /// one needed their room (`capacity`); sessions of their agent are made with something else (`outdated`),
        /// fewer are wanted (`surplus`), or none (`gone`). And those that could not be made, or not be given to
        /// their session (`failed`).
        spares_ended: Counters<SpareEnd> = "ash_spares_ended_total" { labels: &["reason"], }
    }
    "Resumes" {
        /// Sessions that were resumed, by what was found; and those that took a sandbox that was kept warm
        /// when they were made (`prewarm`).
        resumes: Counters<ResumePath> = "ash_resume_total" { labels: &["path"], }
        /// Of those, the cold ones by where their files were; `fresh` are those whose transcript was gone.
        cold_resumes: Counters<ColdSource> = "ash_resume_cold_total" { labels: &["source"], }
        /// Time until a session that is resumed is active again.
        resume_times: Histograms<Resumed> = "ash_resume_seconds" {
            labels: &["path", "source"],
            unit: "seconds",
            buckets: WAITED,
        }
        /// Time from when a message or a command has a sandbox made for a session that has none until it
        /// is there, by where the session's files were, as above. Sessions that are resumed are not in it.
        wakes: Histograms<ColdSource> = "ash_wake_seconds" {
            labels: &["source"],
            unit: "seconds",
            buckets: WAITED,
        }
    }
    "Turns" {
        /// Time from when a message comes until its turn begins: behind other turns, of its session and of
        /// others when no place is free, and behind the sandbox when one has to be made.
        queue_wait: Histogram = "ash_queue_wait_seconds" { unit: "seconds", buckets: WAITED, }
        /// Time from the beginning of a turn until the broker has the head of its first request to the
        /// model that was answered.
        time_to_model: Histogram = "ash_time_to_model_seconds" { unit: "seconds", buckets: FELT, }
        /// Time from the beginning of a turn until the first words of the CLI are in its stream.
        first_event: Histogram = "ash_first_event_seconds" { unit: "seconds", buckets: FELT, }
        /// Time from the beginning of a turn until its end is on the disk. One that somebody has interrupted, and
        /// whose result is an error then, is `interrupted`.
        turns: Histograms<TurnEnd> = "ash_turn_seconds" {
            labels: &["outcome"],
            unit: "seconds",
            buckets: LONG,
        }
    }
    "Admission" {
        /// Turns that messages began, and sandboxes that are being made, or are next and wait for memory or
        /// processes.
        admission_running: Gauges<Gated> = "ash_admission_running" { labels: &["what"], }
        /// How many of them wait until others have come to their ends.
        admission_waiting: Gauges<Gated> = "ash_admission_waiting" { labels: &["what"], }
        /// How many of them may run at a time: fewer turns while memory or processes are short, and half as
        /// many launches while turns lack processors or disks.
        admission_limit: Gauges<Gated> = "ash_admission_limit" { labels: &["what"], }
        /// What the machine is short of: 1, else 0. For want of `memory` or `processes` whoever needs a sandbox
        /// waits, and fewer turns begin; for want of `cpu` or `io` fewer sandboxes are made at a time while
        /// turns run.
        admission_short: Gauges<Scarce> = "ash_admission_short" { labels: &["resource"], }
        /// What was refused for want of room, by what there was too little of.
        refused: Counters<Want> = "ash_refused_total" { labels: &["reason"], }
    }
    "The model" {
        /// Time from the head of a request to the model until the end of its answer, by the class of the
        /// answer's status. Requests that only count tokens are left out, and those without an answer, which
        /// are counted as failures.
        broker_requests: Histograms<Answered> = "ash_broker_request_seconds" {
            labels: &["status"],
            unit: "seconds",
            buckets: LONG,
        }
        /// Requests to the model that got no answer of it: the broker had not been told where it is
        /// (`not_ready`), or had no key (`no_key`); it could not be reached, ended the connection or said what
        /// is not passed on (`bad_answer`), or said nothing in time (`silent`). The broker is asked for them
        /// every ten seconds.
        broker_failures: Counters<Unanswered> = "ash_broker_failures_total" { labels: &["reason"], }
        /// Tokens, as the model API reports them.
        tokens: Counters<TokenKind> = "ash_tokens_total" { labels: &["kind"], }
        /// What turns have cost, as the CLI reckons.
        cost: Counter = "ash_cost_usd_total" { unit: "US dollars", }
    }
    "The store" {
        /// Time of a commit, in which many operations may share one flush of the disk.
        commits: Histogram = "ash_commit_seconds" { unit: "seconds", buckets: SHORT, }
        /// Operations that share a commit.
        commit_operations: Histogram = "ash_commit_operations" { buckets: SHARED, }
    }
    "HTTP" {
        /// Requests, by the route that answered them and the class of the status. `none` stands for what no
        /// route has answered, and `other` for methods that nobody knows.
        http_requests: IntCounterVec = "ash_http_requests_total" {
            labels: &["method", "route", "status"],
        }
        /// Time until the head of an answer is there. What a stream or a file takes behind it is not counted.
        http_times: HistogramVec = "ash_http_request_seconds" {
            labels: &["method", "route"],
            unit: "seconds",
            buckets: SHORT,
        }
        /// Requests that were refused: of clients, and of sandboxes by the broker.
        denied: Counters<Denied> = "ash_denied_total" { labels: &["reason"], }
        /// What did not get to whom it was for: readers of a stream that were too slow and go on with what
        /// is stored, and reports of the broker that nobody took in time.
        dropped: Counters<Dropped> = "ash_dropped_total" { labels: &["what"], }
    }
}
