//! What a caller needs: one right for every method and property, in one table.

use zbus::Message;
use zbus::fdo;

/// What polkit is asked for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Right {
    /// List, read sessions, history, logs, status.
    View,
    /// Make sessions, talk to them, run commands in them, pause and end them.
    Run,
    /// Deploy, configure and delete agents; keys; remove histories; what is kept of all tenants.
    Manage,
}

impl Right {
    /// The action, as polkit knows it.
    pub(super) fn action(self) -> &'static str {
        match self {
            Self::View => "org.ashd.Ash1.view",
            Self::Run => "org.ashd.Ash1.run",
            Self::Manage => "org.ashd.Ash1.manage",
        }
    }

    /// Who has it as the packages set it up.
    pub(super) fn holders(self) -> &'static str {
        match self {
            Self::View | Self::Run => "members of group ash have it",
            Self::Manage => "root has it, and whom polkit takes for an administrator",
        }
    }
}

use Right::{Manage, Run, View};

/// Every method and property of ours.
pub(super) const TABLE: &[(&str, &str, Right)] = &[
    ("org.ashd.Ash1.Manager", "Deploy", Manage),
    ("org.ashd.Ash1.Manager", "ListAgents", View),
    ("org.ashd.Ash1.Manager", "GetAgent", View),
    ("org.ashd.Ash1.Manager", "ListSessions", View),
    ("org.ashd.Ash1.Manager", "GetSession", View),
    ("org.ashd.Ash1.Manager", "CreateSession", Run),
    ("org.ashd.Ash1.Manager", "ImportSession", Run),
    ("org.ashd.Ash1.Manager", "Top", View),
    ("org.ashd.Ash1.Manager", "CreateKey", Manage),
    ("org.ashd.Ash1.Manager", "ListKeys", Manage),
    ("org.ashd.Ash1.Manager", "RevokeKey", Manage),
    ("org.ashd.Ash1.Manager", "Fsck", Manage),
    ("org.ashd.Ash1.Manager", "CheckSnapshots", Manage),
    ("org.ashd.Ash1.Manager", "CollectSnapshots", Manage),
    ("org.ashd.Ash1.Manager", "Backup", Manage),
    ("org.ashd.Ash1.Manager", "DeleteTenant", Manage),
    ("org.ashd.Ash1.Manager", "Status", View),
    ("org.ashd.Ash1.Manager", "Version", View),
    ("org.ashd.Ash1.Agent", "Configure", Manage),
    ("org.ashd.Ash1.Agent", "Delete", Manage),
    ("org.ashd.Ash1.Agent", "GetConfig", View),
    ("org.ashd.Ash1.Agent", "SetEnv", Manage),
    ("org.ashd.Ash1.Agent", "CreatedAt", View),
    ("org.ashd.Ash1.Agent", "EnvNames", View),
    ("org.ashd.Ash1.Agent", "Id", View),
    ("org.ashd.Ash1.Agent", "Name", View),
    ("org.ashd.Ash1.Agent", "UpdatedAt", View),
    ("org.ashd.Ash1.Agent", "Version", View),
    ("org.ashd.Ash1.Session", "Send", Run),
    ("org.ashd.Ash1.Session", "Follow", View),
    ("org.ashd.Ash1.Session", "Interrupt", Run),
    ("org.ashd.Ash1.Session", "Exec", Run),
    ("org.ashd.Ash1.Session", "Pause", Run),
    ("org.ashd.Ash1.Session", "Stop", Run),
    ("org.ashd.Ash1.Session", "Resume", Run),
    ("org.ashd.Ash1.Session", "End", Run),
    ("org.ashd.Ash1.Session", "Purge", Manage),
    ("org.ashd.Ash1.Session", "Messages", View),
    ("org.ashd.Ash1.Session", "Events", View),
    ("org.ashd.Ash1.Session", "Logs", View),
    ("org.ashd.Ash1.Session", "Save", Run),
    ("org.ashd.Ash1.Session", "Checkpoints", View),
    ("org.ashd.Ash1.Session", "RemoveCheckpoint", Run),
    ("org.ashd.Ash1.Session", "Restore", Run),
    ("org.ashd.Ash1.Session", "Rewind", Run),
    ("org.ashd.Ash1.Session", "Fork", Run),
    ("org.ashd.Ash1.Session", "Usage", View),
    ("org.ashd.Ash1.Session", "Agent", View),
    ("org.ashd.Ash1.Session", "AgentVersion", View),
    ("org.ashd.Ash1.Session", "CliVersion", View),
    ("org.ashd.Ash1.Session", "CreatedAt", View),
    ("org.ashd.Ash1.Session", "Id", View),
    ("org.ashd.Ash1.Session", "LastActiveAt", View),
    ("org.ashd.Ash1.Session", "LastError", View),
    ("org.ashd.Ash1.Session", "LastSeq", View),
    ("org.ashd.Ash1.Session", "Model", View),
    ("org.ashd.Ash1.Session", "Status", View),
    ("org.ashd.Ash1.Session", "Tenant", View),
    ("org.ashd.Ash1.Session", "Turn", View),
];

/// What a call needs.
#[derive(Debug)]
pub(super) enum Need {
    /// Nothing: it says nothing about agents and sessions.
    Nothing,
    /// A right, to do what is named.
    Right(Right, String),
    /// It is answered with an error whoever calls.
    Refusal(fdo::Error),
}

/// What a method call needs. What is not known here does not reach an object, whoever calls.
pub(super) fn needed(call: &Message) -> Need {
    let header = call.header();
    let named = header.interface().zip(header.member());
    let Some((interface, member)) = named.map(|(it, member)| (it.as_str(), member.as_str())) else {
        return unknown("a call must name interface and method");
    };
    match (interface, member) {
        ("org.freedesktop.DBus.Peer", _) => Need::Nothing,
        ("org.freedesktop.DBus.Introspectable", "Introspect")
        | ("org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
        | ("org.freedesktop.DBus.Properties", "GetAll") => Need::Right(View, member.to_owned()),
        ("org.freedesktop.DBus.Properties", "Get") => property(call),
        ("org.freedesktop.DBus.Properties", "Set") => {
            let text = "no property of ashd can be set; there are methods instead";
            Need::Refusal(fdo::Error::PropertyReadOnly(text.into()))
        }
        _ => match right(interface, member) {
            Some(right) => Need::Right(right, member.to_owned()),
            None => unknown(&format!("{interface} has no method {member}")),
        },
    }
}

fn property(call: &Message) -> Need {
    let Ok((interface, name)) = call.body().deserialize::<(String, String)>() else {
        return Need::Refusal(fdo::Error::InvalidArgs("Get takes interface and property".into()));
    };
    match right(&interface, &name) {
        Some(right) => Need::Right(right, format!("reading {name}")),
        None => Need::Refusal(fdo::Error::UnknownProperty(format!(
            "{interface} has no property {name}"
        ))),
    }
}

fn right(interface: &str, member: &str) -> Option<Right> {
    let row = TABLE.iter().find(|row| (row.0, row.1) == (interface, member));
    row.map(|row| row.2)
}

fn unknown(text: &str) -> Need {
    Need::Refusal(fdo::Error::UnknownMethod(text.to_owned()))
}
