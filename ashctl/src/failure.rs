//! What can go wrong, as one sentence and an exit code.

use ash_dbus::Error;

/// Why the program ends without success. Its text is the sentence for people.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It did not work.
    #[error("{0}")]
    Failed(String),
    /// The arguments cannot be used.
    #[error("{0}")]
    Usage(String),
    /// No bus, or no ashd on it.
    #[error("{0}")]
    Absent(String),
    /// No such agent or session.
    #[error("{0}")]
    NotFound(String),
    /// The daemon refused: wrong state, bad input, busy, no room.
    #[error("{0}")]
    Refused(String),
    /// The caller lacks the right.
    #[error("{0}")]
    Denied(String),
    /// The services cannot start with what they are given.
    #[error("{0}")]
    Misconfigured(String),
    /// The user stopped it.
    #[error("interrupted")]
    Interrupted,
    /// Whoever read the output has gone; not worth a word.
    #[error("nobody reads the output")]
    Unread,
}

impl Failure {
    /// The exit code; `cli` documents them.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::Unread => 0,
            Failure::Failed(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Absent(_) => 3,
            Failure::NotFound(_) => 4,
            Failure::Refused(_) => 5,
            Failure::Denied(_) => 6,
            Failure::Misconfigured(_) => 78,
            Failure::Interrupted => 130,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::NotFound(_) => Failure::NotFound(text),
            Error::Invalid(_) | Error::WrongState(_) | Error::Busy(_) | Error::Capacity(_) => {
                Failure::Refused(text)
            }
            Error::Forbidden(_) => Failure::Denied(text),
            Error::ShuttingDown(_) => Failure::Absent(text),
            Error::Failed(_) => Failure::Failed(text),
            Error::Bus(error) => error.into(),
        }
    }
}

impl From<zbus::Error> for Failure {
    fn from(error: zbus::Error) -> Self {
        match &error {
            zbus::Error::MethodError(name, text, _) => {
                let text = text.clone().unwrap_or_else(|| name.to_string());
                named(name.rsplit('.').next().unwrap_or_default(), text)
            }
            zbus::Error::FDO(inner) => {
                use zbus::DBusError;
                let text = inner.description().unwrap_or("the call failed").to_owned();
                named(inner.name().rsplit('.').next().unwrap_or_default(), text)
            }
            zbus::Error::InputOutput(_) => Failure::Absent(format!("the bus went away: {error}")),
            zbus::Error::Variant(_) => mismatch(&error.to_string()),
            _ => Failure::Failed(error.to_string()),
        }
    }
}

/// A failure by the last part of the standard error's name.
fn named(name: &str, text: String) -> Failure {
    match name {
        "AccessDenied" if is_of_the_bus(&text) => Failure::Denied(
            "the message bus keeps you from ashd; see that its policy is installed, \
             dbus-1/system.d/org.ashd.Ash1.conf, and run `systemctl reload dbus`"
                .into(),
        ),
        "AccessDenied" | "AuthFailed" => Failure::Denied(text),
        "ServiceUnknown" | "NameHasNoOwner" => Failure::Absent(
            "ashd is not running on this bus; start it with `systemctl start ashd`".into(),
        ),
        "NoReply" | "Disconnected" => Failure::Absent("ashd went away before it answered".into()),
        "UnknownObject" => Failure::NotFound("it does not exist any more".into()),
        "UnknownMethod" | "UnknownInterface" | "UnknownProperty" | "InvalidArgs" => mismatch(&text),
        _ => Failure::Failed(text),
    }
}

/// What dbus-daemon and dbus-broker say, not `ashd`.
fn is_of_the_bus(text: &str) -> bool {
    text.starts_with("Rejected send message") || text.starts_with("Sender is not authorized")
}

fn mismatch(text: &str) -> Failure {
    Failure::Failed(format!(
        "this ashctl does not fit the ashd that is running ({text}); install the same version of \
         both, and restart ashd"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_documented_codes() {
        let text = || "x".to_owned();
        assert_eq!(Failure::from(Error::Failed(text())).code(), 1);
        assert_eq!(Failure::from(Error::NotFound(text())).code(), 4);
        assert_eq!(Failure::from(Error::WrongState(text())).code(), 5);
        assert_eq!(Failure::from(Error::Forbidden(text())).code(), 6);
        let fdo = |error| Failure::from(zbus::Error::FDO(Box::new(error))).code();
        assert_eq!(fdo(zbus::fdo::Error::ServiceUnknown(text())), 3);
        assert_eq!(fdo(zbus::fdo::Error::AccessDenied(text())), 6);
        assert_eq!(fdo(zbus::fdo::Error::UnknownObject(text())), 4);
        let misread = zbus::Error::FDO(Box::new(zbus::fdo::Error::InvalidArgs(text())));
        assert!(Failure::from(misread).to_string().contains("does not fit the ashd"));
        let bus = "Rejected send message, 2 matched rules; type=\"method_call\"".to_owned();
        let denied = zbus::Error::FDO(Box::new(zbus::fdo::Error::AccessDenied(bus)));
        assert!(Failure::from(denied).to_string().contains("policy is installed"));
    }
}
