//! What the machine around ash should be like.

use super::super::finding::Finding;
use super::super::readings::Readings;
use super::{size, version};

/// The oldest systemd.
const SYSTEMD: (u32, u32) = (252, 0);

pub(super) fn systemd(readings: &Readings) -> Finding {
    let name = "systemd";
    let Some(said) = &readings.systemd else {
        let mend = "use a distribution with systemd, or run ashd by hand in the foreground";
        return Finding::missing(name, "it is not installed", mend);
    };
    if version(said).is_none_or(|version| version < SYSTEMD) {
        let detail = format!("{said}; ash's services need 252 or newer");
        return Finding::missing(name, detail, "upgrade the distribution");
    }
    match readings.is_systemd_running {
        true => Finding::ok(name, said),
        false => Finding::warn(
            name,
            format!("{said}, but it does not run this machine"),
            "ash's services need it; without, ashd runs by hand in the foreground",
        ),
    }
}

pub(super) fn disk(readings: &Readings) -> Finding {
    let name = "Disk";
    let disk = &readings.disk;
    let (path, free, reserve) = (disk.path.display(), size(disk.free), size(disk.reserve));
    let mend = format!(
        "free some space, purge old sessions (`ashctl session end --purge ID`), or set \
         reserve_disk in [state]; `du -xhd2 {path}` says what is large"
    );
    if disk.free < disk.reserve {
        let detail = format!("{free} free for {path}, less than the reserve of {reserve}");
        return Finding::missing(name, format!("{detail}: nothing new is accepted"), mend);
    }
    match disk.free < disk.reserve.saturating_mul(2) {
        true => {
            let detail = format!("{free} free for {path}, close to the reserve of {reserve}");
            Finding::warn(name, detail, mend)
        }
        false => Finding::ok(name, format!("{free} free for {path}, {reserve} in reserve")),
    }
}

pub(super) fn copies(readings: &Readings) -> Finding {
    let disk = &readings.disk;
    let shares = match (disk.can_reflink, disk.kind.as_str()) {
        (Some(true), _) => "copies of files share their blocks",
        (None, "btrfs" | "xfs" | "bcachefs") => "copies of files can share their blocks",
        _ => "copies of files take time and room; XFS and Btrfs would share blocks",
    };
    let quota = if disk.has_quota { "on" } else { "off; ash does not need them" };
    let detail = format!("{}: {shares}; project quotas are {quota}", disk.kind);
    Finding::ok("Reflinks and quotas", detail)
}

pub(super) fn swap(readings: &Readings) -> Finding {
    let swap = &readings.swap;
    let kind = match (swap.size, swap.is_zram, swap.is_zswap_on) {
        (0, ..) => return Finding::ok("Swap", "none; idle sandboxes keep their memory"),
        (bytes, true, _) => format!("{} in compressed memory", size(bytes)),
        (bytes, _, true) => format!("{}, behind zswap", size(bytes)),
        (bytes, ..) => size(bytes),
    };
    Finding::ok("Swap", format!("{kind}; takes the memory of idle sandboxes"))
}

pub(super) fn clock(readings: &Readings) -> Finding {
    let name = "Clock";
    match readings.is_clock_synchronised {
        Some(true) => Finding::ok(name, "synchronised"),
        Some(false) => Finding::warn(
            name,
            "not synchronised: times of events may be wrong, and TLS to the model API may fail",
            "run `timedatectl set-ntp true`, or install chrony",
        ),
        None => Finding::warn(
            name,
            "nobody can tell whether it is synchronised",
            "see to it that the host of this machine keeps the time",
        ),
    }
}
