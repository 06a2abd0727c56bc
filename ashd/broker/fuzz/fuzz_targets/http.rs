//! `cargo fuzz run http`; see `ash_fuzz::http`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ash_fuzz::http(data));

#[cfg(not(fuzzing))]
fn main() {}
