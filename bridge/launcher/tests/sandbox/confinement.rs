//! What the agent can do, tried from inside as the agent.

use std::collections::BTreeMap;
use std::process::Command;

use ash_wire::frame::Kind;
use ash_wire::words::Notice;

use crate::machine::{AGENT_UID, BRIDGE_UID, Machine};
use crate::peer::{Peer, Ran, exec, stand_in};

/// Runs one of the probes in `probes.py`.
fn probe(peer: &mut Peer, name: &str) -> Ran {
    let script = include_str!("probes.py").replace('\'', r"'\''");
    let ran = peer.run(&format!("python3 -c '{script}' {name}"));
    assert_eq!(ran.exit.code, Some(0), "{ran:?}");
    ran
}

/// A probe that prints `name value` lines.
fn table(peer: &mut Peer, name: &str) -> BTreeMap<String, String> {
    as_table(&probe(peer, name).stdout)
}

/// Lines of `name value`.
pub(crate) fn as_table(said: &str) -> BTreeMap<String, String> {
    let split = |line: &str| line.split_once(' ').map(|(name, value)| (name.into(), value.into()));
    said.lines().filter_map(split).collect()
}

#[test]
fn denied_system_calls_give_the_errno_of_their_table() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    let results = table(&mut peer, "syscalls");
    assert!(results.len() > 60, "{results:?}");
    for (call, outcome) in results {
        let (wanted, got) = outcome.split_once(' ').unwrap();
        assert_eq!(got, wanted, "{call}");
    }
}

#[test]
fn foreign_architectures_do_not_get_through() {
    let Some(machine) = Machine::new() else { return };
    if !makes_calls_of_i386() {
        println!("SKIP: this machine makes no calls of i386, in a sandbox or not");
        return;
    }
    let (_sandbox, mut peer) = machine.sandbox();
    let results = table(&mut peer, "foreign");
    assert_eq!(results["i386"], "-31");
    // 31 is SIGSYS. x32 calls are said not to exist.
    assert_eq!(results["x32"], "ENOSYS");
}

/// Whether the attempt works outside of a sandbox. Where the kernel has no such calls, it ends in a
/// segmentation fault.
pub(crate) fn makes_calls_of_i386() -> bool {
    let probes = ["-c", include_str!("probes.py"), "foreign"];
    let ran = Command::new("python3").args(probes).output().unwrap();
    let came = as_table(&String::from_utf8(ran.stdout).unwrap());
    match came.get("i386").map(String::as_str) {
        Some("0") => true,
        None | Some("-11") => false,
        Some(other) => panic!("a call of i386 has another result outside: {other}"),
    }
}

#[test]
fn identity_and_capabilities() {
    let Some(machine) = Machine::new() else { return };
    let (sandbox, mut peer) = machine.sandbox();
    let status = peer.run("cat /proc/self/status").stdout;
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    let agent = format!("{AGENT_UID}\t{AGENT_UID}\t{AGENT_UID}\t{AGENT_UID}");
    assert_eq!((field("Uid:"), field("Gid:"), field("Groups:")), (&*agent, &*agent, ""));
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1", "2"));
    // And the same for what they descend from, as the host sees it.
    for (group, uid) in [("bridge", BRIDGE_UID), ("agent", AGENT_UID)] {
        let pids = sandbox.processes(group);
        let of = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let confined = pids.iter().map(of).filter(|status| {
            let has = |line: &str| status.contains(line);
            has(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"))
                && has("CapPrm:\t0000000000000000")
                && has("CapBnd:\t0000000000000000")
                && has("Seccomp:\t2")
                && has("NoNewPrivs:\t1")
        });
        assert_eq!(confined.count(), 1, "{group}");
    }
}

#[test]
fn no_network_but_loopback() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    assert_eq!(
        peer.run(
            "ls /sys/class/net 2>/dev/null; tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"
        )
        .stdout,
        "lo\n"
    );
    let results = table(&mut peer, "network");
    assert_eq!(results.get("public").map(String::as_str), Some("ENETUNREACH"));
    assert_eq!(results.get("metadata").map(String::as_str), Some("ENETUNREACH"));
    assert_eq!(results.get("abstract").map(String::as_str), Some("ECONNREFUSED"));
}

#[test]
fn programs_start_with_three_descriptors_and_their_own_environment() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    // The last is that of the listing itself.
    assert_eq!(probe(&mut peer, "descriptors").stdout, "0 1 2\n");
    let env = peer.run("env | sort").stdout;
    assert_eq!(env, "PATH=/usr/bin:/bin\nPWD=/workspace\n");
    peer.start(&stand_in("plain"));
    peer.turn("t1", "open");
    peer.wait_turn_end("t1");
    let lines = peer.texts(Kind::Line);
    assert!(lines.iter().any(|line| line.contains(r#""result": "0 1 2""#)), "{lines:?}");
}

#[test]
fn the_bridge_and_the_spawner_hold_nothing_but_what_they_need() {
    let (Some(alone), Some(service)) = (Machine::new(), Machine::service()) else { return };
    for machine in [alone, service] {
        hold_nothing_but_what_they_need(&machine);
    }
}

fn hold_nothing_but_what_they_need(machine: &Machine) {
    let (sandbox, _peer) = machine.sandbox();
    for group in ["bridge", "agent"] {
        // bubblewrap is in the bridge's group too, and its own affair.
        for pid in sandbox.processes(group).iter().filter(|pid| **pid != sandbox.pid) {
            let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
            let kind = |fd: std::fs::DirEntry| {
                let target = std::fs::read_link(fd.path()).unwrap();
                target.to_string_lossy().split(':').next().unwrap_or_default().to_owned()
            };
            let kinds: std::collections::BTreeSet<String> = fds.map(kind).collect();
            assert!(kinds.into_iter().eq(["/dev/null", "pipe", "socket"]), "{group}");
        }
    }
}

#[test]
fn signals_mask_and_dispositions_are_the_default() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    let signals = peer.run("sed -nE 's/^Sig(Blk|Ign):\\t//p' /proc/self/status").stdout;
    let sets: Vec<u64> = signals.lines().map(|set| u64::from_str_radix(set, 16).unwrap()).collect();
    // The C library ignores its own two signals, 32 and 33, in what it spawns.
    assert_eq!((sets[0], sets[1] & 0x7fff_ffff), (0, 0), "{signals}");
}

#[test]
fn the_bridge_and_the_spawner_cannot_be_looked_into_or_limited() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    for path in
        ["/proc/1/fd", "/proc/1/mem", "/proc/1/root/", "/proc/$PPID/fd", "/proc/$PPID/environ"]
    {
        let ran = peer.run(&format!("ls {path} >/dev/null && cat {path}"));
        assert_ne!(ran.exit.code, Some(0), "{path}: {ran:?}");
    }
    let kill = peer.run("kill -0 1").stderr;
    assert!(kill.contains("Operation not permitted"), "{kill}");
    let results = table(&mut peer, "others");
    assert_eq!(results.get("prlimit-1").map(String::as_str), Some("EPERM"));
    assert_eq!(results.get("prlimit-parent").map(String::as_str), Some("EPERM"));
    assert_eq!(results.get("prlimit-self").map(String::as_str), Some("OK"));
}

#[test]
fn lines_cannot_be_forged_into_the_cli_s_streams() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    peer.start(&stand_in("plain"));
    let forged = "for p in /proc/[0-9]*; do grep -q stand[-]in $p/cmdline && for fd in 0 1 2; do \
        echo '{\"type\":\"result\"}' > $p/fd/$fd && echo forged; done; done; true";
    let ran = peer.run(forged);
    assert_eq!((ran.stdout.as_str(), ran.exit.code), ("", Some(0)), "{ran:?}");
    assert_eq!(ran.stderr.matches("No such device or address").count(), 3, "{ran:?}");
    assert!(!peer.notices().iter().any(|notice| matches!(notice, Notice::SelfTurnBegan)));
}

#[test]
fn a_stopped_spawner_does_not_stop_the_end() {
    let Some(machine) = Machine::new() else { return };
    let (sandbox, mut peer) = machine.sandbox();
    peer.send(Kind::Exec, 1, &exec("echo on; kill -STOP $PPID"));
    peer.wait(|frame| (frame.kind == Kind::ExecStdout).then_some(()));
    peer.signal(Kind::Shutdown, 0);
    while peer.next().is_some() {}
    sandbox.gone();
}

#[test]
fn files_are_what_the_plan_and_landlock_leave() {
    let Some(machine) = Machine::new() else { return };
    let (sandbox, mut peer) = machine.sandbox();
    let writable = "for d in /workspace /home/agent /tmp /dev/shm; do echo x > $d/x && rm $d/x || exit 1; done; \
        mkdir /workspace/a /workspace/b && echo x > /workspace/a/x && mv /workspace/a/x /workspace/b/ && \
        printf '#!/bin/sh\\necho ran' > /workspace/run && chmod +x /workspace/run && /workspace/run";
    assert_eq!(peer.run(writable).stdout, "ran\n");
    assert_eq!(
        peer.run("echo x > /dev/null && head -c1 /dev/urandom | wc -c && ls /").exit.code,
        Some(0)
    );
    for path in [
        "/x",
        "/usr/x",
        "/etc/x",
        "/etc/passwd",
        "/run/x",
        "/opt/x",
        "/opt/ash/bridge",
        "/dev/x",
        "/proc/sys/kernel/core_pattern",
        "/proc/1/oom_score_adj",
        "/proc/self/oom_score_adj",
    ] {
        let ran = peer.run(&format!("echo x > {path}"));
        assert_ne!(ran.exit.code, Some(0), "{path}");
    }
    for command in [
        "mknod /workspace/null c 1 3",
        "mount -t tmpfs none /tmp",
        "unshare -U true",
        "chroot / true",
        "cat /etc/shadow",
        "ln -s /etc/shadow /workspace/s && cat /workspace/s",
    ] {
        assert_ne!(peer.run(command).exit.code, Some(0), "{command}");
    }
    // Written as the agent, seen by the host as the agent's.
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(sandbox.workspace.join("run").metadata().unwrap().uid(), AGENT_UID);
}

#[test]
fn limits_are_those_of_the_plan() {
    let Some(machine) = Machine::new() else { return };
    let (sandbox, mut peer) = machine.sandbox();
    let limits = peer.run("ulimit -c; ulimit -Hn; ulimit -f").stdout;
    let wanted = sandbox.plan.rlimits;
    let core = if limits.starts_with("0\n") { "0" } else { "1" };
    // dash counts file sizes and cores in blocks of 512 bytes.
    let cores = if core == "0" || limits.starts_with("0\n") { "0" } else { core };
    assert_eq!(limits, format!("{cores}\n{}\n{}\n", wanted.open_files, wanted.file_size / 512));
}

#[test]
fn sandboxes_go_first_when_memory_runs_out() {
    let Some(machine) = Machine::new() else { return };
    let (_sandbox, mut peer) = machine.sandbox();
    assert_eq!(peer.run("cat /proc/self/oom_score_adj /proc/1/oom_score_adj").stdout, "200\n200\n");
}
