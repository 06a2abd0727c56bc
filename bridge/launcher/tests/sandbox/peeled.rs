//! Sandboxes from which layers were taken, made by the real launcher.
//!
//! What the launcher runs as bubblewrap is a script that changes the arguments on their way to the
//! real one, and what it puts in as the bridge is `ash-peeled-bridge`.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::confinement::{as_table, makes_calls_of_i386};
use crate::layers::Layer;
use crate::machine::{AGENT_UID, Machine, UID_BASE, beside_launcher, build, end_cgroup};

/// The uid of a session that is not ours.
const OTHER_UID: u32 = UID_BASE + 9;

/// Processes that the agent's cgroup may have. `attempts.py` tries to start more.
const MAX_PROCESSES: &str = "64";

/// What attacks are after: files, sockets and processes of the host's.
pub(crate) struct Host {
    dir: tempfile::TempDir,
    tcp: TcpListener,
    abstract_name: String,
    _abstract: UnixListener,
    limited: Option<Limited>,
}

/// A cgroup with a limit of processes.
struct Limited(PathBuf);

/// A program that is root's whoever runs it, which says who it is.
pub(crate) struct Setuid(tempfile::TempDir);

impl Host {
    /// A host, or `None` where tests of this kind cannot run.
    pub(crate) fn new() -> Option<Host> {
        // Says SKIP and why.
        drop(Machine::new()?);
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("files");
        fs::create_dir(&files).unwrap();
        for (name, owner, mode) in
            [("public", 0, 0o644), ("private", 0, 0o600), ("foreign", OTHER_UID, 0o600)]
        {
            let file = files.join(name);
            fs::write(&file, "secret").unwrap();
            chown(&file, Some(owner), Some(owner)).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        }
        let abstract_name = dir.path().display().to_string();
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        Some(Host {
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            _abstract: UnixListener::bind_addr(&address).unwrap(),
            limited: Limited::new(&dir.path().file_name().unwrap().to_string_lossy()),
            abstract_name,
            dir,
        })
    }

    /// Whether an attack succeeds on this machine where no layer is, and can be stopped.
    pub(crate) fn permits(&self, attack: &str) -> bool {
        match attack {
            "makes_a_user_namespace" => user_namespaces_are_free(),
            "makes_a_call_of_i386" => makes_calls_of_i386(),
            "starts_many_processes" => self.limited.is_some(),
            _ => true,
        }
    }

    /// What came of each attack in a sandbox without some layers.
    pub(crate) fn attack(&self, off: &[Layer]) -> BTreeMap<String, String> {
        let script = self.dir.path().join("bwrap");
        fs::write(&script, self.bwrap(off)).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let bridge = program("ash-peeled-bridge");
        let programs = ["--bwrap", script.to_str().unwrap(), "--bridge", bridge.to_str().unwrap()];
        let machine = Machine::with(&programs).unwrap();
        let (_sandbox, mut peer) = machine.sandbox();
        let port = self.tcp.local_addr().unwrap().port();
        let attempts = include_str!("attempts.py").replace('\'', r"'\''");
        let arguments = format!("{OTHER_UID} {port} {}", self.abstract_name);
        let ran = peer.run(&format!("python3 -c '{attempts}' {arguments}"));
        assert_eq!((ran.exit.code, ran.stderr.as_str()), (Some(0), ""), "{off:?}: {ran:?}");
        as_table(&ran.stdout)
    }

    /// A script that is bubblewrap, but for some layers.
    fn bwrap(&self, off: &[Layer]) -> String {
        let changed = |layer: Layer, option: &str, with: &str| match off.contains(&layer) {
            true => format!("{option}) set -- \"$@\" {with} ;;"),
            false => String::new(),
        };
        let network = changed(Layer::Network, "--unshare-net", "");
        let capabilities = changed(Layer::Capabilities, "--cap-drop", "--cap-add");
        let root = if off.contains(&Layer::Root) {
            format!("--bind {}/files /host", self.dir.path().display())
        } else {
            String::new()
        };
        let group = self.limited.as_ref().filter(|_| !off.contains(&Layer::Cgroup));
        let procs = group.map_or("/dev/null".into(), |group| group.0.join("cgroup.procs"));
        format!(
            "#!/bin/sh
            for word; do
                shift
                case $word in
                    {network}
                    {capabilities}
                    *) set -- \"$@\" \"$word\" ;;
                esac
            done
            exec {fd}> {procs}
            exec /usr/bin/bwrap {root} \"$@\" '{peeled}'
            ",
            fd = ash_launcher::argv::AGENT_CGROUP_FD,
            procs = procs.display(),
            peeled = peeled(off),
        )
    }

    /// A setuid program that only root and the agent can reach, or `None` where it has no effect.
    pub(crate) fn setuid_program(&self) -> Option<Setuid> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("cat");
        if statvfs(dir.path()).unwrap().f_flag.contains(StatVfsMountFlags::NOSUID)
            || status(&fs::read_to_string("/proc/self/status").unwrap())["NoNewPrivs"] != "0"
        {
            println!("SKIP: setuid programs have no effect in the temporary directory");
            return None;
        }
        chown(dir.path(), Some(0), Some(AGENT_UID)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).unwrap();
        fs::copy("/usr/bin/cat", &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
        Some(Setuid(dir))
    }
}

impl Setuid {
    /// Runs it as the agent without some layers; returns its `/proc/self/status`.
    pub(crate) fn run(&self, without: &str) -> String {
        let ran = Command::new(program("ash-peeled-exec"))
            .args([AGENT_UID.to_string().as_str(), without])
            .arg(self.0.path().join("cat"))
            .arg("/proc/self/status")
            .output()
            .unwrap();
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    }
}

impl Limited {
    /// In cgroup v2 where that controls processes, else in v1.
    fn new(unique: &str) -> Option<Limited> {
        let v2 = |root: &&Path| {
            let control = fs::read_to_string(root.join("cgroup.subtree_control"));
            control.is_ok_and(|on| on.split_whitespace().any(|name| name == "pids"))
        };
        let v1 = Path::new("/sys/fs/cgroup/pids");
        let root = [Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup/unified")]
            .into_iter()
            .find(v2)
            .or_else(|| v1.join("cgroup.procs").exists().then_some(v1))?;
        let group = Limited(root.join(format!("ash-test-limited{}", unique.replace('.', "-"))));
        fs::create_dir(&group.0).unwrap();
        fs::write(group.0.join("pids.max"), MAX_PROCESSES).unwrap();
        Some(group)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        end_cgroup(&self.0);
    }
}

/// A program of the crate that takes layers away.
pub(crate) fn program(name: &str) -> PathBuf {
    static BUILD: Once = Once::new();
    BUILD.call_once(|| build("ash-peeled"));
    beside_launcher(name)
}

/// The fields of a `/proc/<pid>/status`.
pub(crate) fn status(text: &str) -> BTreeMap<String, String> {
    let field =
        |line: &str| line.split_once(":\t").map(|(name, value)| (name.into(), value.into()));
    text.lines().filter_map(field).collect()
}

/// What `ash-peeled-bridge` is to leave out.
fn peeled(off: &[Layer]) -> String {
    let name = |layer: &Layer| match layer {
        Layer::Uid => Some("uid"),
        Layer::Landlock => Some("landlock"),
        Layer::Seccomp => Some("seccomp"),
        Layer::Capabilities => Some("capabilities"),
        Layer::Root | Layer::Network | Layer::Cgroup => None,
    };
    off.iter().filter_map(name).collect::<Vec<_>>().join(",")
}

/// Whether this machine lets everybody make user namespaces.
fn user_namespaces_are_free() -> bool {
    let forbids = |(path, value): &(&str, &str)| {
        fs::read_to_string(path).is_ok_and(|found| found.trim() == *value)
    };
    ![
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
        ("/proc/sys/user/max_user_namespaces", "0"),
    ]
    .iter()
    .any(forbids)
}
