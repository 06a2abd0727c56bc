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

const INSTALL: &str = r#"python3 -m venv "$0" &&
    exec "$0/bin/python" -m pip install --quiet --disable-pip-version-check "$1""#;

/// An interpreter that has a package.
pub(crate) fn python_with(package: &str) -> Result<PathBuf> {
    let home = installed(package, |home| {
        let mut shell = Command::new("sh");
        shell.args(["-c", INSTALL]).arg(home).arg(package);
        shell
    });
    Ok(home?.join("bin/python"))
}

/// Where a package is, which is installed once per target directory.
pub(crate) fn installed(package: &str, install: impl Fn(&Path) -> Command) -> Result<PathBuf> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(package);
    if !home.exists() {
        let fresh = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        run(package, &mut install(fresh.path()))?;
        // Whoever comes second finds it there, and the attempt goes.
        if std::fs::rename(fresh.path(), &home).is_ok() {
            drop(fresh.keep());
        }
    }
    Ok(home)
}

fn run(package: &str, command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{package} cannot be installed: {}", said.trim());
    Ok(())
}
