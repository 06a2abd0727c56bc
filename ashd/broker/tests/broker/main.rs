//! The broker as a process of its own, between a sandbox and a model API that the tests play.
//!
//! The tests run as root, because the broker must be started as another user and serves root alone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod stage;

mod confined;
mod control;
mod faults;
mod passing;
mod redacted;
mod refusing;
mod secured;
mod service;
