//! What an agent's processes cannot do, whichever way they were started.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use ash_journey::process::until;
use ash_journey::{Client, Options, programs, skip};
use serde_json::{Value, json};

use crate::calls::{Call, calls, of_i386};
use crate::support::{Talk, bash};

const PROBE: &str = include_str!("inside/probe.py");
const ATTACK: &str = include_str!("inside/attack.py");

/// Where a program on the agent's side comes from.
const ORIGINS: [&str; 4] = ["exec", "tool", "hook", "mcp"];

/// An agent whose hook and MCP server run a script, like its tools and exec: each writes what it
/// says to a file of its own.
fn run_everywhere(
    talk: &mut Talk,
    script: &str,
    calls: &[Call],
) -> Result<BTreeMap<&'static str, String>> {
    let folder = talk.ash.folder("probe", "x")?;
    let run = |origin: &str| format!("python3 script.py > said.{origin} 2>&1");
    let notes = programs::repository().join("examples/research/tools/notes.py");
    fs::copy(notes, folder.join("notes.py"))?;
    fs::write(folder.join("script.py"), script)?;
    fs::write(folder.join("calls.json"), written(calls))?;
    let serve = format!("{}; exec python3 notes.py", run("mcp"));
    let server = json!({ "mcpServers": { "notes": { "command": "sh", "args": ["-c", serve] } } });
    fs::write(folder.join(".mcp.json"), server.to_string())?;
    let hook = json!([{ "hooks": [{ "type": "command", "command": run("hook") }] }]);
    fs::create_dir_all(folder.join(".claude"))?;
    let settings = json!({ "hooks": { "UserPromptSubmit": hook } });
    fs::write(folder.join(".claude/settings.json"), settings.to_string())?;

    talk.meet("probe")?;
    talk.ask(&bash(true, &run("tool")))?;
    talk.api.exec(&talk.session, &run("exec"))?;
    let said =
        |origin| Ok((origin, talk.api.exec(&talk.session, &format!("cat said.{origin}"))?.stdout));
    ORIGINS.into_iter().map(said).collect()
}

fn written(calls: &[Call]) -> String {
    calls.iter().map(|call| (call.name, call.written())).collect::<Value>().to_string()
}

/// Makes calls from everywhere, and checks what came of each.
fn check_everywhere(talk: &mut Talk, calls: &[Call]) -> Result<()> {
    let expected: BTreeMap<_, _> = calls.iter().map(|call| (call.name, call.outcome)).collect();
    for (origin, said) in run_everywhere(talk, PROBE, calls)? {
        let found: BTreeMap<&str, i32> =
            serde_json::from_str(&said).with_context(|| format!("{origin} said {said}"))?;
        ensure!(found == expected, "{origin}: expected {expected:?}, found {found:?}");
    }
    Ok(())
}

#[test]
fn listed_calls_are_refused_everywhere() -> Result<()> {
    let name = "confined::listed_calls_are_refused_everywhere";
    let Some(options) = Options::real(name) else { return Ok(()) };
    let mut talk = Talk::begin(options)?;
    check_everywhere(&mut talk, &calls())?;
    talk.ash.finish()
}

#[test]
fn calls_of_i386_are_refused_everywhere() -> Result<()> {
    let name = "confined::calls_of_i386_are_refused_everywhere";
    let Some(options) = Options::real(name) else { return Ok(()) };
    if !has_i386()? {
        skip(name, "this machine makes no calls of i386, in a sandbox or not");
        return Ok(());
    }
    let mut talk = Talk::begin(options)?;
    check_everywhere(&mut talk, &of_i386())?;
    talk.ash.finish()
}

/// The test of the test: whether the probe's call of i386 does outside what it should. Where the
/// kernel has none, it ends the process with a fault.
fn has_i386() -> Result<bool> {
    let control = ["-B", "-c", PROBE, "control"];
    let said = Command::new("python3").args(control).stdin(Stdio::null()).output()?;
    if cfg!(not(target_arch = "x86_64")) || said.status.signal() == Some(libc::SIGSEGV) {
        return Ok(false);
    }
    ensure!(said.stdout == b"True\n", "a call of i386 has another result outside: {said:?}");
    Ok(true)
}

#[test]
fn attacks_fail_everywhere() -> Result<()> {
    let Some(options) = Options::real("confined::attacks_fail_everywhere") else { return Ok(()) };
    let mut talk = Talk::begin(options)?;
    for (origin, said) in run_everywhere(&mut talk, ATTACK, &[])? {
        ensure!(said == "tried everything\n", "{origin}: {said}");
    }
    ensure!(talk.ask("[[say unharmed]]")? == "unharmed");
    talk.ash.finish()
}

/// The test of the test: root in a bare sandbox succeeds with every kind of attack but those that
/// are about our own programs.
#[test]
fn attacks_are_noticed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("attack.py"), ATTACK)?;
    let bare = "--ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
        --proc /proc --dev /dev --tmpfs /workspace --tmpfs /root --tmpfs /home --tmpfs /opt --tmpfs /run \
        --dir /run/ash/model --dir /home/agent --dir /etc --file 0 /etc/shadow \
        --unshare-pid --unshare-net --unshare-uts --unshare-ipc --chdir /workspace";
    let said = Command::new(programs::dir()?.join("bwrap"))
        .args(bare.split_whitespace())
        .arg("--ro-bind")
        .args([dir.path().join("attack.py").as_path(), Path::new("/attack.py")])
        .args(["python3", "-B", "/attack.py"])
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    for kind in [
        "reads_through_links",
        "sees_the_host",
        "writes_where_it_must_not",
        "gains_rights",
        "makes_devices",
        "reaches_other_processes",
        "escapes_by_kernel_keys",
    ] {
        ensure!(said.contains(&format!("{kind}: ")), "{kind} is not in {said}");
    }
    Ok(())
}

/// Policy that is lost on resume or restart is a known class of bug.
#[test]
fn attacks_fail_after_resume_and_restart() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    fs::write(talk.ash.folder("attack", "x")?.join("script.py"), ATTACK)?;
    talk.meet("attack")?;
    let attack = |talk: &Talk| -> Result<()> {
        let said = talk.api.exec(&talk.session, "python3 script.py 2>&1")?.stdout;
        ensure!(said == "tried everything\n", "{said}");
        Ok(())
    };
    attack(&talk).context("fresh")?;
    for verb in ["pause", "resume"] {
        talk.api.turn_to(&talk.session, verb)?;
    }
    attack(&talk).context("after a warm resume")?;
    for verb in ["stop", "resume"] {
        talk.api.turn_to(&talk.session, verb)?;
    }
    attack(&talk).context("after a cold resume")?;
    talk.crash()?;
    attack(&talk).context("after a crash of ashd")?;
    talk.ash.finish()
}

/// One session's files, processes and sockets are not there for another.
#[test]
fn sessions_do_not_see_each_other() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let other = talk.api.create("hello", json!({}))?;
    for place in ["/workspace", "/tmp", "/dev/shm", "/home/agent"] {
        talk.api.exec(&talk.session, &format!("echo secret > {place}/mine"))?;
        let seen = talk.api.exec(&other, &format!("cat {place}/mine"))?;
        ensure!(seen.code != 0 && seen.stdout.is_empty(), "{place}: {seen:?}");
    }
    talk.api.exec(&talk.session, "sleep 1000 > /dev/null 2>&1 &")?;
    until("the process of the one", || talk.ash.inside("sleep").len() == 1)?;
    let seen = talk.api.exec(&other, "pgrep sleep; pkill sleep; id -u")?;
    let uid = talk.api.exec(&talk.session, "id -u")?.stdout;
    ensure!(seen.stdout.lines().count() == 1 && seen.stdout != uid, "{seen:?}");
    ensure!(talk.ash.inside("sleep").len() == 1, "another session's process was killed");
    talk.ash.finish()
}

/// Nothing that was started survives its session, however it was started.
#[test]
fn daemons_of_an_agent_die_with_its_session() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let start = "setsid sh -c 'nohup sh -c \"trap : TERM HUP; sleep 1000\" & ' > /dev/null 2>&1 &";
    talk.api.exec(&talk.session, start)?;
    until("the daemon of the agent", || !talk.ash.inside("sleep").is_empty())?;
    talk.api.turn_to(&talk.session, "end")?;
    ensure!(talk.ash.inside("sleep").is_empty(), "a daemon has survived");
    talk.ash.finish()
}
