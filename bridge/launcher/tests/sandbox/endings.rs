//! How sandboxes end, and that nothing is left of them.

use std::fs;

use ash_wire::frame::Kind;
use ash_wire::words::{Notice, TurnOutcome};

use crate::machine::{Machine, wait_until};
use crate::peer::stand_in;

/// Lines of the host's mount table that speak of this machine's directory.
fn mounts(machine: &Machine) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.contains(machine.dir.path().to_str().unwrap())).count()
}

#[test]
fn shutdown_ends_everything_even_what_does_not_want_to() {
    let Some(machine) = Machine::new() else { return };
    let (sandbox, mut peer) = machine.sandbox();
    peer.start(&stand_in("plain"));
    let stubborn =
        "trap '' TERM; (setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' &) ; echo on";
    assert_eq!(peer.run(stubborn).stdout, "on\n");
    peer.signal(Kind::Shutdown, 0);
    assert!(matches!(peer.wait_exit(), Notice::CliExited { expected: true, .. }));
    assert_eq!(sandbox.gone(), "");
    assert_eq!(mounts(&machine), 0);
}

#[test]
fn a_sandbox_that_nobody_greets_ends() {
    let Some(machine) = Machine::new() else { return };
    let mut request = machine.request();
    request.plan.orphan_timeout_s = 1;
    machine.make(request).gone();
}

#[test]
fn a_sandbox_that_lost_its_ashd_ends_in_time_and_not_before() {
    let Some(machine) = Machine::new() else { return };
    let mut request = machine.request();
    request.plan.orphan_timeout_s = 2;
    let sandbox = machine.make(request);
    drop(sandbox.connect());
    drop(sandbox.connect());
    sandbox.gone();
}

#[test]
fn the_sandbox_ends_with_its_spawner() {
    let Some(machine) = Machine::new() else { return };
    let (sandbox, mut peer) = machine.sandbox();
    // From inside, as an agent can.
    peer.send(Kind::Exec, 1, &crate::peer::exec("kill -9 $PPID; sleep 60"));
    while peer.next().is_some() {}
    let said = sandbox.gone();
    assert!(said.contains("the spawner is gone"), "{said}");
}

#[test]
fn a_killed_launcher_leaves_its_sandboxes_running() {
    let Some(machine) = Machine::new() else { return };
    let (sandbox, mut peer) = machine.sandbox();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(machine.launcher_pid() as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    assert_eq!(peer.run("echo alive").stdout, "alive\n");
    peer.signal(Kind::Shutdown, 0);
    wait_until("the agent's group is empty", || {
        sandbox.processes("agent").is_empty().then_some(())
    });
}

#[test]
fn a_killed_cli_ends_its_turn_truthfully() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    peer.start(&stand_in("plain"));
    peer.turn("t1", "pid");
    peer.wait_turn_end("t1");
    peer.turn("t2", "wait");
    peer.wait(|frame| frame.text().contains("waiting").then_some(()));
    let lines = peer.texts(Kind::Line);
    let result = lines.iter().find(|line| line.contains(r#""result""#)).unwrap();
    let pid = serde_json::from_str::<serde_json::Value>(result).unwrap()["result"].clone();
    assert_eq!(peer.run(&format!("kill -9 {}", pid.as_str().unwrap())).exit.code, Some(0));
    let exited = peer.wait_exit();
    assert!(matches!(exited, Notice::CliExited { signal: Some(9), expected: false, .. }));
    assert_eq!(peer.wait_turn_end("t2"), TurnOutcome::CliExited);
    // And the sandbox goes on.
    peer.start(&stand_in("plain"));
    peer.turn("t3", "hello");
    assert_eq!(peer.wait_turn_end("t3"), TurnOutcome::Result);
}
