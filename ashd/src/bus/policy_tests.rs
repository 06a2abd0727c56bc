//! The policy that the packages give the system bus, on a real bus.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio::sync::mpsc;
use tokio::time::{Duration, timeout};
use zbus::Connection;

use super::rights::Right;
use super::testbus::TestBus;

const NOBODY: u32 = 65_534;
const DBUS: &str = "org.freedesktop.DBus";
/// The group that `nobody` is in. The bus looks that up, a process cannot tell it otherwise.
const GROUP: u32 = 65_534;
/// The user `daemon`.
const OTHER: u32 = 1;
const SOON: Duration = Duration::from_secs(60);

fn closed_bus() -> TestBus {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/dbus-1/org.ashd.Ash1.conf");
    TestBus::start_closed(&file, GROUP)
}

/// A process that hears every signal that the bus gives it.
struct Listener {
    process: Child,
    heard: mpsc::UnboundedReceiver<String>,
}

impl Listener {
    /// Starts one with this uid; it hears when this returns.
    async fn start(bus: &TestBus, uid: u32) -> Listener {
        let mut monitor = Command::new("dbus-monitor");
        monitor.args(["--address", &bus.address(), "type='signal'"]).uid(uid).gid(uid);
        let mut process = monitor.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let (say, heard) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if say.send(line).is_err() {
                    return;
                }
            }
        });
        let mut listener = Listener { process, heard };
        let speaker = bus.connect().await;
        while !listener.heard_within("Ready", Duration::from_millis(50)).await {
            emit(&speaker, "Ready").await;
        }
        listener
    }

    async fn heard_within(&mut self, member: &str, patience: Duration) -> bool {
        timeout(patience, self.until(member)).await.is_ok()
    }

    /// Everything that is heard up to this signal.
    async fn until(&mut self, member: &str) -> String {
        let mut all = String::new();
        while let Some(line) = self.heard.recv().await {
            all += &line;
            if line.contains(&format!("member={member}")) {
                return all;
            }
        }
        panic!("the listener ended: {all}")
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

async fn emit(from: &Connection, member: &str) {
    let nobody = None::<&str>;
    from.emit_signal(nobody, "/o", "org.ashd.Ash1.Manager", member, &"name").await.unwrap();
}

#[test]
fn polkit_knows_every_right_and_gives_the_group_two() {
    let policy = include_str!("../../../systemd/polkit-1/org.ashd.Ash1.policy");
    let named = policy.split("<action id=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let rights = [Right::View, Right::Run, Right::Manage];
    assert_eq!(named.collect::<Vec<_>>(), rights.map(Right::action));
    let rules = include_str!("../../../systemd/polkit-1/50-ash.rules");
    for right in rights {
        let is_given = rules.contains(&format!("\"{}\"", right.action()));
        assert_eq!(is_given, right != Right::Manage, "{}", right.action());
    }
}

#[tokio::test]
async fn signals_reach_root_and_the_group_only() {
    let bus = closed_bus();
    let (ours, other) = (bus.connect().await, bus.connect().await);
    ours.request_name("org.ashd.Ash1").await.unwrap();
    for (uid, hears) in [(0, true), (NOBODY, true), (OTHER, false)] {
        let mut listener = Listener::start(&bus, uid).await;
        emit(&ours, "SessionAdded").await;
        emit(&ours, "PropertiesChanged").await;
        // An answer to us says that the bus has passed on what we said before.
        ours.call_method(Some(DBUS), "/", Some(DBUS), "GetId", &()).await.unwrap();
        emit(&other, "Over").await;
        let heard = timeout(SOON, listener.until("Over")).await.unwrap();
        assert_eq!(heard.contains("SessionAdded"), hears, "{uid}: {heard}");
        assert_eq!(heard.contains("PropertiesChanged"), hears, "{uid}: {heard}");
    }
}

#[tokio::test]
async fn everybody_may_ask_and_only_root_own_the_name() {
    let bus = closed_bus();
    let mut send = Command::new("dbus-send");
    send.args([&format!("--bus={}", bus.address()), "--print-reply"]).uid(NOBODY).gid(NOBODY);
    send.args(["--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.RequestName"]);
    send.args(["string:org.ashd.Ash1", "uint32:4"]);
    let output = tokio::task::spawn_blocking(move || send.output()).await.unwrap().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("AccessDenied") && said.contains("is not allowed to own"), "{said}");

    let ours = bus.connect().await;
    ours.request_name("org.ashd.Ash1").await.unwrap();
    let mut send = Command::new("dbus-send");
    send.args([&format!("--bus={}", bus.address()), "--print-reply"]).uid(NOBODY).gid(NOBODY);
    send.args(["--dest=org.ashd.Ash1", "/", "org.freedesktop.DBus.Peer.Ping"]);
    // There is no object, but the answer is ours.
    let _serving = ours.object_server();
    let output = tokio::task::spawn_blocking(move || send.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
}
