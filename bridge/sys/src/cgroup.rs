//! Where control groups version 2 are, and where in them this process is.

use std::io;
use std::path::PathBuf;

/// Where version 2 is mounted, by itself or beside version 1, in the text of
/// `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
pub fn mount_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        (kind.split(' ').next()? == "cgroup2").then_some(())?;
        mount.split(' ').nth(4).map(PathBuf::from)
    })
}

/// Whether namespaces of control groups are boundaries: processes in one are not made in, or moved to,
/// groups outside it (cgroups(7), "nsdelegate"). systemd mounts the hierarchy so.
pub fn is_bounded_in(mountinfo: &str) -> bool {
    mountinfo.lines().filter_map(|line| line.split_once(" - ")).any(|(_, super_block)| {
        let mut fields = super_block.split(' ');
        fields.next() == Some("cgroup2")
            && fields.nth(1).is_some_and(|all| all.split(',').any(|option| option == "nsdelegate"))
    })
}

/// From here on, for this process and those that it makes, the root of control groups is the group that
/// it is in now (cgroup_namespaces(7)).
///
/// # Errors
/// Without CAP_SYS_ADMIN.
pub fn become_root() -> io::Result<()> {
    // SAFETY: no pointers. Of what can be unshared only the file table could take something from
    // under its owner.
    match unsafe { libc::unshare(libc::CLONE_NEWCGROUP) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The group of version 2, from the root of the hierarchy, in the text of `/proc/self/cgroup`
/// (cgroups(7)).
pub fn own_in(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_beside_version_1_and_alone() {
        let hybrid = "30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      31 25 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let pure = "31 25 0:27 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_in(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_in(pure), Some("/sys/fs/cgroup".into()));
        assert_eq!(mount_in("30 25 0:26 / /proc rw - proc proc rw\n"), None);
    }

    #[test]
    fn a_hierarchy_says_whether_namespaces_are_boundaries() {
        let mounted = |options: &str| {
            format!(
                "22 1 8:1 / / rw - ext4 /dev/nsdelegate rw\n\
                 30 25 0:26 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 {options}\n"
            )
        };
        assert!(is_bounded_in(&mounted("rw,nsdelegate,memory_recursiveprot")));
        assert!(!is_bounded_in(&mounted("rw,memory_recursiveprot")));
        assert!(!is_bounded_in(""));
    }

    #[test]
    fn the_own_group_is_that_of_version_2() {
        let both = "1:name=systemd:/a\n0::/system.slice/ash-sandboxes.service\n";
        assert_eq!(own_in(both), Some("/system.slice/ash-sandboxes.service"));
        assert_eq!((own_in("0::/\n"), own_in("1:cpu:/a\n"), own_in("")), (Some("/"), None, None));
    }
}
