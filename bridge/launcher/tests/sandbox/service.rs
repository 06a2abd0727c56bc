//! The launcher as a service of its own.

use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::machine::{Machine, is_alive, wait_until};

#[test]
fn sandboxes_outlive_the_process_that_made_them() {
    let Some(machine) = Machine::service() else { return };
    let (sandbox, mut peer) = machine.sandbox();
    let first = machine.serving();
    let pid = Pid::from_raw(first.try_into().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let second = wait_until("another process serves", || {
        Some(machine.serving()).filter(|serving| *serving != first)
    });
    assert_eq!(peer.run("echo alive").stdout, "alive\n");
    let (_other, mut other) = machine.sandbox();
    assert_eq!(other.run("echo new").stdout, "new\n");
    assert!(is_alive(second) && is_alive(machine.launcher_pid()) && is_alive(sandbox.pid));
}

/// Before it listens, and with the unit to look at: the next start would find the same.
#[test]
fn without_a_capability_it_does_not_begin() {
    let mut launcher = Command::new("setpriv");
    launcher.args(["--inh-caps", "-all", "--bounding-set", "-sys_admin,-kill"]);
    launcher.arg(env!("CARGO_BIN_EXE_ash-launcher")).arg("--service");
    for option in ["socket", "bwrap", "bridge", "sessions-dir", "broker-dir", "runtime-dir"] {
        launcher.args([format!("--{option}"), format!("/nonexistent/{option}")]);
    }
    let output = launcher.args(["--uid-base", "1879060000", "--uid-count", "2"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(78), 1), "{said}");
    assert!(said.contains("CAP_KILL, CAP_SYS_ADMIN") && said.contains("systemctl cat"), "{said}");
}
