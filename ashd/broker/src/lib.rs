//! The broker: the process that holds the model API key and is a sandbox's only way out.
//!
//! It runs as a user of its own without a single capability. `ashd` tells it over [`control`] where
//! the model API is, which key to use and which sandboxes may talk; each sandbox reaches it through
//! a Unix socket of its own. A request passes, in this order:
//!
//! ```text
//!  sandbox ──► gate      is the peer the agent's uid? how many connections already?
//!              guard     are these bytes one unambiguous HTTP/1.1 request?
//!              policy    is it one of the two calls that leave, and with which headers?
//!              relay     replace the credential, stream both ways, keep the limits
//!              upstream  pooled connections, TLS, proxy        ──► model API
//!              redact    takes the key out of the answer, should somebody on the way show it
//!              usage     reads the token counts from the answer as it goes by
//! ```
//!
//! [`server`] runs all of it, [`harden`] takes away what the process does not need for it.

pub mod control;

mod gate;
mod guard;
mod policy;

mod body;
mod redact;
mod relay;
mod usage;

pub mod key;
mod upstream;

mod problem;

pub mod file;
mod outbox;
pub mod server;

pub mod harden;
