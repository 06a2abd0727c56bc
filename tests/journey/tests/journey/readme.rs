//! The README's five minutes, as they are written.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Ash, programs};

use crate::support::both_engines;

both_engines!(the_five_minutes_of_the_readme);

fn the_five_minutes_of_the_readme(options: ash_journey::Options) -> Result<()> {
    let ash = Ash::start(options.env("ASH_API_KEY", ""))?;
    let home = ash.agents_dir().join("checkout");
    fs::create_dir_all(home.join(".ash"))?;
    symlink(ash.data_dir(), home.join(".ash/data"))?;
    symlink(programs::dir()?, home.join(".ash/bin"))?;
    let examples = programs::repository().join("examples");
    let copied = Command::new("cp").arg("-r").arg(examples).arg(home.join("examples")).status()?;
    ensure!(copied.success(), "the examples cannot be copied");

    let readme = fs::read_to_string(programs::repository().join("README.md"))?;
    let script = script(&readme, &ash).context("the README has no commands")?;
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(&home)
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}\n{said}\n{}", output.status, errors(&output.stderr));
    for promised in ["event: session_start", "event: text_delta", "event: done", "/workspace"] {
        ensure!(said.contains(promised), "{promised:?} is not in\n{said}");
    }
    for status in ["\"status\":\"stopped\"", "\"status\":\"active\""] {
        ensure!(said.contains(status), "{status} is not in\n{said}");
    }
    ash.finish()
}

/// The commands of the README's console blocks, in order, for this daemon.
fn script(readme: &str, ash: &Ash) -> Option<String> {
    let blocks = readme.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next());
    let commands: Vec<&str> =
        blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix("$ ")).collect();
    let script = commands
        .join("\n")
        .replace("http://127.0.0.1:4100", &format!("http://{}", ash.address()))
        .replace("unix:path=$(ls -d /run/ash-dev-*)/bus", ash.bus());
    (!script.is_empty()).then_some(script)
}

fn errors(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
