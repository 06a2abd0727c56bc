//! A plan as arguments of bubblewrap. Pure: the snapshots show what is run.
//!
//! What every sandbox has stands in [`ALWAYS`] and [`bridge`], where no plan reaches.

use std::collections::BTreeSet;
use std::path::Path;

use ash_wire::plan::{Mount, Plan};

use crate::options::Options;

/// Where the bridge is in every sandbox.
pub const BRIDGE: &str = "/opt/ash/bridge";

/// The number under which the bridge gets its listening socket.
pub const LISTEN_FD: u32 = 3;

/// The number under which it gets its way into the agent's cgroup.
pub const AGENT_CGROUP_FD: u32 = 4;

/// The number of the first file's contents.
pub const FIRST_FILE_FD: u32 = 5;

/// Namespaces, an empty environment, a session of its own, and no capability but the three that
/// the bridge needs to change its uid. No user namespace: the uids are the host's. The sandbox
/// outlives the launcher, so there is no `--die-with-parent`.
const ALWAYS: [&str; 16] = [
    "--unshare-pid",
    "--unshare-net",
    "--unshare-ipc",
    "--unshare-uts",
    "--as-pid-1",
    "--new-session",
    "--clearenv",
    "--cap-drop",
    "ALL",
    "--cap-add",
    "CAP_SETUID",
    "--cap-add",
    "CAP_SETGID",
    "--cap-add",
    "CAP_SETPCAP",
    "--hostname",
];

/// Unless the launcher has a namespace of control groups, which its sandboxes then share: they see
/// their own groups beneath its root, and are made in them.
const OWN_GROUPS: &str = "--unshare-cgroup";

/// The arguments for a plan that [`check`](crate::validate::check) let through.
pub fn arguments(plan: &Plan, options: &Options) -> Vec<String> {
    let mut argv = Argv::default();
    argv.add((!options.service).then_some(OWN_GROUPS));
    argv.add(ALWAYS);
    argv.add([plan.hostname.as_str()]);
    plan.mounts.iter().for_each(|mount| argv.mount(mount));
    argv.bind("--ro-bind", &options.bridge.to_string_lossy(), BRIDGE);
    for (file, fd) in plan.files.iter().zip(FIRST_FILE_FD..) {
        argv.parents(&file.target);
        argv.add(["--perms", &octal(file.mode), "--file", &fd.to_string(), &file.target]);
    }
    // Last: until here things are made in it.
    argv.add(["--remount-ro", "/", "--chdir", "/", "--"]);
    argv.add(bridge(plan).iter().map(String::as_str));
    argv.words
}

/// The bridge's own command line.
fn bridge(plan: &Plan) -> [String; 13] {
    [
        BRIDGE.to_owned(),
        "--listen-fd".to_owned(),
        LISTEN_FD.to_string(),
        "--agent-cgroup-fd".to_owned(),
        AGENT_CGROUP_FD.to_string(),
        "--sandbox".to_owned(),
        plan.sandbox.clone(),
        "--bridge-uid".to_owned(),
        plan.bridge_uid.to_string(),
        "--agent-uid".to_owned(),
        plan.agent_uid.to_string(),
        "--orphan-timeout".to_owned(),
        plan.orphan_timeout_s.to_string(),
    ]
}

#[derive(Default)]
struct Argv<'a> {
    words: Vec<String>,
    made: BTreeSet<&'a Path>,
}

impl<'a> Argv<'a> {
    fn add<'b>(&mut self, words: impl IntoIterator<Item = &'b str>) {
        self.words.extend(words.into_iter().map(str::to_owned));
    }

    fn mount(&mut self, mount: &'a Mount) {
        match mount {
            Mount::ReadOnly { source, target, optional: false } => {
                self.bind("--ro-bind", source, target);
            }
            Mount::ReadOnly { source, target, optional: true } => {
                self.bind("--ro-bind-try", source, target);
            }
            Mount::Writable { source, target } => self.bind("--bind", source, target),
            Mount::Tmpfs { target, size, mode } => self.tmpfs(target, *size, *mode),
            Mount::Dir { target, mode } => {
                self.parents(target);
                self.directory(Path::new(target), *mode);
            }
            Mount::Symlink { points_to, target } => self.bind("--symlink", points_to, target),
            Mount::Proc { target } => {
                self.parents(target);
                self.add(["--proc", target]);
            }
            Mount::Dev { target, shm_size } => self.dev(target, *shm_size),
        }
    }

    fn bind(&mut self, option: &str, source: &str, target: &'a str) {
        self.parents(target);
        self.add([option, source, target]);
    }

    fn tmpfs(&mut self, target: &'a str, size: u64, mode: u32) {
        self.parents(target);
        self.add(["--perms", &octal(mode), "--size", &size.to_string(), "--tmpfs", target]);
    }

    fn dev(&mut self, target: &'a str, shm_size: u64) {
        self.parents(target);
        let shm = format!("{target}/shm");
        self.add(["--dev", target]);
        self.add(["--perms", "1777", "--size", &shm_size.to_string(), "--tmpfs", &shm]);
        self.add(["--remount-ro", target]);
    }

    /// Makes what is above a target. bubblewrap would too, but with mode 0700.
    fn parents(&mut self, target: &'a str) {
        let mut parents: Vec<_> = Path::new(target).ancestors().skip(1).collect();
        // The last ancestor is the root, which exists.
        parents.pop();
        parents.into_iter().rev().for_each(|parent| self.directory(parent, 0o755));
    }

    fn directory(&mut self, path: &'a Path, mode: u32) {
        if self.made.insert(path) {
            self.add(["--perms", &octal(mode), "--dir", &path.to_string_lossy()]);
        }
    }
}

fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::tests::{options, plan};

    /// One option to a line, as one would write it.
    fn as_written(words: &[String]) -> String {
        let mut text = String::new();
        for word in words {
            text.push(if word.starts_with("--") { '\n' } else { ' ' });
            text.push_str(word);
        }
        text.trim_start().to_owned()
    }

    #[test]
    fn a_typical_sandbox() {
        insta::assert_snapshot!(as_written(&arguments(&plan(), &options())));
    }

    #[test]
    fn sandboxes_of_a_service_share_its_control_groups() {
        let alone = arguments(&plan(), &options());
        let mut service = arguments(&plan(), &Options { service: true, ..options() });
        service.insert(0, OWN_GROUPS.to_owned());
        assert_eq!(service, alone, "nothing else");
    }

    #[test]
    fn an_empty_plan_still_has_what_every_sandbox_has() {
        let mut plan = plan();
        plan.mounts.clear();
        plan.files.clear();
        insta::assert_snapshot!(as_written(&arguments(&plan, &options())));
    }
}
