//! A service that nobody begins anything in, on a machine that makes no sandboxes: for tests of this
//! layer's own.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use ash_wire::frame::{self, HEADER, Header, Kind};
use ash_wire::words::{CliState, Welcome};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc};

use super::admission::{Admission, Gates};
use super::cli::Defaults;
use super::copies::Copies;
use super::driver::{Command, Handle};
use super::gathering::Gathering;
use super::ladder::{Place, Times};
use super::logs::Logs;
use super::places::{Places, ROOTS};
use super::retention::Keeping;
use super::service::Service;
use super::shared::{Live, Options, Shared};
use super::unsynced::{GATHERING, Syncing};
use crate::domain::{PermissionMode, SandboxId, Session};
use crate::objects::Objects;
use crate::sandbox::lease::{DEFAULT_BASE, Slots};
use crate::sandbox::limits::Limits;
use crate::sandbox::{Running, Sandboxes, link};
use crate::snapshot::Snapshots;
use crate::store::sqlite::{self, Sqlite};
use crate::tree::TreeLimits;

/// How many sessions can have files.
const SLOTS: u32 = 4;

/// How many turns run at a time.
pub(super) const TURNS: usize = 2;

/// How many sandboxes are made at a time.
pub(super) const LAUNCHES: usize = 2;

/// A service, and the disk that it is on.
pub(super) struct Stage {
    pub(super) service: Service,
    pub(super) shared: Arc<Shared>,
    _disk: TempDir,
}

impl Stage {
    pub(super) async fn set() -> Stage {
        Stage::with(None).await
    }

    /// With an object store, or without.
    pub(super) async fn with(objects: Option<Objects>) -> Stage {
        let disk = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&disk.path().join("ash.db"), sqlite::Options::default()).unwrap();
        let places = Places { data_dir: disk.path().to_owned() };
        let options = options();
        let shared = Arc::new(Shared {
            store: Arc::new(store),
            sandboxes: Sandboxes::none(disk.path()).await,
            snapshots: Snapshots::open(&places.vaults()).unwrap(),
            slots: Slots::new(DEFAULT_BASE, SLOTS, []),
            registry: Default::default(),
            launching: Default::default(),
            gates: Gates::new(&options.live.admission),
            live: RwLock::new(options.live.clone()),
            options,
            places,
            happened: broadcast::channel(16).0,
            shutting_down: AtomicBool::new(false),
            resting: Gathering::new(Some(GATHERING)),
            syncing: Syncing::default(),
            disk: Default::default(),
            garbage: Default::default(),
            making: Default::default(),
            asides: Default::default(),
            attaching: Default::default(),
            copies: Copies::new(objects),
            retention: Default::default(),
            ladder: Default::default(),
            clearing: Default::default(),
            pool: Default::default(),
        });
        Stage { service: Service::on(shared.clone()), shared, _disk: disk }
    }

    /// Records a session.
    pub(super) async fn add(&self, session: &Session) {
        self.shared.store.create_session(session.clone(), vec![]).await.unwrap();
    }

    /// Records a session, and lays out files of it.
    pub(super) async fn add_with_files(&self, session: &Session) {
        self.add(session).await;
        for root in ROOTS {
            let root = self.shared.places.session(session.id).join(root);
            std::fs::create_dir_all(&root).unwrap();
            std::fs::write(root.join("file"), "kept").unwrap();
        }
    }
}

impl Stage {
    /// Lets a session have a driver that tells the ladder this of its sandbox; what that one is asked.
    pub(super) fn shows(&self, session: &Session, place: Place) -> mpsc::Receiver<Command> {
        let (commands, asked) = mpsc::channel(8);
        self.shared.registry.handle_or(session, || handle(session, commands));
        self.shared.ladder.show(session, Some(place));
        asked
    }

    /// Lets a sandbox's agent have used so much processor time.
    pub(super) fn used(&self, sandbox: SandboxId, time: Duration) {
        let agent = self.shared.places.data_dir.join("groups").join(sandbox.to_string());
        let agent = agent.join("agent");
        std::fs::create_dir_all(&agent).unwrap();
        let stat = format!("usage_usec {}\n", time.as_micros());
        std::fs::write(agent.join("cpu.stat"), stat).unwrap();
    }

    /// Lets a sandbox be one that does not end: until this, its control group, is removed.
    pub(super) fn stays(&self, sandbox: SandboxId) -> PathBuf {
        let group = self.shared.places.data_dir.join("groups").join(sandbox.to_string());
        // What is to be written there to kill it cannot be.
        std::fs::create_dir_all(group.join("cgroup.kill")).unwrap();
        std::fs::write(group.join("cgroup.events"), "populated 1\n").unwrap();
        group
    }
}

/// What others hold of a driver, where there is none: it can be heard what it is asked.
pub(super) fn handle(session: &Session, commands: mpsc::Sender<Command>) -> Handle {
    Handle {
        commands,
        journal: Arc::default(),
        logs: Arc::new(Logs::new(session)),
        leaving: Arc::default(),
        first_call: Arc::default(),
    }
}

/// A link to a bridge that has answered and says nothing more, and the bridge's end of it.
pub(super) async fn linked() -> (Running, UnixStream) {
    let (dir, id) = (tempfile::tempdir().unwrap(), SandboxId::random());
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let answer = async {
        let (mut bridge, _) = listener.accept().await.unwrap();
        let mut head = [0; HEADER];
        bridge.read_exact(&mut head).await.unwrap();
        let mut hello = vec![0; Header::decode(&head).unwrap().body];
        bridge.read_exact(&mut hello).await.unwrap();
        let (version, sandbox) = (ash_wire::VERSION, id.to_string());
        let (cli, turn, tag) = (CliState::Absent, None, None);
        let (last_event, resend_to, commands_ms, tasks) = (0, 0, 0, 0);
        let welcome =
            Welcome { version, sandbox, cli, turn, tag, last_event, resend_to, commands_ms, tasks };
        let welcome = serde_json::to_vec(&welcome).unwrap();
        let mut said = vec![];
        frame::write(&mut said, Kind::Welcome, 0, &welcome).unwrap();
        bridge.write_all(&said).await.unwrap();
        bridge
    };
    let (link, bridge) = tokio::join!(link::connect(&path, id, 0), answer);
    let (sender, receiver, welcome) = link.unwrap();
    (Running { id, sender, receiver, welcome }, bridge)
}

fn options() -> Options {
    let permission_mode = PermissionMode::BypassPermissions;
    Options {
        queue_limit: 4,
        cli: Defaults { model: "m".to_owned(), permission_mode, ready_timeout_ms: 1000 },
        folder: TreeLimits::default(),
        uids: (DEFAULT_BASE, SLOTS),
        max_sandboxes: 4,
        max_spares: 2,
        disk_reserve: 0,
        memory_reserve: 0,
        max_attachment: 1024,
        collect_every: Duration::MAX,
        retain_every: Duration::MAX,
        metrics: Arc::default(),
        live: Live {
            agent_roots: vec![],
            keep_points: 10,
            keeping: Keeping::default(),
            times: Times::default(),
            limits: Limits::default(),
            admission: Admission {
                turns: TURNS,
                turns_when_short: 1,
                launches: LAUNCHES,
                patience: Duration::from_secs(30),
                max_per_tenant: 0,
                max_per_agent: 0,
            },
        },
    }
}
