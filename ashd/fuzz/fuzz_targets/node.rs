//! `cargo fuzz run node`; see `ash_fuzz::node`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ash_fuzz::node(data));

#[cfg(not(fuzzing))]
fn main() {}
