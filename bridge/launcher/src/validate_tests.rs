//! What is let through and what is not.

use std::path::PathBuf;

use ash_wire::plan::{File, Rlimits};
use proptest::prelude::*;

use super::*;

pub(crate) fn options() -> Options {
    Options {
        socket: "/run/ash/launcher.sock".into(),
        bwrap: "/usr/lib/ash/bwrap".into(),
        bridge: "/usr/lib/ash/ash-bridge".into(),
        sessions_dir: "/var/lib/ash/sessions".into(),
        broker_dir: "/run/ash/broker".into(),
        runtimes: vec!["/opt/runtime/claude".into()],
        runtime_dirs: vec!["/opt/runtimes".into()],
        uid_base: 1_879_048_192,
        uid_count: 1000,
        ..Options::default()
    }
}

pub(crate) fn plan() -> Plan {
    let session = "/var/lib/ash/sessions/0b8d2f3c-8a8e-4f63-9d52-0d3c9f1f6b10";
    let read_only = |source: &str, target: &str, optional| Mount::ReadOnly {
        source: source.to_owned(),
        target: target.to_owned(),
        optional,
    };
    let writable = |name: &str, target: &str| Mount::Writable {
        source: format!("{session}/{name}"),
        target: target.to_owned(),
    };
    Plan {
        sandbox: "3f0c1a52-6f1d-4a86-9b3e-2d5a7c9e1f04".to_owned(),
        bridge_uid: 1_879_048_192,
        agent_uid: 1_879_048_193,
        hostname: "sandbox".to_owned(),
        mounts: vec![
            read_only("/usr", "/usr", false),
            Mount::Symlink { points_to: "usr/bin".to_owned(), target: "/bin".to_owned() },
            read_only("/etc/ssl/certs", "/etc/ssl/certs", true),
            read_only("/opt/runtime/claude", "/opt/claude", false),
            read_only("/run/ash/broker/3f0c", "/run/api", false),
            Mount::Proc { target: "/proc".to_owned() },
            Mount::Dev { target: "/dev".to_owned(), shm_size: 64 << 20 },
            Mount::Tmpfs { target: "/tmp".to_owned(), size: 512 << 20, mode: 0o1777 },
            writable("workspace", "/workspace"),
            writable("home", "/home/agent"),
        ],
        files: vec![
            File { target: "/etc/passwd".to_owned(), mode: 0o444 },
            File { target: "/etc/claude-code/managed-settings.json".to_owned(), mode: 0o444 },
        ],
        rlimits: Rlimits { file_size: 8 << 30, open_files: 4096 },
        orphan_timeout_s: 600,
    }
}

fn judged(plan: &Plan) -> Result<(), PlanError> {
    check(plan, FIXED_FDS + plan.files.len(), &options())
}

fn with(mount: Mount) -> Result<(), PlanError> {
    let mut plan = plan();
    plan.mounts.push(mount);
    judged(&plan)
}

fn tmpfs(target: &str) -> Mount {
    Mount::Tmpfs { target: target.to_owned(), size: 1, mode: 0o1777 }
}

fn read_only(source: &str) -> Mount {
    Mount::ReadOnly { source: source.to_owned(), target: "/x".to_owned(), optional: true }
}

fn writable(source: &str) -> Mount {
    Mount::Writable { source: source.to_owned(), target: "/x".to_owned() }
}

#[test]
fn a_typical_plan_passes() {
    judged(&plan()).unwrap();
}

#[test]
fn names() {
    for sandbox in
        ["", "x", "3F0C1A52-6F1D-4A86-9B3E-2D5A7C9E1F04", "../../../../../../../../../etc/pas"]
    {
        let refused = judged(&Plan { sandbox: sandbox.to_owned(), ..plan() });
        assert_eq!(refused, Err(PlanError::Sandbox(sandbox.to_owned())));
    }
    for hostname in ["", "a b", "a\n", "--bind", &"a".repeat(65)] {
        assert!(judged(&Plan { hostname: hostname.to_owned(), ..plan() }).is_err(), "{hostname}");
    }
}

#[test]
fn uids_are_two_of_the_range() {
    let base = options().uid_base;
    for (bridge_uid, agent_uid) in
        [(base, base), (0, base), (base, 0), (base - 1, base), (base, base + 1000)]
    {
        let refused = judged(&Plan { bridge_uid, agent_uid, ..plan() });
        assert_eq!(refused, Err(PlanError::Uids(bridge_uid, agent_uid)));
    }
}

#[test]
fn sources_that_sandboxes_may_see() {
    for good in [
        "/usr/share",
        "/bin",
        "/lib64",
        "/etc/ssl/certs",
        "/opt/runtime/claude",
        "/opt/runtimes/2.1.197/claude",
        "/run/ash/broker/a",
    ] {
        with(read_only(good)).unwrap();
    }
    let bad = [
        "/",
        "/etc",
        "/etc/shadow",
        "/usrlocal",
        "/root",
        "/proc",
        "/sys",
        "/dev",
        "/run/ash",
        "/run/ash/broker",
        "/run/ash/brokerx/a",
        "/opt/runtime",
        "/opt/runtime/claude/x",
        "/opt/runtimes",
        "/opt/runtimes/2.1.197",
        "/opt/runtimes/2.1.197/claude/x",
        "/var/lib/ash/sessions/a/workspace",
        "/usr/../etc/shadow",
        "usr",
        "/usr/",
        "//usr",
        "/usr/./x",
        "/usr\0",
        "/usr\n",
    ];
    for bad in bad {
        assert!(with(read_only(bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn sources_that_a_sandbox_may_write() {
    with(writable("/var/lib/ash/sessions/a/x")).unwrap();
    for bad in ["/var/lib/ash/sessions", "/var/lib/ash", "/usr", "/var/lib/ash/sessions/../ash.db"]
    {
        assert!(with(writable(bad)).is_err(), "{bad}");
    }
}

#[test]
fn nothing_lies_in_a_mount() {
    for above in [
        "/workspace/x",
        "/home/agent/.claude/y",
        "/tmp/z",
        "/dev/shm/q",
        "/proc/x",
        "/usr/x",
        "/bin/x",
        "/opt/ash/bridge/x",
    ] {
        assert!(with(tmpfs(above)).is_err(), "{above}");
        let mut plan = plan();
        plan.files.push(File { target: above.to_owned(), mode: 0o444 });
        assert!(judged(&plan).is_err(), "{above}");
    }
}

#[test]
fn nothing_covers_what_was_made_before() {
    for target in ["/workspace", "/home", "/opt", "/opt/ash", "/opt/ash/bridge", "/etc", "/"] {
        assert!(with(tmpfs(target)).is_err(), "{target}");
    }
}

#[test]
fn the_root_has_no_special_modes() {
    assert!(with(Mount::Dir { target: "/a".to_owned(), mode: 0o777 }).is_err());
    assert!(with(Mount::Dir { target: "/a".to_owned(), mode: 0o755 }).is_ok());
    let mut plan = plan();
    plan.files[0].mode = 0o4555;
    assert!(judged(&plan).is_err());
}

#[test]
fn counts_and_limits_are_bounded() {
    let mut many = plan();
    many.mounts = (0..=MAX_MOUNTS).map(|number| tmpfs(&format!("/m{number}"))).collect();
    assert!(matches!(judged(&many), Err(PlanError::TooMany { what: "mounts", .. })));
    assert!(matches!(check(&plan(), 4, &options()), Err(PlanError::Descriptors { .. })));
    let mut unlimited = plan();
    unlimited.rlimits.file_size = u64::MAX;
    assert!(matches!(judged(&unlimited), Err(PlanError::Range { .. })));
}

fn path() -> impl Strategy<Value = String> {
    let part = prop_oneof![Just("a"), Just("b"), Just("tmp"), Just(".."), Just("."), Just("")];
    proptest::collection::vec(part, 1..5).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn step() -> impl Strategy<Value = Mount> {
    (path(), 0u8..4).prop_map(|(target, kind)| match kind {
        0 => Mount::Tmpfs { target, size: 1, mode: 0o1777 },
        1 => Mount::Dir { target, mode: 0o755 },
        2 => Mount::Writable { source: "/var/lib/ash/sessions/a/b".to_owned(), target },
        _ => Mount::ReadOnly { source: "/usr".to_owned(), target, optional: false },
    })
}

proptest! {
    #[test]
    fn whatever_passes_has_no_target_in_another_mount(mounts in proptest::collection::vec(step(), 0..8)) {
        let passes = judged(&Plan { mounts: mounts.clone(), files: vec![], ..plan() }).is_ok();
        if !passes { return Ok(()) }
        let targets: Vec<(PathBuf, bool)> = mounts.iter().map(|mount| match mount {
            Mount::Dir { target, .. } => (target.into(), false),
            Mount::Tmpfs { target, .. } | Mount::Writable { target, .. } | Mount::ReadOnly { target, .. } => (target.into(), true),
            other => panic!("{other:?}"),
        }).collect();
        for (place, (target, _)) in targets.iter().enumerate() {
            for (other, leaf) in targets.iter().enumerate().filter(|(at, _)| *at != place).map(|(_, t)| t) {
                prop_assert!(!(*leaf && target.starts_with(other)), "{:?} in {:?}", target, other);
            }
            let dots = target.to_string_lossy().split('/').skip(1).any(|part| part.is_empty() || part.starts_with('.'));
            prop_assert!(!dots);
        }
    }
}
