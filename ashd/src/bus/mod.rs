//! The D-Bus edge: `org.ashd.Ash1`. Authorises every call, translates it into a verb of the
//! service and the answer back; streams leave through pipes.
//!
//! Calls are authorised before they are dispatched ([`door`], [`gate`]): what stands behind serves
//! whoever calls.
//!
//! The contract is crate `ash_dbus`. Objects for agents and sessions are kept in step with the
//! service; what they say is read from the service at the moment of the question.

mod door;
mod frames;
mod gate;
mod polkit;
mod rights;

mod parse;
mod pipe;
mod upload;
mod words;

mod agent;
mod manager;
mod objects;
mod session;
mod top;

mod serve;

pub use serve::{BusError, Verbs, serve};

#[cfg(test)]
mod policy_tests;
#[cfg(test)]
pub(crate) mod testbus;
