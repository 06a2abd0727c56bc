//! The launcher as a service of its own.

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
