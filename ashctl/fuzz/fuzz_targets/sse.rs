//! `cargo fuzz run sse`; see `ash_fuzz::sse`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ash_fuzz::sse(data));

#[cfg(not(fuzzing))]
fn main() {}
