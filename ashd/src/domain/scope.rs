//! Scopes of API keys.

use std::fmt;
use std::str::FromStr;

/// What a key lets its holder do. Each includes those before it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Scope {
    /// Look at agents and sessions.
    Read,
    /// Make sessions, talk to them, end them.
    Run,
    /// Deploy, change and delete agents; remove what sessions have left.
    Manage,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Scope; 3] = [Scope::Read, Scope::Run, Scope::Manage];

    /// The word on the wire and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Run => "run",
            Scope::Manage => "manage",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that is no [`Scope`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("must be one of read, run, manage")]
pub struct NotScope;

impl FromStr for Scope {
    type Err = NotScope;

    fn from_str(text: &str) -> Result<Self, NotScope> {
        Scope::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or(NotScope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_round_trip_and_include_those_before() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
        assert_eq!("admin".parse::<Scope>(), Err(NotScope));
        assert!(Scope::ALL.is_sorted());
    }
}
