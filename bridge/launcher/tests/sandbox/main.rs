//! The launcher, bubblewrap and the bridge for real: sandboxes are made, talked to and attacked.
//!
//! Needs root, bubblewrap and a cgroup v2 mount; says SKIP and why where one is missing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "a test that does not run says why")]

mod machine;

mod peer;

mod api;

mod confinement;

mod conversation;

mod endings;

mod layers;

mod peeled;

mod plans;

mod real_cli;

mod service;
