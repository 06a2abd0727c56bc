//! An existing client of the HTTP contract works unchanged.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Ash, Options, skip};

use crate::support::both_engines;

const PACKAGE: &str = "ash-ai-sdk==0.0.22";
const SCRIPT: &str = include_str!("outside/sdk.py");

both_engines!(the_python_client_works);

fn the_python_client_works(options: Options) -> Result<()> {
    let python = match python_with(PACKAGE) {
        Ok(python) => python,
        Err(reason) => {
            skip("sdk::the_python_client_works", &format!("{reason:#}"));
            return Ok(());
        }
    };
    let ash = Ash::start(options)?;
    let folder = ash.folder("sdk", "Answer briefly.")?;
    let url = format!("http://{}", ash.address());
    let done = Command::new(python).args(["-c", SCRIPT, &url, ash.key()]).arg(folder).output()?;
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(done.status.success() && said.trim() == "all of it works", "{said}");
    ash.finish()
}

/// An interpreter that has a package, which is installed once per target directory.
pub(crate) fn python_with(package: &str) -> Result<PathBuf> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(package);
    let python = home.join("bin/python");
    if !python.exists() {
        let fresh = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let run = |command: &mut Command| run(package, command);
        run(Command::new("python3").args(["-m", "venv"]).arg(fresh.path()))?;
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", package];
        run(Command::new(fresh.path().join("bin/python")).args(install))?;
        // Whoever comes second finds it there, and the attempt goes.
        if std::fs::rename(fresh.path(), &home).is_ok() {
            drop(fresh.keep());
        }
    }
    Ok(python)
}

fn run(package: &str, command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{package} cannot be installed: {}", said.trim());
    Ok(())
}
