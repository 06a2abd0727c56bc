//! What processes take.

use std::fs;

use anyhow::{Context as _, Result};

/// Memory of a process, in millions of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// What it has in memory.
    pub resident: f64,
    /// The same, shared pages divided by those who share them.
    pub proportional: f64,
    /// What only it has.
    pub private: f64,
}

impl Memory {
    /// Of this process.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(pid: u32) -> Result<Memory> {
        let path = format!("/proc/{pid}/smaps_rollup");
        Ok(Memory::parse(&fs::read_to_string(&path).context(path)?))
    }

    /// The most that a process has had in memory since [`forget_peak`].
    ///
    /// # Errors
    /// When it is gone.
    pub fn peak_of(pid: u32) -> Result<f64> {
        let path = format!("/proc/{pid}/status");
        Ok(field(&fs::read_to_string(&path).context(path)?, "VmHWM:"))
    }

    fn parse(text: &str) -> Memory {
        let of = |key: &str| field(text, key);
        let private = of("Private_Clean:") + of("Private_Dirty:");
        Memory { resident: of("Rss:"), proportional: of("Pss:"), private }
    }
}

/// Lets the peak of a process begin anew, at what it has now.
///
/// # Errors
/// When it is gone.
pub fn forget_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").context(path)
}

/// The number of KiB in the line that begins with this, in millions of bytes.
fn field(text: &str, key: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() * 1024.0 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let text = "5581 [rollup]\nRss:  2000 kB\nPss:  1000 kB\nPss_Dirty: 4 kB\n\
                    Shared_Clean: 8 kB\nPrivate_Clean: 250 kB\nPrivate_Dirty: 250 kB\n";
        let memory = Memory { resident: 2.048, proportional: 1.024, private: 0.512 };
        assert_eq!(Memory::parse(text), memory);
    }
}
