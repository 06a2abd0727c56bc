//! `ashctl` manages agents and sessions of the local `ashd`, over D-Bus.
//!
//! [`sse`] and [`text`] take what agents wrote apart and make it harmless; everything else is
//! private to the program.

pub mod sse;
pub mod text;

mod failure;
mod out;

mod bus;
mod folder;
mod json;
mod stream;

mod show;

mod machine;

mod cli;
mod command;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

/// The grammar of the command line, for manual pages and completions.
pub fn command() -> clap::Command {
    cli::Cli::command()
}

/// The program: parses the arguments, runs the command, says in one sentence what went wrong.
pub fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(command::run(cli)),
        Err(error) => Err(failure::Failure::Failed(format!("cannot start: {error}"))),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            out::complain(&failure);
            ExitCode::from(failure.code())
        }
    }
}
