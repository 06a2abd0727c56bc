//! `ashctl` manages agents and sessions of the local `ashd`, over D-Bus.
//!
//! [`sse`] and [`text`] take what agents wrote apart and make it harmless; everything else is
//! private to the program.

pub mod sse;
pub mod text;

mod failure;

mod ending;

mod file;
mod id;
mod out;

mod bus;
mod folder;
mod json;
mod person;
mod stream;
mod systemctl;

mod show;

mod cli;
mod command;
mod complete;
mod machine;
mod remote;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Task};
use failure::Failure;

/// The grammar of the command line, for manual pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The script by which a shell completes the command line; empty for a shell that is not known.
///
/// # Errors
/// None in practice: it is put together in memory.
pub fn completion(shell: clap_complete::Shell) -> std::io::Result<Vec<u8>> {
    complete::script(shell)
}

/// The program: parses the arguments, runs the command, says in one sentence what went wrong.
pub fn main() -> ExitCode {
    complete::answer_shell();
    let cli = Cli::parse();
    if let Some(host) = &cli.common.host {
        return failed(&remote::become_it(host));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(run(cli));
            // An upload that was interrupted may wait for a reader that does not come.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(Failure::Failed(format!("cannot start: {error}"))),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failed(&failure),
    }
}

async fn run(cli: Cli) -> Result<u8, Failure> {
    match cli.task {
        Task::Daemon(command) => command::run(command, &cli.common).await,
        Task::Machine(command) => machine::run(command, &cli.common).await,
    }
}

fn failed(failure: &Failure) -> ExitCode {
    out::complain(failure);
    ExitCode::from(failure.code())
}
