//! `ashd`: parses the command line, runs the daemon, turns the outcome into an exit code.

use std::process::ExitCode;

use ashd::app::{self, Arguments};
use clap::Parser;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

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
    match runtime.block_on(app::run(arguments.config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, error.exit_code()),
    }
}

fn failed(error: &dyn std::error::Error, code: ExitCode) -> ExitCode {
    app::report(error);
    code
}
