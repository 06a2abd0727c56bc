//! The proxies call what the interfaces in `xml/` have: all of it, with the right arguments, and
//! nothing else.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::sync::{Arc, Mutex};

use ash_dbus::value::{
    AgentInfo, DeployOptions, FollowOptions, Health, SessionFilter, SessionInfo, Usage,
};
use ash_dbus::{AgentProxy, ManagerProxy, SessionProxy};
use futures_util::StreamExt;
use tokio::net::UnixStream;
use zbus::connection::Builder;
use zbus::message::Type;
use zbus::proxy::CacheProperties;
use zbus::zvariant::{Fd, OwnedValue};
use zbus::{Connection, Guid, Message, MessageStream};

const XML: [&str; 3] = [
    include_str!("../xml/org.ashd.Ash1.Manager.xml"),
    include_str!("../xml/org.ashd.Ash1.Agent.xml"),
    include_str!("../xml/org.ashd.Ash1.Session.xml"),
];

/// What was called: `interface.Method(signature)` or `interface.Property`.
type Called = Arc<Mutex<BTreeSet<String>>>;

/// A peer that notes every call and refuses it.
async fn peer() -> (Connection, Called) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = Builder::unix_stream(theirs).server(Guid::generate()).unwrap().p2p().build();
    let client = Builder::unix_stream(ours).p2p().build();
    let (server, client) = tokio::try_join!(server, client).unwrap();
    let called = Called::default();
    let notes = called.clone();
    let mut calls = MessageStream::from(&server);
    tokio::spawn(async move {
        while let Some(Ok(call)) = calls.next().await {
            if call.message_type() == Type::MethodCall {
                notes.lock().unwrap().insert(name(&call));
                server.reply_error(&call.header(), "org.example.No", &"no").await.unwrap();
            }
        }
    });
    (client, called)
}

fn name(call: &Message) -> String {
    let header = call.header();
    let interface = header.interface().unwrap().as_str();
    if interface == "org.freedesktop.DBus.Properties" {
        let (interface, property): (String, String) = call.body().deserialize().unwrap();
        return format!("{interface}.{property}");
    }
    let arguments = call.body().signature().to_string_no_parens();
    format!("{interface}.{}({arguments})", header.member().unwrap())
}

/// The value of an attribute on a line of XML.
fn attribute<'a>(line: &'a str, name: &str) -> &'a str {
    line.split_once(&format!("{name}=\"")).unwrap().1.split('"').next().unwrap()
}

/// Every method and property of an interface, as [`name`] has them.
fn declared(xml: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let (mut interface, mut method) = ("", None::<(String, String)>);
    for line in xml.lines().map(str::trim) {
        match line.split_whitespace().next().unwrap() {
            "<interface" => interface = attribute(line, "name"),
            "<method" => method = Some((attribute(line, "name").into(), String::new())),
            "<arg" if line.contains("direction=\"in\"") => {
                method.as_mut().unwrap().1.push_str(attribute(line, "type"));
            }
            "</method>" => {
                let (name, arguments) = method.take().unwrap();
                names.insert(format!("{interface}.{name}({arguments})"));
            }
            "<property" => {
                names.insert(format!("{interface}.{}", attribute(line, "name")));
            }
            _ => {}
        }
    }
    names
}

/// Calls each of these; every call is refused.
macro_rules! call {
    ($proxy:ident: $($method:ident($($argument:expr),*))*) => {
        $($proxy.$method($($argument),*).await.unwrap_err();)*
    };
}

#[tokio::test]
async fn proxies_and_interfaces_agree() {
    let (connection, called) = peer().await;
    let no = CacheProperties::No;
    let manager = ManagerProxy::builder(&connection).cache_properties(no).build().await.unwrap();
    let agent = AgentProxy::builder(&connection).path("/a").unwrap().cache_properties(no);
    let agent = agent.build().await.unwrap();
    let session = SessionProxy::builder(&connection).path("/s").unwrap().cache_properties(no);
    let session = session.build().await.unwrap();
    let file = File::open("/dev/null").unwrap();
    call!(manager:
        deploy("", Fd::from(&file), DeployOptions::default())
        list_agents() get_agent("") list_sessions(SessionFilter::default()) get_session("")
        create_session("", "") import_session("", "") top() create_key("", "") list_keys() revoke_key("")
        fsck(true) check_snapshots() collect_snapshots(true)
        backup(Fd::from(&file)) delete_tenant("") version() status()
    );
    call!(agent:
        delete() configure("") get_config() set_env(&HashMap::new())
        id() name() version() env_names() created_at() updated_at()
    );
    call!(session:
        send("", "") follow(FollowOptions::default()) interrupt() exec("", 0) pause() stop()
        resume() end() purge() messages(0, 0) events(0, 0, &[]) logs(0)
        save("") checkpoints() remove_checkpoint("") restore("") rewind(1) fork("") usage()
        id() agent() agent_version() status() model() turn() last_seq() created_at()
        last_active_at() tenant() cli_version() last_error()
    );
    let declared: BTreeSet<String> = XML.iter().flat_map(|xml| declared(xml)).collect();
    assert_eq!(*called.lock().unwrap(), declared);
}

/// The members of a dictionary that is a message's body, as the reference begins their rows.
fn rows(message: &Message) -> BTreeSet<String> {
    let body = message.body();
    let members: HashMap<String, OwnedValue> = body.deserialize().unwrap();
    let row = |(name, value): (&String, &OwnedValue)| {
        format!("| `{name}` | `{}` |", value.value_signature())
    };
    members.iter().map(row).collect()
}

#[test]
fn the_reference_names_every_member() {
    let reference = include_str!("../../../docs/dbus.md");
    let health = Health {
        model_key: Some(true),
        copies_waiting: Some(0),
        copies_failing: Some(false),
        purged_sessions: Some(0),
        forgotten_events: Some(0),
        removed_checkpoints: Some(0),
        retention_over: Some(0),
        retention_failing: Some(false),
        cleared: Some(0),
        cleared_bytes: Some(0),
        reclaimed: Some(0),
        freezes: Some(0),
        freeze_after_ms: Some(0),
        reclaim_after_ms: Some(0),
        idle_timeout_ms: Some(0),
        background_ms: Some(0),
        per_tick: Some(0),
        clear_after_ms: Some(0),
        warm: Some(0),
        pre_warm_hits: Some(0),
        max_warm: Some(0),
        ..Default::default()
    };
    let carry = || Message::signal("/", "org.example.Example", "Carry").unwrap();
    for (heading, message) in [
        ("an agent", carry().build(&AgentInfo::default()).unwrap()),
        ("a session", carry().build(&SessionInfo::default()).unwrap()),
        ("`Usage`", carry().build(&Usage::default()).unwrap()),
        ("`Status`", carry().build(&health).unwrap()),
    ] {
        let (_, table) = reference.split_once(&format!("\n| {heading} | | |\n")).unwrap();
        let lines = table.lines().take_while(|line| line.starts_with('|')).skip(1);
        let begins = |line: &str| line.splitn(4, '|').take(3).collect::<Vec<_>>().join("|") + "|";
        assert_eq!(lines.map(begins).collect::<BTreeSet<_>>(), rows(&message), "{heading}");
    }
}
