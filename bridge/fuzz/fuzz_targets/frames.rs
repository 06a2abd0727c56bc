//! `cargo fuzz run frames`; see `ash_fuzz::frames`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ash_fuzz::frames(data));

#[cfg(not(fuzzing))]
fn main() {}
