//! A daemon's place on the machine, for one test.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ash_wire::words::Exec;
use ashd::domain::{SandboxId, SessionId};
use ashd::sandbox::broker::{Limits as ModelLimits, ModelKey, Settings};
use ashd::sandbox::lease::{DEFAULT_BASE, Slots};
use ashd::sandbox::limits::Limits;
use ashd::sandbox::link::Incoming;
use ashd::sandbox::plan::PlacedFile;
use ashd::sandbox::{NewSandbox, Running, Sandboxes, Setup, Way};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use tempfile::TempDir;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Each test has user ids of its own, by which its processes are found.
static BASES: AtomicU32 = AtomicU32::new(0);

/// A daemon's place on the machine.
pub(crate) struct Place {
    dir: TempDir,
    pub(crate) setup: Setup,
    slots: Slots,
}

/// Users of a place's own: tests run as threads of one process, or in processes of their own.
fn uid_base() -> u32 {
    let process = DEFAULT_BASE + 1_000_000 + 10_000 * (std::process::id() % 4096);
    process + 1000 * BASES.fetch_add(1, Ordering::Relaxed)
}

impl Place {
    pub(crate) fn new() -> Option<Place> {
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

    pub(crate) async fn start(&self) -> Arc<Sandboxes> {
        Sandboxes::start(self.setup.clone()).await.unwrap().0
    }

    pub(crate) fn sandbox(&self) -> NewSandbox {
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
            session: SessionId::random(),
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
            way: Way::Broker,
        }
    }

    /// What this place has on the machine besides files of sessions.
    pub(crate) fn traces(&self) -> BTreeSet<String> {
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

    pub(crate) fn cgroup(&self) -> &Path {
        self.setup.cgroup_root.as_deref().unwrap()
    }

    /// The launcher's process: its command line says where it listens.
    pub(crate) fn launcher(&self) -> Option<Pid> {
        let socket = format!("--socket {}/", self.setup.run_dir.display());
        process(|pid| command_line(pid).contains(&socket))
    }

    /// The broker's process: nobody else has its user.
    pub(crate) fn broker(&self) -> Option<Pid> {
        process(|pid| uid_of(pid) == Some(self.setup.uid_base))
    }

    /// Waits until nothing is left: what was killed is a process until the launcher has seen it.
    pub(crate) async fn is_clean(&self) {
        until(|| self.traces().is_empty(), || format!("{:?}", self.traces())).await;
    }
}

/// Waits until something is so; panics with what is instead.
pub(crate) async fn until(is_so: impl Fn() -> bool, instead: impl Fn() -> String) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{}", instead());
        tokio::time::sleep(Duration::from_millis(5)).await;
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
pub(crate) fn kill(pid: Pid) {
    // It may have ended by itself since it was found.
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
    let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    let timeout = Timespec::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)), Ok(1));
}

/// Runs a command in a sandbox: its exit code and its output.
pub(crate) async fn exec(running: &mut Running, command: &str) -> (Option<i32>, String) {
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
