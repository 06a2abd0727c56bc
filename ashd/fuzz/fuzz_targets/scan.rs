//! `cargo fuzz run scan`; see `ash_fuzz::scan`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ash_fuzz::scan(data));

#[cfg(not(fuzzing))]
fn main() {}
