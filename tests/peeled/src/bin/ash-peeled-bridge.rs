//! PID 1 of a sandbox, like the bridge. The last argument names the layers that it leaves out.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use ash_peeled::{Peeled, layers};

fn main() -> Result<ExitCode> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let names = args.pop().context("the last argument names layers")?;
    let peeled = Peeled::without(&layers(&names)?);
    Ok(ash_bridge::exit_code(&ash_bridge::run_with(args.into_iter(), peeled.steps())))
}
