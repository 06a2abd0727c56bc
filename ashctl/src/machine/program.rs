//! The other programs: where they are, and `ashd`, which alone knows its configuration.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::Config;
use crate::failure::Failure;
use crate::systemctl;

/// Where packages put the daemon's own programs.
const LIBEXEC_DIR: &str = "/usr/lib/ash";

/// Where the daemon's own programs are, as the daemon finds them: beside this program when it was built
/// and started by hand, else below the prefix of both, else where packages put them.
pub(crate) fn libexec_dir() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|ours| Some(ours.parent()?.to_owned()));
    let below = beside.as_ref().and_then(|dir| Some(dir.parent()?.join("lib/ash")));
    let complete =
        [beside, below].into_iter().flatten().find(|dir| dir.join("ash-bridge").exists());
    complete.unwrap_or_else(|| LIBEXEC_DIR.into())
}

/// The daemon's program: beside this one when it was built and started by hand, else below the prefix
/// of both, else where packages put it.
pub(super) fn ashd() -> Option<PathBuf> {
    let ours = std::env::current_exe().ok();
    let beside = ours.as_ref().and_then(|ours| Some(ours.parent()?.join("ashd")));
    let installed = ours.as_ref().and_then(|ours| Some(ours.parent()?.parent()?.join("sbin/ashd")));
    let packaged = PathBuf::from("/usr/sbin/ashd");
    [beside, installed, Some(packaged)].into_iter().flatten().find(|path| path.is_file())
}

/// Whether the daemon's program is on this machine.
pub(crate) fn has_ashd() -> bool {
    ashd().is_some()
}

/// The variables of the daemon's unit that are not set here: what it runs with depends on them.
pub(super) async fn unit_environment() -> Result<Vec<(String, String)>, Failure> {
    let mut variables = systemctl::environment(systemctl::DAEMON).await?;
    variables.retain(|(name, _)| std::env::var_os(name).is_none());
    Ok(variables)
}

/// Becomes `ashd config`. Returns only when that fails.
pub(super) async fn become_ashd(look: &Config, as_json: bool) -> Failure {
    become_one(|command| {
        command.arg("config");
        match look {
            Config::Show => command.arg("show").args(as_json.then_some("--json")),
            Config::Check { file } => command.arg("check").args(file),
        };
    })
    .await
}

/// Becomes `ashd restore`. Returns only when that fails.
pub(super) async fn become_restore(directory: &Path, check: bool, as_json: bool) -> Failure {
    become_one(|command| {
        command.arg("restore").args(check.then_some("--check")).args(as_json.then_some("--json"));
        command.arg("--").arg(directory);
    })
    .await
}

/// Becomes `ashd fsck`. Returns only when that fails.
pub(crate) async fn become_fsck(deep: bool, as_json: bool) -> Failure {
    become_one(|command| {
        command.arg("fsck").args(deep.then_some("--deep")).args(as_json.then_some("--json"));
    })
    .await
}

/// Becomes the daemon's program, with the variables of its unit. Returns only when that fails.
async fn become_one(told: impl FnOnce(&mut Command)) -> Failure {
    let Some(ashd) = ashd() else {
        return Failure::Failed(
            "there is no ashd on this machine, which alone knows its configuration; install the \
             package ashd"
                .into(),
        );
    };
    let variables = match unit_environment().await {
        Ok(variables) => variables,
        Err(failure) => return failure,
    };
    let mut command = Command::new(&ashd);
    told(command.envs(variables));
    let error = command.exec();
    Failure::Failed(format!("{} cannot be run: {error}", ashd.display()))
}
