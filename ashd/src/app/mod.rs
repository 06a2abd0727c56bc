//! The composition root: builds the layers in the order in which they stand on each other, says
//! where it listens, waits for a signal, and takes everything down again.

mod arguments;
mod descriptors;
mod error;
mod look;
mod manager;
mod rest;
mod setup;
mod signals;
mod systemd;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::arguments::Arguments;
pub use self::error::AppError;
pub use self::look::look;
pub use self::manager::report;
use self::signals::{Signal, Signals};
use self::systemd::Fate;
use crate::auth;
use crate::backup::RESTORING;
use crate::bus;
use crate::config::Config;
use crate::http;
use crate::sandbox::broker::Usage;
use crate::sandbox::launcher::LauncherError;
use crate::sandbox::{Sandboxes, Setup, StartError};
use crate::session::Service;
use crate::session::keys;
use crate::session::service::Places;
use crate::store::Store;
use crate::store::lock::StateDir;
use crate::store::sqlite::{self, Sqlite};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{self, Level, message};

/// How long the edges may take to finish what they write when the daemon goes away, and the disk to have what
/// was written.
const DRAIN: Duration = Duration::from_secs(1);

/// The service whose launcher makes the sandboxes.
const HOLDER: &str = "ash-sandboxes.service";

/// How long readiness waits for a bus that does not answer.
const BUS_PATIENCE: Duration = Duration::from_secs(5);

/// Runs the daemon until it is told to end.
///
/// # Errors
/// What kept it from starting, with the exit code that tells a service manager of which sort it
/// is.
pub async fn run(file: Option<PathBuf>) -> Result<(), AppError> {
    // Ignored until something waits for them: a signal must not end a half-started daemon.
    let mut signals = Signals::listen()?;
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let config = Config::load(file.as_deref(), environment.iter().cloned())?;
    let level = telemetry::init(&config.log.level)?;
    descriptors::take_all();
    let more_time = manager::more_time();
    let mut daemon = Daemon::start(config, level).await?;
    drop(more_time);
    while signals.next().await == Signal::Reload {
        daemon.reload(file.as_deref(), &environment).await;
    }
    daemon.end().await;
    Ok(())
}

/// Ends what was started and still runs. Work that blocks ends with the process when it takes long, as if
/// that had been killed: somebody may have every chunk of every checkpoint looked at.
pub fn leave(runtime: Runtime) {
    runtime.shutdown_timeout(DRAIN);
}

/// Waits a while behind a start that has failed and is tried again at once, where systemd itself does not
/// wait ever longer: else it would fail every second for ever, and fill the journal. Whatever ends the
/// daemon ends this as well.
pub fn hold_off(error: &AppError) {
    if error.needs_a_person() {
        return;
    }
    let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let Ok(mut signals) = Signals::listen() else { return };
        let pause = async { tokio::time::sleep(systemd::pause().await).await };
        tokio::select! {
            () = pause => {}
            _ = signals.next() => {}
        }
    });
}

struct Daemon {
    config: Config,
    /// Where it listens.
    address: SocketAddr,
    level: Level,
    service: Service,
    store: Arc<dyn Store>,
    sandboxes: Arc<Sandboxes>,
    shutdown: CancellationToken,
    edges: JoinSet<()>,
    /// What the watchdog listens to.
    pulse: JoinSet<()>,
    _state: StateDir,
}

impl Daemon {
    async fn start(config: Config, level: Level) -> Result<Daemon, AppError> {
        let (listener, address) = bind(&config).await?;
        let state = StateDir::acquire(&config.state.data_dir)?;
        if state.path().join(RESTORING).exists() {
            return Err(AppError::Restoring);
        }
        let metrics = Arc::new(Metrics::new());
        let database = sqlite::Options { metrics: metrics.clone(), ..setup::database()? };
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(&state.path().join("ash.db"), database)?);
        let operator = config.http.api_key.as_ref().map(|key| key.expose().to_owned());
        let keys = keys::bootstrap(store.as_ref(), operator.as_deref(), state.path()).await?;
        config.check_exposure(address.ip(), !store.keys().await?.is_empty())?;
        let setup = setup::sandboxes(&config, state.path(), &metrics);
        let (sandboxes, usage) = sandboxes(setup).await?;
        for missing in sandboxes.missing() {
            tracing::warn!(message_id = message::LAYER_MISSING, "{missing}");
        }
        let places = Places { data_dir: state.path().to_owned() };
        let options = setup::sessions(&config, &metrics);
        let objects = setup::objects(&config, state.path())?;
        let running = (sandboxes.clone(), usage);
        let service = Service::start(store.clone(), running, objects, places, options).await?;
        let (shutdown, edges, pulse) = (CancellationToken::new(), JoinSet::new(), JoinSet::new());
        let mut daemon = Daemon {
            config,
            address,
            level,
            service,
            store,
            sandboxes,
            shutdown,
            edges,
            pulse,
            _state: state,
        };
        daemon.open(listener, Arc::new(keys)).await;
        Ok(daemon)
    }

    /// Opens the edges, and says so when both serve.
    async fn open(&mut self, listener: TcpListener, keys: Arc<auth::Keys>) {
        self.open_http(listener, keys.clone());
        self.open_bus(keys).await;
        announce(&self.config, self.address);
        self.pulse = manager::feed_watchdog();
    }

    fn open_http(&mut self, listener: TcpListener, keys: Arc<auth::Keys>) {
        let options = Arc::new(setup::http(&self.config, self.service.count_vaults()));
        let app = http::App { service: self.service.clone(), keys, options };
        let shutdown = self.shutdown.clone();
        self.edges.spawn(async move {
            if let Err(error) = http::serve(listener, app, shutdown).await {
                tracing::error!(%error, "the HTTP listener failed");
            }
        });
    }

    /// Without a bus HTTP is served all the same.
    async fn open_bus(&mut self, keys: Arc<auth::Keys>) {
        let file = self.config.state.data_dir.join(keys::KEY_FILE);
        let keys = keys::KeyRing { store: self.store.clone(), keys, file };
        let verbs = bus::Verbs { service: self.service.clone(), keys };
        let shutdown = self.shutdown.clone();
        let bus = self.config.bus.address.clone();
        let (attempted, dropped) = oneshot::channel();
        self.edges.spawn(async move {
            if let Err(error) = bus::serve(verbs, bus, attempted, shutdown).await {
                tracing::error!(message_id = message::NO_BUS, %error, "no D-Bus interface");
            }
        });
        if tokio::time::timeout(BUS_PATIENCE, dropped).await.is_err() {
            tracing::error!("the bus does not answer; going on without a D-Bus interface for now");
        }
    }

    /// Takes over what the configuration says now, as far as that needs no restart.
    async fn reload(&mut self, file: Option<&Path>, environment: &[(OsString, OsString)]) {
        manager::reloading();
        match Config::load(file, environment.iter().cloned()) {
            Ok(new) => {
                self.adopt(&new).await;
                manager::ready(self.address);
            }
            Err(error) => {
                tracing::error!(
                    message_id = message::NOT_RELOADED,
                    "nothing was reloaded: {error}"
                );
                manager::not_reloaded(&error.to_string());
            }
        }
    }

    async fn adopt(&mut self, new: &Config) {
        let restart = self.config.changed(new);
        if !restart.is_empty() {
            tracing::warn!("these take effect at the next start: {}", restart.join(", "));
        }
        let taken = self.config.adopt(new);
        if let Err(error) = self.level.set(&self.config.log.level) {
            tracing::error!(%error, "the log level was not changed");
        }
        if let Err(error) = self.sandboxes.renew_runtime() {
            tracing::error!(%error, "new sandboxes go on with the CLI of before");
        }
        // Behind that: what was made with another CLI is of no use any more.
        self.service.adopt(setup::live(&self.config));
        if taken.contains(&"model.key")
            && let Err(error) = self.sandboxes.set_model_key(setup::model_key(&self.config)).await
        {
            tracing::error!(%error, "the broker has not heard that the model API key is another");
        }
        tracing::info!(
            message_id = message::RELOADED,
            "configuration reloaded; changed: {}",
            list(&taken)
        );
    }

    /// Sessions first, while their readers are still there; then the edges; then what they stand
    /// on. Of sandboxes that are kept nothing is touched, neither launcher nor broker: to them it is
    /// as if this daemon had been killed.
    async fn end(mut self) {
        manager::notify(&[sd_notify::NotifyState::Stopping]);
        let fate = systemd::fate().await;
        tracing::info!(message_id = message::ENDING, "{}", farewell(fate));
        let _more_time = manager::more_time();
        self.service.shut_down(fate == Fate::End).await;
        self.shutdown.cancel();
        let (edges, service) = (&mut self.edges, &self.service);
        let drained = async { while edges.join_next().await.is_some() {} };
        let synced = async {
            if fate == Fate::Keep {
                service.sync_made().await;
            }
        };
        let (drained, synced) =
            tokio::join!(tokio::time::timeout(DRAIN, drained), tokio::time::timeout(DRAIN, synced));
        if drained.is_err() {
            tracing::warn!("connections were cut");
        }
        if synced.is_err() {
            tracing::warn!("the disk is slow; files of new sessions may be built again");
        }
        if fate == Fate::End {
            self.sandboxes.stop().await;
            self.service.rest().await;
        }
        self.store.close().await;
        tracing::info!("ended");
    }
}

fn farewell(fate: Fate) -> &'static str {
    match fate {
        Fate::End => "ending, with the sandboxes",
        Fate::Keep => "ending; the sandboxes go on and wait for the next ashd",
    }
}

/// Finds what makes sandboxes. A service of ours that systemd does not start again is not waited for.
async fn sandboxes(setup: Setup) -> Result<(Arc<Sandboxes>, mpsc::Receiver<Usage>), AppError> {
    match Sandboxes::start(setup).await {
        Err(StartError::Launcher(LauncherError::NoService(_)))
            if systemd::has_given_up(HOLDER).await =>
        {
            Err(AppError::Holder)
        }
        started => Ok(started?),
    }
}

/// The listener of a socket unit, if there is one: then its address is none of ours to choose.
async fn bind(config: &Config) -> Result<(TcpListener, SocketAddr), AppError> {
    let inherited = manager::inherited_listener().map_err(AppError::Inherited)?;
    let listener = match inherited {
        Some(listener) => TcpListener::from_std(listener).map_err(AppError::Inherited)?,
        None => {
            let address = SocketAddr::new(config.http.host, config.http.port);
            let bound = TcpListener::bind(address).await;
            bound.map_err(|error| AppError::Bind { address, error })?
        }
    };
    let address = listener.local_addr().map_err(AppError::Address)?;
    Ok((listener, address))
}

/// Says where the daemon listens: in the log, in a file for scripts, to the service manager.
fn announce(config: &Config, address: SocketAddr) {
    let path = config.state.run_dir.join("address");
    if let Err(error) = std::fs::write(&path, format!("http://{address}\n")) {
        tracing::warn!(%error, "{} was not written", path.display());
    }
    tracing::info!(message_id = message::UP, "listening on http://{address}");
    manager::ready(address);
}

fn list(keys: &[&str]) -> String {
    if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_blocks_does_not_keep_the_process() {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (ends, ended) = std::sync::mpsc::channel();
        runtime.spawn_blocking(move || ends.send(held.recv().is_err()));
        leave(runtime);
        drop(release);
        // It went on behind that: else it would have been waited for.
        assert!(ended.recv().unwrap());
    }
}
