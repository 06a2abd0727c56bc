//! From root with three capabilities to a uid with none.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Uid, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::{ConfineError, step};

/// Sees to it that executing a program, setuid or not, gives no capability. Takes one to do: it
/// comes before [`become_user`].
///
/// # Errors
/// When the kernel refuses.
pub fn limit_capabilities() -> Result<(), ConfineError> {
    step("empty the bounding set", empty_bounding_set())?;
    step("empty the ambient set", clear_ambient_capability_set())
}

/// Becomes `id` (uid and gid), without supplementary groups, and hides this process from others of
/// the same uid (`/proc/<pid>` belongs to root then).
///
/// The process must have one thread: credentials belong to threads.
///
/// # Errors
/// At the first step that the kernel refuses.
pub fn become_user(id: u32) -> Result<(), ConfineError> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    step("leave all groups", set_thread_groups(&[]))?;
    step("change the gid", set_thread_res_gid(gid, gid, gid))?;
    step("change the uid", set_thread_res_uid(uid, uid, uid))?;
    step("become undumpable", set_dumpable_behavior(DumpableBehavior::NotDumpable))
}

/// Gives up every capability, and looks whether none is left in any set.
///
/// # Errors
/// When the kernel refuses, or a capability survived.
pub fn empty_capabilities() -> Result<(), ConfineError> {
    step("empty the capability sets", set_capabilities(None, NO_CAPABILITIES))?;
    let status = step("read /proc/self/status", std::fs::read_to_string("/proc/self/status"))?;
    check_empty(&status)
}

const NO_CAPABILITIES: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

/// bubblewrap 0.8 leaves the bounding set full, whatever it was told to drop.
fn empty_bounding_set() -> Result<(), Errno> {
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // Past the last capability that this kernel knows.
            Err(Errno::INVAL) if number > 0 => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// All five sets, in the kernel's own words.
fn check_empty(status: &str) -> Result<(), ConfineError> {
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        if line.and_then(|bits| u64::from_str_radix(bits, 16).ok()) != Some(0) {
            return Err(ConfineError::CapabilityLeft(name.to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
        CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n";

    #[test]
    fn five_empty_sets_pass() {
        check_empty(EMPTY).unwrap();
    }

    #[test]
    fn one_bit_in_any_set_or_a_missing_set_fails() {
        for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let line = format!("{name}:\t0000000000000000");
            let bit = EMPTY.replace(&line, &format!("{name}:\t0000000000000001"));
            assert!(check_empty(&bit).is_err(), "{name} with a bit");
            assert!(check_empty(&EMPTY.replace(&line, "")).is_err(), "{name} missing");
        }
    }
}
