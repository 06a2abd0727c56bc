//! What the broker is told, and why it is of no use.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ash_broker::control::{self, Control, Settings};
use ash_broker::file::open_regular;

use super::Shared;
use crate::telemetry::metrics::Metrics;

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
    /// The file of extra certificates. No API user sees this: it is met when a broker begins.
    #[error("model.ca_file: {} cannot be read: {error}", path.display())]
    Certificates {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
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
    /// Where it is told what is lost of its reports.
    pub metrics: Arc<Metrics>,
}

fn certificates(path: &Path) -> Result<File, BrokerError> {
    open_regular(path).map_err(|error| BrokerError::Certificates { path: path.to_owned(), error })
}

impl Shared {
    /// Tells a broker where the model API is, and the key.
    pub(super) async fn configure(&self, control: &Control) -> Result<(), BrokerError> {
        let ca = self.setup.ca.as_deref().map(certificates).transpose()?;
        control.configure(&self.setup.settings, ca.as_ref().map(AsFd::as_fd)).await?;
        self.give_key(control).await
    }

    /// Gives a broker the key. When there is none, it forgets what it was given before, by whichever
    /// daemon, and goes on with what it has from its service manager, if anything.
    pub(super) async fn give_key(&self, control: &Control) -> Result<(), BrokerError> {
        let key = self.key.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(ModelKey(key)) = key {
            let secret = control::secret(&key).map_err(BrokerError::Start)?;
            return Ok(control.key(secret.as_fd()).await?);
        }
        match control.forget_key().await {
            // One of before cannot forget; whatever it has, turns need it.
            Err(control::Error::Refused(reason)) => {
                tracing::warn!(
                    %reason,
                    "this broker keeps the model API key that it has until it is restarted"
                );
                Ok(())
            }
            told => Ok(told?),
        }
    }
}
