//! Starting a program that is to be installed, where it can do nothing: without network, files of
//! the host, root's uid or any privilege.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::{RuntimeError, shelf};

/// How long it may take to say its version.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is read of what it says on each of its two outputs, in bytes.
const MAX_SAID: u64 = 64 * 1024;

/// The namespaces, and just the capabilities that setpriv needs to give up the rest.
const CONFINED: &[&str] = &[
    "--unshare-pid",
    "--unshare-net",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--new-session",
    "--die-with-parent",
    "--clearenv",
    "--cap-drop",
    "ALL",
    "--cap-add",
    "CAP_SETUID",
    "--cap-add",
    "CAP_SETGID",
    "--cap-add",
    "CAP_SETPCAP",
];

/// The root: programs and libraries, and an empty `/tmp`.
const ROOT: &[&str] = &[
    "--ro-bind",
    "/usr",
    "/usr",
    "--ro-bind-try",
    "/etc/ld.so.cache",
    "/etc/ld.so.cache",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--perms",
    "1777",
    "--tmpfs",
    "/tmp",
    "--chdir",
    "/tmp",
    "--setenv",
    "HOME",
    "/tmp",
    "--setenv",
    "PATH",
    "/usr/bin:/bin",
];

/// What is left of the directories above `/usr` where the two are not one.
const LIBRARIES: [&str; 6] = ["bin", "lib", "lib32", "lib64", "libx32", "sbin"];

/// Drops everything, and asks.
const ASKED: &[&str] = &[
    "--remount-ro",
    "/",
    "--",
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--no-new-privs",
    "--inh-caps=-all",
    "--bounding-set=-all",
    "--",
    "/claude",
    "--version",
];

/// The bubblewrap to try with: our copy, or the distribution's.
pub(super) fn bwrap(libexec: &Path) -> Result<PathBuf, RuntimeError> {
    let places = [libexec.join("bwrap"), "/usr/bin/bwrap".into()];
    places.into_iter().find(|path| path.is_file()).ok_or(RuntimeError::NoBwrap)
}

/// The version that a program says it is, asked in a sandbox. In complaints it has the name that it
/// goes by: what is asked is a copy.
pub(super) async fn version(
    bwrap: &Path,
    program: &Path,
    name: &Path,
) -> Result<String, RuntimeError> {
    let broken = |why: String| RuntimeError::Broken(name.to_owned(), why);
    let mut command = Command::new(bwrap);
    command.args(CONFINED).args(ROOT);
    for name in LIBRARIES {
        match std::fs::read_link(Path::new("/").join(name)) {
            Ok(target) => command.arg("--symlink").arg(target).arg(format!("/{name}")),
            Err(_) => command.args(["--ro-bind-try", &format!("/{name}"), &format!("/{name}")]),
        };
    }
    command.arg("--ro-bind").arg(program).arg("/claude").args(ASKED);
    command.stdin(Stdio::null()).env_clear().kill_on_drop(true);
    let output = timeout(PATIENCE, output_of(command))
        .await
        .map_err(|_| broken("it does not answer".into()))?;
    let output = output.map_err(RuntimeError::io(bwrap))?;
    match output.status.success() {
        true => said(name, &output),
        false => Err(broken(first_words(&output))),
    }
}

/// Runs a program to its end. One that says more than is wanted finds its pipe closed.
async fn output_of(mut command: Command) -> io::Result<Output> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = tokio::try_join!(beginning(out), beginning(err))?;
    Ok(Output { status: child.wait().await?, stdout, stderr })
}

async fn beginning(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MAX_SAID).read_to_end(&mut said).await?;
    }
    Ok(said)
}

/// `2.1.197 (Claude Code)`.
fn said(name: &Path, output: &Output) -> Result<String, RuntimeError> {
    let text = String::from_utf8_lossy(&output.stdout);
    let word = text.split_whitespace().next().unwrap_or_default();
    if text.contains("Claude Code") && shelf::check_version(word).is_ok() {
        return Ok(word.to_owned());
    }
    let said = crate::text::short(&text, 80);
    Err(RuntimeError::Odd { path: name.to_owned(), said })
}

fn first_words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    match text.lines().find(|line| !line.trim().is_empty()) {
        Some(line) => crate::text::short(line, 200),
        None => output.status.to_string(),
    }
}
