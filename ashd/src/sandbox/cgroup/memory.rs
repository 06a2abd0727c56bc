//! Memory of an agent that stands still, given back to the machine.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::CgroupError;
use super::group::{Group, is_gone};

/// Bytes that are asked for at a time: whoever wants the agent to go on waits for no more than these.
const SLICE: u64 = 16 * 1024 * 1024;

/// How much of an agent may be in swap: all of it while it stands still. One that runs may put nothing
/// more there, so that it cannot have more memory than its limit.
const ALL: &str = "max";
const NO_MORE: &str = "0";

impl Group {
    /// Has the kernel move what the agent has in memory into swap, and drop what it can read again,
    /// until no more is to be had, or `stop` is set. Returns by how many bytes it has less then. For an
    /// agent that stands still: one that goes on takes back what it needs, and leaves the rest there.
    /// Blocks.
    ///
    /// 0 when there is no such group, no controller of memory, or a kernel before 5.19, which cannot
    /// be asked.
    ///
    /// # Errors
    /// When the system fails.
    pub fn reclaim(&self, stop: &AtomicBool) -> Result<u64, CgroupError> {
        let agent = self.agent();
        self.bound_swap(ALL)?;
        let given = give_back(&agent, stop);
        self.bound_swap(NO_MORE)?;
        match given {
            Err(error) if is_gone(&error) => Ok(0),
            given => given.map_err(CgroupError::io(&agent)),
        }
    }

    /// Has an agent put nothing more into swap. A daemon that died while it had memory given back has
    /// left it a bound that lets it.
    pub(super) fn forbid_swap(&self) -> Result<(), CgroupError> {
        self.bound_swap(NO_MORE)
    }

    /// Kernels without swap have no such file, nor has a group without a controller of memory.
    fn bound_swap(&self, most: &str) -> Result<(), CgroupError> {
        let path = self.agent().join("memory.swap.max");
        if !path.exists() {
            return Ok(());
        }
        match fs::write(&path, most) {
            Err(error) if is_gone(&error) => Ok(()),
            other => other.map_err(CgroupError::io(&path)),
        }
    }
}

fn give_back(agent: &Path, stop: &AtomicBool) -> io::Result<u64> {
    let path = agent.join("memory.reclaim");
    if !path.exists() {
        return Ok(0);
    }
    let before = in_memory(agent)?;
    let mut left = before;
    while left > 0 && !stop.load(Ordering::Relaxed) {
        let wanted = left.min(SLICE);
        match fs::write(&path, wanted.to_string()) {
            Ok(()) => left -= wanted,
            // There was less than was asked for.
            Err(error) if error.raw_os_error() == Some(Errno::AGAIN.raw_os_error()) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(before.saturating_sub(in_memory(agent)?))
}

/// Bytes that the agent has in memory.
fn in_memory(agent: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(agent.join("memory.current"))?;
    text.trim().parse().map_err(io::Error::other)
}
