//! From the configuration to what each layer takes.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{AppError, descriptors};
use crate::config::{self, Config, Pool, Retention};
use crate::domain::Node;
use crate::fault;
use crate::http;
use crate::objects::{self, Objects, SealKey};
use crate::sandbox::Setup;
use crate::sandbox::broker::{ModelKey, Settings};
use crate::sandbox::lease::slots_in;
use crate::sandbox::limits::Limits;
use crate::session::cli::Defaults;
use crate::session::shared::{Live, Options};
use crate::session::{Admission, Keeping, Times};
use crate::store::sqlite;
use crate::telemetry::metrics::Metrics;
use crate::tree::TreeLimits;

/// Turns that run at the same time on one processor, when nothing is said: most of a turn is waiting for
/// the model.
const TURNS: usize = 16;

/// How to work with the database.
///
/// # Errors
/// When it is not known which boot of the machine this is, see random(4).
pub(super) fn database() -> Result<sqlite::Options, AppError> {
    let boot =
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(AppError::Boot)?;
    Ok(sqlite::Options { boot: boot.trim_end().to_owned(), ..sqlite::Options::default() })
}

/// Where things are and how sandboxes are to be.
pub(super) fn sandboxes(config: &Config, data_dir: &Path, metrics: &Arc<Metrics>) -> Setup {
    let program = |name: &str| config.state.libexec_dir.join(name);
    let child = |name: &str| (!config.sandbox.services).then(|| program(name));
    let model = Settings {
        upstream: config.model.base_url.clone(),
        proxy: config.model.proxy_in_use().map(|proxy| proxy.expose().to_owned()),
        allow_plaintext: false,
        limits: ash_broker::control::Limits::default(),
    };
    Setup {
        runtime: config.sandbox.claude.clone(),
        bridge: program("ash-bridge"),
        bwrap: config.sandbox.bwrap.clone(),
        launcher: child("ash-launcher"),
        broker: child("ash-broker"),
        cgroup_root: config.sandbox.cgroup_root.clone(),
        allow_missing: config.sandbox.allow_missing_limits.unwrap_or_else(started_by_hand),
        uid_base: config.sandbox.uid_base,
        slots: slots_in(config.sandbox.uid_count),
        model_ca: config.model.ca_file.clone(),
        model_key: model_key(config),
        orphan_timeout: config.sandbox.orphan_timeout,
        ready_timeout: config.sandbox.ready_timeout,
        metrics: metrics.clone(),
        ..Setup::new(config.state.run_dir.clone(), data_dir.join("sessions"), model)
    }
}

/// The model API key.
pub(super) fn model_key(config: &Config) -> Option<ModelKey> {
    config.model.key.as_ref().map(|key| ModelKey(key.expose().as_bytes().to_vec()))
}

/// Whether no service manager started this process (systemd.exec(5), INVOCATION_ID).
fn started_by_hand() -> bool {
    std::env::var_os("INVOCATION_ID").is_none()
}

/// What holds for every session.
pub(super) fn sessions(config: &Config, metrics: &Arc<Metrics>) -> Options {
    Options {
        queue_limit: config.session.queue as usize,
        cli: Defaults {
            model: config.model.id.clone(),
            permission_mode: config.session.permission_mode,
            ready_timeout_ms: u64::try_from(config.sandbox.cli_timeout.as_millis())
                .unwrap_or(u64::MAX),
        },
        folder: TreeLimits::default(),
        uids: (config.sandbox.uid_base, slots_in(config.sandbox.uid_count)),
        max_sandboxes: u64::from(config.sandbox.max),
        max_spares: u64::from(config.pool.prewarm),
        disk_reserve: config.state.reserve_disk.0,
        memory_reserve: config.state.reserve_memory.0,
        max_attachment: config.session.max_attachment.0,
        collect_every: config.snapshots.collect_every,
        retain_every: config.retention.every,
        metrics: metrics.clone(),
        live: live(config),
    }
}

/// The object store, if there is one.
pub(super) fn objects(config: &Config, data_dir: &Path) -> Result<Option<Objects>, AppError> {
    let snapshots = &config.snapshots;
    let key = snapshots.key.as_ref().and_then(|key| SealKey::from_hex(key.expose()));
    let Some(key) = key.filter(|_| !snapshots.url.is_empty()) else { return Ok(None) };
    let node = node(&data_dir.join("node")).map_err(AppError::Node)?;
    let (url, region) = (snapshots.url.clone(), snapshots.region.clone());
    let settings = objects::Settings { url, region, key };
    Objects::open(&settings, node).map(Some).map_err(AppError::Objects)
}

/// Which daemon this is, among all that share an object store: made up once, and kept in a file.
fn node(path: &Path) -> io::Result<Node> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.parse().map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let node = Node::fresh();
            let new = path.with_extension("new");
            std::fs::write(&new, node.to_string())?;
            File::open(&new)?.sync_all()?;
            fault::fail("node.publish")?;
            std::fs::rename(&new, path)?;
            path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())?;
            Ok(node)
        }
        Err(error) => Err(error),
    }
}

/// What can change while the daemon runs.
pub(super) fn live(config: &Config) -> Live {
    let sandbox = &config.sandbox;
    Live {
        agent_roots: config.state.agent_roots.clone(),
        keep_points: config.snapshots.keep,
        keeping: keeping(&config.retention),
        times: times(&config.pool),
        limits: Limits {
            memory: sandbox.memory.0,
            pids: u64::from(sandbox.pids),
            cpus: sandbox.cpus,
            tmpfs: sandbox.tmpfs.0,
            file_size: sandbox.file_size.0,
        },
        admission: admission(&config.admission, &config.pool),
    }
}

/// When sandboxes rest that nobody uses; 0 stands for never.
fn times(pool: &Pool) -> Times {
    Times {
        freeze: unless_zero(pool.freeze_after),
        reclaim: unless_zero(pool.reclaim_after),
        cool: unless_zero(pool.idle_timeout),
        clear: unless_zero(pool.clear_after),
        at_once: pool.per_tick as usize,
        busy_cpus: pool.busy_cpus,
        background: pool.background,
    }
}

/// How much is begun at a time. What is not said follows from the machine.
fn admission(said: &config::Admission, pool: &Pool) -> Admission {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let or = |number: u32, usual: usize| if number == 0 { usual } else { number as usize };
    let turns = or(said.turns, TURNS * processors);
    Admission {
        turns,
        turns_when_short: turns.min(processors),
        launches: or(said.launches, processors.max(2)),
        patience: said.patience,
        max_per_tenant: u64::from(pool.max_per_tenant),
        max_per_agent: u64::from(pool.max_per_agent),
    }
}

/// How long what is kept; 0 stands for ever.
fn keeping(retention: &Retention) -> Keeping {
    let bytes = retention.checkpoint_bytes.0;
    Keeping {
        ended: unless_zero(retention.ended_sessions),
        events: unless_zero(retention.events),
        points: unless_zero(retention.checkpoints),
        bytes: (bytes > 0).then_some(bytes),
    }
}

fn unless_zero(time: Duration) -> Option<Duration> {
    (!time.is_zero()).then_some(time)
}

/// How the HTTP edge is, beside so many vaults.
pub(super) fn http(config: &Config, vaults: u32) -> http::Options {
    let bytes = |size: config::Size| usize::try_from(size.0).unwrap_or(usize::MAX);
    let defaults = http::Options::default();
    http::Options {
        hosts: config.http.allowed_hosts.clone(),
        origins: http::Origins::from_list(&config.http.allowed_origins.join(",")),
        connections: http::ConnectionLimits {
            connections: descriptors::connections(config.sandbox.max, vaults),
            ..defaults.connections
        },
        bodies: http::BodyLimits {
            deployment: bytes(config.http.max_deployment),
            message: bytes(config.http.max_message),
            upload: config.http.max_upload.0,
            other: bytes(config.http.max_body),
            ..defaults.bodies
        },
        rates: http::Rates {
            window: config.http.rate_window,
            requests: config.http.rate_requests,
            deployments: config.http.rate_deployments,
            sessions: config.http.rate_sessions,
        },
        ..defaults
    }
}
