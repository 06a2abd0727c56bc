use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use ash_broker::server::{self, Begin};

use super::*;

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
    broker.grant(sandbox, 0).await.unwrap();
    broker.adopt(SandboxId::random(), 0).await.unwrap();
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
