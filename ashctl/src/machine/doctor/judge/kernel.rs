//! What the kernel must bring.

use super::super::finding::Finding;
use super::super::readings::Readings;
use super::version;

/// The oldest kernel.
const KERNEL: (u32, u32) = (6, 1);

/// The oldest landlock ABI, and the newest that ash uses.
const LANDLOCK: u8 = 2;
const NEWEST_LANDLOCK: u8 = 6;

pub(super) fn kernel(readings: &Readings) -> Finding {
    let name = "Kernel";
    let release = &readings.kernel;
    match version(release) {
        Some(version) if version >= KERNEL => Finding::ok(name, format!("Linux {release}")),
        _ => Finding::missing(
            name,
            format!("Linux {release}; ash needs 6.1 or newer"),
            "install a newer kernel of the distribution and reboot",
        ),
    }
}

pub(super) fn control_groups(readings: &Readings) -> Finding {
    let name = "Control groups";
    let groups = &readings.cgroups;
    if !groups.is_unified {
        return Finding::missing(
            name,
            "version 2 is not mounted at /sys/fs/cgroup",
            "boot with systemd.unified_cgroup_hierarchy=1",
        );
    }
    let absent = lacking(&groups.controllers, &["cpu", "memory", "pids"]);
    if !absent.is_empty() {
        return Finding::missing(
            name,
            format!("version 2 without the controllers {absent}: sandboxes would have no limits"),
            "remove cgroup_disable= from the kernel's command line (on a Raspberry Pi, add \
             cgroup_enable=memory) and reboot",
        );
    }
    delegation(name, readings)
}

/// What the unit that holds sandboxes was given.
fn delegation(name: &'static str, readings: &Readings) -> Finding {
    let groups = &readings.cgroups;
    let delegated = groups.delegated.as_ref();
    let withheld = delegated.map(|given| lacking(given, &["cpu", "memory", "pids"]));
    if let Some(withheld) = withheld.filter(|withheld| !withheld.is_empty()) {
        return Finding::missing(
            name,
            format!("ash-sandboxes.service was not given the controllers {withheld}"),
            "see `systemctl cat ash-sandboxes`: a drop-in takes its Delegate=yes away",
        );
    }
    if !groups.controllers.iter().any(|controller| controller == "io") {
        return Finding::warn(
            name,
            "version 2 without the controller io: what sandboxes read and write is not counted",
            "use a kernel that is built with CONFIG_BLK_CGROUP",
        );
    }
    let where_to = match delegated {
        Some(_) => ", and given to ash-sandboxes.service",
        None => "",
    };
    Finding::ok(name, format!("version 2 with cpu, memory, pids and io{where_to}"))
}

/// Those of `wanted` that are not in `given`, in words.
fn lacking(given: &[String], wanted: &[&str]) -> String {
    let absent = wanted.iter().filter(|wanted| given.iter().all(|given| given != *wanted));
    absent.copied().collect::<Vec<_>>().join(", ")
}

pub(super) fn landlock(readings: &Readings) -> Finding {
    let name = "landlock";
    let abi = readings.landlock;
    if abi < LANDLOCK {
        return Finding::missing(
            name,
            match abi {
                0 => "the kernel has none".to_owned(),
                abi => format!("only ABI {abi}; ash needs 2"),
            },
            "add landlock to the lsm= boot parameter, or use Linux 6.1 or newer built with it",
        );
    }
    let layers = [
        (3, "truncation (Linux 6.2)"),
        (4, "TCP (Linux 6.7)"),
        (5, "device control (Linux 6.10)"),
        (6, "signals and abstract sockets (Linux 6.12)"),
    ];
    let absent = layers.iter().filter(|(since, _)| *since > abi).map(|(_, layer)| *layer);
    match abi >= NEWEST_LANDLOCK {
        true => Finding::ok(name, format!("ABI {abi}")),
        false => Finding::warn(
            name,
            format!("ABI {abi} does not know: {}", absent.collect::<Vec<_>>().join(", ")),
            "the other layers hold without it; a newer kernel adds it",
        ),
    }
}

pub(super) fn seccomp(readings: &Readings) -> Finding {
    let name = "seccomp";
    let actions = readings.seccomp.as_deref().unwrap_or_default();
    match actions.split_whitespace().any(|action| action == "errno") {
        true => Finding::ok(name, "filters work"),
        false => Finding::missing(
            name,
            "the kernel has no seccomp filters",
            "use a kernel that is built with CONFIG_SECCOMP_FILTER",
        ),
    }
}

pub(super) fn mitigations(readings: &Readings) -> Finding {
    let name = "CPU mitigations";
    let open = |(_, state): &&(String, String)| state.starts_with("Vulnerable");
    let names = |(name, _): &(String, String)| name.clone();
    let open: Vec<_> = readings.vulnerabilities.iter().filter(open).map(names).collect();
    if !open.is_empty() {
        return Finding::warn(
            name,
            format!("nothing is done about {}", open.join(", ")),
            "sandboxes might read each other's memory: install the processor's microcode, and \
             remove mitigations=off from the kernel's command line",
        );
    }
    match readings.is_smt_on {
        true => Finding::warn(
            name,
            "two threads of a core may run different sandboxes (SMT is on)",
            "if sandboxes must not measure each other, boot with mitigations=auto,nosmt",
        ),
        false => Finding::ok(name, "on for every weakness that the kernel knows; SMT is off"),
    }
}
