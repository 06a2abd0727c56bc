//! The disk of the state directory, and swap.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ioctl_ficlone, statvfs};

use super::super::readings::{Config, Disk, Swap};
use super::{line, service};

/// Where the state is, unless the configuration says otherwise.
const STATE: &str = "/var/lib/ash";

/// What is left free, unless the configuration says otherwise.
const RESERVE: u64 = 1 << 30;

pub(super) fn disk(config: &Config) -> Disk {
    let configured = service::value(config, "state.data_dir").unwrap_or(STATE);
    let path = existing(Path::new(configured));
    let reserve = service::value(config, "state.reserve_disk").and_then(bytes);
    let room = statvfs(&path).ok();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let (kind, options) = mount_of(&mounts, &path).unwrap_or_default();
    Disk {
        free: room.map_or(0, |room| room.f_bavail * room.f_frsize),
        reserve: reserve.unwrap_or(RESERVE),
        has_quota: options.split(',').any(|it| matches!(it, "prjquota" | "pquota")),
        can_reflink: can_reflink(&path),
        kind,
        path,
    }
}

/// The path, or the nearest above it that exists.
fn existing(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|path| path.exists());
    found.unwrap_or(Path::new("/")).to_owned()
}

/// Tries it with two files that have no name and leave nothing.
fn can_reflink(directory: &Path) -> Option<bool> {
    let unnamed = || {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR).map(File::from)
    };
    let (mut from, to) = (unnamed().ok()?, unnamed().ok()?);
    from.write_all(&[1; 4096]).ok()?;
    from.sync_data().ok()?;
    let mut read = [0];
    Some(ioctl_ficlone(&to, &from).is_ok() && to.read_at(&mut read, 0).is_ok() && read == [1])
}

/// Type and options of the file system that a path is on.
fn mount_of(mounts: &str, path: &Path) -> Option<(String, String)> {
    let inside = mounts.lines().filter_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let point = Path::new(mount.split(' ').nth(4)?);
        let mut system = system.split(' ');
        let (kind, options) = (system.next()?, system.nth(1)?);
        path.starts_with(point).then_some((point, kind, options))
    });
    // Of two on the same point the later one lies above.
    let (_, kind, options) = inside.max_by_key(|(point, ..)| point.as_os_str().len())?;
    Some((kind.to_owned(), options.to_owned()))
}

/// A size as the configuration writes it.
fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|each: char| !each.is_ascii_digit()).unwrap_or(text.len());
    let shift = match text[end..].trim() {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    text[..end].parse::<u64>().ok()?.checked_mul(1 << shift)
}

pub(super) fn swap() -> Swap {
    let text = fs::read_to_string("/proc/swaps").unwrap_or_default();
    Swap {
        is_zswap_on: line("/sys/module/zswap/parameters/enabled").as_deref() == Some("Y"),
        ..swaps(&text)
    }
}

/// What `/proc/swaps` lists; its sizes are in KiB.
fn swaps(text: &str) -> Swap {
    let lines: Vec<Vec<&str>> =
        text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let size = |line: &Vec<&str>| line.get(2).and_then(|size| size.parse::<u64>().ok());
    let is_zram = |line: &Vec<&str>| line.first().is_some_and(|name| name.contains("zram"));
    Swap {
        size: lines.iter().filter_map(size).sum::<u64>() << 10,
        is_zram: !lines.is_empty() && lines.iter().all(is_zram),
        is_zswap_on: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts() {
        let mounts = "\
            22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n\
            30 22 8:2 / /var rw,noatime shared:2 - xfs /dev/sda2 rw,attr2,prjquota\n\
            31 22 0:5 / /var/library rw - tmpfs tmpfs rw\n";
        let of = |path| mount_of(mounts, Path::new(path)).unwrap();
        assert_eq!(of("/var/lib/ash"), ("xfs".into(), "rw,attr2,prjquota".into()));
        assert_eq!(of("/srv").0, "ext4");
        assert_eq!(mount_of("", Path::new("/")), None);
    }

    #[test]
    fn sizes_are_those_of_the_configuration() {
        assert_eq!(bytes("2GiB"), Some(2 << 30));
        assert_eq!(bytes("4096"), Some(4096));
        assert_eq!(bytes("2GB"), None);
    }

    #[test]
    fn swap_is_added_up() {
        let header = "Filename\tType\tSize\tUsed\tPriority\n";
        let two = format!("{header}/dev/zram0 partition 2048 0 100\n/swapfile file 1024 0 -2\n");
        assert_eq!((swaps(&two).size, swaps(&two).is_zram), (3072 << 10, false));
        let one = format!("{header}/dev/zram0 partition 2048 0 100\n");
        assert!(swaps(&one).is_zram && !swaps(header).is_zram);
    }

    #[test]
    fn a_probe_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        // Whether it works is a matter of the machine's file system.
        let _ = can_reflink(dir.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(existing(&dir.path().join("a/b")), dir.path());
    }
}
