use std::collections::HashSet;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::time::timeout;
use zbus::Address;
use zbus::fdo::ObjectManager;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::OwnedValue;

use super::*;
use crate::bus::door;
use crate::bus::rights::TABLE;
use crate::bus::testbus::{TestBus, with_unknown_field};

const NOBODY: u32 = 65_534;
const SOON: Duration = Duration::from_secs(60);
const MANAGER: &str = "org.ashd.Ash1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Answers in the place of the daemon's objects.
struct Manager;

#[zbus::interface(name = "org.ashd.Ash1.Manager")]
impl Manager {
    async fn list_agents(&self) -> &str {
        "listed"
    }

    async fn create_session(&self) -> &str {
        "created"
    }

    async fn deploy(&self) -> &str {
        "deployed"
    }

    /// As large as somebody asks.
    async fn get_agent(&self, size: u32) -> Vec<u8> {
        vec![0; size as usize]
    }

    #[zbus(property)]
    async fn version(&self) -> u32 {
        7
    }

    #[zbus(signal)]
    async fn agent_deployed(emitter: &SignalEmitter<'_>, name: &str) -> zbus::Result<()>;
}

/// A question as polkit heard it: kind and name of the subject, action, flags, how to cancel.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Asked(String, String, String, u32, String);

/// A polkit: `view` is granted, `run` after a person has authenticated, `manage` refused.
#[derive(Clone)]
struct Polkit {
    is_silent: bool,
    asked: watch::Sender<Vec<Asked>>,
    cancelled: watch::Sender<Vec<String>>,
}

#[expect(clippy::too_many_arguments, reason = "polkit's method has as many")]
#[zbus::interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Polkit {
    async fn check_authorization(
        &self,
        subject: (String, HashMap<String, OwnedValue>),
        action: &str,
        _details: HashMap<String, String>,
        flags: u32,
        cancellation: &str,
    ) -> (bool, bool, HashMap<String, String>) {
        let name = String::try_from(subject.1["name"].try_clone().unwrap()).unwrap();
        let asked = Asked(subject.0, name, action.into(), flags, cancellation.into());
        self.asked.send_modify(|all| all.push(asked));
        match (self.is_silent, action, flags) {
            (false, "org.ashd.Ash1.view", 0) => (true, false, HashMap::new()),
            (false, "org.ashd.Ash1.run", 0) => (false, true, HashMap::new()),
            (false, "org.ashd.Ash1.run", 1) => (true, false, HashMap::new()),
            (true, "org.ashd.Ash1.run", 0) => (false, true, HashMap::new()),
            (false, "org.ashd.Ash1.manage", 0) => (false, false, HashMap::new()),
            _ => std::future::pending().await,
        }
    }

    async fn cancel_check_authorization(&self, cancellation: &str) {
        self.cancelled.send_modify(|all| all.push(cancellation.into()));
    }
}

/// A polkit on a bus.
struct Authority {
    bus: Connection,
    asked: Receiver<Vec<Asked>>,
    cancelled: Receiver<Vec<String>>,
}

impl Authority {
    async fn start(bus: &TestBus, is_silent: bool) -> Authority {
        let bus = bus.connect().await;
        let (asked, cancelled) = (watch::Sender::default(), watch::Sender::default());
        let (hears_asked, hears_cancelled) = (asked.subscribe(), cancelled.subscribe());
        let path = "/org/freedesktop/PolicyKit1/Authority";
        let polkit = Polkit { is_silent, asked, cancelled };
        bus.object_server().at(path, polkit).await.unwrap();
        bus.request_name("org.freedesktop.PolicyKit1").await.unwrap();
        Authority { bus, asked: hears_asked, cancelled: hears_cancelled }
    }

    /// Waits until this many questions were asked, and returns them.
    async fn asked(&mut self, count: usize) -> Vec<Asked> {
        let asked = self.asked.wait_for(|asked| asked.len() >= count);
        timeout(SOON, asked).await.unwrap().unwrap().clone()
    }
}

/// Objects behind a gate, under our name.
async fn serve(bus: &TestBus, patience: Patience) -> (Connection, Arc<Gate>) {
    let gate = Gate::new(patience);
    let address = Address::try_from(bus.address().as_str()).unwrap();
    let served = door::connect(&address, &gate).await.unwrap();
    served.object_server().at("/o", ObjectManager).await.unwrap();
    served.object_server().at("/o/manager", Manager).await.unwrap();
    served.request_name("org.ashd.Ash1").await.unwrap();
    gate.open(served.clone());
    (served, gate)
}

fn quick() -> Patience {
    Patience { alone: Duration::from_millis(100), with_people: Duration::from_millis(100) }
}

/// A call by a process with this uid, which allows no interaction.
fn send(bus: &TestBus, uid: u32, path: &str, call: &[&str]) -> Command {
    let mut send = Command::new("dbus-send");
    send.args([&format!("--bus={}", bus.address()), "--print-reply", "--dest=org.ashd.Ash1"]);
    send.arg(path).args(call).uid(uid).gid(uid);
    send
}

async fn said(mut command: Command) -> String {
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// What a process with this uid is told.
async fn told(bus: &TestBus, uid: u32, path: &str, call: &[&str]) -> String {
    said(send(bus, uid, path, call)).await
}

async fn nobody_is_told(bus: &TestBus, method: &str) -> String {
    told(bus, NOBODY, "/o/manager", &[&format!("{MANAGER}.{method}")]).await
}

/// A call that allows interaction; `None` where busctl is missing.
fn interactive(bus: &TestBus, method: &str) -> Option<Command> {
    if Command::new("busctl").arg("--version").output().is_err() {
        println!("SKIP calls that allow interaction: no busctl here");
        return None;
    }
    let mut call = Command::new("busctl");
    call.arg(format!("--address={}", bus.address()));
    call.args(["--allow-interactive-authorization=yes", "call", "org.ashd.Ash1", "/o/manager"]);
    call.args([MANAGER, method]).uid(NOBODY).gid(NOBODY);
    Some(call)
}

/// A process that waits for its answer, ended at the latest with the test.
struct Caller(Child);

impl Caller {
    fn start(mut command: Command) -> Caller {
        Caller(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

const ACCESS_DENIED: &str = "Error org.freedesktop.DBus.Error.AccessDenied: ";

#[tokio::test]
async fn everything_that_says_something_needs_its_right() {
    let bus = TestBus::start();
    let mut polkit = Authority::start(&bus, false).await;
    let (_served, _gate) = serve(&bus, Patience::default()).await;
    let (get, get_all) = (format!("{PROPERTIES}.Get"), format!("{PROPERTIES}.GetAll"));
    let ours = format!("string:{MANAGER}");
    let listing = format!("{MANAGER}.ListAgents");
    for (path, call, want) in [
        ("/o/manager", vec![listing.as_str()], "listed"),
        ("/o/manager", vec![&get, &ours, "string:Version"], "uint32 7"),
        ("/o/manager", vec![&get_all, &ours], "uint32 7"),
        ("/o", vec!["org.freedesktop.DBus.ObjectManager.GetManagedObjects"], "/o/manager"),
        ("/o/manager", vec!["org.freedesktop.DBus.Introspectable.Introspect"], MANAGER),
    ] {
        let before = polkit.asked.borrow().len();
        let root = told(&bus, 0, path, &call).await;
        assert!(root.contains(want) && !root.contains("Error"), "{call:?} {root}");
        assert_eq!(polkit.asked.borrow().len(), before, "root was asked about");
        let nobody = told(&bus, NOBODY, path, &call).await;
        assert!(nobody.contains(want) && !nobody.contains("Error"), "{call:?} {nobody}");
        let Asked(kind, name, action, flags, _) = polkit.asked(before + 1).await.pop().unwrap();
        assert_eq!((kind.as_str(), flags), ("system-bus-name", 0));
        assert!(name.starts_with(":1."), "{name}");
        assert_eq!(action, "org.ashd.Ash1.view");
    }
    assert!(nobody_is_told(&bus, "Nothing").await.contains("has no method Nothing"));
    let ping = told(&bus, NOBODY, "/o", &["org.freedesktop.DBus.Peer.Ping"]).await;
    assert!(ping.starts_with("method return"), "{ping}");
    assert_eq!(polkit.asked.borrow().len(), 5);
}

#[tokio::test]
async fn properties_cannot_be_set_and_unknown_ones_not_read() {
    let bus = TestBus::start();
    let (_served, _gate) = serve(&bus, Patience::default()).await;
    let ours = format!("string:{MANAGER}");
    let set = [&format!("{PROPERTIES}.Set"), &ours, "string:Version", "variant:uint32:1"];
    for uid in [0, NOBODY] {
        let said = told(&bus, uid, "/o/manager", &set).await;
        assert!(said.contains("PropertyReadOnly: no property of ashd can be set"), "{said}");
        let get = [&format!("{PROPERTIES}.Get"), &ours, "string:Secret"];
        let said = told(&bus, uid, "/o/manager", &get).await;
        assert!(said.contains("UnknownProperty: org.ashd.Ash1.Manager has no"), "{said}");
        let odd = [&format!("{PROPERTIES}.Get"), "uint32:1"];
        assert!(told(&bus, uid, "/o/manager", &odd).await.contains("InvalidArgs"));
    }
}

#[tokio::test]
async fn a_refusal_names_the_right_and_who_has_it() {
    let bus = TestBus::start();
    let _polkit = Authority::start(&bus, false).await;
    let (_served, _gate) = serve(&bus, Patience::default()).await;
    let said = nobody_is_told(&bus, "Deploy").await;
    let want = "Deploy needs the right org.ashd.Ash1.manage; root has it, and whom polkit takes \
                for an administrator";
    assert_eq!(said.trim_end(), format!("{ACCESS_DENIED}{want}"));
    let said = nobody_is_told(&bus, "CreateSession").await;
    let want = "CreateSession needs the right org.ashd.Ash1.run; members of group ash have it; a \
                call that allows interaction asks for it";
    assert_eq!(said.trim_end(), format!("{ACCESS_DENIED}{want}"));
    assert!(
        told(&bus, 0, "/o/manager", &["org.ashd.Ash1.Manager.Deploy"]).await.contains("deployed")
    );
}

#[tokio::test]
async fn people_are_asked_only_when_the_call_allows_it() {
    let bus = TestBus::start();
    let mut polkit = Authority::start(&bus, false).await;
    let (_served, _gate) = serve(&bus, Patience::default()).await;
    let Some(call) = interactive(&bus, "CreateSession") else { return };
    assert_eq!(said(call).await.trim_end(), "s \"created\"");
    let asked = polkit.asked(2).await;
    let flags: Vec<_> = asked.iter().map(|asked| (asked.2.as_str(), asked.3)).collect();
    assert_eq!(flags, [("org.ashd.Ash1.run", 0), ("org.ashd.Ash1.run", 1)]);
    assert_eq!(asked[0].1, asked[1].1);
    assert!(!asked[1].4.is_empty());
}

#[tokio::test]
async fn without_polkit_only_root_may() {
    let bus = TestBus::start();
    let (_served, _gate) = serve(&bus, Patience::default()).await;
    let said = nobody_is_told(&bus, "ListAgents").await;
    let want = "ListAgents needs the right org.ashd.Ash1.view; without polkit on the bus only \
                root has it";
    assert_eq!(said.trim_end(), format!("{ACCESS_DENIED}{want}"));
    let polkit = Authority::start(&bus, false).await;
    assert!(nobody_is_told(&bus, "ListAgents").await.contains("listed"));
    drop(polkit.bus.close().await);
    assert!(nobody_is_told(&bus, "ListAgents").await.starts_with(ACCESS_DENIED));
}

#[tokio::test]
async fn a_polkit_that_says_nothing_is_given_up() {
    let bus = TestBus::start();
    let mut polkit = Authority::start(&bus, true).await;
    let (_served, _gate) = serve(&bus, quick()).await;
    let said = nobody_is_told(&bus, "ListAgents").await;
    let want = "ListAgents needs the right org.ashd.Ash1.view; polkit did not answer, and \
                without it only root has it";
    assert_eq!(said.trim_end(), format!("{ACCESS_DENIED}{want}"));
    let Some(call) = interactive(&bus, "CreateSession") else { return };
    // busctl has a sentence of its own for this error.
    let said = self::said(call).await;
    assert!(said.contains("Access denied"), "{said}");
    let cancelled = polkit.cancelled.wait_for(|all| !all.is_empty());
    let id = timeout(SOON, cancelled).await.unwrap().unwrap()[0].clone();
    assert_eq!(polkit.asked(3).await[2].4, id);
}

#[tokio::test]
async fn who_waits_for_polkit_holds_up_nobody_else() {
    let bus = TestBus::start();
    let mut polkit = Authority::start(&bus, true).await;
    let (served, gate) = serve(&bus, Patience::default()).await;
    let (get, get_all) = (format!("{PROPERTIES}.Get"), format!("{PROPERTIES}.GetAll"));
    let get = [get.as_str(), &format!("string:{MANAGER}"), "string:Version"];
    let get_all = [get_all.as_str(), &format!("string:{MANAGER}")];
    let _waiting = [
        Caller::start(send(&bus, NOBODY, "/o/manager", &get)),
        Caller::start(send(&bus, NOBODY, "/o/manager", &get_all)),
        Caller::start(send(&bus, NOBODY, "/o/manager", &[&format!("{MANAGER}.ListAgents")])),
    ];
    polkit.asked(3).await;
    // The tree can be changed, and root is served.
    let changed = served.object_server().at("/o/new", Manager);
    assert!(timeout(SOON, changed).await.unwrap().unwrap());
    let root = told(&bus, 0, "/o/new", &["org.ashd.Ash1.Manager.ListAgents"]).await;
    assert!(root.contains("listed"), "{root}");
    let root = told(&bus, 0, "/o/manager", &get).await;
    assert!(root.contains("uint32 7"), "{root}");
    // Leaving waits for none of them.
    gate.shut();
    timeout(SOON, served.graceful_shutdown()).await.unwrap();
}

#[tokio::test]
async fn the_dialogue_of_a_caller_that_is_gone_goes_away() {
    let bus = TestBus::start();
    let mut polkit = Authority::start(&bus, true).await;
    let (_served, gate) = serve(&bus, Patience::default()).await;
    let Some(call) = interactive(&bus, "CreateSession") else { return };
    let caller = Caller::start(call);
    let asked = polkit.asked(2).await.pop().unwrap();
    assert_eq!(gate.waiting()[&NOBODY].calls, 1);
    drop(caller);
    let cancelled = polkit.cancelled.wait_for(|all| !all.is_empty());
    assert_eq!(timeout(SOON, cancelled).await.unwrap().unwrap()[0], asked.4);
}

#[tokio::test]
async fn calls_wait_until_the_gate_is_open() {
    let bus = TestBus::start();
    let gate = Gate::new(Patience::default());
    let address = Address::try_from(bus.address().as_str()).unwrap();
    let served = door::connect(&address, &gate).await.unwrap();
    served.request_name("org.ashd.Ash1").await.unwrap();
    let call = send(&bus, 0, "/o/manager", &["org.ashd.Ash1.Manager.ListAgents"]);
    let answer = tokio::spawn(said(call));
    served.object_server().at("/o/manager", Manager).await.unwrap();
    assert!(!answer.is_finished());
    gate.open(served.clone());
    assert!(answer.await.unwrap().contains("listed"));
}

#[tokio::test]
async fn an_answer_that_no_bus_carries_becomes_an_error() {
    let bus = TestBus::start();
    let (served, _gate) = serve(&bus, Patience::default()).await;
    let large = ["org.ashd.Ash1.Manager.GetAgent", "uint32:34000000"];
    let said = told(&bus, 0, "/o/manager", &large).await;
    assert!(said.starts_with("Error org.freedesktop.DBus.Error.LimitsExceeded: "), "{said}");
    let listed = told(&bus, 0, "/o/manager", &["org.ashd.Ash1.Manager.ListAgents"]).await;
    assert!(listed.contains("listed") && !served.is_closed());
}

#[tokio::test]
async fn arguments_that_cannot_be_read_have_the_name_that_every_client_knows() {
    let bus = TestBus::start();
    let (served, _gate) = serve(&bus, Patience::default()).await;
    for arguments in [&["string:many"][..], &["uint32:1", "uint32:2"], &[]] {
        let call = [&["org.ashd.Ash1.Manager.GetAgent"][..], arguments].concat();
        let said = told(&bus, 0, "/o/manager", &call).await;
        let want = "Error org.freedesktop.DBus.Error.InvalidArgs: Signature mismatch: got ";
        assert!(said.starts_with(want), "{said}");
    }
    let listed = told(&bus, 0, "/o/manager", &["org.ashd.Ash1.Manager.ListAgents"]).await;
    assert!(listed.contains("listed") && !served.is_closed());
}

/// Reads until the answer came.
fn read_until(stream: &mut impl Read, want: &[u8]) {
    let (mut all, mut part) = (Vec::<u8>::new(), [0; 4096]);
    while !all.windows(want.len()).any(|it| it == want) {
        let read = stream.read(&mut part).unwrap();
        assert_ne!(read, 0, "the bus hung up on the caller");
        all.extend(&part[..read]);
    }
}

#[tokio::test]
async fn a_message_from_another_version_disturbs_nobody() {
    let bus = TestBus::start();
    let (served, _gate) = serve(&bus, Patience::default()).await;
    let mut caller = bus.raw();
    let call = |method: &str| {
        let call = Message::method_call("/o/manager", method).unwrap().interface(MANAGER);
        let call = call.unwrap().destination("org.ashd.Ash1").unwrap().build(&()).unwrap();
        call.data().to_vec()
    };
    let (mut flag, mut kind) = (call("ListAgents"), call("Deploy"));
    (flag[2], kind[1]) = (0x08, 9);
    let field = with_unknown_field(&call("Deploy"));
    let last = call("CreateSession");
    // The answer to a flag that nobody knows is the usual one.
    caller.write_all(&flag).unwrap();
    let answered = tokio::task::spawn_blocking(move || {
        read_until(&mut caller, b"listed");
        caller.write_all(&[kind, field, last].concat()).unwrap();
        read_until(&mut caller, b"created");
    });
    answered.await.unwrap();
    let listed = told(&bus, 0, "/o/manager", &["org.ashd.Ash1.Manager.ListAgents"]).await;
    assert!(listed.contains("listed") && !served.is_closed());
}

#[test]
fn one_user_cannot_make_ever_more_calls_wait() {
    let gate = Gate::new(Patience::default());
    let mut places: Vec<_> = (0..MOST_WAITING).map(|_| gate.wait(1, 100).unwrap()).collect();
    let refused = gate.wait(1, 100).err().unwrap().to_string();
    assert!(refused.contains("too many calls of this user wait for polkit"), "{refused}");
    assert!(gate.wait(2, 100).is_ok() && gate.wait(2, MOST_WAITING_BYTES + 1).is_err());
    places.pop();
    assert!(gate.wait(1, 100).is_ok());
    drop(places);
    assert!(gate.wait(2, 0).is_ok() && gate.waiting().is_empty());
}

/// Every method and property of the interfaces that are installed.
fn declared() -> HashSet<(String, String)> {
    let attribute = |line: &str| line.split('"').nth(1).unwrap().to_owned();
    let mut members = HashSet::new();
    for xml in [
        include_str!("../../dbus/xml/org.ashd.Ash1.Manager.xml"),
        include_str!("../../dbus/xml/org.ashd.Ash1.Agent.xml"),
        include_str!("../../dbus/xml/org.ashd.Ash1.Session.xml"),
    ] {
        let mut lines = xml.lines().map(str::trim);
        let interface = attribute(lines.find(|line| line.starts_with("<interface")).unwrap());
        let named = |line: &&str| line.starts_with("<method") || line.starts_with("<property");
        members.extend(lines.filter(named).map(|line| (interface.clone(), attribute(line))));
    }
    members
}

#[test]
fn every_method_and_property_has_one_right() {
    let rows: Vec<_> = TABLE.iter().map(|row| (row.0.to_owned(), row.1.to_owned())).collect();
    let table: HashSet<_> = rows.iter().cloned().collect();
    assert_eq!(table.len(), rows.len(), "something stands there twice");
    assert_eq!(table, declared());
}

#[test]
fn the_reference_says_every_right() {
    let reference = include_str!("../../../docs/dbus.md");
    for (interface, member, right) in TABLE {
        let heading = format!("## {}\n", interface.rsplit('.').next().unwrap());
        let (_, section) = reference.split_once(&heading).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let right = right.action().rsplit('.').next().unwrap();
        let is_method = section.contains(&format!("| `{member}` | {right} |"));
        let is_property = section.contains(&format!("`{member}`"))
            && !section.contains(&format!("| `{member}` |"))
            && right == "view";
        assert!(is_method || is_property, "{interface}.{member} is not in the reference");
    }
}
