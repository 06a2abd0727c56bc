//! `ashd`: parses the command line, runs the daemon, turns the outcome into an exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Deploys AI agents as production APIs; every session runs in a sandbox of its own.
///
/// Without options it reads /etc/ash/ashd.toml, the drop-ins beside it and ASH_* variables.
#[derive(Parser)]
#[command(name = "ashd", version)]
struct Arguments {
    /// Configuration file, instead of /etc/ash/ashd.toml
    #[arg(long, value_name = "FILE", env = "ASH_CONFIG")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // What is in this memory is for no core file: the model API key, and conversations.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        return failed(&error, ExitCode::FAILURE);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error, ExitCode::FAILURE),
    };
    match runtime.block_on(ashd::app::run(arguments.config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, error.exit_code()),
    }
}

fn failed(error: &dyn std::error::Error, code: ExitCode) -> ExitCode {
    ashd::app::report(error);
    code
}
