//! What the tests stand on: a running broker, a stand-in for the model API, and raw bytes.

use std::fs::{self, File, Permissions};
use std::future::Future;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use ash_broker::control::{self, Control, Event, Events, Launch, Limits, Peer, Settings, Usage};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tracing::level_filters::LevelFilter;
use uuid::Uuid;

/// The key that must never be seen but by the model API.
pub(crate) const CANARY: &str = "sk-ant-canary-7f3a";

/// The user that the broker runs as.
pub(crate) const NOBODY: u32 = 65534;

/// Who comes through a sandbox's socket when the test itself does.
pub(crate) const ROOT: Peer = Peer { uid: 0, session: None };

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that must happen.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it did not happen in time")
}

/// A broker that runs until the end of the test.
pub(crate) struct Stage {
    pub(crate) dir: TempDir,
    pub(crate) child: Child,
    pub(crate) control: Control,
    pub(crate) events: Events,
}

impl Stage {
    /// A broker that knows nothing yet.
    pub(crate) async fn bare() -> Self {
        let dir = TempDir::new().unwrap();
        let child = launch(dir.path(), None);
        let (control, events) = soon(Control::connect(&socket(dir.path()))).await.unwrap();
        Self { dir, child, control, events }
    }

    /// A broker that has the key and this upstream.
    pub(crate) async fn new(upstream: &Upstream) -> Self {
        Self::with(upstream, Limits::default()).await
    }

    /// The same with other limits.
    pub(crate) async fn with(upstream: &Upstream, limits: Limits) -> Self {
        let stage = Self::bare().await;
        stage.key(CANARY).await;
        stage.control.configure(&upstream.settings(limits), None).await.unwrap();
        stage
    }

    pub(crate) async fn key(&self, key: &str) {
        let secret = control::secret(key.as_bytes()).unwrap();
        self.control.key(secret.as_fd()).await.unwrap();
    }

    /// Grants a sandbox of this name to root, which the tests are; returns its socket.
    pub(crate) async fn grant(&self, name: &str) -> (Uuid, PathBuf) {
        let id = Uuid::new_v4();
        (id, self.grant_to(id, name, ROOT).await)
    }

    /// Grants this socket to a sandbox and its peer.
    pub(crate) async fn grant_to(&self, id: Uuid, name: &str, peer: Peer) -> PathBuf {
        let path = self.dir.path().join(name);
        let fresh = self.dir.path().join(format!("{name}.new"));
        let listener = UnixListener::bind(&fresh).unwrap();
        fs::set_permissions(&fresh, Permissions::from_mode(0o666)).unwrap();
        fs::rename(&fresh, &path).unwrap();
        self.control.grant(id, peer, listener.as_fd()).await.unwrap();
        path
    }

    /// A connection of a sandbox of its own.
    pub(crate) async fn client(&self) -> Wire<UnixStream> {
        let (_, path) = self.grant(&Uuid::new_v4().to_string()[..8]).await;
        connect(&path).await
    }

    /// A client whose request has come to the model API, and the connection that it came by.
    pub(crate) async fn asked(&self, upstream: &Upstream) -> (Wire<UnixStream>, Wire<TcpStream>) {
        let mut client = self.client().await;
        client.write(post("/v1/messages", "{}")).await;
        let mut api = upstream.accept().await;
        api.until("{}").await;
        (client, api)
    }

    /// The next event, which must be a usage.
    pub(crate) async fn usage(&mut self) -> Usage {
        match soon(self.events.next()).await {
            Some(Event::Usage(usage)) => usage,
            other => panic!("no usage but {other:?}"),
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Ends the broker like a crash and starts another one.
    pub(crate) async fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = launch(self.dir.path(), None);
        (self.control, self.events) =
            soon(Control::connect(&socket(self.dir.path()))).await.unwrap();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let log = self.log();
        if !std::thread::panicking() {
            assert!(!log.contains(CANARY), "the key is in the log: {log}");
            assert!(!log.contains("panicked"), "{log}");
        }
    }
}

pub(crate) fn socket(dir: &Path) -> PathBuf {
    dir.join("control")
}

/// Starts a broker in this directory; it logs to a file there.
pub(crate) fn launch(dir: &Path, exit_when_unused: Option<Duration>) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    launch_with(dir, exit_when_unused, log)
}

/// The same with another log.
pub(crate) fn launch_with(
    dir: &Path,
    exit_when_unused: Option<Duration>,
    log: impl Into<Stdio>,
) -> Child {
    let program = Path::new(env!("CARGO_BIN_EXE_ash-broker"));
    let listener = control::listen(&socket(dir)).unwrap();
    let launch =
        Launch { program, uid: NOBODY, gid: NOBODY, exit_when_unused, log: LevelFilter::INFO };
    launch.start(listener, |mut command| command.stderr(log).spawn()).unwrap()
}

/// A stand-in for the model API; the test answers each connection by hand.
pub(crate) struct Upstream {
    listener: TcpListener,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    pub(crate) fn settings(&self, limits: Limits) -> Settings {
        let upstream = format!("http://127.0.0.1:{}", self.port());
        Settings { upstream, proxy: None, allow_plaintext: false, limits }
    }

    pub(crate) async fn accept(&self) -> Wire<TcpStream> {
        Wire::new(soon(self.listener.accept()).await.unwrap().0)
    }

    /// Nobody has connected that was not accepted.
    pub(crate) async fn assert_untouched(&self) {
        let nothing = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(self.listener.poll_accept(cx).is_pending())
        });
        assert!(nothing.await, "something reached the model API");
    }
}

/// One end of a connection, byte by byte.
pub(crate) struct Wire<S> {
    pub(crate) stream: S,
    buffer: Vec<u8>,
}

pub(crate) async fn connect(path: &Path) -> Wire<UnixStream> {
    Wire::new(soon(UnixStream::connect(path)).await.unwrap())
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Reads until this text has come, and takes everything up to its end.
    pub(crate) async fn until(&mut self, mark: &str) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.buffer);
            if let Some(at) = text.find(mark) {
                let rest = self.buffer.split_off(at + mark.len());
                return String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap();
            }
            assert!(self.more().await, "ended before {mark:?}: {text:?}", text = self.text());
        }
    }

    /// Reads a message head.
    pub(crate) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Reads to the end of the connection, however it ends.
    pub(crate) async fn rest(&mut self) -> String {
        while self.more().await {}
        self.text()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    async fn more(&mut self) -> bool {
        soon(self.stream.read_buf(&mut self.buffer)).await.is_ok_and(|count| count > 0)
    }
}

/// A request with this body, as a sandbox would send it.
pub(crate) fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: api.local\r\nContent-Type: application/json\r\n\
         X-Api-Key: placeholder\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// An answer with this body.
pub(crate) fn answer(kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nrequest-id: req_1\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

/// One chunk of a chunked body.
pub(crate) fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

/// The head of a streamed answer.
pub(crate) const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                          transfer-encoding: chunked\r\nrequest-id: req_1\r\n\r\n";

/// The events of a streamed answer.
pub(crate) const EVENTS: [&str; 3] = [
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":\
     {\"input_tokens\":7,\"cache_read_input_tokens\":30,\"output_tokens\":1}}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\"}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":45}}\n\n",
];

pub(crate) const DOCUMENT: &str = r#"{"model":"m","content":[],"usage":{"input_tokens":7,"output_tokens":45,"cache_read_input_tokens":30}}"#;
