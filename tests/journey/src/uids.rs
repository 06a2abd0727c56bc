//! Ranges of user ids, one per running harness of this machine.

use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::{Result, bail};

/// The first uid of the first range. Above the default of `ashd`, so that a daemon that runs
/// here for good is not met.
const FIRST: u32 = 2_000_000_000;

/// Uids per range: enough for all but those who want many sandboxes, who get several in a row.
pub(crate) const LENGTH: u32 = 1000;

/// How many harnesses can run at once.
const RANGES: u32 = 1000;

/// A range that nobody else uses while this lives.
#[derive(Debug)]
pub(crate) struct Uids {
    range: Range<u32>,
    /// Bound to names that stand for the ranges; they fall with the process, however it ends.
    _claims: Vec<UnixListener>,
}

impl Uids {
    /// Claims a free range of at least so many.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn claim(count: u32) -> Result<Uids> {
        let ranges = count.div_ceil(LENGTH).max(1);
        for number in 0..RANGES.saturating_sub(ranges - 1) {
            if let Some(claims) = claim_all(number..number + ranges)? {
                let first = FIRST + number * LENGTH;
                return Ok(Uids { range: first..first + ranges * LENGTH, _claims: claims });
            }
        }
        bail!("{ranges} of {RANGES} ranges of user ids are not free; are other tests running?")
    }

    /// The range.
    pub(crate) fn range(&self) -> Range<u32> {
        self.range.clone()
    }
}

/// All of these ranges, or none.
fn claim_all(numbers: Range<u32>) -> Result<Option<Vec<UnixListener>>> {
    let mut claims = vec![];
    for number in numbers {
        let name = SocketAddr::from_abstract_name(format!("ash-journey-uids-{number}"))?;
        let Ok(claim) = UnixListener::bind_addr(&name) else { return Ok(None) };
        claims.push(claim);
    }
    Ok(Some(claims))
}
