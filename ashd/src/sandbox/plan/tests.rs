use super::*;

fn spec() -> Spec {
    Spec {
        sandbox: "3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b".parse().unwrap(),
        uids: Uids { bridge: 1_879_048_194, agent: 1_879_048_195 },
        runtime: "/usr/lib/ash/claude".into(),
        workspace: "/var/lib/ash/sessions/s/workspace".into(),
        home: "/var/lib/ash/sessions/s/home".into(),
        model_dir: "/run/ash/model/3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b".into(),
        files: vec![placed("/etc/claude-code/managed-settings.json")],
        limits: Limits::default(),
        hostname: "hello-world".into(),
        orphan_timeout_s: 300,
    }
}

fn placed(target: &str) -> PlacedFile {
    PlacedFile { target: target.into(), mode: 0o644, bytes: Bytes::from_static(b"{}") }
}

fn host() -> Host {
    let link = |name: &str| (format!("/{name}"), Some(format!("usr/{name}")));
    let mut usr_links: Vec<_> = ["bin", "lib", "sbin"].map(link).into();
    usr_links.push(("/lib64".into(), None));
    Host { usr_links }
}

#[test]
fn a_plan_is_what_it_always_was() {
    let (plan, contents) = plan(&spec(), &host()).unwrap();
    assert_eq!(plan.files.len(), contents.len());
    insta::assert_json_snapshot!(plan);
}

#[test]
fn the_made_up_files_say_who_and_where() {
    let (plan, contents) = plan(&spec(), &host()).unwrap();
    let text: Vec<_> = plan
        .files
        .iter()
        .zip(&contents)
        .map(|(file, bytes)| format!("== {}\n{}", file.target, String::from_utf8_lossy(bytes)))
        .collect();
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn everything_has_its_directory_before_it_and_nothing_lies_in_a_writable_one() {
    let (plan, _) = plan(&spec(), &host()).unwrap();
    let mut made = BTreeSet::from(["".to_owned()]);
    let targets = plan.mounts.iter().map(|mount| match mount {
        Mount::Dir { target, .. } => (target, true),
        Mount::ReadOnly { target, .. }
        | Mount::Writable { target, .. }
        | Mount::Tmpfs { target, .. }
        | Mount::Symlink { target, .. }
        | Mount::Proc { target }
        | Mount::Dev { target, .. } => (target, false),
    });
    for (target, is_dir) in targets.chain(plan.files.iter().map(|file| (&file.target, false))) {
        let (parent, _) = target.rsplit_once('/').unwrap();
        assert!(made.contains(parent), "{target} has no parent");
        for writable in [WORKSPACE, HOME, "/tmp"] {
            assert!(!target.starts_with(&format!("{writable}/")), "{target}");
        }
        if is_dir {
            made.insert(target.clone());
        }
    }
}

#[test]
fn the_hosts_private_places_are_not_there() {
    let (plan, _) = plan(&spec(), &host()).unwrap();
    let ours = ["/var/lib/ash/sessions/s/", "/run/ash/model/"];
    for mount in &plan.mounts {
        let (Mount::ReadOnly { source, .. } | Mount::Writable { source, .. }) = mount else {
            continue;
        };
        if ours.iter().any(|prefix| source.starts_with(prefix)) {
            continue;
        }
        for private in ["/home", "/root", "/var", "/run", "/boot", "/srv", "/opt"] {
            assert!(!Path::new(source).starts_with(private), "{source}");
        }
        assert!(source != "/etc" && source != "/etc/ssl", "{source}");
    }
}

#[test]
fn files_go_only_where_root_alone_writes() {
    for bad in [
        "etc/x",
        "/etc/../workspace/x",
        "/etc//x",
        "/workspace/x",
        "/home/agent/x",
        "/tmp/x",
        "/usr/bin/x",
        "/etc/ssl/certs/x",
        "/etc/passwd",
        "/opt/ash/claude",
        "/run/ash/model/api.sock",
        "",
        "/",
    ] {
        let mut spec = spec();
        spec.files = vec![placed(bad)];
        assert_eq!(plan(&spec, &host()), Err(PlanError::Target(bad.into())), "{bad}");
    }
}

#[test]
fn any_name_becomes_a_host_name() {
    let long = "x".repeat(255);
    for (name, expected) in [
        ("hello-world", "hello-world"),
        ("my_agent", "my-agent"),
        ("--bind", "bind"),
        ("_", "sandbox"),
        ("", "sandbox"),
        ("a b\n", "a-b"),
        (&long, &long[..63]),
    ] {
        assert_eq!(hostname(name), expected, "{name:?}");
    }
}

#[test]
fn more_files_than_a_launch_carries_are_refused() {
    let mut spec = spec();
    spec.files = (0..MAX_FILES).map(|n| placed(&format!("/etc/ash/{n}"))).collect();
    assert!(matches!(plan(&spec, &host()), Err(PlanError::TooManyFiles(_))));
}
