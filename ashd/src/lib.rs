//! `ashd` turns agent folders into HTTP APIs; every session runs in a sandbox of its own.
//!
//! Layers, arrows only downwards: [`app`] composes; [`http`] and [`bus`] are edges that never
//! meet; [`session`] holds the verbs and the state machine; [`sandbox`], [`snapshot`], [`objects`],
//! [`backup`] and [`store`] serve it, and [`tree`] is the way to whatever an agent wrote. [`domain`],
//! [`config`], [`auth`], [`telemetry`] and [`fault`] are leaves.

pub mod domain;

pub mod auth;
pub mod config;
pub mod fault;
pub mod telemetry;

pub mod tree;

pub mod backup;
pub mod objects;
pub mod sandbox;
pub mod snapshot;
pub mod store;

pub mod session;

pub mod bus;
pub mod http;

pub mod app;
