//! A stand-in for the Anthropic Messages API whose answers are scripted by the prompt itself.
//!
//! A prompt may carry directives such as `[[say hello]]` or `[[status 529 times=2]]`; the README
//! beside this crate has the table. Without any, the stand-in echoes the prompt. Tests start it
//! in-process:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = ash_modelapi::Server::start(ash_modelapi::Config::default())?;
//! println!("ANTHROPIC_BASE_URL={}", server.url());
//! assert!(server.requests().is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! [`directive`], [`content`] and [`compose`] know nothing about HTTP; the stand-in for the CLI
//! is built on the same three.

pub mod directive;

pub mod content;

pub mod compose;

pub mod id;

mod prompt;

mod script;

mod faults;

mod gates;

mod log;

mod player;

mod routes;

mod server;

pub use log::{Request, monotonic_ns};
pub use prompt::{history, without_reminders};
pub use server::{Config, Error, Server};
