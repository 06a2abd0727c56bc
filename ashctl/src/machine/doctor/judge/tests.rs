//! Machines as they may be.

use super::super::finding::Grade;
use super::super::readings::{Config, Daemon, KeyFile, Readings};
use super::*;
use crate::machine::runtime::PINNED;
use crate::systemctl::{BROKER, SANDBOXES};

/// What is wrong with a machine that is fit otherwise.
type Spoil = fn(&mut Readings);

/// A machine as it should be.
fn fit() -> Readings {
    let mut fit = Readings {
        kernel: "6.12.9-amd64".into(),
        systemd: Some("systemd 257 (257.5-2)".into()),
        is_systemd_running: true,
        landlock: 6,
        seccomp: Some("kill_process trap errno user_notif allow".into()),
        is_clock_synchronised: Some(true),
        unit: Some("active".into()),
        helpers: [BROKER, SANDBOXES].map(|unit| (unit, Some("active".to_owned()))),
        daemon: Daemon::There("0.1.0".into(), vec![]),
        damaged: Some(0),
        has_polkit: Some(true),
        config: Config::Good([("http.port".to_owned(), "4100".to_owned())].into()),
        vulnerabilities: vec![("meltdown".into(), "Mitigation: PTI".into())],
        ..Readings::default()
    };
    let controllers = ["cpu", "io", "memory", "pids"].map(str::to_owned).to_vec();
    fit.cgroups.is_unified = true;
    fit.cgroups.delegated = Some(controllers.clone());
    fit.cgroups.controllers = controllers;
    fit.bwrap.system = Some("bubblewrap 0.11.0".into());
    fit.bwrap.copy = "/usr/lib/ash/bwrap".into();
    fit.bwrap.is_copy_current = Some(true);
    fit.modules.list = "lockdown,capability,landlock,apparmor".into();
    fit.user_namespaces.most = Some(31_000);
    fit.user_namespaces.are_for_everybody = true;
    fit.disk.path = "/var/lib/ash".into();
    fit.disk.kind = "ext4".into();
    (fit.disk.free, fit.disk.reserve) = (50 << 30, 1 << 30);
    fit.disk.can_reflink = Some(false);
    fit.runtime.program = "/usr/lib/ash/claude".into();
    fit.runtime.version = Some(PINNED.into());
    fit.runtime.is_executable = Some(true);
    fit.key.encrypted = Some(KeyFile { mode: 0o600, uid: 0 });
    fit.user.is_root = true;
    fit
}

fn told(readings: &Readings) -> String {
    all(readings).iter().map(Finding::text).collect()
}

/// The findings of a machine that is fit but for something, apart from those that are well.
fn without(spoil: impl FnOnce(&mut Readings)) -> Vec<(&'static str, Grade, String)> {
    let mut readings = fit();
    spoil(&mut readings);
    let bad = all(&readings).into_iter().filter(|finding| finding.grade != Grade::Ok);
    bad.map(|finding| {
        assert!(!finding.mend.is_empty(), "{}: no mend", finding.name);
        (finding.name, finding.grade, finding.detail)
    })
    .collect()
}

#[test]
fn a_fit_machine_is_told_to_be_fit() {
    insta::assert_snapshot!(told(&fit()));
}

#[test]
fn a_machine_that_has_nothing_is_told_all_of_it() {
    insta::assert_snapshot!(told(&Readings::default()));
}

#[test]
fn what_is_needed_and_not_there_is_missing() {
    let cases: &[(&str, Spoil)] = &[
        ("Kernel", |it| it.kernel = "5.15.0-91-generic".into()),
        ("Kernel", |it| it.kernel = "6.0.19".into()),
        ("systemd", |it| it.systemd = Some("systemd 249 (249.11)".into())),
        ("Control groups", |it| it.cgroups.is_unified = false),
        ("Control groups", |it| it.cgroups.controllers.retain(|name| name != "memory")),
        ("Control groups", |it| it.cgroups.delegated = Some(vec!["pids".into()])),
        ("landlock", |it| it.landlock = 1),
        ("seccomp", |it| it.seccomp = None),
        ("bubblewrap", |it| it.bwrap.system = None),
        ("bubblewrap", |it| it.bwrap.system = Some("bubblewrap 0.7.0".into())),
        ("Disk", |it| it.disk.free = 1 << 29),
        ("CLI runtime", |it| it.runtime.is_executable = None),
        ("CLI runtime", |it| it.runtime.is_executable = Some(false)),
        ("Model key", |it| it.key.encrypted = None),
        ("Model key", |it| it.key.encrypted = Some(KeyFile { mode: 0o620, uid: 0 })),
        ("Model key", |it| it.key.encrypted = Some(KeyFile { mode: 0o600, uid: 7 })),
        ("Configuration", |it| it.config = Config::Bad("ashd.toml:3: is not TOML".into())),
        ("Daemon", |it| it.helpers[0].1 = Some("failed".into())),
        ("Daemon", |it| it.helpers[1].1 = Some("inactive".into())),
    ];
    for (name, spoil) in cases {
        let found = without(spoil);
        let found: Vec<_> = found.iter().map(|(name, grade, _)| (*name, *grade)).collect();
        assert_eq!(found, [(*name, Grade::Missing)]);
    }
}

#[test]
fn what_could_be_better_is_a_warning() {
    let cases: &[(&str, Spoil, &str)] = &[
        ("systemd", |it| it.is_systemd_running = false, "does not run this machine"),
        ("Control groups", |it| it.cgroups.controllers.retain(|name| name != "io"), "io"),
        ("landlock", |it| it.landlock = 2, "truncation"),
        ("bubblewrap", |it| it.bwrap.is_copy_current = None, "our copy"),
        ("bubblewrap", |it| it.bwrap.is_copy_current = Some(false), "another build"),
        ("Security modules", |it| it.modules.is_selinux_enforcing = Some(true), "SELinux"),
        ("Disk", |it| it.disk.free = 3 << 29, "close to the reserve"),
        ("CLI runtime", |it| it.runtime.version = Some("2.2.0".into()), PINNED),
        ("Clock", |it| it.is_clock_synchronised = Some(false), "not synchronised"),
        ("Clock", |it| it.is_clock_synchronised = None, "nobody can tell"),
        ("CPU mitigations", |it| it.is_smt_on = true, "SMT"),
        ("CPU mitigations", |it| it.vulnerabilities[0].1 = "Vulnerable".into(), "meltdown"),
        ("Daemon", |it| it.daemon = Daemon::Absent, "not on this bus"),
        (
            "Daemon",
            |it| (it.unit, it.daemon) = (Some("activating".into()), Daemon::Absent),
            "is tried again",
        ),
        ("Daemon", |it| it.daemon = Daemon::NoBus("gone".into()), "gone"),
        ("Daemon", |it| it.daemon = Daemon::Odd("no method".into()), "no method"),
        ("Daemon", |it| it.daemon = Daemon::There("1".into(), vec!["TCP".into()]), "TCP"),
        ("Checkpoints", |it| it.damaged = Some(3), "3 are known to be damaged"),
        ("Configuration", |it| it.config = Config::Unknown, "no ashd"),
        ("Configuration", |it| it.config = Config::Closed("a: closed".into()), "only root"),
    ];
    for (name, spoil, word) in cases {
        let found = without(spoil);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        assert_eq!((found[0].0, found[0].1), (*name, Grade::Warn));
        assert!(found[0].2.contains(word), "{found:?}");
    }
}

#[test]
fn the_key_may_be_elsewhere() {
    let absent = |change: Spoil| {
        without(|it| {
            it.key.encrypted = None;
            change(it);
        })
    };
    let good = |key: &str| Config::Good([(key.to_owned(), "[hidden]".to_owned())].into());
    assert_eq!(absent(|it| it.key.plain = Some(KeyFile { mode: 0o400, uid: 0 })), []);
    let configured = without(|it| {
        it.key.encrypted = None;
        it.config = good("model.key_file");
    });
    assert_eq!(configured, []);
    let shell = without(|it| {
        it.key.encrypted = None;
        it.key.is_in_environment = true;
        it.config = good("model.key");
    });
    assert_eq!(shell[0].1, Grade::Warn);
    assert_eq!(absent(|it| it.key.is_in_environment = true)[0].1, Grade::Warn);
    assert!(absent(|it| it.key.is_hidden = true)[0].2.contains("only root can see"));
}

#[test]
fn the_broker_knows_best_whether_it_has_a_key() {
    let graded = |is_at_broker: bool, change: Spoil| {
        let found = without(|it| {
            it.key.is_at_broker = Some(is_at_broker);
            change(it);
        });
        found.into_iter().next()
    };
    let absent: Spoil = |it| it.key.encrypted = None;
    let hidden: Spoil = |it| (it.key.encrypted, it.key.is_hidden) = (None, true);
    let open: Spoil = |it| {
        (it.key.encrypted, it.key.plain) = (None, Some(KeyFile { mode: 0o644, uid: 0 }));
    };
    assert_eq!([absent, hidden, |_| {}].map(|change| graded(true, change)), [None, None, None]);
    for (is_at_broker, change, word) in [
        (true, open, "open to others"),
        (false, open, "open to others"),
        (false, absent, "there is none"),
        (false, hidden, "there is none"),
        (false, |_: &mut Readings| {}, "the broker has none, but there is one: /etc/credstore"),
    ] {
        let (name, grade, detail) = graded(is_at_broker, change).unwrap();
        assert_eq!((name, grade), ("Model key", Grade::Missing));
        assert!(detail.contains(word), "{detail}");
    }
}

#[test]
fn an_encrypted_key_may_be_read_by_others_and_not_changed() {
    let found = |mode, uid| {
        let found = without(|it| it.key.encrypted = Some(KeyFile { mode, uid }));
        found.into_iter().next().map(|(_, grade, detail)| (grade, detail))
    };
    assert_eq!([found(0o600, 0), found(0o644, 0)], [None, None]);
    for (mode, uid) in [(0o664, 0), (0o646, 0), (0o600, 1000)] {
        let (grade, detail) = found(mode, uid).unwrap();
        assert_eq!(grade, Grade::Missing);
        assert!(detail.contains(".sealed can be changed by others"), "{detail}");
    }
}

#[test]
fn a_key_that_cannot_be_decrypted_is_told() {
    let found = without(|it| it.key.is_undecryptable = true);
    let [(name, grade, detail)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((*name, *grade), ("Model key", Grade::Missing));
    assert!(detail.contains("cannot decrypt") && detail.contains(".sealed"), "{detail}");
}

#[test]
fn what_could_not_be_tried_is_told_by_its_kind() {
    let shares = |can_reflink, kind: &str| {
        let mut readings = fit();
        (readings.disk.can_reflink, readings.disk.kind) = (can_reflink, kind.into());
        told(&readings).contains("share their blocks")
    };
    assert!(shares(Some(true), "ext4") && shares(None, "xfs"));
    assert!(!shares(Some(false), "xfs") && !shares(None, "ext4"));
}

#[test]
fn rights_depend_on_who_asks() {
    let graded = |in_group: bool, daemon: Daemon| {
        let found = without(|it| {
            it.user.is_root = false;
            it.user.is_in_group = in_group;
            it.daemon = daemon;
        });
        found.iter().find(|(name, ..)| *name == "Rights").map(|(_, grade, _)| *grade)
    };
    assert_eq!(graded(true, Daemon::There("1".into(), vec![])), None);
    assert_eq!(graded(false, Daemon::There("1".into(), vec![])), None);
    assert_eq!(graded(true, Daemon::Denied), Some(Grade::Missing));
    assert_eq!(graded(false, Daemon::Denied), Some(Grade::Missing));
    assert_eq!(graded(false, Daemon::Absent), Some(Grade::Warn));
}

#[test]
fn versions_may_stand_behind_a_word() {
    assert_eq!(version("systemd 252 (252.38)"), Some((252, 0)));
    assert_eq!(version("bubblewrap 0.11.0"), Some((0, 11)));
    assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
    assert_eq!(version("six"), None);
}

#[test]
fn troubleshooting_has_a_chapter_for_every_finding() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/troubleshooting.md");
    let text = std::fs::read_to_string(page).unwrap();
    let headings = text.lines().filter_map(|line| line.strip_prefix("## "));
    let headings: Vec<_> = headings.filter(|heading| !heading.starts_with("Beyond")).collect();
    let findings = all(&fit());
    let names: Vec<_> = findings.iter().map(|finding| finding.name).collect();
    assert_eq!(headings, names);
}
