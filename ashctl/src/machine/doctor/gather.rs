//! Taking the readings. What cannot be read is taken for absent; nothing here judges.

mod disk;
mod kernel;
mod service;

pub(super) use service::{config, has_key_in_environment};

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::readings::{Bwrap, Key, Readings, Runtime, User};
use crate::cli::Places;
use crate::machine::runtime::Shelf;
use crate::systemctl;

/// How long another program may take to answer.
const PATIENCE: Duration = Duration::from_secs(25);

/// The distribution's bubblewrap.
const SYSTEM_BWRAP: &str = "/usr/bin/bwrap";

/// Takes all readings.
pub(super) async fn all(places: &Places, bus: Option<&str>) -> Readings {
    let libexec = &places.libexec_dir;
    let config = config().await;
    let said = service::daemon(bus).await;
    let has_polkit = service::polkit(bus).await;
    Readings {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        systemd: first_line("systemctl", &["--version"]).await,
        is_systemd_running: Path::new("/run/systemd/system").is_dir(),
        cgroups: kernel::cgroups().await,
        landlock: kernel::landlock(),
        seccomp: fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").ok(),
        bwrap: bwrap(&libexec.join("bwrap")).await,
        modules: kernel::modules(),
        user_namespaces: kernel::user_namespaces(),
        disk: disk::disk(&config),
        swap: disk::swap(),
        runtime: runtime(libexec, service::value(&config, "sandbox.claude")),
        key: Key {
            is_at_broker: said.model_key,
            is_undecryptable: service::is_undecryptable().await,
            ..service::key(&places.etc_dir)
        },
        is_clock_synchronised: service::clock().await,
        vulnerabilities: kernel::vulnerabilities(),
        is_smt_on: line("/sys/devices/system/cpu/smt/active").as_deref() == Some("1"),
        unit: systemctl::state(systemctl::DAEMON).await,
        helpers: [
            (systemctl::BROKER, systemctl::state(systemctl::BROKER).await),
            (systemctl::SANDBOXES, systemctl::state(systemctl::SANDBOXES).await),
        ],
        daemon: said.daemon,
        damaged: said.damaged,
        has_polkit,
        user: user().await,
        config,
    }
}

async fn bwrap(copy: &Path) -> Bwrap {
    let ours = fs::read(copy).ok();
    Bwrap {
        system: first_line(SYSTEM_BWRAP, &["--version"]).await,
        copy: copy.to_owned(),
        is_copy_current: ours.map(|ours| fs::read(SYSTEM_BWRAP).is_ok_and(|it| it == ours)),
    }
}

fn runtime(libexec: &Path, configured: Option<&str>) -> Runtime {
    use std::os::unix::fs::PermissionsExt;
    let program = configured.map_or_else(|| libexec.join("claude"), Into::into);
    let found = fs::metadata(&program).ok();
    let everybody = |found: fs::Metadata| found.is_file() && found.permissions().mode() & 1 != 0;
    // Nothing says which version a program elsewhere is.
    let shelf = Shelf::at(libexec.to_owned());
    let ours = program == libexec.join("claude");
    let version = if ours { shelf.used().ok().flatten() } else { None };
    Runtime { is_executable: found.map(everybody), program, version }
}

async fn user() -> User {
    let groups = first_line("id", &["-Gn"]).await.unwrap_or_default();
    User {
        is_root: rustix::process::geteuid().is_root(),
        is_in_group: groups.split_whitespace().any(|group| group == "ash"),
    }
}

/// The first line that a program says, whatever it exits with.
async fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.lines().next().map(str::to_owned).filter(|line| !line.is_empty())
}

/// The first line of a file of the kernel.
fn line(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok()?.lines().next().map(|line| line.trim().to_owned())
}
