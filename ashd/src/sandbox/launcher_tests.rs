use std::fs::{self, File};
use std::io::{Read, Write};

use ash_wire::plan::Rlimits;
use tempfile::TempDir;
use tokio_seqpacket::UnixSeqpacketListener;
use tokio_seqpacket::ancillary::OwnedAncillaryMessage;

use super::*;
use crate::sandbox::socket;

fn setup(dir: &TempDir) -> LauncherSetup {
    LauncherSetup {
        socket: dir.path().join("s"),
        program: None,
        bwrap: "/b".into(),
        bridge: "/br".into(),
        sessions_dir: "/se".into(),
        broker_dir: "/bd".into(),
        runtime: "/r".into(),
        uid_base: 1000,
        uid_count: 10,
        exit_when_unused: Duration::from_secs(5),
        patience: Duration::from_millis(20),
    }
}

fn plan() -> Plan {
    Plan {
        sandbox: "s".into(),
        bridge_uid: 1,
        agent_uid: 2,
        hostname: "h".into(),
        mounts: Vec::new(),
        files: Vec::new(),
        rlimits: Rlimits { file_size: 1, open_files: 1 },
        orphan_timeout_s: 1,
    }
}

/// Takes one request: its sandbox, and what its descriptors hold.
async fn request(link: &UnixSeqpacket) -> (String, Vec<String>) {
    let (sandbox, files) = descriptors(link).await;
    let held = files.into_iter().map(|mut file| {
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    });
    (sandbox, held.collect())
}

/// Takes one request: its sandbox, and its descriptors.
async fn descriptors(link: &UnixSeqpacket) -> (String, Vec<File>) {
    let (mut bytes, mut space) = (vec![0; MAX_PLAN], [0; ANCILLARY]);
    let (info, ancillary) = link.recv_with_ancillary(&mut bytes, &mut space).await.unwrap();
    assert!(!info.truncated() && !info.ancillary_truncated());
    let plan: Plan = serde_json::from_slice(&bytes[..info.bytes_read()]).unwrap();
    let mut files = Vec::new();
    for message in ancillary.into_messages() {
        let OwnedAncillaryMessage::FileDescriptors(fds) = message else { continue };
        files.extend(fds.map(File::from));
    }
    (plan.sandbox, files)
}

fn greeting() -> Greeting {
    Greeting {
        version: LAUNCHER_VERSION,
        group: Some("/g".into()),
        sessions_dir: "/se".into(),
        broker_dir: "/bd".into(),
        uid_base: 1000,
        uid_count: 10,
    }
}

/// A launcher's end of a new conversation.
async fn accept(listener: &mut UnixSeqpacketListener, greeting: &Greeting) -> UnixSeqpacket {
    let link = listener.accept().await.unwrap();
    link.send(&serde_json::to_vec(greeting).unwrap()).await.unwrap();
    link
}

/// A launcher that was found, and the other end.
async fn found(dir: &TempDir) -> (Launcher, UnixSeqpacket, UnixSeqpacketListener) {
    let mut listener = UnixSeqpacketListener::bind(dir.path().join("s")).unwrap();
    let greeting = greeting();
    let (launcher, link) = tokio::join!(
        Launcher::start(setup(dir), Children::default()),
        accept(&mut listener, &greeting)
    );
    (launcher.unwrap(), link, listener)
}

async fn reply(link: &UnixSeqpacket, reply: Reply) {
    link.send(&serde_json::to_vec(&reply).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_request_brings_its_descriptors_in_order_and_an_answer_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (launcher, link, _listener) = found(&dir).await;
    assert_eq!(launcher.group(), Some("/g"));
    let fds: Vec<_> = (0..FIXED_FDS + MAX_FILES)
        .map(|n| socket::sealed(n.to_string().as_bytes()).unwrap())
        .collect();
    let server = async {
        let (sandbox, held) = request(&link).await;
        reply(&link, Reply::Launched { pid: 7 }).await;
        request(&link).await;
        reply(&link, Reply::Refused { reason: "no".into() }).await;
        (sandbox, held)
    };
    let client = async {
        assert_eq!(launcher.launch(&plan(), &fds).await.unwrap(), 7);
        launcher.launch(&plan(), &fds).await.unwrap_err()
    };
    let (error, (sandbox, held)) = tokio::join!(client, server);
    assert!(matches!(error, LauncherError::Refused(reason) if reason == "no"));
    let expected: Vec<_> = (0..FIXED_FDS + MAX_FILES).map(|n| n.to_string()).collect();
    assert_eq!((sandbox.as_str(), held), ("s", expected));
}

#[tokio::test]
async fn a_launcher_of_before_gets_what_it_joins_groups_by() {
    let dir = tempfile::tempdir().unwrap();
    let mut listener = UnixSeqpacketListener::bind(dir.path().join("s")).unwrap();
    let groups = ["bridge", "agent"].map(|name| {
        let group = dir.path().join(name);
        fs::create_dir(&group).unwrap();
        fs::write(group.join("cgroup.procs"), "").unwrap();
        OwnedFd::from(File::open(&group).unwrap())
    });
    let [bridge, agent] = groups;
    let fds = [File::open("/dev/null").unwrap().into(), bridge, agent];
    let greeting = Greeting { version: GROUPS_AS_DIRECTORIES - 1, ..greeting() };
    let server = async {
        let link = accept(&mut listener, &greeting).await;
        for fd in descriptors(&link).await.1.iter_mut().skip(1) {
            fd.write_all(b"0").unwrap();
        }
        reply(&link, Reply::Launched { pid: 9 }).await;
    };
    let client = async {
        let launcher = Launcher::start(setup(&dir), Children::default()).await.unwrap();
        launcher.launch(&plan(), &fds).await.unwrap()
    };
    assert_eq!(tokio::join!(client, server).0, 9);
    for name in ["bridge/cgroup.procs", "agent/cgroup.procs"] {
        assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), "0");
    }
}

#[tokio::test]
async fn a_launcher_that_went_away_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let (launcher, link, mut listener) = found(&dir).await;
    drop(link);
    let server = async {
        // Hangs up in the middle of a request, then serves.
        let link = accept(&mut listener, &greeting()).await;
        request(&link).await;
        drop(link);
        let link = accept(&mut listener, &greeting()).await;
        request(&link).await;
        reply(&link, Reply::Launched { pid: 8 }).await;
    };
    let client = async {
        let lost = launcher.launch(&plan(), &[]).await;
        assert!(matches!(lost, Err(LauncherError::Io(_))), "it may have begun: {lost:?}");
        assert_eq!(launcher.launch(&plan(), &[]).await.unwrap(), 8);
    };
    tokio::join!(client, server);
}

#[tokio::test]
async fn who_waits_behind_one_that_finds_none_does_not_look_for_it_again() {
    tokio::time::pause();
    let (dir, plan) = (tempfile::tempdir().unwrap(), plan());
    let setup = LauncherSetup { patience: PATIENCE, ..setup(&dir) };
    let (children, slot) = (Children::default(), Mutex::default());
    let launcher = Launcher { setup, children, group: None, slot };
    let begun = Instant::now();
    let (first, second, third) = tokio::join!(
        biased;
        launcher.launch(&plan, &[]),
        launcher.launch(&plan, &[]),
        launcher.launch(&plan, &[]),
    );
    let Err(LauncherError::NoService(cause)) = &first else { panic!("{first:?}") };
    for behind in [second, third] {
        let Err(LauncherError::Missed(why)) = &behind else { panic!("{behind:?}") };
        assert!(why.contains(&cause.to_string()), "{why}");
    }
    assert!(begun.elapsed() < 2 * PATIENCE, "{:?}", begun.elapsed());
    // Whoever comes later may find it.
    let later = launcher.launch(&plan, &[]).await;
    assert!(matches!(later, Err(LauncherError::NoService(_))), "{later:?}");
    tokio::time::resume();
    let mut listener = UnixSeqpacketListener::bind(dir.path().join("s")).unwrap();
    let server = async {
        let link = accept(&mut listener, &greeting()).await;
        request(&link).await;
        reply(&link, Reply::Launched { pid: 3 }).await;
    };
    let (pid, ()) = tokio::join!(launcher.launch(&plan, &[]), server);
    assert_eq!(pid.unwrap(), 3);
}

#[tokio::test]
async fn an_answer_that_nobody_waited_for_is_not_taken_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (launcher, link, mut listener) = found(&dir).await;
    let plan = plan();
    tokio::select! {
        _ = launcher.launch(&plan, &[]) => panic!("nobody answered"),
        _ = request(&link) => {}
    }
    // The other end may be gone already.
    let _ = link.send(br#"{"launched":{"pid":1}}"#).await;
    let server = async {
        let link = accept(&mut listener, &greeting()).await;
        request(&link).await;
        reply(&link, Reply::Launched { pid: 2 }).await;
    };
    let (pid, ()) = tokio::join!(launcher.launch(&plan, &[]), server);
    assert_eq!(pid.unwrap(), 2);
}

#[tokio::test]
async fn a_launcher_that_cannot_start_is_told() {
    let dir = tempfile::tempdir().unwrap();
    for program in ["/usr/bin/false", "/no/such/launcher"] {
        let setup = LauncherSetup { program: Some(program.into()), ..setup(&dir) };
        let error = Launcher::start(setup, Children::default()).await.unwrap_err();
        assert!(matches!(error, LauncherError::Start(_)), "{error}");
    }
    let nobody = Launcher::start(setup(&dir), Children::default()).await;
    assert!(matches!(nobody, Err(LauncherError::NoService(_))));
}

#[tokio::test]
async fn a_plan_too_long_for_a_packet_is_refused_before_it_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (launcher, _link, _listener) = found(&dir).await;
    let long = Plan { hostname: "h".repeat(MAX_PLAN), ..plan() };
    assert!(matches!(launcher.launch(&long, &[]).await, Err(LauncherError::TooLong(_))));
}

#[tokio::test]
async fn a_launcher_that_was_told_something_else_is_refused() {
    let odd = [
        Greeting { version: LAUNCHER_VERSION + 1, ..greeting() },
        Greeting { version: OLDEST_LAUNCHER_VERSION - 1, ..greeting() },
        Greeting { sessions_dir: "/elsewhere".into(), ..greeting() },
        Greeting { broker_dir: "/elsewhere".into(), ..greeting() },
        Greeting { uid_base: 7, ..greeting() },
        Greeting { uid_count: 7, ..greeting() },
    ];
    for greeting in odd {
        let dir = tempfile::tempdir().unwrap();
        let mut listener = UnixSeqpacketListener::bind(dir.path().join("s")).unwrap();
        let (launcher, _link) = tokio::join!(
            Launcher::start(setup(&dir), Children::default()),
            accept(&mut listener, &greeting)
        );
        let refused = match launcher.unwrap_err() {
            LauncherError::Version(version) => version == greeting.version,
            LauncherError::Differs { theirs, ours, .. } => theirs != ours,
            _ => false,
        };
        assert!(refused, "{greeting:?}");
    }
}
