//! `ash-broker`: confines itself, then serves the control socket that it got as standard input.

mod log;

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ash_broker::server::{self, Begin};
use ash_broker::{harden, key};
use clap::Parser;
use http::HeaderValue;
use rustls::RootCertStore;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing::{error, info, warn};

/// Holds the model API key of ash and is the only way out of its sandboxes.
///
/// ashd or a service manager starts it, with the listening control socket as standard input, and
/// perhaps with the key as a credential. SIGTERM ends it when the answers under way have come to
/// their end.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Exit when for so many seconds no ashd has been connected and no sandbox is either
    #[arg(long, value_name = "SECONDS")]
    exit_when_unused: Option<u64>,

    /// What to log at most: off, error, warn or info
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: LevelFilter,

    /// Say why the service ended, if it could not itself, and exit: for ExecStopPost=
    #[arg(long)]
    explain_end: bool,
}

/// Why the broker did not run.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the broker cannot be started: {0}")]
    Start(#[from] io::Error),
    #[error(
        "SSL_CERT_FILE names {}, which is no regular file; name one with PEM certificates, or leave \
         the variable out", .0.display()
    )]
    Certificates(PathBuf),
    #[error(transparent)]
    Harden(#[from] harden::Error),
    #[error(transparent)]
    Server(#[from] server::Error),
}

impl Error {
    /// 78 when only a person can mend it (configuration, sysexits(3)), so that a service manager does
    /// not try again; 1 otherwise.
    fn exit_code(&self) -> ExitCode {
        match self {
            Error::Certificates(_)
            | Error::Harden(_)
            | Error::Server(server::Error::NotAListener) => ExitCode::from(78),
            Error::Start(_) | Error::Server(_) => ExitCode::FAILURE,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // What is finer is not ours, and may quote what passes.
    log::begin(arguments.log.min(LevelFilter::INFO));
    if arguments.explain_end {
        if let Some(sentence) = key::why_absent(std::env::var("EXIT_STATUS").ok().as_deref()) {
            log::last_words(&sentence);
        }
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::last_words(&error);
            error.exit_code()
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    // Executed through a descriptor, it would be known by that one's number.
    rustix::thread::set_name(c"ash-broker").map_err(io::Error::from)?;
    let (roots, key) = (system_roots()?, credential());
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    harden::confine()?;
    let exit_when_unused = arguments.exit_when_unused.map(Duration::from_secs);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = server::adopt(socket)?;
        let mut terminate = signal(SignalKind::terminate())?;
        let leave = async move {
            terminate.recv().await;
        };
        info!("serving");
        server::run(listener, Begin { roots, key, exit_when_unused }, leave).await;
        Ok(())
    })
}

/// The key that came as a credential. One that is of no use is no reason to stop: `ashd` may have
/// another, and without any the sandboxes are told.
fn credential() -> Option<HeaderValue> {
    let key = key::from_service_manager().unwrap_or_else(|error| {
        error!("the credential {} is of no use: {error}", key::CREDENTIALS.join(" or "));
        None
    });
    info!(credential = key.is_some(), "the model API key from the service manager");
    key
}

/// The certificates of the system, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name. To have
/// none is no reason to stop: the upstream may bring its own, or be on the loopback. To be given a
/// pipe is one: it would be waited for, perhaps for ever.
fn system_roots() -> Result<RootCertStore, Error> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    if let Some(path) = named
        && path.metadata().is_ok_and(|found| !found.is_file())
    {
        return Err(Error::Certificates(path));
    }
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        warn!("a certificate of the system cannot be read: {error}");
    }
    let mut roots = RootCertStore::empty();
    let (trusted, ignored) = roots.add_parsable_certificates(found.certs);
    info!(trusted, ignored, "certificates of the system");
    Ok(roots)
}
