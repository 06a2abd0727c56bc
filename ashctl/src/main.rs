//! `ashctl`: see `ashctl --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ashctl::main()
}
