//! What the kernel must allow the launcher.
//!
//! Without it no sandbox can be made, and what bubblewrap says then names neither the reason nor the
//! unit that would have to be changed.

use rustix::thread::CapabilitySet;

/// What its unit leaves it, each for the reason that stands there. But for SYS_RESOURCE: it is used to
/// raise limits, and where they are high enough sandboxes are made without it.
const NEEDED: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::KILL);

/// The names of what this process lacks, as a unit has them; empty when it lacks nothing.
///
/// # Errors
/// When the kernel does not say.
pub fn missing() -> std::io::Result<Vec<String>> {
    let effective = rustix::thread::capabilities(None)?.effective;
    Ok(names(NEEDED.difference(effective)))
}

fn names(set: CapabilitySet) -> Vec<String> {
    set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_unit_leaves_what_is_needed() {
        let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../systemd/ash-sandboxes.service");
        let unit = std::fs::read_to_string(unit).unwrap();
        let left = unit.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        let left: BTreeSet<_> = left.flat_map(str::split_ascii_whitespace).collect();
        let needed = names(NEEDED);
        let needed = needed.iter().map(String::as_str).chain(["CAP_SYS_RESOURCE"]);
        assert_eq!(left, needed.collect());
    }
}
