//! What `ashd` tells the broker, and what it hears.

use std::fs;
use std::os::fd::AsFd;
use std::time::Duration;

use ash_broker::control::{self, Control, Error, Launch, Limits};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tracing::level_filters::LevelFilter;
use uuid::Uuid;

use crate::stage::{
    DOCUMENT, NOBODY, ROOT, Stage, Upstream, answer, connect, launch, launch_with, post, socket,
    soon,
};

#[tokio::test]
async fn a_replaced_grant_keeps_its_connections() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    let (id, path) = stage.grant("a").await;
    let mut open = connect(&path).await;
    open.write(post("/v1/messages", "{}")).await;
    let mut api = upstream.accept().await;
    api.until("{}").await;
    // The same path, another socket.
    assert_eq!(stage.grant_to(id, "a", ROOT).await, path);
    api.write(answer("application/json", DOCUMENT)).await;
    open.until(DOCUMENT).await;
    let mut fresh = connect(&path).await;
    fresh.write("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    fresh.head().await;
    assert_eq!(stage.control.granted().await.unwrap(), [id]);
}

#[tokio::test]
async fn revoking_cuts() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    let (id, path) = stage.grant("a").await;
    let mut client = connect(&path).await;
    client.write(post("/v1/messages", "{}")).await;
    let mut api = upstream.accept().await;
    api.until("{}").await;
    stage.control.revoke(id).await.unwrap();
    assert_eq!(client.rest().await, "");
    assert_eq!(api.rest().await, "");
    assert!(tokio::net::UnixStream::connect(&path).await.is_err());
    assert_eq!(stage.control.granted().await.unwrap(), Vec::<Uuid>::new());
    stage.control.revoke(id).await.unwrap();
}

#[tokio::test]
async fn a_new_broker_serves_the_same_paths() {
    let upstream = Upstream::start().await;
    let mut stage = Stage::new(&upstream).await;
    let (id, path) = stage.grant("a").await;
    let mut open = connect(&path).await;
    open.write("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    open.head().await;
    stage.restart().await;
    assert_eq!(open.rest().await, "");
    assert_eq!(stage.control.granted().await.unwrap(), Vec::<Uuid>::new());
    stage.grant_to(id, "a", ROOT).await;
    let mut client = connect(&path).await;
    client.write("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await;
}

#[tokio::test]
async fn a_key_is_replaced_for_the_next_request() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    let (mut client, mut api) = stage.asked(&upstream).await;
    stage.key("another").await;
    api.write(answer("application/json", "{}")).await;
    client.until("\r\n\r\n{}").await;
    client.write(post("/v1/messages", "{}")).await;
    assert!(api.until("{}").await.contains("x-api-key: another\r\n"));
}

#[tokio::test]
async fn a_key_that_is_taken_back_is_gone() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    stage.control.forget_key().await.unwrap();
    assert_eq!(stage.control.standing().await.unwrap().has_key, Some(false));
    let mut client = stage.client().await;
    client.write(post("/v1/messages", "{}")).await;
    let reply = client.rest().await;
    assert!(reply.starts_with("HTTP/1.1 401 "), "{reply}");
    assert!(reply.contains("no model API key is configured"), "{reply}");
    upstream.assert_untouched().await;
}

#[tokio::test]
async fn whether_there_is_a_key_is_no_secret() {
    let stage = Stage::bare().await;
    assert_eq!(stage.control.standing().await.unwrap().has_key, Some(false));
    stage.key("a").await;
    let (_, _) = stage.grant("a").await;
    assert_eq!(stage.control.standing().await.unwrap().has_key, Some(true));
}

#[tokio::test]
async fn who_waits_for_the_model_is_said_until_the_answer_ends() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    let (_, quiet) = stage.grant("quiet").await;
    let (id, path) = stage.grant("a").await;
    let mut open = connect(&quiet).await;
    open.write("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    open.head().await;
    assert_eq!(stage.control.asking().await.unwrap(), Some(vec![]));
    let mut client = connect(&path).await;
    client.write(post("/v1/messages", "{}")).await;
    let mut api = upstream.accept().await;
    api.until("{}").await;
    assert_eq!(stage.control.asking().await.unwrap(), Some(vec![id]));
    api.write(answer("application/json", DOCUMENT)).await;
    client.until(DOCUMENT).await;
    soon(async { while stage.control.asking().await.unwrap() != Some(vec![]) {} }).await;
}

#[tokio::test]
async fn the_next_ashd_adopts_grants_and_hears_what_it_missed() {
    let upstream = Upstream::start().await;
    let mut stage = Stage::new(&upstream).await;
    let (id, path) = stage.grant("a").await;
    let (control, events) = Control::connect(&socket(stage.dir.path())).await.unwrap();
    assert_eq!(control.granted().await.unwrap(), [id]);
    // The broker talks to one at a time; what was connected before hears the end.
    assert_eq!(soon(stage.events.next()).await, None);
    assert!(matches!(stage.control.revoke(id).await, Err(Error::Gone | Error::Io(_))));
    drop((control, events));
    let mut client = connect(&path).await;
    client.write(post("/v1/messages", "{}")).await;
    let mut api = upstream.accept().await;
    api.until("{}").await;
    api.write(answer("application/json", DOCUMENT)).await;
    client.until(DOCUMENT).await;
    (stage.control, stage.events) = Control::connect(&socket(stage.dir.path())).await.unwrap();
    assert_eq!(stage.usage().await.sandbox, id);
}

#[tokio::test]
async fn all_grants_are_listed() {
    let stage = Stage::bare().await;
    let listener = UnixListener::bind(stage.dir.path().join("a")).unwrap();
    let mut ids: Vec<Uuid> = (0..2001).map(|_| Uuid::new_v4()).collect();
    for id in &ids {
        stage.control.grant(*id, ROOT, listener.as_fd()).await.unwrap();
    }
    ids.sort_unstable();
    assert_eq!(stage.control.granted().await.unwrap(), ids);
    assert_eq!(stage.control.asking().await.unwrap(), Some(vec![]));
}

#[tokio::test]
async fn only_root_controls() {
    let stage = Stage::bare().await;
    let path = socket(stage.dir.path());
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(&path, permissions).unwrap();
    let stranger = std::thread::spawn(move || {
        let uid = rustix::process::Uid::from_raw(NOBODY);
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (control, _events) = Control::connect(&path).await.unwrap();
            soon(control.granted()).await
        })
    });
    let refused = tokio::task::spawn_blocking(|| stranger.join().unwrap()).await.unwrap();
    assert!(matches!(refused, Err(Error::Gone | Error::Io(_))), "{refused:?}");
    assert_eq!(stage.control.granted().await.unwrap(), Vec::<Uuid>::new());
}

#[tokio::test]
async fn odd_requests_are_refused_and_change_nothing() {
    let upstream = Upstream::start().await;
    let stage = Stage::new(&upstream).await;
    let secret = control::secret(b"not a socket").unwrap();
    let refused = stage.control.grant(Uuid::new_v4(), ROOT, secret.as_fd()).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    let refused = stage.control.key(control::secret(b" ").unwrap().as_fd()).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    let mut settings = upstream.settings(Limits::default());
    settings.upstream = "http://api.example".into();
    let refused = stage.control.configure(&settings, None).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    let mut client = stage.client().await;
    client.write(post("/v1/messages", "{}")).await;
    upstream.accept().await.until("{}").await;
}

#[tokio::test]
async fn an_unused_broker_leaves() {
    let dir = TempDir::new().unwrap();
    let mut child = launch(dir.path(), Some(Duration::from_secs(1)));
    let (control, _events) = Control::connect(&socket(dir.path())).await.unwrap();
    let path = dir.path().join("a");
    let listener = UnixListener::bind(&path).unwrap();
    control.grant(Uuid::new_v4(), ROOT, listener.as_fd()).await.unwrap();
    let mut client = connect(&path).await;
    client.write("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await;
    drop(control);
    // Longer than it waits: the open connection holds it.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(child.try_wait().unwrap().is_none());
    drop(client);
    let status = tokio::task::spawn_blocking(move || child.wait());
    assert!(soon(status).await.unwrap().unwrap().success());
}

#[tokio::test]
async fn a_broker_outlives_whoever_reads_its_log() {
    let dir = TempDir::new().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut child = launch_with(dir.path(), None, writer);
    drop(reader);
    for _ in 0..3 {
        let (control, _events) = Control::connect(&socket(dir.path())).await.unwrap();
        assert_eq!(control.granted().await.unwrap(), Vec::<Uuid>::new());
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_program_that_its_user_cannot_reach_is_started() {
    // Nobody but root may search a new temporary directory.
    let dir = TempDir::new().unwrap();
    let program = dir.path().join("ash-broker");
    fs::copy(env!("CARGO_BIN_EXE_ash-broker"), &program).unwrap();
    let listener = control::listen(&socket(dir.path())).unwrap();
    let launch = Launch {
        program: &program,
        uid: NOBODY,
        gid: NOBODY,
        exit_when_unused: None,
        log: LevelFilter::INFO,
    };
    let mut child = launch.start(listener, |mut command| command.spawn()).unwrap();
    let (control, _events) = Control::connect(&socket(dir.path())).await.unwrap();
    assert_eq!(control.granted().await.unwrap(), Vec::<Uuid>::new());
    child.kill().unwrap();
    child.wait().unwrap();
}
