//! The stand-in as a program, for `make run` without a key and for tests in other languages.

use std::io::Write;
use std::path::PathBuf;

use ash_modelapi::{Config, Server};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Answers like the Anthropic Messages API, as the prompts' directives say
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Unix socket to listen on as well
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// Append each request to this file as a line of JSON
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Answer 401 to requests without this key
    #[arg(long)]
    key: Option<String>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Arguments { port, unix, log, key } = Arguments::parse();
    let server = Server::start(Config { port, unix, log, key, ..Config::default() })?;
    writeln!(std::io::stdout(), "listening on {}", server.url())?;
    server.block_on(asked_to_stop())?;
    Ok(())
}

async fn asked_to_stop() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
