//! Whether the machine has room for one more sandbox.

use std::fs;
use std::io;
use std::path::Path;

use crate::telemetry::metrics::labels::Want;

/// What the machine has, and how much of it must stay free.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Room {
    /// Sandboxes alive.
    pub live: u64,
    /// The most that may live.
    pub max: u64,
    /// Free bytes on the disk that holds the sessions.
    pub disk_free: u64,
    /// Bytes that must stay free on it.
    pub disk_reserve: u64,
}

/// There is no room. Fit for users.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct NoRoom {
    /// What there is too little of.
    pub want: Want,
    /// One sentence.
    pub reason: String,
    /// Seconds after which to try again.
    pub retry_after_s: u32,
}

/// Says no when one more sandbox would be too many.
pub fn admit(room: &Room) -> Result<(), NoRoom> {
    if room.live >= room.max {
        let reason = format!("all {} sandboxes of this machine are in use", room.max);
        return no(Want::Sandboxes, reason, 5);
    }
    if room.disk_free < room.disk_reserve {
        return no(Want::Disk, short("disk space", room.disk_free, room.disk_reserve), 60);
    }
    Ok(())
}

/// What comes back by itself, and how much of it must stay free.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Strain {
    /// Whether work stands still for want of memory.
    pub is_pressed: bool,
    /// Available memory, in bytes.
    pub memory_free: u64,
    /// Bytes of memory that must stay available.
    pub memory_reserve: u64,
    /// Processes and threads that there are, and how many there can be: on the machine, and in all
    /// sandboxes together. `None` where it is not known, or nothing bounds them.
    pub pids: [Option<(u64, u64)>; 2],
}

impl Strain {
    /// Whether there is too little memory.
    pub fn lacks_memory(&self) -> bool {
        self.is_pressed || self.memory().is_err()
    }

    /// Says no while too little memory is free, whatever the kernel says of those who work.
    pub fn memory(&self) -> Result<(), NoRoom> {
        match self.memory_free < self.memory_reserve {
            true => no(Want::Memory, short("memory", self.memory_free, self.memory_reserve), 10),
            false => Ok(()),
        }
    }

    /// Whether few more processes could be made.
    pub fn lacks_processes(&self) -> bool {
        self.crowded().is_some()
    }

    /// How many processes there are, and can be, where that is nearly as many.
    fn crowded(&self) -> Option<(u64, u64)> {
        let mut known = self.pids.into_iter().flatten();
        known.find(|(used, most)| most.saturating_sub(*used) < reserved_pids(*most))
    }
}

/// Says no while one more sandbox would be too much, which passes.
pub fn ease(strain: &Strain) -> Result<(), NoRoom> {
    strain.memory()?;
    if strain.is_pressed {
        let reason = "this machine is short of memory: work stands still for want of it";
        return no(Want::Memory, reason.to_owned(), 10);
    }
    if let Some((used, most)) = strain.crowded() {
        let reason = format!("this machine is short of processes: {used} of {most} are there");
        return no(Want::Processes, reason, 10);
    }
    Ok(())
}

/// How many of so many processes must stay free: an agent has dozens of threads when it begins.
fn reserved_pids(most: u64) -> u64 {
    (most / 8).min(1024)
}

fn no(want: Want, reason: String, retry_after_s: u32) -> Result<(), NoRoom> {
    Err(NoRoom { want, reason, retry_after_s })
}

fn short(what: &str, free: u64, reserve: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    let (free, reserve) = (free / MIB, reserve / MIB);
    format!("this machine is short of {what}: {free} MiB free, {reserve} MiB must stay free")
}

/// Free bytes on the disk that holds `path`, for those who are not root.
///
/// # Errors
/// When `path` does not exist or its file system does not answer.
pub fn disk_free(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Memory that is available without swapping, in bytes.
///
/// # Errors
/// When `/proc/meminfo` cannot be read or does not say.
pub fn memory_available() -> io::Result<u64> {
    bytes_in(&fs::read_to_string("/proc/meminfo")?, "MemAvailable:")
        .ok_or_else(|| io::Error::other("/proc/meminfo does not say MemAvailable"))
}

/// Whether the machine has swap, be it compressed memory or a disk; false when it does not say.
pub fn has_swap() -> bool {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    bytes_in(&meminfo, "SwapTotal:").is_some_and(|bytes| bytes > 0)
}

/// Processes and threads of this machine, and how many there can be. `None` when it does not say.
pub fn pids() -> Option<(u64, u64)> {
    let most = |name: &str| -> Option<u64> {
        fs::read_to_string(Path::new("/proc/sys/kernel").join(name)).ok()?.trim().parse().ok()
    };
    let used = threads_in(&fs::read_to_string("/proc/loadavg").ok()?)?;
    Some((used, most("pid_max")?.min(most("threads-max")?)))
}

/// See proc_loadavg(5): what runs, and behind a slash what there is.
fn threads_in(loadavg: &str) -> Option<u64> {
    let (_, there) = loadavg.split(' ').nth(3)?.split_once('/')?;
    there.parse().ok()
}

/// Whether less than an eighth of the memory is available. Of a machine that does not say, it is not so.
pub fn memory_is_scarce() -> bool {
    fs::read_to_string("/proc/meminfo").is_ok_and(|meminfo| is_scarce_in(&meminfo))
}

fn is_scarce_in(meminfo: &str) -> bool {
    let total = bytes_in(meminfo, "MemTotal:");
    let available = bytes_in(meminfo, "MemAvailable:");
    available.zip(total).is_some_and(|(available, total)| available < total / 8)
}

fn bytes_in(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: Room = Room { live: 1, max: 2, disk_free: 9, disk_reserve: 9 };

    #[test]
    fn each_shortage_says_no_in_its_own_words() {
        assert_eq!(admit(&PLENTY), Ok(()));
        let cases = [
            (Room { live: 2, ..PLENTY }, "all 2 sandboxes of this machine are in use"),
            (Room { disk_free: 8, ..PLENTY }, "short of disk space"),
        ];
        let plenty = Strain { memory_free: 9, memory_reserve: 9, ..Strain::default() };
        assert_eq!(plenty.memory(), Ok(()));
        let memory = (Strain { memory_free: 8, ..plenty }.memory(), "short of memory");
        for (said, words) in
            cases.map(|(room, words)| (admit(&room), words)).into_iter().chain([memory])
        {
            let no = said.unwrap_err();
            assert!(no.reason.contains(words) && no.retry_after_s > 0, "{no:?}");
        }
    }

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:  100 kB\nMemAvailable:   2048 kB\nSwapTotal:      0 kB\n";
        let bytes = |key| bytes_in(text, key);
        assert_eq!((bytes("MemAvailable:"), bytes("SwapTotal:")), (Some(2048 * 1024), Some(0)));
        assert_eq!(bytes("MemFree:"), None);
        assert!(memory_available().unwrap() > 0);
        assert!(disk_free(Path::new("/")).unwrap() > 0);
    }

    #[test]
    fn what_passes_is_waited_for() {
        let calm = Strain { memory_free: 9, memory_reserve: 9, ..Strain::default() };
        assert_eq!(ease(&calm), Ok(()));
        assert!(!calm.lacks_memory() && !calm.lacks_processes());
        assert_eq!(ease(&Strain { pids: [Some((24, 32)), Some((0, 1 << 20))], ..calm }), Ok(()));
        let cases = [
            (Strain { memory_free: 8, ..calm }, "short of memory: 0 MiB free"),
            (Strain { is_pressed: true, ..calm }, "for want of it"),
            (Strain { pids: [Some((29, 32)), None], ..calm }, "29 of 32"),
            (Strain { pids: [None, Some((4400, 5000))], ..calm }, "4400 of 5000"),
            (Strain { pids: [Some((64_513, 65_536)), None], ..calm }, "64513 of 65536"),
        ];
        for (strain, words) in cases {
            let no = ease(&strain).unwrap_err();
            assert!(no.reason.contains(words) && no.retry_after_s > 0, "{no:?}");
            let lacks = (strain.lacks_memory(), strain.lacks_processes());
            assert_eq!(lacks, (no.want == Want::Memory, no.want == Want::Processes), "{no:?}");
        }
    }

    #[test]
    fn threads_are_counted() {
        assert_eq!(threads_in("0.00 0.01 0.05 1/234 567\n"), Some(234));
        for bad in ["", "0.00 0.01 0.05", "0.00 0.01 0.05 1 567", "0.00 0.01 0.05 1/x 567"] {
            assert_eq!(threads_in(bad), None, "{bad:?}");
        }
        let (used, most) = pids().unwrap();
        assert!(used > 0 && most > used);
    }

    #[test]
    fn memory_is_scarce_below_an_eighth() {
        for (available, is_scarce) in [(124, true), (125, false), (900, false)] {
            let text = format!("MemTotal:  1000 kB\nMemAvailable:  {available} kB\n");
            assert_eq!(is_scarce_in(&text), is_scarce, "{available}");
        }
        assert!(!is_scarce_in("MemAvailable: 1 kB\n") && !is_scarce_in(""));
    }
}
