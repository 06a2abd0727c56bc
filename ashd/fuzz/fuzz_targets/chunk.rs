//! `cargo fuzz run chunk`; see `ash_fuzz::chunk`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ash_fuzz::chunk(data));

#[cfg(not(fuzzing))]
fn main() {}
