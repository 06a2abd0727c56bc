//! What is in a backup, and what it is called there.
//!
//! ```text
//! database-<backup>                               the database at one moment
//! node-<backup>, initial-api-key-<backup>         small files of the data directory
//! agents/<tenant>/<name>/<agent>-<version>.tar    the folder of a version
//! attachments/<session>/<attachment>              what was attached
//! packs/<tenant>/<pack>.pack                      content of checkpoints
//! ```
//!
//! No name ever means two things: what can change is called after the backup that it is of.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::domain::{AgentId, AgentName, AttachmentId, SessionId, Tenant};

/// The name of a part.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Name {
    /// The database, of this backup.
    Database(Uuid),
    /// Which daemon it is of, as object stores know it.
    Node(Uuid),
    /// The key that tools on the machine use.
    ApiKey(Uuid),
    /// A version of an agent.
    Agent(Tenant, AgentName, AgentId, u32),
    /// An attachment.
    Attachment(SessionId, AttachmentId),
    /// A pack of the snapshot store.
    Pack(Tenant, Uuid),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Database(of) => write!(f, "database-{of}"),
            Name::Node(of) => write!(f, "node-{of}"),
            Name::ApiKey(of) => write!(f, "initial-api-key-{of}"),
            Name::Agent(tenant, name, id, version) => {
                write!(f, "agents/{tenant}/{name}/{id}-{version}.tar")
            }
            Name::Attachment(session, id) => write!(f, "attachments/{session}/{id}"),
            Name::Pack(tenant, pack) => write!(f, "packs/{tenant}/{pack}.pack"),
        }
    }
}

/// Text that names no part of a backup.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotName;

impl FromStr for Name {
    type Err = NotName;

    fn from_str(text: &str) -> Result<Name, NotName> {
        let parts: Vec<&str> = text.split('/').collect();
        let name = match parts[..] {
            [part] => small(part),
            ["agents", tenant, name, version] => version_of(tenant, name, version),
            ["attachments", session, id] => Option::zip(session.parse().ok(), id.parse().ok())
                .map(|(session, id)| Name::Attachment(session, id)),
            ["packs", tenant, pack] => {
                let pack = pack.strip_suffix(".pack").and_then(uuid);
                Option::zip(tenant.parse().ok(), pack)
                    .map(|(tenant, pack)| Name::Pack(tenant, pack))
            }
            _ => None,
        };
        // One way to write it: two names never mean the same.
        name.filter(|name| name.to_string() == text).ok_or(NotName)
    }
}

fn small(part: &str) -> Option<Name> {
    let of = |prefix: &str| part.strip_prefix(prefix).and_then(uuid);
    let key = || of("initial-api-key-").map(Name::ApiKey);
    of("database-").map(Name::Database).or_else(|| of("node-").map(Name::Node)).or_else(key)
}

fn version_of(tenant: &str, name: &str, version: &str) -> Option<Name> {
    let (id, version) = version.strip_suffix(".tar")?.rsplit_once('-')?;
    let (id, version) = (id.parse().ok()?, version.parse().ok()?);
    Some(Name::Agent(tenant.parse().ok()?, name.parse().ok()?, id, version))
}

fn uuid(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_as_written() {
        let (one, tenant) = (Uuid::from_u128(1), Tenant::default());
        let agent = || "hello-2".parse().unwrap();
        for name in [
            Name::Database(one),
            Name::Node(one),
            Name::ApiKey(one),
            Name::Agent(tenant.clone(), agent(), AgentId(one), 7),
            Name::Attachment(SessionId(one), AttachmentId(one)),
            Name::Pack(tenant.clone(), one),
        ] {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
    }

    #[test]
    fn paths_of_somebody_s_choice_are_no_names() {
        let id = Uuid::from_u128(1);
        for text in [
            "".to_owned(),
            "/etc/passwd".into(),
            "database-".into(),
            format!("database-{}", id.simple()),
            format!("../database-{id}"),
            format!("packs/../{id}.pack"),
            format!("packs//{id}.pack"),
            format!("packs/default/../{id}.pack"),
            format!("agents/default/../{id}-1.tar"),
            format!("agents/default/hello/{id}-01.tar"),
            format!("attachments/{id}/.."),
        ] {
            assert_eq!(text.parse::<Name>(), Err(NotName), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_would_be_written(text: String) {
            let name = text.parse::<Name>();
            prop_assert!(name.is_err() || name.is_ok_and(|name| name.to_string() == text));
        }
    }
}
