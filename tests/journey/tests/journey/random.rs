//! Numbers that look random and are the same everywhere and for ever.

use std::env;
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, Result};

/// The seed that `ASH_TEST_SEED` asks for, if it asks for any.
///
/// # Errors
/// When it is no number.
pub(crate) fn asked() -> Result<Option<u64>> {
    let asked = env::var("ASH_TEST_SEED").ok();
    asked.map(|seed| seed.parse::<u64>().context("ASH_TEST_SEED is no number")).transpose()
}

/// The seed that is asked for; else a new one when there is time, and always this one when there is none.
///
/// # Errors
/// When what is asked for is no number, or the clock is wrong.
pub(crate) fn seed(usual: u64, has_time: bool) -> Result<u64> {
    match (asked()?, has_time) {
        (Some(seed), _) => Ok(seed),
        (None, true) => Ok(UNIX_EPOCH.elapsed()?.as_secs()),
        (None, false) => Ok(usual),
    }
}

/// xorshift64*.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        // Seeds that lie close together are to lead far apart.
        Random(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below this one.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }
}
