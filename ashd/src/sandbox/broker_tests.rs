use std::io::{Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use ash_broker::server::{self, Begin};

use super::*;

const ROOT: Peer = Peer { uid: 0, session: None };

fn setup(dir: &tempfile::TempDir) -> BrokerSetup {
    BrokerSetup {
        socket: dir.path().join("control"),
        model_dir: dir.path().join("model"),
        program: None,
        uid: 0,
        exit_when_unused: Duration::from_secs(60),
        settings: Settings {
            upstream: "http://127.0.0.1:9".into(),
            proxy: None,
            allow_plaintext: false,
            limits: Limits::default(),
        },
        ca: None,
        key: None,
        patience: Duration::from_millis(50),
        hope: Duration::from_secs(60),
        metrics: Arc::default(),
    }
}

/// Its socket is there, as that of a unit, and nobody accepts: it is draining, or does not begin.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_late_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let setup = setup(&dir);
    let listener = control::listen(&setup.socket).unwrap();
    let (broker, _usage) = Broker::start(setup, Children::default()).await.unwrap();
    let sandbox = SandboxId::random();
    broker.grant(sandbox, ROOT).await.unwrap();
    broker.adopt(SandboxId::random(), ROOT).await.unwrap();
    let mut client = UnixStream::connect(broker.directory(sandbox).join("api.sock")).unwrap();
    client.write_all(b"GET /v1/files HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();

    let begin = Begin { roots: rustls::RootCertStore::empty(), key: None, exit_when_unused: None };
    let listener = server::adopt(listener).unwrap();
    let serving = tokio::spawn(server::run(listener, begin, std::future::pending()));
    let mut answer = [0; 10];
    let read = move || client.read_exact(&mut answer).map(|()| answer);
    let answer = tokio::task::spawn_blocking(read).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    serving.abort();
}

/// What somebody in the sandbox is answered.
async fn told(broker: &Broker, sandbox: SandboxId) -> String {
    let path = broker.directory(sandbox).join("api.sock");
    let ask = move || {
        let mut client = UnixStream::connect(path)?;
        client.set_read_timeout(Some(Duration::from_secs(20)))?;
        client.write_all(b"GET /v1/files HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        client.read_to_string(&mut answer).map(|_| answer)
    };
    tokio::task::spawn_blocking(ask).await.unwrap().unwrap_or_default()
}

/// As when `ashd` is restarted while a broker leaves: the next one comes while sandboxes are taken
/// over. Whichever of the two sees to a sandbox, its socket is one that the broker has.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_meanwhile_has_every_socket() {
    let dir = tempfile::tempdir().unwrap();
    let setup = setup(&dir);
    let listener = control::listen(&setup.socket).unwrap();
    let (broker, _usage) = Broker::start(setup, Children::default()).await.unwrap();
    let begin = Begin { roots: rustls::RootCertStore::empty(), key: None, exit_when_unused: None };
    let listener = server::adopt(listener).unwrap();
    let serving = tokio::spawn(server::run(listener, begin, std::future::pending()));
    let mut taken_over = Vec::new();
    while broker.shared.control.borrow().is_none() {
        let sandbox = SandboxId::random();
        broker.adopt(sandbox, ROOT).await.unwrap();
        taken_over.push(sandbox);
    }
    for sandbox in taken_over {
        let answer = told(&broker, sandbox).await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{answer:?}");
    }
    serving.abort();
}

/// Neither a unit nor a program: every sandbox is told, those from before and new ones, until there
/// is a broker after all.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_come_is_not_waited_for_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let setup = BrokerSetup { hope: Duration::ZERO, ..setup(&dir) };
    let socket = setup.socket.clone();
    let (broker, _usage) = Broker::start(setup, Children::default()).await.unwrap();
    let (new, old) = (SandboxId::random(), SandboxId::random());
    broker.grant(new, ROOT).await.unwrap();
    broker.adopt(old, ROOT).await.unwrap();
    for sandbox in [new, old] {
        let answer = told(&broker, sandbox).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("does not run"), "{answer}");
    }
    assert_eq!(broker.asking().await, Some([].into()));
    assert_eq!(broker.standing().await, Standing::default());
    let begin = Begin { roots: rustls::RootCertStore::empty(), key: None, exit_when_unused: None };
    let listener = server::adopt(control::listen(&socket).unwrap()).unwrap();
    let serving = tokio::spawn(server::run(listener, begin, std::future::pending()));
    broker.shared.reach().await.unwrap();
    for sandbox in [new, old] {
        let answer = told(&broker, sandbox).await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{answer}");
    }
    let Standing { refused, failed, .. } = broker.standing().await;
    assert_eq!((refused, failed), (Some(2), Some(Failures::default())));
    serving.abort();
}

/// A model API that has one answer, and gives it when it is told to. Returns its address, what says
/// that it was asked, and what tells it.
fn model() -> (String, mpsc::Receiver<()>, std::sync::mpsc::Sender<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (asked, is_asked) = mpsc::channel(1);
    let (go, may_go) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        asked.blocking_send(()).unwrap();
        may_go.recv().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
    });
    (address, is_asked, go)
}

/// What the last answers used is reported, though they end when the broker is not the one any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_leaves_is_heard_out() {
    let dir = tempfile::tempdir().unwrap();
    let (upstream, mut asked, go) = model();
    let settings = Settings { upstream, ..setup(&dir).settings };
    let key = Some(ModelKey(b"key".to_vec()));
    let setup = BrokerSetup { settings, key, patience: PATIENCE, ..setup(&dir) };
    let begin = Begin { roots: rustls::RootCertStore::empty(), key: None, exit_when_unused: None };
    let listener = server::adopt(control::listen(&setup.socket).unwrap()).unwrap();
    let (leave, leaving) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server::run(listener, begin, async { drop(leaving.await) }));
    let (broker, mut usage) = Broker::start(setup, Children::default()).await.unwrap();
    let sandbox = SandboxId::random();
    broker.grant(sandbox, ROOT).await.unwrap();
    let mut client = UnixStream::connect(broker.directory(sandbox).join("api.sock")).unwrap();
    client
        .write_all(b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    asked.recv().await.unwrap();
    assert_eq!(broker.asking().await, Some([sandbox].into()));
    leave.send(()).unwrap();
    broker.shared.control.subscribe().wait_for(Option::is_none).await.unwrap();
    assert_eq!(broker.asking().await, None);
    go.send(()).unwrap();
    let seen = usage.recv().await.unwrap();
    assert_eq!((seen.sandbox, seen.status, seen.complete), (sandbox.0, 200, true));
    serving.await.unwrap();
}

/// A broker without a key, which serves until it is aborted.
fn keyless(socket: &std::path::Path) -> tokio::task::JoinHandle<()> {
    let begin = Begin { roots: rustls::RootCertStore::empty(), key: None, exit_when_unused: None };
    let listener = server::adopt(control::listen(socket).unwrap()).unwrap();
    tokio::spawn(server::run(listener, begin, std::future::pending()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_taken_back_is_gone_from_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let key = || Some(ModelKey(b"key".to_vec()));
    let setup = BrokerSetup { key: key(), patience: PATIENCE, ..setup(&dir) };
    let serving = keyless(&setup.socket);
    let (broker, _usage) = Broker::start(setup, Children::default()).await.unwrap();
    assert_eq!(broker.has_key(), Some(true));
    broker.set_key(None).await.unwrap();
    assert_eq!(broker.has_key(), Some(false));
    broker.set_key(key()).await.unwrap();
    assert_eq!(broker.has_key(), Some(true));
    serving.abort();
}

/// A unit may be given another credential, with which it is restarted.
#[tokio::test(flavor = "multi_thread")]
async fn each_broker_that_begins_may_have_another_key() {
    let dir = tempfile::tempdir().unwrap();
    let setup = BrokerSetup { patience: PATIENCE, ..setup(&dir) };
    let socket = setup.socket.clone();
    let serving = keyless(&socket);
    let (broker, _usage) = Broker::start(setup, Children::default()).await.unwrap();
    let mut changes = broker.key_changes();
    let first = broker.key_epoch();
    serving.abort();
    let _ = serving.await;
    let serving = keyless(&socket);
    changes.changed().await.unwrap();
    let second = broker.key_epoch();
    broker.set_key(Some(ModelKey(b"key".to_vec()))).await.unwrap();
    assert!(first < second && second < broker.key_epoch());
    serving.abort();
}

/// As when `ashd` is restarted without the key that it had: the broker has outlived it.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_without_a_key_takes_that_of_the_one_before_back() {
    let dir = tempfile::tempdir().unwrap();
    let before = setup(&dir);
    let serving = keyless(&before.socket);
    let (control, _events) = Control::connect(&before.socket).await.unwrap();
    control.key(control::secret(b"key").unwrap().as_fd()).await.unwrap();
    drop(control);
    let setup = BrokerSetup { patience: PATIENCE, ..before };
    let (broker, _usage) = Broker::start(setup, Children::default()).await.unwrap();
    assert_eq!(broker.has_key(), Some(false));
    serving.abort();
}

/// A broker of before, which has a key and cannot forget it; until whoever asks has left.
fn older(listener: OwnedFd) {
    use rustix::net::{RecvFlags, SendFlags};

    rustix::io::ioctl_fionbio(&listener, false).unwrap();
    let link = rustix::net::accept(&listener).unwrap();
    let mut bytes = vec![0; 65536];
    loop {
        let heard = rustix::net::recv(&link, &mut bytes[..], RecvFlags::empty());
        let Ok((count @ 1.., _)) = heard else { return };
        let ask: serde_json::Value = serde_json::from_slice(&bytes[..count]).unwrap();
        let outcome = if ask["request"] == "key" {
            serde_json::json!({"refused": {"message": "it needs one descriptor"}})
        } else if ask["request"]["list"].is_object() {
            serde_json::json!({"granted": {"sandboxes": [], "more": false, "has_key": true}})
        } else {
            serde_json::json!("done")
        };
        let reply = serde_json::json!({"reply": {"id": ask["id"], "outcome": outcome}});
        if rustix::net::send(&link, reply.to_string().as_bytes(), SendFlags::empty()).is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_before_keeps_its_key_and_is_of_use() {
    let dir = tempfile::tempdir().unwrap();
    let setup = BrokerSetup { patience: PATIENCE, ..setup(&dir) };
    let listener = control::listen(&setup.socket).unwrap();
    std::thread::spawn(move || older(listener));
    let (broker, _usage) = Broker::start(setup, Children::default()).await.unwrap();
    assert_eq!(broker.has_key(), Some(true));
    broker.set_key(None).await.unwrap();
    assert_eq!(broker.has_key(), Some(true));
    let Standing { refused, failed, .. } = broker.standing().await;
    assert!(refused.is_none() && failed.is_none());
}
