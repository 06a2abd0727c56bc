//! `cargo fuzz run pack`; see `ash_fuzz::pack`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ash_fuzz::pack(data));

#[cfg(not(fuzzing))]
fn main() {}
