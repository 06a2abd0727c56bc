//! All sandboxes of this daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::broker::{Broker, BrokerError, BrokerSetup, ModelKey, Settings, Standing, Usage};
use super::cgroup::{self, CgroupError, Cgroups, Frozen, OutOfMemory, Stats};
use super::children::Children;
use super::floor::{self, BelowFloor};
use super::launcher::{self, Launcher, LauncherError, LauncherSetup};
use super::lease::{DEFAULT_BASE, uid_count};
use super::link::LinkSender;
use super::plan::Host;
use super::pressure::{Gauge, Pressure};
use super::socket;
use crate::domain::SandboxId;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::psi;

/// The longest path of the run directory, in bytes: what lies in it must fit a socket's address.
const MAX_RUN_DIR: usize = 48;

/// How long the start waits for a broker that a service manager runs.
const BROKER_PATIENCE: Duration = Duration::from_secs(2);

/// How long sandboxes wait for the next broker. Longer than the one before may take for the answers
/// that are under way: TimeoutStopSec= of its unit.
const BROKER_HOPE: Duration = Duration::from_secs(80);

/// How long an agent may take to stand still. A process that waits for a disk cannot before.
const STANDSTILL: Duration = Duration::from_secs(1);

/// A launcher that we started ends itself when it has been of no use for this long.
const UNUSED: Duration = Duration::from_secs(60);

/// Where things are and how sandboxes are to be.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Sockets live here; made when missing, closed to everybody but root.
    pub run_dir: PathBuf,
    /// All workspaces and homes lie in it.
    pub sessions_dir: PathBuf,
    /// The CLI's executable, or a link to it.
    pub runtime: PathBuf,
    /// The bridge's program.
    pub bridge: PathBuf,
    /// Bubblewrap; a distribution's is copied into the run directory.
    pub bwrap: PathBuf,
    /// The launcher's program; absent when a service manager runs it.
    pub launcher: Option<PathBuf>,
    /// The broker's program; absent when a service manager runs it.
    pub broker: Option<PathBuf>,
    /// The control group that holds sandboxes; absent: one below the daemon's own.
    pub cgroup_root: Option<PathBuf>,
    /// Go on without layers that the machine does not have. For development.
    pub allow_missing: bool,
    /// The first of the user ids that are leased to sandboxes.
    pub uid_base: u32,
    /// How many sessions can have files on the disk at a time.
    pub slots: u32,
    /// Where the model API is.
    pub model: Settings,
    /// PEM certificates to trust besides the system's, on the way to the model API.
    pub model_ca: Option<PathBuf>,
    /// The model API key.
    pub model_key: Option<ModelKey>,
    /// How long a bridge waits for the first greeting, and for the next after a conversation.
    pub orphan_timeout: Duration,
    /// How long a sandbox may take until its bridge answers.
    pub ready_timeout: Duration,
    /// Where it is told how long things take.
    pub metrics: Arc<Metrics>,
}

/// Why sandboxes cannot be made at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The machine is below the floor.
    #[error(transparent)]
    BelowFloor(#[from] BelowFloor),
    /// No control groups, or no limits.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// No launcher.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    /// No broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Sockets in it would have no address.
    #[error(
        "the path {} is longer than {MAX_RUN_DIR} bytes; choose a shorter run directory",
        .0.display()
    )]
    LongRunDir(PathBuf),
    /// A directory cannot be used.
    #[error("{}: {error}{}", path.display(), fault_of_unit(error))]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// What to mend when the system is closed to us: as installed, the units leave these places open.
fn fault_of_unit(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "; a drop-in of ashd.service closes it, see `systemctl cat ashd`: ReadWritePaths= or \
             RuntimeDirectory= has to name it"
        }
        _ => "",
    }
}

/// All sandboxes of this daemon.
#[derive(Debug)]
pub struct Sandboxes {
    pub(super) setup: Setup,
    runtime: RwLock<PathBuf>,
    pub(super) host: Arc<Host>,
    pub(super) cgroups: Arc<Cgroups>,
    pub(super) launcher: Launcher,
    pub(super) broker: Broker,
    children: Children,
    live: Mutex<BTreeMap<SandboxId, LinkSender>>,
    making: Mutex<BTreeSet<SandboxId>>,
    gauge: Gauge,
    missing: Vec<String>,
}

impl Sandboxes {
    /// Checks the machine, and finds or starts the launcher and the broker. What the model API
    /// reports to have used comes out of the receiver.
    ///
    /// # Errors
    /// A sentence that says what to mend.
    pub async fn start(
        mut setup: Setup,
    ) -> Result<(Arc<Sandboxes>, mpsc::Receiver<Usage>), StartError> {
        if setup.run_dir.as_os_str().len() > MAX_RUN_DIR {
            return Err(StartError::LongRunDir(setup.run_dir));
        }
        make(&setup.run_dir, 0o700)?;
        make(&setup.run_dir.join("bridge"), 0o700)?;
        setup.bwrap = floor::own_bwrap(&setup.bwrap, &setup.run_dir.join("bwrap"))?;
        floor::check(&setup.bwrap)?;
        floor::check_program(&setup.bridge)?;
        let runtime = floor::runtime(&setup.runtime)?;
        let host = Host::inspect(Path::new("/")).map_err(failed(Path::new("/")))?;
        let children = Children::default();
        let (launcher, cgroups) = hold(&setup, &runtime, children.clone()).await?;
        let (host, cgroups) = (Arc::new(host), Arc::new(cgroups));
        let (broker, usage) = Broker::start(broker_setup(&setup), children.clone()).await?;
        let gauge = Gauge::follow(Path::new(psi::DIR));
        let mut missing = [floor::missing(), cgroups.missing().to_vec()].concat();
        missing.extend(gauge.missing().cloned());
        let (live, making, runtime) = (Mutex::default(), Mutex::default(), RwLock::new(runtime));
        let all = Sandboxes {
            setup,
            runtime,
            host,
            cgroups,
            launcher,
            broker,
            children,
            live,
            making,
            gauge,
            missing,
        };
        Ok((Arc::new(all), usage))
    }

    /// A sentence for each layer of protection that this machine lacks.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// What this machine is short of, as of now. Asks nobody.
    pub fn pressure(&self) -> Pressure {
        self.gauge.now()
    }

    /// Tells of every change of that.
    pub fn pressure_changes(&self) -> watch::Receiver<Pressure> {
        self.gauge.changes()
    }

    /// Processes and threads of all sandboxes, and how many there can be. `None` where nothing bounds
    /// them.
    pub fn pids(&self) -> Option<(u64, u64)> {
        self.cgroups.pids()
    }

    /// Whether the broker has a model API key; absent when it is not there, or does not say.
    pub fn has_model_key(&self) -> Option<bool> {
        self.broker.has_key()
    }

    /// How often the model API key may have become another one: it was replaced, or a broker began, which
    /// may have another one from its service manager.
    pub fn key_epoch(&self) -> u64 {
        self.broker.key_epoch()
    }

    /// Tells of every change of that.
    pub fn key_changes(&self) -> watch::Receiver<u64> {
        self.broker.key_changes()
    }

    /// The sandboxes that have requests on their way to the model API; `None`: nobody can tell now.
    pub async fn asking(&self) -> Option<BTreeSet<SandboxId>> {
        self.broker.asking().await
    }

    /// What the broker says of itself: nothing when it is not there.
    pub async fn broker_standing(&self) -> Standing {
        self.broker.standing().await
    }

    /// Replaces the model API key, or takes it back. Sandboxes do not notice.
    ///
    /// # Errors
    /// When the broker did not hear of it; one that is started later will.
    pub async fn set_model_key(&self, key: Option<ModelKey>) -> Result<(), BrokerError> {
        self.broker.set_key(key).await
    }

    /// Looks again which CLI is to be used: its path may be a link that leads elsewhere now. New
    /// sandboxes have it. A launcher that we started knows one CLI for good.
    ///
    /// # Errors
    /// When it cannot be used; then the one before stays.
    pub fn renew_runtime(&self) -> Result<(), BelowFloor> {
        if self.setup.launcher.is_some() {
            return Ok(());
        }
        let runtime = floor::runtime(&self.setup.runtime)?;
        *self.runtime.write().unwrap_or_else(PoisonError::into_inner) = runtime;
        Ok(())
    }

    /// The CLI's executable for new sandboxes.
    pub fn runtime(&self) -> PathBuf {
        self.runtime.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many sandboxes are alive, as far as this daemon knows.
    pub fn live(&self) -> u64 {
        self.live_ones().len() as u64
    }

    /// How many live, are being made, or are among these. One that goes from one sort to the next is in both
    /// for a moment, and counts once.
    pub fn count_with(&self, others: &BTreeSet<SandboxId>) -> u64 {
        let (making, live) = (self.making(), self.live_ones());
        let coming = making.union(others).filter(|id| !live.contains_key(id));
        (live.len() + coming.count()) as u64
    }

    /// What a sandbox's agent uses.
    pub fn stats(&self, sandbox: SandboxId) -> Stats {
        self.cgroups.group(sandbox).stats()
    }

    /// Processor time that a sandbox's agent has used, in microseconds. Cheaper than all of
    /// [`stats`](Self::stats).
    pub fn cpu_us(&self, sandbox: SandboxId) -> u64 {
        self.cgroups.group(sandbox).cpu_us()
    }

    /// How many processes of a sandbox's agent were killed because memory ran out. 0 when the
    /// sandbox is gone: ask before [`end`](Self::end).
    pub fn oom_kills(&self, sandbox: SandboxId) -> u64 {
        self.cgroups.group(sandbox).oom_kills()
    }

    /// Whose memory had run out, if processes of a sandbox's agent were killed for that. `None` when
    /// the sandbox is gone: ask before [`end`](Self::end).
    pub fn out_of_memory(&self, sandbox: SandboxId) -> Option<OutOfMemory> {
        self.cgroups.group(sandbox).out_of_memory()
    }

    /// Stops a sandbox's agent where it is; see [`Group::freeze`](cgroup::Group::freeze). Blocks.
    ///
    /// # Errors
    /// When it does not stand still within a second, or the system fails.
    pub fn freeze(&self, sandbox: SandboxId) -> Result<Option<Frozen>, CgroupError> {
        self.cgroups.group(sandbox).freeze(STANDSTILL)
    }

    /// Has the memory of an agent that stands still given back to the machine; see
    /// [`Group::reclaim`](cgroup::Group::reclaim). Blocks.
    ///
    /// # Errors
    /// When the system fails.
    pub fn reclaim(&self, sandbox: SandboxId, stop: &AtomicBool) -> Result<u64, CgroupError> {
        self.cgroups.group(sandbox).reclaim(stop)
    }

    /// Ends the launcher and the broker, unless a service manager runs them: for a daemon that has
    /// ended its sandboxes and goes. Without this they wait for the next one.
    pub async fn stop(&self) {
        self.children.let_go();
        self.broker.end().await;
        self.launcher.end().await;
        self.children.stop().await;
        self.cgroups.retire();
    }

    pub(super) fn live_ones(&self) -> MutexGuard<'_, BTreeMap<SandboxId, LinkSender>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of which something is there, and that nobody has yet.
    pub(super) fn making(&self) -> MutexGuard<'_, BTreeSet<SandboxId>> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket of a sandbox's bridge.
    pub(super) fn bridge_socket(&self, sandbox: SandboxId) -> PathBuf {
        self.bridge_dir().join(format!("{sandbox}.sock"))
    }

    pub(super) fn bridge_dir(&self) -> PathBuf {
        self.setup.run_dir.join("bridge")
    }

    pub(super) fn model_dir(&self) -> PathBuf {
        self.setup.run_dir.join("model")
    }
}

/// The launcher, and the control group for sandboxes: where the configuration says, else that of
/// the launcher's service, else one below our own.
async fn hold(
    setup: &Setup,
    runtime: &Path,
    children: Children,
) -> Result<(Launcher, Cgroups), StartError> {
    let prepare = |root: Option<&Path>| {
        Cgroups::prepare(root, &cgroup_name(&setup.run_dir), setup.allow_missing)
    };
    let root = setup.cgroup_root.as_deref();
    if setup.launcher.is_some() {
        // It is to begin where we have moved to.
        let cgroups = prepare(root)?;
        return Ok((Launcher::start(launcher_setup(setup, runtime), children).await?, cgroups));
    }
    // Without control groups there is no launcher either, which would be told instead.
    cgroup::mount_point()?;
    let launcher = Launcher::start(launcher_setup(setup, runtime), children).await?;
    let held = launcher.group().map(cgroup::directory).transpose()?;
    let cgroups = prepare(cgroup::within(root, held.as_deref())?)?;
    Ok((launcher, cgroups))
}

fn make(path: &Path, mode: u32) -> Result<(), StartError> {
    socket::directory(path, mode).map_err(failed(path))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> StartError {
    |error| StartError::Io { path: path.to_owned(), error }
}

/// Daemons side by side on one machine, told apart by their run directories, must not take each
/// other's groups for leftovers of their own.
fn cgroup_name(run_dir: &Path) -> String {
    let path = run_dir.to_string_lossy();
    format!("ash{}", path.replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
}

fn launcher_setup(setup: &Setup, runtime: &Path) -> LauncherSetup {
    LauncherSetup {
        socket: setup.run_dir.join("launcher.sock"),
        program: setup.launcher.clone(),
        bwrap: setup.bwrap.clone(),
        bridge: setup.bridge.clone(),
        sessions_dir: setup.sessions_dir.clone(),
        broker_dir: setup.run_dir.join("model"),
        runtime: runtime.to_owned(),
        uid_base: setup.uid_base,
        uid_count: uid_count(setup.slots),
        exit_when_unused: UNUSED,
        patience: launcher::PATIENCE,
    }
}

fn broker_setup(setup: &Setup) -> BrokerSetup {
    BrokerSetup {
        socket: setup.run_dir.join("broker.sock"),
        model_dir: setup.run_dir.join("model"),
        program: setup.broker.clone(),
        uid: setup.uid_base,
        exit_when_unused: setup.orphan_timeout,
        settings: setup.model.clone(),
        ca: setup.model_ca.clone(),
        key: setup.model_key.clone(),
        patience: BROKER_PATIENCE,
        hope: BROKER_HOPE,
        metrics: setup.metrics.clone(),
    }
}

#[cfg(test)]
impl Sandboxes {
    /// On a machine that makes none: neither launcher nor broker is there, and nobody else's processes
    /// are looked at.
    pub(crate) async fn none(dir: &Path) -> Arc<Sandboxes> {
        let model = Settings {
            upstream: "http://127.0.0.1:9".to_owned(),
            proxy: None,
            allow_plaintext: false,
            limits: super::broker::Limits::default(),
        };
        let setup = Setup { slots: 0, ..Setup::new(dir.join("run"), dir.join("sessions"), model) };
        make(&setup.run_dir, 0o700).unwrap();
        let children = Children::default();
        let broker = BrokerSetup { patience: Duration::ZERO, ..broker_setup(&setup) };
        let (broker, _) = Broker::start(broker, children.clone()).await.unwrap();
        let runtime = PathBuf::from("/nonexistent");
        let launcher = Launcher::absent(launcher_setup(&setup, &runtime), children.clone());
        Arc::new(Sandboxes {
            runtime: RwLock::new(runtime),
            host: Arc::default(),
            cgroups: Arc::new(Cgroups::none(dir.join("groups"))),
            launcher,
            broker,
            children,
            live: Mutex::default(),
            making: Mutex::default(),
            gauge: Gauge::still(),
            missing: vec![],
            setup,
        })
    }

    /// Says that a sandbox is being made.
    pub(crate) fn begin(&self, sandbox: SandboxId) {
        self.making().insert(sandbox);
    }

    /// From now on a broker is expected, which does not come.
    pub(crate) fn await_broker(&self) {
        self.broker.await_next();
    }

    /// Says that the model API key is another one.
    pub(crate) fn change_key(&self) {
        self.broker.change_key();
    }

    /// From now on these wait for the model; `None`: nobody can tell.
    pub(crate) fn say_asking(&self, asking: Option<BTreeSet<SandboxId>>) {
        self.broker.say_asking(asking);
    }

    /// Says what this machine is short of.
    pub(crate) fn press(&self, pressure: Pressure) {
        self.gauge.set(pressure);
    }
}

/// What development and tests start from.
impl Setup {
    /// A setup with everything that has a usual value.
    pub fn new(run_dir: PathBuf, sessions_dir: PathBuf, model: Settings) -> Setup {
        let lib = Path::new("/usr/lib/ash");
        Setup {
            run_dir,
            sessions_dir,
            runtime: lib.join("claude"),
            bridge: lib.join("ash-bridge"),
            bwrap: lib.join("bwrap"),
            launcher: None,
            broker: None,
            cgroup_root: None,
            allow_missing: false,
            uid_base: DEFAULT_BASE,
            slots: 16_384,
            model,
            model_ca: None,
            model_key: None,
            orphan_timeout: Duration::from_secs(300),
            ready_timeout: Duration::from_secs(10),
            metrics: Arc::default(),
        }
    }
}
