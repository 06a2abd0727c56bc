//! The launcher's entry.

use std::process::ExitCode;

fn main() -> ExitCode {
    ash_launcher::exit_code(&ash_launcher::run(std::env::args().skip(1)))
}
