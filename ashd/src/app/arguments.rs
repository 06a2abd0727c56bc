//! The grammar of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Deploys AI agents as production APIs; every session runs in a sandbox of its own.
///
/// Without options it reads /etc/ash/ashd.toml, the drop-ins beside it and ASH_* variables.
#[derive(Parser)]
#[command(name = "ashd", version)]
pub struct Arguments {
    /// Configuration file, instead of /etc/ash/ashd.toml
    #[arg(long, value_name = "FILE", env = "ASH_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// What to do instead of running the daemon.
    #[command(subcommand)]
    pub task: Option<Task>,
}

/// What to do instead of running the daemon.
#[derive(Subcommand)]
pub enum Task {
    /// Look at the configuration, without running
    #[command(subcommand)]
    Config(Look),
    /// Put a backup into the data directory, which must be empty; no daemon may run on it
    ///
    /// All of the backup is read and checked before anything is written. One that was made by an
    /// older ashd is brought up to date at the next start.
    Restore(Restore),
    /// Look whether everything agrees that lies on the disk, while no daemon runs on it
    ///
    /// Database, agents, sessions' files and checkpoints. Sandboxes, processes and mounts are looked at
    /// by `ashctl fsck` while ashd runs. Exits as that does.
    Fsck {
        /// Read every chunk of every checkpoint, and all of the database
        #[arg(long)]
        deep: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// What to restore.
#[derive(Args)]
pub struct Restore {
    /// Directory of the backup, as `ashctl backup` was given it
    pub directory: PathBuf,
    /// Only read the backup and say whether it is whole
    #[arg(long)]
    pub check: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How to look at the configuration.
#[derive(Subcommand)]
pub enum Look {
    /// Show every value that holds and where it was written; secrets are hidden
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say everything that is wrong; exits with 78 if anything is
    Check {
        /// Configuration file, instead of the one that would be read; its drop-ins count
        file: Option<PathBuf>,
    },
}
