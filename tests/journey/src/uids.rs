//! Ranges of user ids, one per running harness of this machine.

use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::{Result, bail};

/// The first uid of the first range. Above the default of `ashd`, so that a daemon that runs
/// here for good is not met.
const FIRST: u32 = 2_000_000_000;

/// Uids per range.
const LENGTH: u32 = 1000;

/// How many harnesses can run at once.
const RANGES: u32 = 1000;

/// A range that nobody else uses while this lives.
#[derive(Debug)]
pub(crate) struct Uids {
    range: Range<u32>,
    /// Bound to a name that stands for the range; falls with the process, however it ends.
    _claim: UnixListener,
}

impl Uids {
    /// Claims a free range.
    ///
    /// # Errors
    /// When all are taken.
    pub(crate) fn claim() -> Result<Uids> {
        for number in 0..RANGES {
            let name = SocketAddr::from_abstract_name(format!("ash-journey-uids-{number}"))?;
            if let Ok(claim) = UnixListener::bind_addr(&name) {
                let first = FIRST + number * LENGTH;
                return Ok(Uids { range: first..first + LENGTH, _claim: claim });
            }
        }
        bail!("all {RANGES} ranges of user ids are taken; are other tests running?")
    }

    /// The range.
    pub(crate) fn range(&self) -> Range<u32> {
        self.range.clone()
    }
}
