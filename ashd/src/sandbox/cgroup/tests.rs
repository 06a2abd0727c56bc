use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, openat};

use super::*;

/// A root of our own below the real mount, removed with everything in it.
struct Place(Cgroups);

impl Place {
    fn new() -> Self {
        let name = format!("ash-test-{}", uuid::Uuid::new_v4().as_simple());
        let root = mount_point().unwrap().join(name);
        Place(Cgroups::prepare(Some(&root), "unused", true).unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for id in self.0.list().unwrap_or_default() {
            let group = self.0.group(id);
            let gone = group.kill().and_then(|()| group.wait_empty(Duration::from_secs(10)));
            if gone.is_ok() {
                let _ = group.remove();
            }
        }
        let _ = fs::remove_dir(&self.0.root);
    }
}

/// A shell in a group, which waits for ever with a child of its own.
fn inhabitant(group: &OwnedFd) -> std::process::Child {
    let mut shell = Command::new("sh")
        .args(["-c", "read go; sleep 1000 & echo here; wait"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let procs = openat(group, "cgroup.procs", OFlags::WRONLY, Mode::empty()).unwrap();
    rustix::io::write(&procs, shell.id().to_string().as_bytes()).unwrap();
    shell.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut here = [0; 5];
    shell.stdout.as_mut().unwrap().read_exact(&mut here).unwrap();
    shell
}

#[test]
fn a_group_is_made_killed_emptied_and_removed() {
    let place = Place::new();
    let id = SandboxId::random();
    let group = place.0.create(id, &Limits::default()).unwrap();
    assert_eq!(place.0.list().unwrap(), [id]);
    assert!(group.exists());
    assert!(group.wait_empty(Duration::ZERO).unwrap());
    let mut agent = inhabitant(&group.open_agent().unwrap());
    let mut bridge = inhabitant(&group.open_bridge().unwrap());
    assert!(!group.wait_empty(Duration::from_millis(10)).unwrap());
    assert!(group.remove().is_err(), "it is inhabited");
    group.kill().unwrap();
    assert!(group.wait_empty(Duration::from_secs(10)).unwrap());
    assert!(!agent.wait().unwrap().success() && !bridge.wait().unwrap().success());
    group.remove().unwrap();
    assert!(!group.exists());
}

#[test]
fn an_agent_is_killed_alone() {
    let place = Place::new();
    let group = place.0.create(SandboxId::random(), &Limits::default()).unwrap();
    let mut agent = inhabitant(&group.open_agent().unwrap());
    let mut bridge = inhabitant(&group.open_bridge().unwrap());
    group.kill_agent().unwrap();
    assert!(!agent.wait().unwrap().success());
    assert!(bridge.try_wait().unwrap().is_none());
    group.kill().unwrap();
    assert!(!bridge.wait().unwrap().success());
}

#[test]
fn groups_that_somebody_else_has_made_in_there_go_as_well() {
    let place = Place::new();
    let group = place.0.create(SandboxId::random(), &Limits::default()).unwrap();
    for other in ["agent/a/b", "other"] {
        fs::create_dir_all(group.path().join(other)).unwrap();
    }
    group.remove().unwrap();
    assert!(!group.exists());
}

#[test]
fn what_is_not_there_is_gone_already() {
    let place = Place::new();
    let group = place.0.group(SandboxId::random());
    group.kill_agent().unwrap();
    group.kill().unwrap();
    assert!(group.wait_empty(Duration::ZERO).unwrap());
    group.remove().unwrap();
    assert_eq!((group.stats(), group.oom_kills()), (Stats::default(), 0));
    assert!(group.open_agent().is_err());
}

#[test]
fn an_agent_stands_still_until_it_is_let_go_on() {
    let place = Place::new();
    let group = place.0.create(SandboxId::random(), &Limits::default()).unwrap();
    let mut agent = inhabitant(&group.open_agent().unwrap());
    let events = group.path().join("agent/cgroup.events");
    let stands = || fs::read_to_string(&events).unwrap().contains("frozen 1");
    let frozen = group.freeze(Duration::from_secs(10)).unwrap().unwrap();
    assert!(stands());
    drop(frozen);
    assert!(!stands());
    // One that nobody lets go on can still be ended, and let go on by whoever comes next.
    std::mem::forget(group.freeze(Duration::from_secs(10)).unwrap());
    assert!(stands());
    group.thaw().unwrap();
    assert!(!stands());
    std::mem::forget(group.freeze(Duration::from_secs(10)).unwrap());
    group.kill().unwrap();
    agent.wait().unwrap();
    assert!(group.wait_empty(Duration::from_secs(10)).unwrap());
    group.remove().unwrap();
    assert!(group.freeze(Duration::ZERO).unwrap().is_none());
    group.thaw().unwrap();
}

#[test]
fn an_agent_that_several_hold_goes_on_behind_the_last_of_them() {
    let place = Place::new();
    let id = SandboxId::random();
    let group = place.0.create(id, &Limits::default()).unwrap();
    let mut agent = inhabitant(&group.open_agent().unwrap());
    let events = group.path().join("agent/cgroup.events");
    let stands = || fs::read_to_string(&events).unwrap().contains("frozen 1");
    let freeze = || place.0.group(id).freeze(Duration::from_secs(10)).unwrap();
    let (resting, cut) = (freeze(), freeze());
    drop(cut);
    assert!(stands());
    let other = freeze();
    drop(resting);
    assert!(stands());
    drop(other);
    assert!(!stands());
    drop(freeze());
    assert!(!stands(), "whoever held it before does so no more");
    group.kill().unwrap();
    agent.wait().unwrap();
}

#[test]
fn a_group_is_not_made_twice() {
    let place = Place::new();
    let id = SandboxId::random();
    let group = place.0.create(id, &Limits::default()).unwrap();
    assert!(place.0.create(id, &Limits::default()).is_err());
    assert!(group.open_agent().is_ok(), "the first one is as it was");
}

#[test]
fn a_root_beside_the_services_group_is_refused() {
    let chosen = |root, held| within(root, held).map(|chosen| chosen.map(Path::to_owned));
    let (held, below) = (Path::new("/c/unit"), Path::new("/c/unit/below"));
    for (root, held, expected) in [
        (None, Some(held), Some(held)),
        (Some(held), Some(held), Some(held)),
        (Some(below), Some(held), Some(below)),
        (Some(below), None, Some(below)),
        (None, None, None),
    ] {
        assert_eq!(chosen(root, held).unwrap().as_deref(), expected);
    }
    for root in ["/c", "/c/unit-2", "/other"] {
        let error = chosen(Some(Path::new(root)), Some(held)).unwrap_err();
        assert!(matches!(error, CgroupError::NotHeld { .. }), "{error}");
    }
}

#[test]
fn a_root_elsewhere_is_refused() {
    for root in ["/tmp/x", "/"] {
        let error = Cgroups::prepare(Some(Path::new(root)), "unused", true).unwrap_err();
        assert!(matches!(error, CgroupError::Outside { .. }), "{error}");
    }
}

#[test]
fn limits_hold_or_their_absence_is_told() {
    let place = Place::new();
    if !place.0.missing().is_empty() {
        let mount = mount_point().unwrap();
        let error = Cgroups::prepare(Some(&place.0.root), "unused", false).unwrap_err();
        let mend = mend(&mount, &controllers_of(&mount));
        assert!(error.to_string().ends_with(&format!("; {mend}")), "{error}");
        println!("SKIP: {}", place.0.missing().join("; "));
        return;
    }
    let limits = Limits { pids: 7, cpus: 0.5, ..Limits::default() };
    let group = place.0.create(SandboxId::random(), &limits).unwrap();
    let read = |name: &str| {
        let path = place.0.root.join(place.0.list().unwrap()[0].to_string()).join("agent");
        fs::read_to_string(path.join(name)).unwrap().trim().to_owned()
    };
    assert_eq!(read("pids.max"), "7");
    assert_eq!(read("cpu.max"), "50000 100000");
    assert_eq!(read("memory.max"), limits.memory.to_string());
    assert_eq!(read("memory.oom.group"), "1");
    assert_eq!(group.stats().pids, 0);
}

/// What is written and read, on files that only look like those of a group: for machines whose
/// controllers belong to version 1.
#[test]
fn limits_and_statistics_have_the_kernels_form() {
    let dir = tempfile::tempdir().unwrap();
    let group = Group::at(dir.path().to_owned(), Holders::default());
    group.make(&["cpu", "memory", "pids"]).unwrap();
    let file = |name: &str| dir.path().join(name);
    assert_eq!(fs::read_to_string(file("cgroup.subtree_control")).unwrap(), "+cpu +memory +pids");
    for child in ["agent", "bridge"] {
        fs::write(file(&format!("{child}/cpu.max")), "max 100000\n").unwrap();
        fs::write(file(&format!("{child}/memory.swap.max")), "max\n").unwrap();
    }
    let limits = Limits { memory: 1 << 30, pids: 7, cpus: 1.5, ..Limits::default() };
    group.limit(&["cpu", "memory", "pids"], &limits).unwrap();
    for (name, expected) in [
        ("agent/memory.max", "1073741824"),
        ("agent/memory.swap.max", "0"),
        ("agent/memory.oom.group", "1"),
        ("agent/pids.max", "7"),
        ("agent/cpu.max", "150000 100000"),
        ("bridge/memory.max", "536870912"),
        ("bridge/pids.max", "64"),
        ("bridge/cpu.max", "max 100000\n"),
    ] {
        assert_eq!(fs::read_to_string(file(name)).unwrap(), expected, "{name}");
    }
    fs::write(file("agent/memory.current"), "4096\n").unwrap();
    fs::write(file("agent/memory.peak"), "8192\n").unwrap();
    fs::write(file("agent/memory.events"), "low 0\noom 2\noom_kill 3\n").unwrap();
    fs::write(file("agent/pids.current"), "5\n").unwrap();
    fs::write(file("agent/cpu.stat"), "usage_usec 77\nuser_usec 1\n").unwrap();
    let io = "8:0 rbytes=100 wbytes=7 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=11 wbytes=0\n";
    fs::write(file("agent/io.stat"), io).unwrap();
    let (memory, memory_peak, cpu_us) = (4096, 8192, 77);
    let expected = Stats { memory, memory_peak, pids: 5, cpu_us, read: 111, written: 7 };
    assert_eq!((group.stats(), group.oom_kills()), (expected, 3));
    assert_eq!(group.cpu_us(), cpu_us);
}

#[test]
fn memory_is_given_back_in_slices_until_somebody_wants_the_agent_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let group = Group::at(dir.path().to_owned(), Holders::default());
    group.make(&[]).unwrap();
    let file = |name: &str| dir.path().join("agent").join(name);
    let go_on = AtomicBool::new(false);
    assert_eq!(group.reclaim(&go_on).unwrap(), 0, "there is no controller");
    let asked = |stop: &AtomicBool| {
        fs::write(file("memory.current"), "20000000\n").unwrap();
        fs::write(file("memory.reclaim"), "").unwrap();
        fs::write(file("memory.swap.max"), "max\n").unwrap();
        let given = group.reclaim(stop).unwrap();
        assert_eq!(fs::read_to_string(file("memory.swap.max")).unwrap(), "0");
        (given, fs::read_to_string(file("memory.reclaim")).unwrap())
    };
    // The last slice; a file that only looks like the kernel's gives nothing.
    assert_eq!(asked(&go_on), (0, (20_000_000 - 16 * 1024 * 1024).to_string()));
    go_on.store(true, Ordering::Relaxed);
    assert_eq!(asked(&go_on), (0, String::new()));
    fs::write(file("memory.swap.max"), "max").unwrap();
    fs::write(file("cgroup.freeze"), "1").unwrap();
    group.thaw().unwrap();
    let read = |name: &str| fs::read_to_string(file(name)).unwrap();
    assert_eq!((read("cgroup.freeze"), read("memory.swap.max")), ("0".into(), "0".into()));
}

#[test]
fn whose_memory_ran_out_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let group = Group::at(dir.path().to_owned(), Holders::default());
    group.make(&[]).unwrap();
    assert_eq!(group.out_of_memory(), None);
    for (events, expected) in [
        ("max 9\noom 0\noom_kill 0\noom_group_kill 0\n", None),
        ("max 9\noom 1\noom_kill 0\noom_group_kill 0\n", None),
        ("max 9\noom 1\noom_kill 4\noom_group_kill 1\n", Some(OutOfMemory::Sandbox)),
        ("max 0\noom 0\noom_kill 4\noom_group_kill 1\n", Some(OutOfMemory::Server)),
    ] {
        fs::write(dir.path().join("agent/memory.events"), events).unwrap();
        assert_eq!(group.out_of_memory(), expected, "{events}");
    }
}

#[test]
fn the_mend_depends_on_who_has_the_controllers() {
    let unified = Path::new("/sys/fs/cgroup");
    assert!(mend(unified, "cpuset cpu io memory pids").contains("Delegate=yes"));
    assert!(mend(unified, "cpu io pids").contains("cgroup_disable="));
    let beside = Path::new("/sys/fs/cgroup/unified");
    assert!(mend(beside, "").contains("systemd.unified_cgroup_hierarchy=1"));
}
