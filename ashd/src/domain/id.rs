//! Names and identifiers.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh random identifier (UUID version 4).
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            /// Accepts the hyphenated form only: the one that is printed.
            fn from_str(text: &str) -> Result<Self, IdError> {
                let parsed = (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten();
                parsed.map(Self).ok_or(IdError::NotUuid)
            }
        }
    };
}

uuid_id! {
    /// Identifies a session for ever.
    SessionId
}
uuid_id! {
    /// Identifies an agent across its versions.
    AgentId
}
uuid_id! {
    /// Identifies a turn.
    TurnId
}
uuid_id! {
    /// Identifies a point of a session.
    PointId
}
uuid_id! {
    /// Identifies an attachment.
    AttachmentId
}
uuid_id! {
    /// Identifies one sandbox; a session outlives its sandboxes.
    SandboxId
}

impl SandboxId {
    /// The sandbox's mark on events that come from it, positive as a signed number as well.
    pub fn epoch(self) -> u64 {
        (self.0.as_u64_pair().0 >> 1) | 1
    }
}

/// Why text is not an identifier.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IdError {
    /// Not the hyphenated form of a UUID.
    #[error("must be a UUID like 3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b")]
    NotUuid,
    /// Not an agent name.
    #[error("must be 1 to 255 of the characters A-Z a-z 0-9 _ -")]
    NotAgentName,
}

/// The name of an agent: 1 to 255 of the characters `A-Z a-z 0-9 _ -`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct AgentName(Arc<str>);

impl AgentName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AgentName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let fits = (1..=255).contains(&text.len());
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if fits && text.bytes().all(plain) {
            Ok(AgentName(text.into()))
        } else {
            Err(IdError::NotAgentName)
        }
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who owns agents and sessions. Same alphabet as [`AgentName`].
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// The tenant as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Tenant("default".into())
    }
}

impl FromStr for Tenant {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        text.parse::<AgentName>().map(|name| Tenant(name.0))
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_take_the_hyphenated_form_only() {
        let id = SessionId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in
            ["", "x", "{3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b}", "3f0c6a520c3e4b1e9a572f1f0e9d8c7b"]
        {
            assert_eq!(bad.parse::<SessionId>(), Err(IdError::NotUuid), "{bad:?}");
        }
    }

    #[test]
    fn agent_names_are_plain() {
        for good in ["a", "hello-world_2", &"x".repeat(255)] {
            assert_eq!(
                good.parse::<AgentName>().map(|name| name.to_string()),
                Ok(good.to_string())
            );
        }
        for bad in ["", "../x", "a b", "ä", "a\0", &"x".repeat(256)] {
            assert_eq!(bad.parse::<AgentName>(), Err(IdError::NotAgentName), "{bad:?}");
        }
    }
}
