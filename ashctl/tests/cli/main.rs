//! `ashctl`, the program, against a bus with a scripted daemon on it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bus;
mod fake;
mod terminal;

mod chat;
mod commands;
mod complete;
mod failures;
mod machine;
mod person;
mod screen;
mod setup;
mod streams;
