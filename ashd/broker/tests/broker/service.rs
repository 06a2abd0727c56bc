//! What a service manager does with it: gives it the key, and tells it to end.

use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ash_broker::control::{self, Control, Event, Limits};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::UnixListener;
use uuid::Uuid;

use crate::stage::{
    CANARY, DOCUMENT, EVENTS, NOBODY, STREAM, Stage, Upstream, answer, chunk, connect, post,
    socket, soon,
};

fn terminate(child: &Child) {
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
}

/// Started as its unit does, with this credential.
fn with_credential(dir: &Path, name: &str, key: &str) -> Child {
    // The broker's user reads it; the program's own directory it could not reach.
    let readable = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    readable(dir);
    fs::write(dir.join(name), key).unwrap();
    readable(&dir.join(name));
    let program = dir.join("ash-broker");
    fs::copy(env!("CARGO_BIN_EXE_ash-broker"), &program).unwrap();
    let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = Command::new(program);
    command.stdin(Stdio::from(control::listen(&socket(dir)).unwrap())).stderr(log);
    command.env_clear().env("CREDENTIALS_DIRECTORY", dir).uid(NOBODY).gid(NOBODY);
    command.spawn().unwrap()
}

#[tokio::test]
async fn the_key_comes_as_a_credential() {
    for name in ["ash-model-key", "ash-model-key.sealed"] {
        let (dir, upstream) = (TempDir::new().unwrap(), Upstream::start().await);
        let child = with_credential(dir.path(), name, &format!("{CANARY}\n"));
        let (control, events) = soon(Control::connect(&socket(dir.path()))).await.unwrap();
        control.configure(&upstream.settings(Limits::default()), None).await.unwrap();
        let stage = Stage { dir, child, control, events };
        let mut client = stage.client().await;
        client.write(post("/v1/messages", "{}")).await;
        let mut api = upstream.accept().await;
        assert!(api.until("{}").await.contains(CANARY));
        api.write(answer("application/json", DOCUMENT)).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn a_credential_of_no_use_is_told_and_the_sandboxes_hear_that_there_is_no_key() {
    let (dir, upstream) = (TempDir::new().unwrap(), Upstream::start().await);
    let child = with_credential(dir.path(), "ash-model-key", "two\nlines");
    let (control, events) = soon(Control::connect(&socket(dir.path()))).await.unwrap();
    control.configure(&upstream.settings(Limits::default()), None).await.unwrap();
    let stage = Stage { dir, child, control, events };
    assert!(
        stage.log().contains("is of no use: the model API key has characters"),
        "{}",
        stage.log()
    );
    let mut client = stage.client().await;
    client.write(post("/v1/messages", "{}")).await;
    assert!(!client.head().await.starts_with("HTTP/1.1 200 "));
    upstream.assert_untouched().await;
}

#[tokio::test]
async fn told_to_end_it_brings_answers_to_their_end_and_reports_them() {
    let upstream = Upstream::start().await;
    let mut stage = Stage::new(&upstream).await;
    let (_, path) = stage.grant("busy").await;
    let (mut busy, mut idle) = (connect(&path).await, stage.client().await);
    busy.write(post("/v1/messages", "{}")).await;
    let mut api = upstream.accept().await;
    api.until("{}").await;
    api.write(format!("{STREAM}{}", chunk(EVENTS[0]))).await;
    busy.until(EVENTS[0]).await;
    terminate(&stage.child);
    assert_eq!(soon(stage.events.next()).await, Some(Event::Leaving));
    // Who waits between two requests is let go; who comes is not heard.
    assert_eq!(idle.rest().await, "");
    assert!(soon(tokio::net::UnixStream::connect(&path)).await.is_err());
    api.write(format!("{}{}0\r\n\r\n", chunk(EVENTS[1]), chunk(EVENTS[2]))).await;
    assert!(busy.rest().await.ends_with("0\r\n\r\n"));
    let usage = stage.usage().await;
    assert_eq!((usage.complete, usage.tokens.output_tokens), (true, 45));
    assert_eq!(soon(stage.events.next()).await, None);
    let ended = soon(tokio::task::spawn_blocking(move || stage.child.wait().map(|s| (s, stage))));
    let (status, stage) = ended.await.unwrap().unwrap();
    assert!(status.success(), "{}", stage.log());
}

#[tokio::test]
async fn told_to_end_with_nothing_under_way_it_ends() {
    let upstream = Upstream::start().await;
    let mut stage = Stage::new(&upstream).await;
    let listener = UnixListener::bind(stage.dir.path().join("other")).unwrap();
    stage.control.grant(Uuid::new_v4(), 0, listener.as_fd()).await.unwrap();
    terminate(&stage.child);
    assert_eq!(soon(stage.events.next()).await, Some(Event::Leaving));
    assert_eq!(soon(stage.events.next()).await, None);
}
