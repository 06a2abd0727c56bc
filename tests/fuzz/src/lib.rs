//! What is fuzzed: every parser of what somebody hostile may have written. Each function takes any
//! bytes and panics when a promise is broken.
//!
//! Under `cargo fuzz` libFuzzer drives them, from the `fuzz` directory beside what is fuzzed, where
//! the corpora are; `cargo test` drives them over these, and over mutations for `FUZZ_SECONDS`.

mod border;
pub use border::{frames, lines, words};

mod client;
pub use client::{sse, text};

mod archive;
pub use archive::tar;

mod kept;
pub use kept::{chunk, node, pack, scan};

// The sources that it includes bring their unit tests, which run where they are at home.
#[cfg(not(test))]
mod broker;
#[cfg(not(test))]
pub use broker::http;
