//! One sandbox's life.
//!
//! A sandbox is a tree of processes in namespaces of its own, with a root directory made of
//! read-only pieces of the host, two writable directories, no network, and one socket that leads
//! to the model broker. [`Sandboxes`] makes, finds again and ends them:
//!
//! ```text
//!  NewSandbox ─► plan ─┬─ cgroup    limits
//!                      ├─ broker    the way to the model
//!                      └─ socket    the way to the bridge
//!                             └─► launcher ─► bridge ◄─ link ─► Running
//! ```

pub mod admission;
pub mod lease;
pub mod limits;
pub mod pressure;

mod children;
mod socket;
mod stand_in;

pub mod cgroup;
pub mod floor;
pub mod plan;

pub mod broker;
pub mod launcher;
pub mod link;

mod manager;

mod launch;
mod said;

mod end;
mod strays;

mod error;

pub use error::SandboxError;
pub use launch::{NewSandbox, Running, Way};
pub use manager::{Sandboxes, Setup, StartError};
pub use strays::Stray;
