//! Every failure is one sentence on standard error and a documented code.

use std::fs;
use std::process::Stdio;

use ash_dbus::{BUS_NAME, ROOT};
use tokio::time::timeout;
use zbus::interface;

use crate::bus::{Bus, PATIENCE, Ran};
use crate::fake::{ID, serve};

#[tokio::test]
async fn without_a_bus_or_a_daemon() {
    let bus = Bus::start();
    let ran = bus.run(&["status"]).await;
    let sentence = "ashd is not running on this bus; start it with `systemctl start ashd`";
    ran.check_failed(3, sentence);
    let ran = bus.run(&["--bus", "unix:path=/nonexistent/bus", "status"]).await;
    assert_eq!(ran.code, 3);
    let sentence = "ashctl: the message bus cannot be reached (";
    assert!(ran.err.starts_with(sentence) && ran.err.contains("systemctl"), "{}", ran.err);
    let ran = bus.run(&["--bus", "nonsense", "status"]).await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.starts_with("ashctl: the bus address is not valid: "), "{}", ran.err);
}

#[tokio::test]
async fn a_bus_that_hangs_is_not_waited_for() {
    let bus = Bus::start();
    bus.halt();
    let ran = bus.run(&["status"]).await;
    assert_eq!(ran.code, 3);
    assert!(ran.err.starts_with("ashctl: the message bus does not answer; "), "{}", ran.err);
}

/// A daemon from before most of the interface.
struct Old;

#[interface(name = "org.ashd.Ash1.Manager")]
impl Old {
    #[zbus(property)]
    async fn version(&self) -> &str {
        "0.0.1"
    }
}

#[tokio::test]
async fn an_older_daemon_is_told_from_one_that_fails() {
    let bus = Bus::start();
    let connection = bus.connect().await;
    connection.object_server().at(ROOT, Old).await.unwrap();
    connection.request_name(BUS_NAME).await.unwrap();
    for arguments in [&["top"][..], &["status"], &["agent", "list"]] {
        let ran = bus.run(arguments).await;
        let sentence = "ashctl: this ashctl does not fit the ashd that is running (";
        assert_eq!((ran.code, &*ran.out), (1, ""), "{arguments:?}");
        assert!(ran.err.starts_with(sentence) && ran.err.lines().count() == 1, "{}", ran.err);
        assert!(ran.err.contains("install the same version of both"), "{}", ran.err);
    }
}

#[tokio::test]
async fn a_bus_that_dies_takes_nobody_along() {
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    let mut command = tokio::process::Command::from(bus.ashctl(&["session", "exec", ID, "hang"]));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().unwrap();
    timeout(PATIENCE, daemon.waiting.notified()).await.unwrap();
    drop(bus);
    let output = timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    let ran = Ran::from(output);
    assert_eq!((ran.code, ran.err.lines().count()), (3, 1), "{}", ran.err);
    assert!(ran.err.contains("went away"), "{}", ran.err);
}

#[tokio::test]
async fn refusals_have_their_codes() {
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    for (arguments, code, sentence) in [
        (&["agent", "info", "nobody"][..], 4, "Agent not found"),
        (&["session", "info", "gone"], 4, "it does not exist any more"),
        (&["session", "stop", ID], 5, "Cannot stop session with status \"paused\""),
        (&["session", "send", ID, "busy"], 5, "Session is busy"),
        (
            &["session", "info", "secret"],
            6,
            "GetSession needs the right org.ashd.Ash1.view; members of group ash have it",
        ),
        (&["chat", "other", "hi", "-s", ID], 2, &format!("session {ID} belongs to agent hello")),
    ] {
        bus.run(arguments).await.check_failed(code, sentence);
    }
    bus.run(&["session", "frobnicate"]).await.check_told(2, "frobnicate");
}

#[tokio::test]
async fn a_bad_folder_is_refused_before_the_bus_is_asked() {
    let bus = Bus::start();
    let folder = bus.dir.path().join("agent");
    fs::create_dir(&folder).unwrap();
    let ran = bus.run(&["deploy", folder.to_str().unwrap()]).await;
    let sentence = "has no CLAUDE.md; an agent is a folder with a CLAUDE.md";
    ran.check_failed(5, &format!("{} {sentence}", folder.display()));
}

#[tokio::test]
async fn what_the_daemon_says_of_a_folder_is_told() {
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    let folder = bus.dir.path().join("agent");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("CLAUDE.md"), "You help.").unwrap();
    // More than a pipe holds, so that the sender notices that nobody reads.
    fs::write(folder.join("big"), vec![1; 1 << 20]).unwrap();
    let ran = bus.run(&["deploy", folder.to_str().unwrap(), "-n", "refused"]).await;
    ran.check_failed(5, "the folder is not to our liking");
}

#[tokio::test]
async fn nobody_reading_is_no_failure() {
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    for arguments in [&["agent", "list"][..], &["session", "send", ID, "hi"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = bus.ashctl(arguments);
        command.stdout(writer).stderr(Stdio::piped());
        let child = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
        let output = timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
        let ran = Ran::from(output);
        assert_eq!((ran.code, &*ran.err), (0, ""), "{arguments:?}");
    }
}
