//! How a call is refused.

use std::fmt;

/// Results of calls.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. Every name begins with `org.ashd.Ash1.Error.`; the text is one sentence for
/// people. A caller without the right gets `org.freedesktop.DBus.Error.AccessDenied` instead, and one
/// whose arguments cannot be read `org.freedesktop.DBus.Error.InvalidArgs`.
#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.ashd.Ash1.Error", impl_display = false)]
pub enum Error {
    /// The bus failed, or the answer was none of the names below.
    #[zbus(error)]
    Bus(zbus::Error),
    /// No such agent or session.
    NotFound(String),
    /// An argument is not acceptable.
    Invalid(String),
    /// The status of the session does not allow it.
    WrongState(String),
    /// A turn is running, or too many messages wait already.
    Busy(String),
    /// There is no room for it now; trying again later helps.
    Capacity(String),
    /// The caller may use the interface, but not for this.
    Forbidden(String),
    /// The daemon is going away.
    ShuttingDown(String),
    /// Something broke on the daemon's side; its log says more.
    Failed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Bus(error) => error.fmt(f),
            Error::NotFound(text)
            | Error::Invalid(text)
            | Error::WrongState(text)
            | Error::Busy(text)
            | Error::Capacity(text)
            | Error::Forbidden(text)
            | Error::ShuttingDown(text)
            | Error::Failed(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use zbus::DBusError;

    use super::*;

    #[test]
    fn names_carry_the_prefix_and_text_is_the_sentence() {
        let error = Error::WrongState("Session is paused".into());
        assert_eq!(error.name().as_str(), "org.ashd.Ash1.Error.WrongState");
        assert_eq!(error.description(), Some("Session is paused"));
        assert_eq!(error.to_string(), "Session is paused");
    }
}
