//! Launcher, bridge and spawner die at each of their steps: whoever wants a session is told so or has
//! one that goes on, whoever comes next gets one, and nothing is left.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ash_journey::leftovers::Snapshot;
use ash_journey::process::{self, until};
use ash_journey::{Ash, Client, Options, programs, session_of};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use super::check::{clean, sessions};
use super::fresh;

#[expect(unreachable_pub, reason = "the table is the launcher's own")]
#[path = "../../../../../bridge/launcher/src/fault/points.rs"]
mod launcher;

#[expect(unreachable_pub, reason = "the table is the bridge's own")]
#[path = "../../../../../bridge/src/fault/points.rs"]
mod bridge;

/// What becomes of a session in whose making somebody dies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    /// It is not made.
    Refused,
    /// It is made, and its sandbox is lost.
    Lost,
    /// One of these: the daemon may have been answered before.
    RefusedOrLost,
    /// It does not notice.
    Kept,
}

const LAUNCHER: &[(&str, Fate)] = &[
    ("listen.bound", Fate::Refused),
    ("listen.open", Fate::Refused),
    ("client.greeted", Fate::Refused),
    ("launch.asked", Fate::Refused),
    ("launch.checked", Fate::Refused),
    ("launch.forked", Fate::Refused),
    ("launch.prepared", Fate::Refused),
    ("launch.executed", Fate::Refused),
    ("launch.answered", Fate::Kept),
];

const BRIDGE: &[(&str, Fate)] = &[
    ("bridge.begun", Fate::Refused),
    ("bridge.forked", Fate::Refused),
    ("bridge.confined", Fate::Refused),
    ("bridge.ready", Fate::Refused),
    ("bridge.greeted", Fate::Refused),
    ("spawner.begun", Fate::Refused),
    ("spawner.confined", Fate::Refused),
    ("spawner.ready", Fate::RefusedOrLost),
    ("spawner.started", Fate::Lost),
    ("cli.ordered", Fate::Lost),
    ("cli.ready", Fate::Lost),
];

/// Is asked to die by the environment, which the daemon gives it none of.
const LAUNCHER_SCRIPT: &str = "#!/bin/sh
fault=
if [ -e ARMED ]; then
    fault=$(/bin/cat ARMED)
    /bin/rm ARMED
fi
ASH_FAULT=$fault exec PROGRAM \"$@\"
";

/// Has the bridge die. It has no environment at all: one more option sets the variable, behind
/// `--clearenv`.
const BWRAP_SCRIPT: &str = "#!/bin/sh
if [ -e ARMED ]; then
    fault=$(/bin/cat ARMED)
    /bin/rm ARMED
    for word; do
        shift
        [ \"$word\" != -- ] || set -- \"$@\" --setenv ASH_FAULT \"$fault\"
        set -- \"$@\" \"$word\"
    done
fi
exec PROGRAM \"$@\"
";

/// A daemon whose launcher and bridge die when they are armed.
struct Making {
    ash: Ash,
    before: Snapshot,
    programs: TempDir,
}

impl Making {
    fn begin() -> Result<Making> {
        let real = programs::dir()?;
        let dir = tempfile::Builder::new().prefix("ash-t-").tempdir_in("/var/tmp")?;
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
        symlink(real.join("ash-broker"), dir.path().join("ash-broker"))?;
        let bridge = real.join("ash-bridge-faults");
        fs::copy(&bridge, dir.path().join("ash-bridge"))
            .with_context(|| format!("{}; `scripts/build.sh dev` builds it", bridge.display()))?;
        for (name, script) in [("ash-launcher", LAUNCHER_SCRIPT), ("bwrap", BWRAP_SCRIPT)] {
            let (path, program) = (dir.path().join(name), real.join(name));
            let script = script.replace("ARMED", &armed(dir.path(), name).display().to_string());
            fs::write(&path, script.replace("PROGRAM", &program.display().to_string()))?;
            fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
        }
        let options = Options::stub().env("ASH_LIBEXEC_DIR", dir.path().display());
        let (ash, before) = fresh(options)?;
        Ok(Making { ash, before, programs: dir })
    }

    /// Has a session made while whoever this program starts as dies at a point, and another one.
    fn visit(&self, program: &str, point: &str, fate: Fate) -> Result<()> {
        let (api, armed) = (self.ash.api(), armed(self.programs.path(), program));
        fs::write(&armed, point)?;
        if program == "ash-launcher" {
            // Its next one is.
            self.end_launcher()?;
        }
        let made = api.call("POST", "/api/sessions", Some(&json!({ "agent": "hello" })))?;
        ensure!(!armed.exists(), "nobody was asked to die");
        let told = || format!("{fate:?}: {} {}", made.status, made.text());
        match made.status {
            201 => {
                ensure!(fate != Fate::Refused, told());
                self.goes_on(&session_of(&made.json())?, fate).with_context(told)?;
            }
            status => {
                let may_be = [Fate::Refused, Fate::RefusedOrLost].contains(&fate);
                ensure!(may_be && status >= 500, told());
                ensure!(sessions(&api)?.is_empty(), "there is one all the same");
            }
        }
        if program == "ash-launcher" {
            // Also one that lives on, and whose children die.
            self.end_launcher()?;
        }
        let next = api.create("hello", json!({}))?;
        self.ask(&next, "next")?;
        clean(&self.ash, &self.before)
    }

    /// A session goes on, if need be in another sandbox.
    fn goes_on(&self, session: &str, fate: Fate) -> Result<()> {
        if fate != Fate::Kept {
            until("the loss of the sandbox", || {
                self.ash.api().health().is_ok_and(|health| health["activeSandboxes"] == 0)
            })?;
            self.ash.none_inside("bridge")?;
        }
        self.ask(session, "on")
    }

    fn ask(&self, session: &str, word: &str) -> Result<()> {
        let message = json!({ "content": format!("[[say {word}]]") });
        let turn = self.ash.api().send(session, message)?.to_end()?;
        ensure!(turn.text() == word && turn.errors().is_empty(), "{}", turn.raw());
        Ok(())
    }

    /// Ends the launcher, if there is one.
    fn end_launcher(&self) -> Result<()> {
        if let Ok(launcher) = self.ash.helper("ash-launcher") {
            // It may be dying.
            let _ = process::signal(launcher, Signal::KILL);
            process::wait(launcher, Duration::from_secs(10))?;
        }
        Ok(())
    }
}

/// Where it stands at which point a program is to die that is started next.
fn armed(programs: &Path, name: &str) -> PathBuf {
    programs.join(format!("{name}.armed"))
}

#[test]
fn somebody_dies_at_every_step_of_a_sandbox() -> Result<()> {
    let making = Making::begin()?;
    for (program, points) in [("ash-launcher", LAUNCHER), ("bwrap", BRIDGE)] {
        for (point, fate) in points {
            let died = making.visit(program, point, *fate);
            died.with_context(|| format!("at {point}"))?;
        }
    }
    // Who dies before it is bubblewrap has no words of its own.
    let log = making.ash.log();
    let told = log.matches("become bubblewrap was ended by signal 9").count();
    ensure!(told >= 2, "{told} times: {log}");
    making.ash.finish()
}

#[test]
fn every_step_is_died_at() {
    for (points, tried) in [(launcher::POINTS, LAUNCHER), (bridge::POINTS, BRIDGE)] {
        // What keeps a launcher that is a service is died in by the launcher's own tests.
        let steps = points.iter().filter(|(point, _)| !point.starts_with("keeper."));
        let points: Vec<_> = steps.map(|(point, _)| point).collect();
        let tried: Vec<_> = tried.iter().map(|(point, _)| point).collect();
        assert_eq!(points, tried);
    }
}
