//! `ashd`: parses the command line, runs the daemon, turns the outcome into an exit code.

use std::io::Write;
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
    if let Some(task) = &arguments.task {
        return looked(app::look(task, arguments.config.as_deref()));
    }
    // As many as can allocate at once. What this costs is a wait, and none of memory.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if let Err(error) = ash_sys::memory::limit_arenas(processors) {
        return failed(&error, ExitCode::FAILURE);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error, ExitCode::FAILURE),
    };
    let ended = runtime.block_on(app::run(arguments.config));
    let code = match &ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(error, error.exit_code()),
    };
    // Nothing of what was started goes on while the end is waited for.
    app::leave(runtime);
    if let Err(error) = &ended {
        app::hold_off(error);
    }
    code
}

fn looked(found: Result<(String, ExitCode), app::AppError>) -> ExitCode {
    match found {
        Ok((text, code)) => {
            // That nobody reads it is no failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            code
        }
        Err(error) => failed(&error, error.exit_code()),
    }
}

fn failed(error: &dyn std::error::Error, code: ExitCode) -> ExitCode {
    app::report(error);
    code
}
