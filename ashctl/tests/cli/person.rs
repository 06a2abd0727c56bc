//! Who may be asked for a password, and by whom.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::geteuid;

use crate::bus::{Bus, ended};
use crate::fake::{ID, serve};
use crate::terminal::Terminal;

/// A user who is not root.
const NOBODY: u32 = 65534;

/// Stands for polkit's program for terminals: it hides what is typed, says that it is ready, and
/// waits to be ended, without giving the terminal back.
const AGENT: &str = "trap 'kill $!; echo ended >>AT; exit' TERM INT\n\
    echo \"$@ $DBUS_SYSTEM_BUS_ADDRESS\" >AT\n\
    /usr/bin/stty -echo\n\
    exec >&-\n\
    /usr/bin/sleep 600 & wait";

/// `ashctl` where everybody can run it, and what its agent writes.
fn for_everybody(bus: &Bus) -> (PathBuf, PathBuf) {
    let directory = bus.dir.path();
    let told = directory.join("told");
    bus.program("pkttyagent", &AGENT.replace("AT", told.to_str().unwrap()));
    let program = directory.join("ashctl");
    fs::copy(env!("CARGO_BIN_EXE_ashctl"), &program).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
    (program, told)
}

fn revoke(bus: &Bus, program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("ASH_BUS_ADDRESS", bus.address()).env("PATH", bus.programs());
    command.args(["key", "revoke"]).args(arguments);
    command
}

fn user() -> Option<u32> {
    geteuid().is_root().then_some(NOBODY)
}

#[tokio::test]
async fn at_a_terminal_an_agent_asks_while_the_call_runs() {
    let test = "at_a_terminal_an_agent_asks_while_the_call_runs";
    let Some(mut terminal) = Terminal::open(test) else { return };
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    let (program, told) = for_everybody(&bus);
    let before = terminal.set();
    let asking = terminal.start_as(&revoke(&bus, &program, &[ID]), user());
    let pid = asking.id().unwrap();
    terminal.shows("Revoked key", 1).await;
    assert_eq!(terminal.ended(asking).await, 0, "{}", terminal.screen);
    let said = fs::read_to_string(&told).unwrap();
    let address = bus.address();
    assert_eq!(said, format!("--process {pid} --fallback --notify-fd 1 {address}\nended\n"));
    assert_eq!(terminal.set(), before);

    let asking = terminal.start_as(&revoke(&bus, &program, &["asked"]), user());
    daemon.waiting.notified().await;
    assert_ne!(terminal.set(), before);
    terminal.types("\u{3}");
    assert_eq!((terminal.ended(asking).await, terminal.set()), (130, before));
    assert!(fs::read_to_string(&told).unwrap().ends_with("ended\n"));
    assert_eq!(daemon.seen.lock().unwrap().may_ask, [true, true]);
}

#[tokio::test]
async fn nobody_is_asked_who_is_not_there_or_does_not_want_it() {
    let test = "nobody_is_asked_who_is_not_there_or_does_not_want_it";
    let Some(mut terminal) = Terminal::open(test) else { return };
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    let (program, told) = for_everybody(&bus);
    let forbidden = revoke(&bus, &program, &[ID, "--no-ask-password"]);
    let forbidden = terminal.start_as(&forbidden, user());
    assert_eq!(terminal.ended(forbidden).await, 0, "{}", terminal.screen);
    let mut unattended = revoke(&bus, &program, &[ID]);
    if let Some(user) = user() {
        std::os::unix::process::CommandExt::uid(&mut unattended, user);
    }
    assert_eq!(ended(unattended).await.code, 0);
    assert_eq!(daemon.seen.lock().unwrap().may_ask, [false, false]);
    assert!(!told.exists());
}
