//! What a service manager does with it: gives it the key, takes what it says, and tells it to end.

use std::env;
use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ash_broker::control::{self, Control, Event, Limits, Peer};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::{UnixDatagram, UnixListener};
use uuid::Uuid;

use crate::stage::{
    CANARY, DOCUMENT, EVENTS, NOBODY, ROOT, STREAM, Stage, Upstream, answer, chunk, connect, post,
    socket, soon,
};

fn terminate(child: &Child) {
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
}

/// Lets the broker's user in.
fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// What its unit starts, with standard error in the file `log`. The program's own directory it could
/// not reach.
fn unit(dir: &Path) -> (Command, File) {
    allow(dir, 0o755);
    let program = dir.join("ash-broker");
    fs::copy(env!("CARGO_BIN_EXE_ash-broker"), &program).unwrap();
    let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = Command::new(program);
    command.env_clear().stderr(log.try_clone().unwrap()).uid(NOBODY).gid(NOBODY);
    (command, log)
}

/// Started as its unit does, with this credential.
fn with_credential(dir: &Path, name: &str, key: &str) -> Child {
    let (mut command, _) = unit(dir);
    fs::write(dir.join(name), key).unwrap();
    allow(&dir.join(name), 0o644);
    command.stdin(control::listen(&socket(dir)).unwrap()).env("CREDENTIALS_DIRECTORY", dir);
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
async fn a_key_of_ashd_counts_until_it_is_taken_back_and_then_the_credential() {
    let (dir, upstream) = (TempDir::new().unwrap(), Upstream::start().await);
    let child = with_credential(dir.path(), "ash-model-key", CANARY);
    let (control, events) = soon(Control::connect(&socket(dir.path()))).await.unwrap();
    control.configure(&upstream.settings(Limits::default()), None).await.unwrap();
    let stage = Stage { dir, child, control, events };
    stage.key("another").await;
    stage.control.forget_key().await.unwrap();
    assert_eq!(stage.control.standing().await.unwrap().has_key, Some(true));
    let mut client = stage.client().await;
    client.write(post("/v1/messages", "{}")).await;
    let head = upstream.accept().await.until("{}").await;
    assert!(head.contains(&format!("x-api-key: {CANARY}\r\n")), "{head}");
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

fn pipe(path: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
}

#[tokio::test]
async fn a_credential_that_is_a_pipe_is_not_waited_for() {
    let dir = TempDir::new().unwrap();
    let (mut command, _) = unit(dir.path());
    pipe(&dir.path().join("ash-model-key"));
    command.stdin(control::listen(&socket(dir.path())).unwrap());
    let child = command.env("CREDENTIALS_DIRECTORY", dir.path()).spawn().unwrap();
    let (control, events) = soon(Control::connect(&socket(dir.path()))).await.unwrap();
    let stage = Stage { dir, child, control, events };
    assert_eq!(stage.control.standing().await.unwrap().has_key, Some(false));
    let log = stage.log();
    assert!(log.contains("the model API key cannot be read: it is no regular file"), "{log}");
}

/// Trying again would not help: 78 says so to the service manager.
#[test]
fn certificates_that_are_a_pipe_are_for_a_person_to_mend() {
    let dir = TempDir::new().unwrap();
    let (mut command, _) = unit(dir.path());
    pipe(&dir.path().join("pipe"));
    command.stdin(control::listen(&socket(dir.path())).unwrap());
    let status = command.env("SSL_CERT_FILE", dir.path().join("pipe")).status().unwrap();
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert_eq!(status.code(), Some(78), "{log}");
    assert!(log.contains("SSL_CERT_FILE names ") && log.contains("no regular file"), "{log}");
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
    stage.control.grant(Uuid::new_v4(), ROOT, listener.as_fd()).await.unwrap();
    terminate(&stage.child);
    assert_eq!(soon(stage.events.next()).await, Some(Event::Leaving));
    assert_eq!(soon(stage.events.next()).await, None);
}

/// Tells the child below that the journal is a socket of ours.
const CHILD: &str = "ASH_TEST_JOURNAL";

/// A journal of our own, at the journal's place, in a mount namespace that nobody else sees.
#[test]
fn what_it_says_of_a_session_is_found_in_the_journal() {
    let isolate = ["--mount", "--propagation", "private", "sh", "-c"];
    let permitted = Command::new("unshare").args(isolate).arg("true").status();
    if !permitted.is_ok_and(|status| status.success()) {
        println!("SKIP: mount namespaces are not permitted here");
        return;
    }
    let mut child = Command::new("unshare");
    child.args(isolate).arg("mount -t tmpfs none /run && exec \"$0\" \"$@\"");
    child.arg(env::current_exe().unwrap());
    child.args(["--exact", "service::child", "--nocapture"]).env(CHILD, "1");
    let output = child.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "there is no child");
}

/// No test of its own: see above.
#[tokio::test]
async fn child() {
    if env::var_os(CHILD).is_none() {
        return;
    }
    fs::create_dir_all("/run/systemd/journal").unwrap();
    let journal = UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
    allow(Path::new("/run/systemd"), 0o755);
    allow(Path::new("/run/systemd/journal"), 0o755);
    allow(Path::new("/run/systemd/journal/socket"), 0o666);
    let dir = TempDir::new().unwrap();
    let (mut command, log) = unit(dir.path());
    let file = log.metadata().unwrap();
    command.env("JOURNAL_STREAM", format!("{}:{}", file.dev(), file.ino()));
    let child = command.stdin(control::listen(&socket(dir.path())).unwrap()).spawn().unwrap();
    let (control, events) = soon(Control::connect(&socket(dir.path()))).await.unwrap();
    let stage = Stage { dir, child, control, events };
    let (sandbox, session) = (Uuid::new_v4(), Uuid::new_v4());
    let agent = Peer { uid: NOBODY, session: Some(session) };
    connect(&stage.grant_to(sandbox, "a", agent).await).await.rest().await;
    let named = entry(&journal, "not the agent").await;
    for (name, value) in [("ASH_SESSION", session), ("ASH_SANDBOX", sandbox)] {
        assert!(names(&named).contains(&name) && named.contains(&value.to_string()), "{named:?}");
    }
    // Of an ashd that does not say.
    let older = stage.grant_to(Uuid::new_v4(), "b", Peer { session: None, ..agent }).await;
    connect(&older).await.rest().await;
    let nameless = entry(&journal, "not the agent").await;
    assert!(!names(&nameless).contains(&"ASH_SESSION"), "{nameless:?}");
    assert_eq!(stage.log(), "", "what the journal has is on standard error as well");

    // Whoever ends at once may be gone before the journal sees who it was.
    let ended = command.stdin(Stdio::null()).status().unwrap();
    assert_eq!(ended.code(), Some(78));
    assert!(stage.log().starts_with("<3>standard input must be"), "{}", stage.log());
}

/// The next entry of the journal that has these words.
async fn entry(journal: &UnixDatagram, words: &str) -> String {
    let mut datagram = [0; 4096];
    loop {
        let length = soon(journal.recv(&mut datagram)).await.unwrap();
        let text = String::from_utf8_lossy(&datagram[..length]);
        if text.contains(words) {
            return text.into_owned();
        }
    }
}

/// The names of fields. In systemd's native protocol each is a line, before the length of the value and
/// the value.
fn names(entry: &str) -> Vec<&str> {
    entry.split('\n').filter(|line| !line.contains('\0')).collect()
}
