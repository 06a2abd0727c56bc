//! Confines itself as the agent's side of a bridge does, outside of any sandbox, and becomes
//! another program. Arguments: a uid, the layers to leave out, the program and its arguments.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use ash_bridge::confine::{self, Half};
use ash_peeled::{Peeled, layers};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().context("arguments: uid, layers, program");
    let (uid, names, program) = (next()?.parse()?, next()?, next()?);
    let peeled = Peeled::without(&layers(&names)?);
    let half = Half { uid, domain: confine::files::agent };
    confine::take(peeled.steps(), &half)?;
    Err(Command::new(program).args(args).exec().into())
}
