//! The bridge's entry.

use std::process::ExitCode;

fn main() -> ExitCode {
    ash_bridge::exit_code(&ash_bridge::run(std::env::args().skip(1)))
}
