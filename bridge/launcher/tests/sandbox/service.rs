//! The launcher as a service of its own.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use ash_launcher::fault::POINTS;
use rustix::process::{Pid, Signal, kill_process};

use crate::machine::{Machine, is_alive, wait_until};
use crate::peeled;

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

/// With it systemd ends everything in its group, and starts it again.
#[test]
fn a_main_process_that_dies_is_followed_by_one_that_serves() {
    for (point, _) in POINTS.iter().filter(|(point, _)| point.starts_with("keeper.")) {
        let Some(mut machine) = Machine::service_that_dies(point) else { return };
        if *point == "keeper.bereft" {
            let (_sandbox, mut peer) = machine.sandbox();
            assert_eq!(peer.run("echo alive").stdout, "alive\n");
            let serving = Pid::from_raw(machine.serving().try_into().unwrap()).unwrap();
            kill_process(serving, Signal::KILL).unwrap();
        }
        assert_eq!(machine.launcher_exit().signal(), Some(Signal::KILL.as_raw()), "at {point}");
        machine.start_again();
        let (_sandbox, mut peer) = machine.sandbox();
        assert_eq!(peer.run("echo new").stdout, "new\n", "behind {point}");
    }
}

/// The host's hierarchy above has names that are nobody's business.
#[test]
fn a_sandbox_sees_its_own_groups_and_none_above() {
    let seen = |machine: &Machine| {
        let (sandbox, mut peer) = machine.sandbox();
        let groups = peer.run("sed -n s/^0:://p /proc/self/cgroup /proc/1/cgroup").stdout;
        assert_eq!(sandbox.processes("bridge").len(), 2, "bubblewrap and the bridge");
        (sandbox.plan.sandbox.clone(), groups)
    };
    let (Some(service), Some(alone)) = (Machine::service(), Machine::new()) else { return };
    let (id, groups) = seen(&service);
    assert_eq!(groups, format!("/{id}/agent\n/{id}/bridge\n"), "from the root of the service's");
    assert_eq!(seen(&alone).1, "/../agent\n/\n", "from the bridge's");
}

/// Before it listens, and with the unit to look at: the next start would find the same.
#[test]
fn without_a_capability_it_does_not_begin() {
    let mut launcher = Command::new("setpriv");
    launcher.args(["--inh-caps", "-all", "--bounding-set", "-sys_admin,-kill"]);
    launcher.arg(env!("CARGO_BIN_EXE_ash-launcher")).arg("--service");
    let said = refusal(&mut launcher);
    assert!(said.contains("CAP_KILL, CAP_SYS_ADMIN") && said.contains("systemctl cat"), "{said}");
}

#[test]
fn without_a_namespace_of_control_groups_it_does_not_begin() {
    let Some(machine) = Machine::new() else { return };
    let mut launcher = Command::new("sh");
    launcher.args(["-c", "echo $$ >$0/cgroup.procs && exec \"$@\""]).arg(&machine.cgroup);
    launcher.args(["unshare", "--user", "--map-root-user", "sh", "-c"]);
    launcher.arg("echo 0 >/proc/sys/user/max_cgroup_namespaces && exec \"$0\" \"$@\"");
    launcher.arg(env!("CARGO_BIN_EXE_ash-launcher")).arg("--service");
    let said = refusal(&mut launcher);
    assert!(said.contains("namespace of control groups"), "{said}");
}

/// As a filter does that has to judge by the arguments: of RestrictNamespaces=, or of a container.
#[test]
fn without_clone3_it_does_not_begin() {
    let all_but_the_filter = "capabilities,uid,landlock";
    let mut launcher = Command::new(peeled::program("ash-peeled-exec"));
    launcher.args(["0", all_but_the_filter, env!("CARGO_BIN_EXE_ash-launcher"), "--service"]);
    let said = refusal(&mut launcher);
    assert!(said.contains("clone3") && said.contains("RestrictNamespaces="), "{said}");
}

/// What a launcher says that ends at once, because it would the next time as well.
fn refusal(launcher: &mut Command) -> String {
    for option in ["socket", "bwrap", "bridge", "sessions-dir", "broker-dir", "runtime-dir"] {
        launcher.args([format!("--{option}"), format!("/nonexistent/{option}")]);
    }
    let output = launcher.args(["--uid-base", "1879060000", "--uid-count", "2"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(78), 1), "{said}");
    said
}
