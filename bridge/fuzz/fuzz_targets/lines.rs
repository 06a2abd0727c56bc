//! `cargo fuzz run lines`; see `ash_fuzz::lines`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ash_fuzz::lines(data));

#[cfg(not(fuzzing))]
fn main() {}
