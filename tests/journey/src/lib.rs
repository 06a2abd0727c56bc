//! A whole `ashd` for tests and benchmarks: its own directories, bus, user ids, control group and
//! model API, and nothing left of it afterwards.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use ash_journey::{Ash, Client, Options};
//! use serde_json::json;
//!
//! let ash = Ash::start(Options::stub())?;
//! let api = ash.api();
//! api.deploy("hello", &ash.folder("hello", "Be brief.")?)?;
//! let session = api.create("hello", json!({}))?;
//! println!("{}", api.send(&session, json!({ "content": "Hi!" }))?.to_end()?.text());
//! ash.finish()
//! # }
//! ```
//!
//! Nothing is built here: the programs must be there, see [`programs`].

pub mod programs;

mod uids;

mod cgroup;

pub mod process;

mod bus;

mod ready;

mod stage;

mod ash;

pub mod http;

pub mod sse;

mod client;

mod api;

mod ctl;

pub mod leftovers;

mod skip;

pub use api::{Api, session_of};
pub use ash::Ash;
pub use client::{Client, Exec, Turn};
pub use ctl::Ctl;
pub use skip::skip;
pub use stage::{Engine, Options, Stage};

/// How long anything may take before that counts as a failure. Generous: the machine may be slow
/// and busy.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Whether there is time for more than `make test` has.
pub fn is_long() -> bool {
    std::env::var_os("ASH_TEST_LONG").is_some_and(|long| long == "1")
}

/// How long to wait for the other end of a connection: where there is time, some of what is asked for
/// takes minutes.
fn patience() -> std::time::Duration {
    if is_long() { 10 * PATIENCE } else { PATIENCE }
}
