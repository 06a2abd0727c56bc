//! The contract between `ashd` and its D-Bus clients: names, paths, errors, values and the
//! interfaces as client proxies. No behaviour, no daemon code.
//!
//! The bus name is [`BUS_NAME`]; the root object [`ROOT`] carries `org.ashd.Ash1.Manager` and
//! `org.freedesktop.DBus.ObjectManager`; below it every agent and every session that has not
//! ended has an object of its own, named by [`path`].

pub mod error;
pub mod path;
pub mod proxy;
pub mod value;

pub use error::{Error, Result};
pub use proxy::{AgentProxy, ManagerProxy, SessionProxy};

/// The well-known name that `ashd` owns on the bus.
pub const BUS_NAME: &str = "org.ashd.Ash1";

/// The object of the daemon itself.
pub const ROOT: &str = "/org/ashd/Ash1";
