//! The server: a thread of its own with the listeners, until it is dropped.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::faults::Faults;
use crate::gates::Gates;
use crate::log::{Log, Request};
use crate::routes::{State, answer};

/// How long a test may wait for something before that counts as a failure.
const PATIENCE: Duration = Duration::from_mins(1);

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The port on 127.0.0.1; 0 lets the system choose.
    pub port: u16,
    /// A unix socket to listen on as well; a file that is in the way is replaced.
    pub unix: Option<PathBuf>,
    /// Where to append the request log, a JSON object per line.
    pub log: Option<PathBuf>,
    /// How many requests are kept in memory.
    pub keep: usize,
    /// The key that callers must show (`x-api-key`, or bearer); without one, all may ask.
    pub key: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { port: 0, unix: None, log: None, keep: 1000, key: None }
    }
}

/// Why a server did not start, or a wait was in vain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request log cannot be opened.
    #[error("cannot open the request log {path}: {source}; choose a file that can be written")]
    Log {
        /// The log's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The TCP port cannot be had.
    #[error("cannot listen on 127.0.0.1:{port}: {source}; port 0 takes any free one")]
    Port {
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The unix socket cannot be made.
    #[error("cannot listen on {path}: {source}; its directory must exist and be writable")]
    Unix {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The runtime or its thread cannot be made.
    #[error("cannot start the server's thread: {0}")]
    Thread(#[from] io::Error),
    /// What a test waited for has not happened.
    #[error("waited a minute in vain for {0}")]
    InVain(String),
}

/// A running stand-in. Dropping it closes its listeners and connections.
pub struct Server {
    state: Arc<State>,
    address: SocketAddr,
    unix: Option<PathBuf>,
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server on a thread of its own; it listens when this returns.
    ///
    /// # Errors
    /// When a listener, the log or the thread cannot be had.
    pub fn start(config: Config) -> Result<Self, Error> {
        let state = Arc::new(open_state(&config)?);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let listeners = Listeners::bind(&runtime, &config)?;
        let address = listeners.tcp.local_addr()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = {
            let state = state.clone();
            thread::Builder::new()
                .name("modelapi".to_owned())
                .spawn(move || runtime.block_on(serve(listeners, state, stopped)))?
        };
        Ok(Self {
            state,
            address,
            unix: config.unix,
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The base URL, `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The kept requests, oldest first.
    pub fn requests(&self) -> Vec<Arc<Request>> {
        self.state.log.matching(|_| true)
    }

    /// Waits until `count` kept requests match and returns these.
    ///
    /// # Errors
    /// [`Error::InVain`] after a minute.
    pub async fn wait_for(
        &self,
        count: usize,
        matches: impl Fn(&Request) -> bool,
    ) -> Result<Vec<Arc<Request>>, Error> {
        let log = &self.state.log;
        let enough = log.changes.until(|| {
            let found = log.matching(&matches);
            (found.len() >= count).then_some(found)
        });
        patiently(enough, || format!("{count} requests")).await
    }

    /// Waits until an answer is held at `[[hold name]]`.
    ///
    /// # Errors
    /// [`Error::InVain`] after a minute.
    pub async fn wait_held(&self, name: &str) -> Result<(), Error> {
        patiently(self.state.gates.held(name), || format!("an answer held at {name}")).await
    }

    /// Lets all answers go on that are held at `[[hold name]]`; without any, the next one passes.
    pub fn release(&self, name: &str) {
        self.state.gates.release(name);
    }

    /// Forgets the kept requests, unused releases and how often each fault has happened.
    pub fn reset(&self) {
        self.state.reset();
    }

    /// Runs one of the waits above, or any future, from a thread without a runtime.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // An error means that the thread has ended already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(path) = &self.unix {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn open_state(config: &Config) -> Result<State, Error> {
    let log = Log::open(config.keep, config.log.as_deref())
        .map_err(|source| Error::Log { path: config.log.clone().unwrap_or_default(), source })?;
    Ok(State { log, gates: Gates::default(), faults: Faults::default(), key: config.key.clone() })
}

async fn patiently<T>(
    wait: impl Future<Output = T>,
    what: impl FnOnce() -> String,
) -> Result<T, Error> {
    timeout(PATIENCE, wait).await.map_err(|_| Error::InVain(what()))
}

struct Listeners {
    tcp: TcpListener,
    unix: Option<UnixListener>,
}

impl Listeners {
    fn bind(runtime: &Runtime, config: &Config) -> Result<Self, Error> {
        let _inside = runtime.enter();
        let port = config.port;
        let tcp = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .and_then(|tcp| tcp.set_nonblocking(true).map(|()| tcp))
            .and_then(TcpListener::from_std)
            .map_err(|source| Error::Port { port, source })?;
        let unix = config.unix.as_ref().map(|path| {
            // Not there is the usual case; anything else shows when binding.
            let _ = std::fs::remove_file(path);
            UnixListener::bind(path).map_err(|source| Error::Unix { path: path.clone(), source })
        });
        Ok(Self { tcp, unix: unix.transpose()? })
    }

    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        tokio::select! {
            accepted = self.tcp.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Some(accepted) = accept_unix(self.unix.as_ref()) => Ok(Box::new(accepted?.0)),
        }
    }
}

async fn accept_unix(
    listener: Option<&UnixListener>,
) -> Option<io::Result<(tokio::net::UnixStream, tokio::net::unix::SocketAddr)>> {
    Some(listener?.accept().await)
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

async fn serve(listeners: Listeners, state: Arc<State>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            accepted = listeners.accept() => {
                // A connection that has gone again is no reason to stop.
                if let Ok(connection) = accepted {
                    connections.spawn(converse(connection, state.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listeners);
    connections.shutdown().await;
}

/// Serves a connection to its end, which is an error whenever a script wants one.
async fn converse(connection: Box<dyn Connection>, state: Arc<State>) {
    let service = service_fn(move |request| answer(state.clone(), request));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
}
