//! Plans that the launcher refuses, and that nothing stays of them.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use ash_wire::plan::{Mount, Reply};
use rustix::fs::{Mode, OFlags, openat};

use crate::machine::{Machine, Request, sealed, wait_until};

fn refusal(machine: &Machine, spoil: impl FnOnce(&mut Request)) -> String {
    let mut request = machine.request();
    spoil(&mut request);
    match machine.ask(&request) {
        Reply::Refused { reason } => reason,
        Reply::Launched { pid } => panic!("launched as {pid}"),
    }
}

fn last_mount(request: &mut Request) -> &mut String {
    let last = request.plan.mounts.iter_mut().rev().find_map(|mount| match mount {
        Mount::Writable { source, .. } => Some(source),
        _ => None,
    });
    last.unwrap()
}

#[test]
fn what_is_not_allowed_is_refused() {
    let Some(machine) = Machine::new() else { return };
    let uid = refusal(&machine, |request| request.plan.agent_uid = 0);
    assert!(uid.contains("uids"), "{uid}");
    let source = refusal(&machine, |request| "/etc".clone_into(last_mount(request)));
    assert!(source.contains("must not be mounted"), "{source}");
    let missing = refusal(&machine, |request| drop(request.fds.pop()));
    assert!(missing.contains("descriptors"), "{missing}");
}

#[test]
fn a_source_must_be_a_directory_of_this_agent_reached_without_links() {
    let Some(machine) = Machine::new() else { return };
    let link = machine.dir.path().join("sessions/link");
    symlink("/root", &link).unwrap();
    let of_root = machine.dir.path().join("sessions/of-root");
    std::fs::create_dir(&of_root).unwrap();
    for path in [&link, &of_root] {
        let reason = refusal(&machine, |request| {
            path.to_str().unwrap().clone_into(last_mount(request));
        });
        assert!(reason.contains("belongs to the agent"), "{reason}");
    }
}

/// As what the unit protects is, and a mount that was made behind its back.
#[test]
fn a_source_that_cannot_be_written_is_refused() {
    let Some(machine) = Machine::new() else { return };
    let mut request = machine.request();
    let path = last_mount(&mut request).clone();
    let bind = |options: &[&str]| {
        assert!(Command::new("mount").args(options).arg(&path).status().unwrap().success());
    };
    bind(&["--bind", &path]);
    bind(&["-o", "remount,bind,ro"]);
    let said = machine.ask(&request);
    assert!(Command::new("umount").arg(&path).status().unwrap().success());
    let Reply::Refused { reason } = said else { panic!("{said:?}") };
    assert!(reason.contains("read-only for the launcher"), "{reason}");
}

#[test]
fn descriptors_must_be_what_the_table_says() {
    let Some(machine) = Machine::new() else { return };
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    for (index, expected) in [(0, "listening"), (1, "cgroup"), (2, "cgroup"), (4, "sealed")] {
        let reason = refusal(&machine, |request| request.fds[index] = null());
        assert!(reason.contains(expected), "{reason}");
    }
    for index in [1, 2] {
        let reason = refusal(&machine, |request| {
            let procs = openat(&request.fds[index], "cgroup.procs", OFlags::WRONLY, Mode::empty());
            request.fds[index] = procs.unwrap();
        });
        assert!(reason.contains("directory of cgroup v2"), "{reason}");
    }
    let large = refusal(&machine, |request| request.fds[4] = sealed(&vec![0; 5 << 20]));
    assert!(large.contains("sealed memfd of bounded size"), "{large}");
}

#[test]
fn a_launch_that_fails_in_bubblewrap_leaves_nothing() {
    let Some(machine) = Machine::new() else { return };
    let mut request = machine.request();
    // Allowed, and not there.
    let source = machine.dir.path().join("broker/none").to_str().unwrap().to_owned();
    request.plan.mounts.push(Mount::ReadOnly {
        source,
        target: "/run/api".to_owned(),
        optional: false,
    });
    let said = machine.make(request).gone();
    assert!(said.contains("broker/none"), "{said}");
}

/// Nothing was started, and whoever asked is told so by the answer.
#[test]
fn a_bubblewrap_that_cannot_be_run_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).unwrap();
    let missing = dir.path().join("missing");
    for (program, why) in [(missing, "No such file"), (plain, "Permission denied")] {
        let program = program.to_str().unwrap();
        let Some(machine) = Machine::with(&["--bwrap", program]) else { return };
        let reason = refusal(&machine, |_| ());
        assert!(reason.contains(program) && reason.contains(why), "{reason}");
    }
}

/// Its own descriptors are more than it may have.
#[test]
fn a_limit_under_which_nothing_can_be_run_is_told() {
    let Some(machine) = Machine::new() else { return };
    let reason = refusal(&machine, |request| request.plan.rlimits.open_files = 1);
    assert!(reason.contains("cannot run /usr/bin/bwrap"), "{reason}");
}

/// As for want of memory, and with no last words. It stands still from its first instruction on, so
/// that it is killed before it is anything.
#[test]
fn a_child_that_is_killed_before_it_is_bubblewrap_is_told() {
    let Some(machine) = Machine::new() else { return };
    let request = machine.request();
    let group = machine.cgroup.join(&request.plan.sandbox).join("bridge");
    std::fs::write(group.join("cgroup.freeze"), "1").unwrap();
    let said = std::thread::scope(|scope| {
        let asking = scope.spawn(|| machine.ask(&request));
        wait_until("the child is there", || {
            let procs = std::fs::read_to_string(group.join("cgroup.procs")).unwrap();
            (!procs.is_empty()).then_some(())
        });
        std::fs::write(group.join("cgroup.kill"), "1").unwrap();
        asking.join().unwrap()
    });
    let Reply::Refused { reason } = said else { panic!("{said:?}") };
    assert!(reason.contains("was ended by signal 9"), "{reason}");
    let (_sandbox, mut peer) = machine.sandbox();
    assert_eq!(peer.run("echo next").stdout, "next\n");
}

#[test]
fn the_launcher_ends_when_it_is_of_no_use_and_not_before() {
    let Some(mut machine) = Machine::with(&["--exit-when-unused", "1"]) else { return };
    let (sandbox, peer) = machine.sandbox();
    // Longer than it waits: while a sandbox lives it is of use.
    let started = std::time::Instant::now();
    wait_until("the time is over", || (started.elapsed().as_millis() > 1500).then_some(()));
    assert!(crate::machine::is_alive(machine.launcher_pid()));
    peer.signal(ash_wire::frame::Kind::Shutdown, 0);
    sandbox.gone();
    assert!(machine.launcher_exit().success());
    assert!(!machine.launcher_socket().exists());
}

#[test]
fn a_second_launcher_on_the_same_socket_gives_way() {
    let Some(machine) = Machine::new() else { return };
    let refused = ash_launcher::server::listen_at(&machine.launcher_socket());
    assert!(refused.unwrap_err().to_string().contains("in use"));
}
