//! The grammar of the command line.

use std::path::PathBuf;

use clap::Parser;

/// Deploys AI agents as production APIs; every session runs in a sandbox of its own.
///
/// Without options it reads /etc/ash/ashd.toml, the drop-ins beside it and ASH_* variables.
#[derive(Parser)]
#[command(name = "ashd", version)]
pub struct Arguments {
    /// Configuration file, instead of /etc/ash/ashd.toml
    #[arg(long, value_name = "FILE", env = "ASH_CONFIG")]
    pub config: Option<PathBuf>,
}
