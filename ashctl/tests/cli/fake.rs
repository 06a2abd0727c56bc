//! A daemon that follows a script: the text of a message says what becomes of it.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex};

use ash_dbus::value::{
    AgentInfo, BackupInfo, CheckpointInfo, CollectionInfo, DeployOptions, DifferenceInfo, Event,
    FollowOptions, Health, KeyInfo, LoadInfo, LogLine, Message, SessionFilter, SessionInfo, Usage,
};
use ash_dbus::{BUS_NAME, Error, ROOT, path};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::Notify;
use zbus::fdo;
use zbus::message::{Flags, Header};
use zbus::zvariant::{OwnedFd, OwnedObjectPath};
use zbus::{Connection, interface};

use crate::bus::Bus;

pub(crate) const ID: &str = "3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b";

/// What the daemon was told.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) deployed: Vec<(String, Vec<String>, HashMap<String, String>)>,
    /// What each deployment said of the config.
    pub(crate) deployed_configs: Vec<Option<String>>,
    pub(crate) settings: Vec<String>,
    pub(crate) configured: Vec<String>,
    /// What the agent was given one after the other.
    pub(crate) environments: Vec<BTreeMap<String, String>>,
    pub(crate) sent: Vec<(String, String)>,
    pub(crate) followed: Vec<FollowOptions>,
    pub(crate) called: Vec<&'static str>,
    /// Which checkpoints it was told to use.
    pub(crate) checkpoints: Vec<String>,
    /// How often it was asked which sessions there are.
    pub(crate) listed: usize,
    /// Whether each revocation let polkit ask a person.
    pub(crate) may_ask: Vec<bool>,
}

/// What its two objects share.
#[derive(Clone, Default)]
pub(crate) struct Daemon {
    pub(crate) seen: Arc<Mutex<Seen>>,
    pub(crate) status: Arc<Mutex<String>>,
    /// Ids of newer sessions, which are listed and nothing else.
    pub(crate) newer: Arc<Mutex<Vec<String>>>,
    /// Further checkpoints: their ids and their names.
    pub(crate) points: Arc<Mutex<Vec<(String, &'static str)>>>,
    /// A message that waits has come, or an interrupt.
    pub(crate) waiting: Arc<Notify>,
    interrupted: Arc<Notify>,
}

/// Puts the daemon on a bus.
pub(crate) async fn serve(bus: &Bus) -> (Daemon, Connection) {
    let daemon = Daemon::default();
    *daemon.status.lock().unwrap() = "active".into();
    let connection = bus.connect().await;
    let server = connection.object_server();
    server.at(ROOT, Manager(daemon.clone())).await.unwrap();
    server.at(path::of_agent("hello").unwrap(), Agent(daemon.clone())).await.unwrap();
    server.at(path::of_session(ID).unwrap(), Session(daemon.clone())).await.unwrap();
    connection.request_name(BUS_NAME).await.unwrap();
    (daemon, connection)
}

impl Daemon {
    fn called(&self, what: &'static str) {
        self.seen.lock().unwrap().called.push(what);
    }

    fn uses(&self, checkpoint: &str) {
        self.seen.lock().unwrap().checkpoints.push(checkpoint.into());
    }

    fn session(&self) -> SessionInfo {
        SessionInfo {
            id: ID.into(),
            agent_name: "hello".into(),
            agent_version: 3,
            status: self.status.lock().unwrap().clone(),
            created_at: "2026-11-18T11:06:40.007Z".into(),
            last_active_at: "2026-11-18T11:06:41.007Z".into(),
            cli_version: "2.1.197".into(),
            last_error: "The sandbox was lost".into(),
            ..SessionInfo::default()
        }
    }

    fn now(&self, status: &str) -> SessionInfo {
        *self.status.lock().unwrap() = status.into();
        self.session()
    }
}

fn agent() -> AgentInfo {
    AgentInfo { id: ID.into(), name: "hello".into(), version: 3, ..AgentInfo::default() }
}

/// As ashd refuses.
const DENIED: &str = "GetSession needs the right org.ashd.Ash1.view; members of group ash have it";

struct Manager(Daemon);

#[interface(name = "org.ashd.Ash1.Manager")]
impl Manager {
    async fn deploy(
        &self,
        name: &str,
        folder: OwnedFd,
        options: DeployOptions,
    ) -> Result<(OwnedObjectPath, u32), Error> {
        if name == "refused" {
            return Err(Error::Invalid("the folder is not to our liking".into()));
        }
        let read = move || {
            let mut archive = tar::Archive::new(File::from(std::os::fd::OwnedFd::from(folder)));
            let entries = archive.entries().unwrap();
            entries.map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
        };
        let files = tokio::task::spawn_blocking(read).await.unwrap();
        let env = options.env.unwrap_or_default();
        let mut seen = self.0.seen.lock().unwrap();
        seen.deployed.push((name.into(), files, env));
        seen.deployed_configs.push(options.config);
        Ok((path::of_agent(name).unwrap(), 4))
    }

    async fn list_agents(&self) -> Vec<AgentInfo> {
        vec![agent()]
    }

    async fn get_agent(&self, name: &str) -> Result<(OwnedObjectPath, AgentInfo), Error> {
        match name {
            "hello" => {
                let env = self.0.seen.lock().unwrap().environments.last().cloned();
                let env_names = env.unwrap_or_default().into_keys().collect();
                Ok((path::of_agent(name).unwrap(), AgentInfo { env_names, ..agent() }))
            }
            _ => Err(Error::NotFound("Agent not found".into())),
        }
    }

    async fn list_sessions(&self, filter: SessionFilter) -> (Vec<SessionInfo>, u64) {
        self.0.seen.lock().unwrap().listed += 1;
        let mut ids = self.0.newer.lock().unwrap().clone();
        ids.push(ID.into());
        let total = ids.len() as u64;
        let (offset, limit) = (filter.offset.unwrap(), filter.limit.unwrap());
        let page = ids.into_iter().skip(offset as usize).take(limit as usize);
        (page.map(|id| SessionInfo { id, ..self.0.session() }).collect(), total)
    }

    async fn get_session(&self, id: &str) -> Result<(OwnedObjectPath, SessionInfo), fdo::Error> {
        match id {
            ID => Ok((path::of_session(id).unwrap(), self.0.session())),
            "secret" => Err(fdo::Error::AccessDenied(DENIED.into())),
            _ => Err(fdo::Error::UnknownObject("no such object".into())),
        }
    }

    async fn create_session(&self, _agent: &str, settings: &str) -> (OwnedObjectPath, &str) {
        self.0.seen.lock().unwrap().settings.push(settings.into());
        (path::of_session(ID).unwrap(), ID)
    }

    async fn import_session(&self, _id: &str, _checkpoint: &str) -> (OwnedObjectPath, &str) {
        (path::of_session(ID).unwrap(), ID)
    }

    async fn top(&self) -> Vec<LoadInfo> {
        let load = LoadInfo {
            id: ID.into(),
            agent_name: "hello".into(),
            status: self.0.session().status,
            turn: ID.into(),
            sandbox: "running".into(),
            cpu_us: 83_400_000,
            memory: 300 << 20,
            pids: 12,
            read_bytes: 5 << 30,
            written_bytes: 2048,
            input_tokens: 1_234_567,
            output_tokens: 999,
            cost_usd: 0.5,
            ..LoadInfo::default()
        };
        vec![load]
    }

    async fn create_key(&self, name: &str, scope: &str) -> (&str, String) {
        (ID, format!("ash_{name}_{scope}"))
    }

    async fn list_keys(&self) -> Vec<KeyInfo> {
        let (name, scope, created_at) = ("ci".into(), "run".into(), "then".into());
        vec![KeyInfo { id: ID.into(), name, scope, created_at }]
    }

    async fn revoke_key(&self, id: &str, #[zbus(header)] header: Header<'_>) -> Result<(), Error> {
        let may_ask = header.primary().flags().contains(Flags::AllowInteractiveAuth);
        self.0.seen.lock().unwrap().may_ask.push(may_ask);
        match id {
            ID => Ok(()),
            "asked" => {
                self.0.waiting.notify_one();
                std::future::pending().await
            }
            _ => Err(Error::NotFound("Key not found".into())),
        }
    }

    async fn fsck(&self, deep: bool) -> (Vec<DifferenceInfo>, u64) {
        let one = |kind: &str, mending: &str, text: &str| DifferenceInfo {
            kind: kind.into(),
            mending: mending.into(),
            session: ID.into(),
            text: text.into(),
            advice: "mend it".into(),
        };
        let left = one("half-ended", "itself", "a session has ended and was not put away");
        let owner = one("owner", "by-hand", "the files belong to uid 7, not to 8");
        (if deep { vec![owner, left] } else { vec![left] }, 12)
    }

    async fn check_snapshots(&self) -> (Vec<DifferenceInfo>, u64) {
        (vec![], 34)
    }

    async fn collect_snapshots(&self, preview: bool) -> Vec<CollectionInfo> {
        let bytes = if preview { 3 << 20 } else { 0 };
        let tenant = "default".to_owned();
        vec![
            CollectionInfo {
                tenant,
                packs: 2,
                bytes,
                needed: 99,
                damaged: 1,
                held: 4,
                busy: false,
            },
            CollectionInfo { tenant: "other".into(), busy: true, ..CollectionInfo::default() },
        ]
    }

    async fn delete_tenant(&self, name: &str) -> Result<(u64, u64, u64), Error> {
        match name {
            "acme" => Ok((3, 2, 1)),
            _ => Err(Error::NotFound("Tenant not found".into())),
        }
    }

    async fn backup(&self, directory: OwnedFd) -> Result<BackupInfo, Error> {
        let stat = rustix::fs::fstat(&directory).unwrap();
        if stat.st_mode & 0o077 != 0 {
            return Err(Error::Invalid("open to others".into()));
        }
        let (files, bytes, written) = (12, 3 << 20, 1 << 20);
        let (id, created_at) = (ID.into(), "then".into());
        let (left_out, stale) = (1, 2);
        Ok(BackupInfo { id, created_at, sessions: 4, files, bytes, written, left_out, stale })
    }

    #[zbus(property)]
    async fn version(&self) -> &str {
        "9.8.7"
    }

    #[zbus(property)]
    async fn status(&self) -> Health {
        Health {
            active_sessions: 2,
            live_sandboxes: 2,
            frozen: 1,
            cold: 1,
            reclaimed_bytes: 90 << 20,
            max_sandboxes: 8,
            turns_running: 2,
            turns_waiting: 3,
            turns_max: 32,
            launches_running: 1,
            launches_waiting: 5,
            launches_max: 4,
            pressure: vec!["memory".into(), "processes".into()],
            refused: [("disk", 0), ("memory", 2), ("launches", 1)]
                .map(|(of, times)| (of.to_owned(), times))
                .into(),
            uptime: 90_061,
            missing: vec!["no limits".into()],
            damaged_checkpoints: 1,
            model_key: Some(false),
            reclaimed: Some(0),
            freezes: Some(7),
            freeze_after_ms: Some(60_000),
            reclaim_after_ms: Some(90_000),
            idle_timeout_ms: Some(0),
            background_ms: Some(14_400_000),
            per_tick: Some(20),
            clear_after_ms: Some(172_800_000),
            cleared: Some(3),
            cleared_bytes: Some(1536 << 20),
            warm: Some(1),
            pre_warm_hits: Some(8),
            max_warm: Some(16),
            ..Health::default()
        }
    }
}

struct Agent(Daemon);

#[interface(name = "org.ashd.Ash1.Agent")]
impl Agent {
    async fn delete(&self) {
        self.0.called("delete");
    }

    async fn configure(&self, changes: &str) -> Result<String, Error> {
        if changes.contains("nonsense") {
            return Err(Error::Invalid("config.systemPrompt: expected `replace`".into()));
        }
        self.0.seen.lock().unwrap().configured.push(changes.into());
        Ok(changes.into())
    }

    async fn set_env(&self, env: BTreeMap<String, String>) {
        self.0.seen.lock().unwrap().environments.push(env);
    }

    async fn get_config(&self) -> &str {
        r#"{"allowedTools":["Read"],"model":"m-1"}"#
    }
}

struct Session(Daemon);

/// The beginning and the rest of an answer, cut in the middle of its text and of a frame.
pub(crate) const ANSWER: [&str; 2] = [
    "id: 7.0\nevent: session_start\ndata: {\"sessionId\":\"x\"}\n\n\
     id: 7.1\nevent: text_delta\ndata: {\"delta\":\"Hel\"}\n\nid: 7.2\nevent: text_de",
    "id: 7.2\nevent: text_delta\ndata: {\"delta\":\"lo\"}\n\n\
     id: 8.0\nevent: message\n\
     data: {\"type\":\"assistant\",\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"Hello\"}]}}\n\n\
     id: 9.0\nevent: done\ndata: {}\n\n",
];

const FAILING: &str = "id: 7.0\nevent: error\ndata: {\"error\":\"the model is gone\"}\n\n\
                       id: 7.1\nevent: done\ndata: {}\n\n";
const COLOURFUL: &str = "id: 7.0\nevent: text_delta\ndata: {\"delta\":\"\\u001b[2Jboo\"}\n\n\
                         id: 7.1\nevent: done\ndata: {}\n\n";

/// The read end of a pipe that holds these bytes; they must fit into it.
fn piped(bytes: &str) -> (OwnedFd, File) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let mut writer = File::from(writer);
    writer.write_all(bytes.as_bytes()).unwrap();
    (reader.into(), writer)
}

impl Session {
    /// A stream that waits for an interrupt, and ends then.
    fn waiting(&self) -> OwnedFd {
        let (reader, mut writer) = piped(ANSWER[0]);
        let interrupted = self.0.interrupted.clone();
        tokio::spawn(async move {
            interrupted.notified().await;
            let rest = "lta\ndata: {\"delta\":\"p\"}\n\nid: 9.0\nevent: done\ndata: {}\n\n";
            writer.write_all(rest.as_bytes()).unwrap();
        });
        self.0.waiting.notify_one();
        reader
    }
}

#[interface(name = "org.ashd.Ash1.Session")]
impl Session {
    async fn send(
        &self,
        content: &str,
        options: &str,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedFd, Error> {
        self.0.seen.lock().unwrap().sent.push((content.into(), options.into()));
        let text = content.trim_matches('"');
        match text {
            "busy" => return Err(Error::Busy("Session is busy".into())),
            "wait" => return Ok(self.waiting()),
            "restart" => {
                let connection = connection.clone();
                tokio::spawn(async move {
                    connection.release_name(BUS_NAME).await.unwrap();
                    connection.request_name(BUS_NAME).await.unwrap();
                });
            }
            _ => {}
        }
        let whole = ANSWER.concat().replace("text_deid: 7.2\nevent: ", "");
        Ok(piped(match text {
            "cut" | "restart" => ANSWER[0],
            "lost" => "",
            "fail" => FAILING,
            "colour" => COLOURFUL,
            _ => &whole,
        })
        .0)
    }

    async fn follow(&self, options: FollowOptions) -> OwnedFd {
        self.0.seen.lock().unwrap().followed.push(options);
        piped(ANSWER[1]).0
    }

    async fn interrupt(&self) -> bool {
        self.0.called("interrupt");
        self.0.interrupted.notify_one();
        true
    }

    async fn exec(&self, command: &str, _timeout: u64) -> (OwnedFd, OwnedFd, OwnedFd) {
        if command == "hang" {
            self.0.waiting.notify_one();
            std::future::pending::<()>().await;
        }
        let status = match command {
            "die" => "",
            "late" => "{\"exitCode\":137,\"timedOut\":true,\"truncated\":false}\n",
            "gone" => "{\"error\":\"x\",\"message\":\"the sandbox was lost\"}\n",
            _ => "{\"exitCode\":3,\"timedOut\":false,\"truncated\":false}\n",
        };
        (piped("out\u{1b}\n").0, piped("err\n").0, piped(status).0)
    }

    async fn pause(&self) -> SessionInfo {
        self.0.now("paused")
    }

    async fn stop(&self) -> Result<SessionInfo, Error> {
        Err(Error::WrongState("Cannot stop session with status \"paused\"".into()))
    }

    async fn resume(&self) -> SessionInfo {
        self.0.called("resume");
        self.0.now("active")
    }

    async fn end(&self) -> SessionInfo {
        self.0.called("end");
        self.0.now("ended")
    }

    async fn purge(&self) -> SessionInfo {
        self.0.called("purge");
        self.0.now("ended")
    }

    async fn messages(&self, after: u64, _limit: u32) -> Vec<Message> {
        let body = "{\"type\":\"user\",\"content\":\"hi\"}".to_owned();
        if after == 0 { vec![(1, "user".into(), body, "then".into())] } else { vec![] }
    }

    async fn events(
        &self,
        after: u64,
        limit: u32,
        kinds: Vec<String>,
    ) -> Result<Vec<Event>, Error> {
        if kinds.contains(&"nonsense".to_owned()) {
            return Err(Error::Invalid("kinds must be of user, lifecycle".into()));
        }
        let event = |number: u64, kind: &str, turn: &str, body: &str| {
            (number, kind.to_owned(), turn.to_owned(), body.to_owned(), "then".to_owned())
        };
        let all = [
            event(1, "lifecycle", "", "{\"action\":\"created\"}"),
            event(2, "user", "t-1", "{\"type\":\"user\",\"content\":\"hi\"}"),
            event(3, "lifecycle", "", "{\"action\":\"paused\"}"),
        ];
        let is_wanted =
            |event: &Event| event.0 > after && (kinds.is_empty() || kinds.contains(&event.1));
        Ok(all.into_iter().filter(is_wanted).take(limit as usize).collect())
    }

    async fn logs(&self, after: i64) -> Vec<LogLine> {
        let line = (0, "stderr".to_owned(), "a\tline".to_owned(), "then".to_owned());
        if after < 0 { vec![line] } else { vec![] }
    }

    async fn checkpoints(&self) -> Vec<CheckpointInfo> {
        let point = |id: &str, name: &str, damage: &str| CheckpointInfo {
            id: id.into(),
            name: name.into(),
            sequence: 7,
            files: 3,
            damage: damage.into(),
            created_at: "then".into(),
            ..CheckpointInfo::default()
        };
        let mut all =
            vec![point("newer", "", "workspace/a: it is missing"), point("older", "", "")];
        all.extend(self.0.points.lock().unwrap().iter().map(|(id, name)| point(id, name, "")));
        all
    }

    async fn remove_checkpoint(&self, checkpoint: &str) {
        self.0.uses(checkpoint);
    }

    async fn restore(&self, checkpoint: &str) -> SessionInfo {
        self.0.uses(checkpoint);
        self.0.now("paused")
    }

    async fn fork(&self, checkpoint: &str) -> (OwnedObjectPath, &str) {
        self.0.uses(checkpoint);
        (path::of_session(ID).unwrap(), ID)
    }

    async fn usage(&self) -> Usage {
        Usage { model: "m-1".into(), input_tokens: 12, cost_usd: 0.5, ..Usage::default() }
    }
}
