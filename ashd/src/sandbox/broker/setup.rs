//! What the broker is told, and why it is of no use.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ash_broker::control::{self, Settings};

/// Why the broker is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// It does not run and could not be started.
    #[error("the model broker cannot be started: {0}")]
    Start(io::Error),
    /// It is not there.
    #[error("the model broker does not run; it is being started anew")]
    Absent,
    /// A grant's socket could not be made.
    #[error("the sandbox's way to the model broker cannot be made: {0}")]
    Socket(io::Error),
    /// The file of extra certificates.
    #[error("the extra certificates cannot be read: {0}")]
    Certificates(io::Error),
    /// It said no, or nothing.
    #[error(transparent)]
    Control(#[from] control::Error),
}

/// The model API key. Shows itself to nobody.
#[derive(Clone)]
pub struct ModelKey(pub Vec<u8>);

impl fmt::Debug for ModelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModelKey(…)")
    }
}

/// How to reach and to start the broker.
#[derive(Clone, Debug)]
pub struct BrokerSetup {
    /// Its control socket.
    pub socket: PathBuf,
    /// The directory that holds a directory for each sandbox.
    pub model_dir: PathBuf,
    /// Its program; absent when a service manager runs it.
    pub program: Option<PathBuf>,
    /// The user that it runs as when we start it.
    pub uid: u32,
    /// When we start it, it ends itself when it has had neither an `ashd` nor a sandbox connected
    /// for this long.
    pub exit_when_unused: Duration,
    /// Where the model API is.
    pub settings: Settings,
    /// PEM certificates to trust besides the system's.
    pub ca: Option<PathBuf>,
    /// The model API key.
    pub key: Option<ModelKey>,
    /// How long the start of the daemon waits for a broker that a service manager runs.
    pub patience: Duration,
    /// How long sandboxes wait for the next broker until they are told that there is none.
    pub hope: Duration,
}
