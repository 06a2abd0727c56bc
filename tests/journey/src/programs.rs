//! Where the built programs are.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// What an `ashd` needs beside it.
const NEEDED: [&str; 6] =
    ["ashd", "ashctl", "ash-bridge", "ash-launcher", "ash-broker", "ash-stub-claude"];

/// The directory that holds all programs: `ASH_TEST_BIN_DIR`, else `ASH_LIBEXEC_DIR`, else
/// `ash-dev` in the target directory that this program was built into.
///
/// # Errors
/// When a program is not there.
pub fn dir() -> Result<PathBuf> {
    let dir = ["ASH_TEST_BIN_DIR", "ASH_LIBEXEC_DIR"]
        .iter()
        .find_map(|name| env::var_os(name).map(PathBuf::from))
        .or_else(in_target)
        .unwrap_or_default();
    match NEEDED.iter().find(|name| !dir.join(name).is_file()) {
        None => Ok(dir),
        Some(missing) => bail!(
            "{} is not there; `make test` builds all programs and says where they are with \
             ASH_LIBEXEC_DIR",
            dir.join(missing).display()
        ),
    }
}

/// `target/debug/deps/journey-…` → `target/ash-dev`.
fn in_target() -> Option<PathBuf> {
    let exe = env::current_exe().ok()?;
    exe.ancestors().map(|above| above.join("ash-dev")).find(|dir| dir.is_dir())
}

/// The real Claude Code CLI, if `CLAUDE_CODE_EXECUTABLE` names one or `make` fetched one into this
/// checkout.
pub fn real_cli() -> Option<PathBuf> {
    if let Some(named) = env::var_os("CLAUDE_CODE_EXECUTABLE") {
        return Some(PathBuf::from(named)).filter(|path| path.is_file());
    }
    let runtime = repository().join(".ash/runtime");
    let versions = std::fs::read_dir(runtime).ok()?;
    versions.flatten().map(|version| version.path().join("claude")).find(|path| path.is_file())
}

/// The top of this checkout.
pub fn repository() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}
