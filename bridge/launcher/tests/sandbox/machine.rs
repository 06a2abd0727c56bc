//! A launcher with its directories and cgroups, all of its own and gone afterwards.

use std::fs;
use std::io::{IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ash_wire::plan::{File, Greeting, LAUNCHER_VERSION, Mount, Plan, Reply, Rlimits};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, socket_with,
};

use crate::peer::Peer;

/// The first uid of the tests.
pub(crate) const UID_BASE: u32 = 1_879_060_000;

/// The bridge's and the agent's uid in every sandbox.
pub(crate) const BRIDGE_UID: u32 = UID_BASE;
pub(crate) const AGENT_UID: u32 = UID_BASE + 1;

/// Longer than anything here takes on a loaded machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// The launcher, and what it works with.
pub(crate) struct Machine {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) cgroup: PathBuf,
    launcher: Child,
    made: AtomicU32,
}

/// A sandbox that is running.
pub(crate) struct Sandbox {
    /// Process id of bubblewrap.
    pub(crate) pid: u32,
    pub(crate) cgroup: PathBuf,
    pub(crate) workspace: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) plan: Plan,
    stderr: OwnedFd,
}

/// A request to the launcher before it is sent, for tests to spoil.
pub(crate) struct Request {
    pub(crate) plan: Plan,
    pub(crate) fds: Vec<OwnedFd>,
    cgroup: PathBuf,
    workspace: PathBuf,
    socket: PathBuf,
    stderr: OwnedFd,
}

impl Machine {
    /// A machine, or `None` where tests of this kind cannot run.
    pub(crate) fn new() -> Option<Machine> {
        Machine::with(&[])
    }

    /// A machine whose launcher gets these arguments too.
    pub(crate) fn with(more: &[&str]) -> Option<Machine> {
        Machine::begin(more, false)
    }

    /// A machine whose launcher is a service of its own: it begins in the group for sandboxes.
    pub(crate) fn service() -> Option<Machine> {
        Machine::begin(&["--service"], true)
    }

    /// The same, of one that dies at a fault point of its own. `None` also where programs have no such points.
    pub(crate) fn service_that_dies(point: &str) -> Option<Machine> {
        let program = fs::read(env!("CARGO_BIN_EXE_ash-launcher")).unwrap();
        if !program.windows(b"ASH_FAULT".len()).any(|word| word == b"ASH_FAULT") {
            println!("SKIP: the launcher is built without the feature faults");
            return None;
        }
        Machine::set(&["--service"], true, point)
    }

    /// Starts the launcher of a service again, which has ended, as systemd does: in a group in which nothing ever
    /// was. Of one that was killed whole the kernel kills later what is made from there in another group.
    pub(crate) fn start_again(&mut self) {
        end_cgroup(&self.cgroup);
        fs::create_dir(&self.cgroup).unwrap();
        self.launcher = start_launcher(self.dir.path(), &["--service"], Some(&self.cgroup), "");
        self.client();
    }

    fn begin(more: &[&str], within: bool) -> Option<Machine> {
        let machine = Machine::set(more, within, "")?;
        machine.client();
        Some(machine)
    }

    /// A machine whose launcher may not listen yet, and dies at this fault point if it is not empty.
    fn set(more: &[&str], within: bool, fault: &str) -> Option<Machine> {
        let v2 = cgroup_v2()?;
        let dir = tempfile::tempdir().unwrap();
        for name in ["sessions", "broker", "run"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::set_permissions(dir.path().join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        let unique = dir.path().file_name().unwrap().to_str().unwrap().replace('.', "");
        let cgroup = v2.join(format!("ash-test-{unique}"));
        fs::create_dir(&cgroup).unwrap();
        let launcher = start_launcher(dir.path(), more, within.then_some(&cgroup), fault);
        Some(Machine { dir, cgroup, launcher, made: AtomicU32::new(0) })
    }

    pub(crate) fn launcher_socket(&self) -> PathBuf {
        self.dir.path().join("run/launcher.sock")
    }

    pub(crate) fn launcher_pid(&self) -> u32 {
        self.launcher.id()
    }

    /// Waits for the launcher to end by itself.
    pub(crate) fn launcher_exit(&mut self) -> std::process::ExitStatus {
        wait_until("the launcher ends", || self.launcher.try_wait().unwrap())
    }

    /// A connection to the launcher, once it listens.
    pub(crate) fn client(&self) -> OwnedFd {
        let address = SocketAddrUnix::new(self.launcher_socket()).unwrap();
        let client = wait_until("the launcher listens", || {
            let kind = SocketType::SEQPACKET;
            let socket =
                socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
            connect(&socket, &address).is_ok().then_some(socket)
        });
        let greeting: Greeting = receive(&client);
        assert_eq!(greeting.version, LAUNCHER_VERSION);
        if let Some(group) = greeting.group {
            assert!(self.cgroup.ends_with(group.trim_start_matches('/')), "{group}");
        }
        client
    }

    /// The process that serves, when the launcher is a service: the child of its main process.
    pub(crate) fn serving(&self) -> u32 {
        let main = self.launcher_pid();
        let children = format!("/proc/{main}/task/{main}/children");
        wait_until("a process serves", || {
            fs::read_to_string(&children).unwrap().trim().parse().ok()
        })
    }

    /// A plan as ashd makes it, with everything that belongs to it.
    pub(crate) fn request(&self) -> Request {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let sandbox = format!("00000000-0000-4000-8000-{number:012}");
        let session = self.dir.path().join("sessions").join(&sandbox);
        fs::create_dir(&session).unwrap();
        for name in ["workspace", "home"] {
            fs::create_dir(session.join(name)).unwrap();
            chown(session.join(name), Some(AGENT_UID), Some(AGENT_UID)).unwrap();
        }
        let cgroup = self.cgroup.join(&sandbox);
        let groups = ["bridge", "agent"].map(|group| {
            let group = cgroup.join(group);
            fs::create_dir_all(&group).unwrap();
            OwnedFd::from(fs::File::open(group).unwrap())
        });
        let socket = self.dir.path().join(format!("run/{number}.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        let (stderr, its_stderr) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut fds = vec![OwnedFd::from(listener)];
        fds.extend(groups);
        fds.push(its_stderr);
        let plan = plan(&sandbox, &session);
        fds.extend(plan.files.iter().map(|file| sealed(content(file).as_bytes())));
        let workspace = session.join("workspace");
        Request { plan, fds, cgroup, workspace, socket, stderr }
    }

    /// Sends a request and returns what the launcher says.
    pub(crate) fn ask(&self, request: &Request) -> Reply {
        let client = self.client();
        send(&client, &serde_json::to_vec(&request.plan).unwrap(), &request.fds);
        receive(&client)
    }

    /// Makes the sandbox that a request asks for.
    pub(crate) fn make(&self, request: Request) -> Sandbox {
        let pid = match self.ask(&request) {
            Reply::Launched { pid } => pid,
            refused => panic!("{refused:?}"),
        };
        let Request { plan, fds, cgroup, workspace, socket, stderr } = request;
        // The launcher's copies are what counts.
        drop(fds);
        Sandbox { pid, cgroup, workspace, socket, plan, stderr }
    }

    /// A sandbox, and a connection to its bridge.
    pub(crate) fn sandbox(&self) -> (Sandbox, Peer) {
        let sandbox = self.make(self.request());
        let peer = sandbox.connect();
        (sandbox, peer)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
        end_cgroup(&self.cgroup);
    }
}

impl Sandbox {
    /// A new connection that has said hello and asks for everything.
    pub(crate) fn connect(&self) -> Peer {
        self.connect_from(0)
    }

    /// A new connection that asks for the events from `resend_from` on.
    pub(crate) fn connect_from(&self, resend_from: u64) -> Peer {
        Peer::greet(self.stream(), resend_from)
            .unwrap_or_else(|error| panic!("{error}, and this was said: {}", self.said()))
    }

    /// A connection that has said nothing yet.
    pub(crate) fn stream(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    /// Process ids of one of its groups, as the host sees them.
    pub(crate) fn processes(&self, group: &str) -> Vec<u32> {
        let procs = fs::read_to_string(self.cgroup.join(group).join("cgroup.procs")).unwrap();
        procs.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Ends the agent's whole group, as the kernel does for want of memory.
    pub(crate) fn end_agent(&self) {
        fs::write(self.cgroup.join("agent/cgroup.kill"), "1").unwrap();
        wait_until("the agent is gone", || self.processes("agent").is_empty().then_some(()));
    }

    /// Stops the agent's whole group where it is, or lets it go on, and waits until it has.
    pub(crate) fn freeze_agent(&self, frozen: bool) {
        let group = self.cgroup.join("agent");
        let number = u8::from(frozen);
        fs::write(group.join("cgroup.freeze"), number.to_string()).unwrap();
        wait_until("the agent stands still or goes on", || {
            let events = fs::read_to_string(group.join("cgroup.events")).unwrap();
            events.contains(&format!("frozen {number}")).then_some(())
        });
    }

    /// Waits until nothing of it is left, and returns what it wrote to standard error.
    pub(crate) fn gone(self) -> String {
        wait_until("nothing is left in the cgroups", || {
            let empty = |group| self.processes(group).is_empty();
            (empty("bridge") && empty("agent")).then_some(())
        });
        wait_until("bubblewrap is reaped", || (!is_alive(self.pid)).then_some(()));
        self.said()
    }

    /// What it wrote to standard error so far.
    fn said(&self) -> String {
        rustix::io::ioctl_fionbio(&self.stderr, true).unwrap();
        let mut said = [0; 64 * 1024];
        let count = rustix::io::read(&self.stderr, &mut said).unwrap_or(0);
        String::from_utf8_lossy(&said[..count]).into_owned()
    }
}

/// Waits for a thing itself, and fails after a time in which it must have come.
pub(crate) fn wait_until<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(value) = there() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited for too long: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process is there and not only waits to be reaped.
pub(crate) fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// A memfd that cannot change any more.
pub(crate) fn sealed(content: &[u8]) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = fs::File::from(memfd_create("file", flags).unwrap());
    file.write_all(content).unwrap();
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, seals).unwrap();
    file.into()
}

/// One packet.
fn receive<T: serde::de::DeserializeOwned>(client: &OwnedFd) -> T {
    let mut bytes = [0; 4096];
    let count = recvmsg(
        client,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut RecvAncillaryBuffer::default(),
        RecvFlags::empty(),
    );
    serde_json::from_slice(&bytes[..count.unwrap().bytes]).unwrap()
}

fn send(client: &OwnedFd, bytes: &[u8], fds: &[OwnedFd]) {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(68))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(client, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::empty()).unwrap();
}

fn plan(sandbox: &str, session: &Path) -> Plan {
    let system = |source: &str| Mount::ReadOnly {
        source: source.to_owned(),
        target: source.to_owned(),
        optional: true,
    };
    let own = |name: &str, target: &str| Mount::Writable {
        source: session.join(name).to_str().unwrap().to_owned(),
        target: target.to_owned(),
    };
    let mut mounts: Vec<_> =
        ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/alternatives", "/etc/ssl/certs"]
            .map(system)
            .into();
    mounts.extend([
        Mount::Proc { target: "/proc".to_owned() },
        Mount::Dev { target: "/dev".to_owned(), shm_size: 16 << 20 },
        Mount::Tmpfs { target: "/tmp".to_owned(), size: 64 << 20, mode: 0o1777 },
        Mount::Dir { target: "/run".to_owned(), mode: 0o755 },
        own("workspace", "/workspace"),
        own("home", "/home/agent"),
    ]);
    if let Some(cli) = real_cli() {
        let target = "/opt/claude".to_owned();
        mounts.push(Mount::ReadOnly { source: cli, target, optional: false });
    }
    Plan {
        sandbox: sandbox.to_owned(),
        bridge_uid: BRIDGE_UID,
        agent_uid: AGENT_UID,
        hostname: "sandbox".to_owned(),
        mounts,
        files: vec![
            File { target: "/etc/passwd".to_owned(), mode: 0o444 },
            File { target: "/etc/hostname".to_owned(), mode: 0o444 },
        ],
        rlimits: Rlimits { file_size: 1 << 30, open_files: 1024 },
        orphan_timeout_s: 600,
    }
}

fn content(file: &File) -> String {
    match file.target.as_str() {
        "/etc/passwd" => format!("agent:x:{AGENT_UID}:{AGENT_UID}::/home/agent:/bin/bash\n"),
        _ => "sandbox\n".to_owned(),
    }
}

/// The Claude Code CLI, where the environment names one.
pub(crate) fn real_cli() -> Option<String> {
    std::env::var("CLAUDE_CODE_EXECUTABLE").ok().filter(|path| Path::new(path).exists())
}

fn start_launcher(dir: &Path, more: &[&str], group: Option<&PathBuf>, fault: &str) -> Child {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let procs = group.map_or("/dev/null".into(), |group| group.join("cgroup.procs"));
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]).arg(procs);
    command.arg(env!("CARGO_BIN_EXE_ash-launcher"));
    command.args(["--socket", &path("run/launcher.sock"), "--bwrap", "/usr/bin/bwrap"]);
    command.args(["--bridge", bridge().to_str().unwrap()]);
    command.args(["--sessions-dir", &path("sessions"), "--broker-dir", &path("broker")]);
    command.args(["--uid-base", &UID_BASE.to_string(), "--uid-count", "16"]);
    command.args(["--runtime", &real_cli().unwrap_or("/nonexistent".to_owned())]);
    command.args(more).env("ASH_FAULT", fault).stdin(Stdio::null()).spawn().unwrap()
}

/// The bridge under test: the one that `ASH_BRIDGE` names, or the one beside the launcher.
fn bridge() -> PathBuf {
    static BUILD: Once = Once::new();
    if let Some(path) = std::env::var_os("ASH_BRIDGE") {
        return path.into();
    }
    BUILD.call_once(|| build("ash-bridge"));
    beside_launcher("ash-bridge")
}

/// Builds the programs of another crate.
pub(crate) fn build(package: &str) {
    let built = Command::new(env!("CARGO")).args(["build", "-q", "-p", package]).status();
    assert!(built.unwrap().success());
}

/// Where programs are built.
pub(crate) fn beside_launcher(program: &str) -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_ash-launcher")).with_file_name(program)
}

/// Where cgroup v2 is mounted, if these tests can run at all.
fn cgroup_v2() -> Option<PathBuf> {
    let skip = |why: &str| {
        println!("SKIP: {why}");
        None
    };
    if !rustix::process::geteuid().is_root() {
        return skip("needs root");
    }
    if !Path::new("/usr/bin/bwrap").exists() {
        return skip("needs bubblewrap in /usr/bin");
    }
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let v2 = mounts.into_iter().find(|mount| mount.join("cgroup.procs").exists());
    v2.map_or_else(|| skip("needs a cgroup v2 mount"), |mount| Some(mount.to_owned()))
}

/// Kills what is left in a group of ours and removes it.
pub(crate) fn end_cgroup(cgroup: &Path) {
    let _ = fs::write(cgroup.join("cgroup.kill"), "1");
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            end_cgroup(&entry.path());
        }
    }
    let deadline = Instant::now() + LONG;
    while fs::remove_dir(cgroup).is_err() && cgroup.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
}
