//! The CLI driven without `ashd` and without a bridge, in a sandbox that `ashd` made.
//!
//! This program runs itself inside the sandbox, by way of `exec`: there it starts a second CLI
//! with the arguments and the environment of the session's own, on sockets like the bridge's, and
//! does with it what it is told over a socket in the workspace. Nothing is between it and the CLI,
//! and all else is the same: namespaces, filters, groups, user, and the way to the model.

mod inside;
mod outside;

pub use inside::serve;
pub use outside::Alone;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// This program, beneath the workspace.
pub const PROGRAM: &str = ".bench/ash-bench";

/// What the program inside is told.
#[derive(Debug, Deserialize, Serialize)]
enum Order {
    /// Start a CLI and initialise it; the one before is ended.
    Start {
        /// How.
        cli: Cli,
        /// The first prompt, said without waiting for anything.
        prompt: Option<String>,
    },
    /// Ask it what a warm sandbox's CLI is asked, and wait for the answers.
    Prime,
    /// Say a prompt, and read the answer to its end.
    Turn(String),
}

/// How a CLI is started.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Cli {
    program: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// Its home, made like that of a new session when it is not there.
    home: PathBuf,
}

/// What the program inside answers, when all is over.
#[derive(Debug, Deserialize, Serialize)]
enum Answer {
    /// It began at this time: ns of CLOCK_MONOTONIC.
    Began(u64),
    /// It did not work.
    Failed(String),
}
