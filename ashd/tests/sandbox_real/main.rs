//! Sandboxes made of the real parts: launcher, bubblewrap, bridge and broker.
//!
//! Needs root, bubblewrap and a cgroup v2 mount, and the programs in the build directory
//! (`cargo build -p ash-bridge -p ash-launcher -p ash-broker`); says SKIP and why where one is
//! missing.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::print_stdout, reason = "says why it skips")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ash_wire::words::{CliState, Exec};
use ashd::domain::SandboxId;
use ashd::sandbox::broker::{Limits as ModelLimits, ModelKey, Settings};
use ashd::sandbox::lease::{DEFAULT_BASE, Slots};
use ashd::sandbox::limits::Limits;
use ashd::sandbox::link::Incoming;
use ashd::sandbox::plan::PlacedFile;
use ashd::sandbox::{NewSandbox, Running, SandboxError, Sandboxes, Setup};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use tempfile::TempDir;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Each test has user ids of its own, by which its processes are found.
static BASES: AtomicU32 = AtomicU32::new(0);

/// A daemon's place on the machine.
struct Place {
    dir: TempDir,
    setup: Setup,
    slots: Slots,
}

/// Users of a place's own: tests run as threads of one process, or in processes of their own.
fn uid_base() -> u32 {
    let process = DEFAULT_BASE + 1_000_000 + 10_000 * (std::process::id() % 4096);
    process + 1000 * BASES.fetch_add(1, Ordering::Relaxed)
}

impl Place {
    fn new() -> Option<Place> {
        let programs = programs()?;
        let dir = tempfile::tempdir().unwrap();
        let model = Settings {
            upstream: "http://127.0.0.1:1".to_owned(),
            proxy: None,
            allow_plaintext: false,
            limits: ModelLimits::default(),
        };
        let mut setup = Setup::new(dir.path().join("run"), dir.path().join("sessions"), model);
        setup.runtime = "/usr/bin/env".into();
        setup.bwrap = "/usr/bin/bwrap".into();
        setup.bridge = programs.join("ash-bridge");
        setup.launcher = Some(programs.join("ash-launcher"));
        setup.broker = Some(programs.join("ash-broker"));
        setup.cgroup_root = Some(cgroups()?.join(format!("ash-test-{}", SandboxId::random())));
        setup.allow_missing = true;
        setup.model_key = Some(ModelKey(b"placeholder".to_vec()));
        setup.slots = 64;
        setup.uid_base = uid_base();
        setup.ready_timeout = PATIENCE;
        fs::create_dir(&setup.sessions_dir).unwrap();
        let slots = Slots::new(setup.uid_base, setup.slots, []);
        Some(Place { dir, setup, slots })
    }

    async fn start(&self) -> Arc<Sandboxes> {
        Sandboxes::start(self.setup.clone()).await.unwrap().0
    }

    fn sandbox(&self) -> NewSandbox {
        let (id, slot) = (SandboxId::random(), self.slots.take().unwrap());
        let uids = self.slots.uids(slot);
        let own = |name: &str| {
            let path = self.setup.sessions_dir.join(id.to_string()).join(name);
            fs::create_dir_all(&path).unwrap();
            chown(&path, Some(uids.agent), Some(uids.agent)).unwrap();
            path
        };
        NewSandbox {
            id,
            uids,
            workspace: own("workspace"),
            home: own("home"),
            files: vec![PlacedFile {
                target: "/etc/claude-code/managed-settings.json".to_owned(),
                mode: 0o444,
                bytes: b"{}".as_slice().into(),
            }],
            limits: Limits::default(),
            hostname: "hello".to_owned(),
        }
    }

    /// What this place has on the machine besides files of sessions.
    fn traces(&self) -> BTreeSet<String> {
        let ours = self.setup.uid_base + 2..self.setup.uid_base + 1000;
        let inhabitants = processes().into_iter().filter(|(_, uid)| ours.contains(uid));
        let mut traces: BTreeSet<_> =
            inhabitants.map(|(pid, uid)| format!("process {pid} of {uid}")).collect();
        let dir = self.dir.path().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        traces.extend(mounts.lines().filter(|line| line.contains(&dir)).map(str::to_owned));
        let groups = fs::read_dir(self.cgroup()).into_iter().flatten().flatten();
        let groups = groups.filter(|entry| entry.file_type().unwrap().is_dir());
        traces.extend(groups.map(|entry| format!("{:?}", entry.path())));
        for dir in ["bridge", "model"] {
            let entries = fs::read_dir(self.setup.run_dir.join(dir)).unwrap();
            traces.extend(entries.map(|entry| format!("{:?}", entry.unwrap().path())));
        }
        traces
    }

    fn cgroup(&self) -> &Path {
        self.setup.cgroup_root.as_deref().unwrap()
    }

    /// The launcher's process: its command line says where it listens.
    fn launcher(&self) -> Option<Pid> {
        let socket = format!("--socket {}/", self.setup.run_dir.display());
        process(|pid| command_line(pid).contains(&socket))
    }

    /// The broker's process: nobody else has its user.
    fn broker(&self) -> Option<Pid> {
        process(|pid| uid_of(pid) == Some(self.setup.uid_base))
    }

    /// Waits until nothing is left: what was killed is a process until the launcher has seen it.
    async fn is_clean(&self) {
        let end = Instant::now() + PATIENCE;
        while !self.traces().is_empty() {
            assert!(Instant::now() < end, "{:?}", self.traces());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Whatever became of the test: no process and no group of it stays.
impl Drop for Place {
    fn drop(&mut self) {
        self.launcher().into_iter().chain(self.broker()).for_each(kill);
        let groups = fs::read_dir(self.cgroup()).into_iter().flatten().flatten();
        for group in groups.filter(|entry| entry.path().is_dir()) {
            let _ = fs::write(group.path().join("cgroup.kill"), "1");
            for child in ["bridge", "agent", "."] {
                let _ = fs::remove_dir(group.path().join(child));
            }
        }
        let _ = fs::remove_dir(self.cgroup());
    }
}

fn process(is_it: impl Fn(i32) -> bool) -> Option<Pid> {
    processes().into_iter().find(|(pid, _)| is_it(*pid)).and_then(|(pid, _)| Pid::from_raw(pid))
}

/// Where control groups of version 2 are mounted.
fn cgroups() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.starts_with("cgroup2 "));
    if mount.is_none() {
        println!("SKIP: no control groups version 2");
    }
    Some(mount?.split(' ').nth(1)?.into())
}

fn programs() -> Option<PathBuf> {
    let skip = |reason: String| {
        println!("SKIP: {reason}");
        None
    };
    let test = std::env::current_exe().unwrap();
    let dir = test.ancestors().nth(2).unwrap().to_owned();
    for name in ["ash-bridge", "ash-launcher", "ash-broker"] {
        if !dir.join(name).exists() {
            return skip(format!("there is no {name} in the build directory"));
        }
    }
    if !rustix::process::geteuid().is_root() {
        return skip("not root".to_owned());
    }
    if !Path::new("/usr/bin/bwrap").exists() {
        return skip("no bubblewrap".to_owned());
    }
    Some(dir)
}

fn processes() -> Vec<(i32, u32)> {
    let names = fs::read_dir("/proc").unwrap().flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, uid_of(pid)?))).collect()
}

fn uid_of(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Kills a process and waits until it is none any more.
fn kill(pid: Pid) {
    // It may have ended by itself since it was found.
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
    let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    let timeout = Timespec::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)), Ok(1));
}

/// Runs a command in a sandbox: its exit code and its output.
async fn exec(running: &mut Running, command: &str) -> (Option<i32>, String) {
    let id = running.sender.next_id();
    let env = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
    let command = command.to_owned();
    let exec = Exec { command, env, timeout_ms: 30_000, output_limit: 9999 };
    running.sender.exec(id, &exec).unwrap();
    let (mut output, mut batch) = (Vec::new(), Vec::new());
    loop {
        let got = running.receiver.recv_batch(&mut batch, 16);
        tokio::time::timeout(PATIENCE, got).await.unwrap().unwrap().expect("the sandbox hung up");
        for message in batch.drain(..) {
            match message {
                Incoming::ExecStdout { bytes, .. } | Incoming::ExecStderr { bytes, .. } => {
                    output.extend_from_slice(&bytes);
                }
                Incoming::ExecExit { exit, .. } => {
                    return (exit.code, String::from_utf8(output).unwrap());
                }
                _ => {}
            }
        }
    }
}

/// Asks the broker from inside for something that it answers by itself.
const ASK_BROKER: &str = "perl -MIO::Socket::UNIX -e 'my $s = IO::Socket::UNIX->new(Peer => \
    \"/run/ash/model/api.sock\") or die \"no: $!\"; print $s \"GET /v1/files HTTP/1.1\\r\\nhost: \
    api.local\\r\\n\\r\\n\"; print scalar <$s>'";

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_made_used_and_ended_without_a_trace() {
    let Some(place) = Place::new() else { return };
    let all = place.start().await;
    assert_eq!(place.traces(), BTreeSet::new());
    let new = place.sandbox();
    let (id, uid) = (new.id, new.uids.agent);
    let mut running = all.launch(new).await.unwrap_or_else(|error| panic!("{}", error.in_full()));
    assert_eq!((running.welcome.cli, all.live()), (CliState::Absent, 1));
    let (code, said) = exec(&mut running, "id; hostname; pwd; cat /etc/claude-code/*").await;
    let expected = format!("uid={uid}(agent) gid={uid}(agent) groups={uid}(agent)\n");
    assert_eq!((code, said), (Some(0), format!("{expected}hello\n/workspace\n{{}}")));
    let (_, said) = exec(&mut running, "touch x; ls /home /root /var/lib /srv /boot; ls /").await;
    assert!(said.contains("agent") && !said.contains("boot\n"), "{said}");
    let (_, said) = exec(&mut running, ASK_BROKER).await;
    assert!(said.starts_with("HTTP/1.1 4"), "{said}");
    assert_ne!(place.traces(), BTreeSet::new());
    all.end(id).await.unwrap();
    all.end(id).await.unwrap();
    assert_eq!((all.leftovers(), all.live()), (BTreeSet::new(), 0));
    place.is_clean().await;
    all.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_are_found_again_after_a_restart() {
    let Some(place) = Place::new() else { return };
    let first = place.start().await;
    let (kept, lost, dead) = (place.sandbox(), place.sandbox(), place.sandbox());
    let mut running = first.launch(kept.clone()).await.unwrap();
    exec(&mut running, "sleep 1000 & echo $! > /workspace/pid").await;
    first.launch(lost.clone()).await.unwrap();
    first.launch(dead.clone()).await.unwrap();
    // The next daemon: as after kill -9, the first one ended nothing.
    drop((running, first));
    let all = place.start().await;
    let mut running = all.adopt(kept.id, kept.uids, 0).await.unwrap().expect("it lives");
    assert_eq!(exec(&mut running, "kill -0 $(cat pid)").await.0, Some(0));
    assert!(exec(&mut running, ASK_BROKER).await.1.starts_with("HTTP/1.1 4"));
    fs::remove_file(place.setup.run_dir.join(format!("bridge/{}.sock", dead.id))).unwrap();
    assert!(all.adopt(dead.id, dead.uids, 0).await.unwrap().is_none());
    assert_eq!(all.leftovers(), BTreeSet::from([kept.id, lost.id]));
    assert_eq!(all.reap(&BTreeSet::from([kept.id])).await, BTreeSet::from([lost.id]));
    all.end(kept.id).await.unwrap();
    place.is_clean().await;
    all.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_broker_and_launcher_is_made_good() {
    let Some(place) = Place::new() else { return };
    let all = place.start().await;
    let first = place.sandbox();
    let mut running = all.launch(first.clone()).await.unwrap();
    kill(place.broker().unwrap());
    kill(place.launcher().unwrap());
    let second = place.sandbox();
    let mut other = all.launch(second.clone()).await.unwrap_or_else(|e| panic!("{}", e.in_full()));
    for running in [&mut running, &mut other] {
        let (_, said) = exec(running, ASK_BROKER).await;
        assert!(said.starts_with("HTTP/1.1 4"), "{said}");
    }
    for id in [first.id, second.id] {
        all.end(id).await.unwrap();
    }
    place.is_clean().await;
    all.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_fails_leaves_nothing_and_says_why() {
    let Some(mut place) = Place::new() else { return };
    place.setup.bridge = "/usr/bin/false".into();
    let all = place.start().await;
    let mut new = place.sandbox();
    let error = all.launch(new.clone()).await.unwrap_err();
    assert!(matches!(error, SandboxError::Link { .. }), "{}", error.in_full());
    place.is_clean().await;
    new.workspace = "/etc".into();
    let error = all.launch(new).await.unwrap_err();
    assert!(matches!(error, SandboxError::Launcher(_)), "{}", error.in_full());
    assert!(!error.to_string().contains('/'), "{error}");
    assert_eq!((all.leftovers(), all.live()), (BTreeSet::new(), 0));
    place.is_clean().await;
    all.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_nobody_waits_for_is_undone() {
    let Some(place) = Place::new() else { return };
    let all = place.start().await;
    let new = place.sandbox();
    let id = new.id;
    let lost = tokio::time::timeout(Duration::from_millis(2), all.launch(new)).await;
    if let Ok(made) = lost {
        // It was faster than that: nothing to see.
        drop(made.unwrap());
        all.end(id).await.unwrap();
    }
    place.is_clean().await;
    all.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_does_not_want_to_end_is_killed() {
    let Some(place) = Place::new() else { return };
    let all = place.start().await;
    let new = place.sandbox();
    let id = new.id;
    let mut running = all.launch(new).await.unwrap();
    let command = "for i in $(seq 50); do (trap '' TERM INT HUP; setsid sleep 1000 &) ; done";
    assert_eq!(exec(&mut running, command).await.0, Some(0));
    // Nobody can be asked any more.
    drop(running);
    all.end(id).await.unwrap();
    place.is_clean().await;
    all.stop().await;
}

/// Times are printed, not asserted: the machine is shared.
#[tokio::test(flavor = "multi_thread")]
async fn many_sandboxes_come_and_go() {
    let Some(place) = Place::new() else { return };
    let all = place.start().await;
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        let new = place.sandbox();
        let id = new.id;
        let start = Instant::now();
        let running = all.launch(new).await.unwrap();
        up.push(start.elapsed());
        let start = Instant::now();
        all.end(id).await.unwrap();
        down.push(start.elapsed());
        drop(running);
    }
    place.is_clean().await;
    for (what, mut times) in [("launch", up), ("end", down)] {
        times.sort();
        println!("{what}: p50 {:?}, worst {:?}", times[times.len() / 2], times[times.len() - 1]);
    }
    all.stop().await;
}
