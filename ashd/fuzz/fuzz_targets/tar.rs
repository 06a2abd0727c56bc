//! `cargo fuzz run tar`; see `ash_fuzz::tar`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ash_fuzz::tar(data));

#[cfg(not(fuzzing))]
fn main() {}
