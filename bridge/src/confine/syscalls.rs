//! The system call filters, as tables.
//!
//! What is listed is refused with the table's errno, everything else goes through: a shell, a
//! compiler and a package manager must work in here. seccompiler has one errno per filter, so the
//! tables are stacked; the kernel takes the strictest answer of all. A foreign architecture (i386
//! on x86-64) kills the process. x32 shares x86-64's architecture value and has a filter of its
//! own, before which every number of [`X32_BIT`] fails.

use libc::{
    AF_INET, AF_INET6, AF_UNIX, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS,
    CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWUSER, CLONE_NEWUTS, EAFNOSUPPORT, ENOSYS, EPERM,
    EPROTONOSUPPORT, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, S_IFBLK, S_IFCHR,
    S_IFMT, c_int, c_long,
};
use rustix::thread::set_no_new_privs;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};

use super::{ConfineError, step};

/// When a call of a table is refused.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// Whatever its arguments.
    Always,
    /// When any of these bits is set in this argument.
    AnyBit(u8, u64),
    /// When this argument is one of these.
    OneOf(u8, &'static [u64]),
    /// When this argument is none of these.
    NoneOf(u8, &'static [u64]),
    /// When these bits of this argument are one of these.
    Masked(u8, u64, &'static [u64]),
}

/// A filter: what it answers, and to which calls.
#[derive(Debug)]
pub struct Table {
    /// The errno of a refused call.
    pub errno: c_int,
    /// The calls.
    pub calls: &'static [(c_long, When)],
}

const NAMESPACES: u64 = (CLONE_NEWNS
    | CLONE_NEWCGROUP
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET) as u64;

const DEVICES: &[u64] = &[S_IFCHR as u64, S_IFBLK as u64];

/// What `fcntl` is not to do. F_NOTIFY holds up nobody; it is what inotify replaced.
const LEASES: &[u64] = &[libc::F_SETLEASE as u64, libc::F_NOTIFY as u64, F_SETDELEG];

/// Calls that would gain something, or reach into another process.
const FORBIDDEN: &[(c_long, When)] = &[
    // Namespaces: in a user namespace of its own the agent would be root.
    (libc::SYS_clone, When::AnyBit(0, NAMESPACES)),
    (libc::SYS_unshare, When::AnyBit(0, NAMESPACES | CLONE_NEWTIME as u64)),
    (libc::SYS_setns, When::Always),
    // The mount family.
    (libc::SYS_mount, When::Always),
    (libc::SYS_umount2, When::Always),
    (libc::SYS_pivot_root, When::Always),
    (libc::SYS_chroot, When::Always),
    (libc::SYS_open_tree, When::Always),
    (OPEN_TREE_ATTR, When::Always),
    (libc::SYS_move_mount, When::Always),
    (libc::SYS_mount_setattr, When::Always),
    (libc::SYS_fsopen, When::Always),
    (libc::SYS_fsconfig, When::Always),
    (libc::SYS_fsmount, When::Always),
    (libc::SYS_fspick, When::Always),
    (libc::SYS_quotactl, When::Always),
    (libc::SYS_quotactl_fd, When::Always),
    (libc::SYS_name_to_handle_at, When::Always),
    (libc::SYS_open_by_handle_at, When::Always),
    (libc::SYS_fanotify_init, When::Always),
    // Whoever opens a file on which somebody has a lease waits for it, and so does who changes a
    // directory that was delegated: the host does both.
    (libc::SYS_fcntl, When::OneOf(1, LEASES)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, When::Masked(1, S_IFMT as u64, DEVICES)),
    (libc::SYS_mknodat, When::Masked(2, S_IFMT as u64, DEVICES)),
    // Other processes.
    (libc::SYS_ptrace, When::Always),
    (libc::SYS_process_vm_readv, When::Always),
    (libc::SYS_process_vm_writev, When::Always),
    (libc::SYS_process_madvise, When::Always),
    (libc::SYS_pidfd_getfd, When::Always),
    (libc::SYS_kcmp, When::Always),
    (libc::SYS_prlimit64, When::NoneOf(0, &[0])),
    // Kernel surface that no tool of an agent needs.
    (libc::SYS_bpf, When::Always),
    (libc::SYS_perf_event_open, When::Always),
    (libc::SYS_userfaultfd, When::Always),
    (libc::SYS_keyctl, When::Always),
    (libc::SYS_add_key, When::Always),
    (libc::SYS_request_key, When::Always),
    (libc::SYS_personality, When::NoneOf(0, &[0, 0xffff_ffff])),
    (libc::SYS_ioctl, When::OneOf(1, &[libc::TIOCSTI, TIOCLINUX])),
    (libc::SYS_syslog, When::Always),
    (libc::SYS_vhangup, When::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_iopl, When::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_ioperm, When::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_modify_ldt, When::Always),
    // The machine itself.
    (libc::SYS_init_module, When::Always),
    (libc::SYS_finit_module, When::Always),
    (libc::SYS_delete_module, When::Always),
    (libc::SYS_kexec_load, When::Always),
    (libc::SYS_kexec_file_load, When::Always),
    (libc::SYS_reboot, When::Always),
    (libc::SYS_swapon, When::Always),
    (libc::SYS_swapoff, When::Always),
    (libc::SYS_acct, When::Always),
    (libc::SYS_settimeofday, When::Always),
    (libc::SYS_clock_settime, When::Always),
    (libc::SYS_clock_adjtime, When::Always),
    (libc::SYS_adjtimex, When::Always),
    (libc::SYS_sethostname, When::Always),
    (libc::SYS_setdomainname, When::Always),
];

/// Calls that are said not to exist, because callers then fall back to what the filters can
/// judge: `clone3` has its flags in memory, where a filter cannot look.
const ABSENT: &[(c_long, When)] = &[
    (libc::SYS_clone3, When::Always),
    (libc::SYS_io_uring_setup, When::Always),
    (libc::SYS_io_uring_enter, When::Always),
    (libc::SYS_io_uring_register, When::Always),
    (libc::SYS_lookup_dcookie, When::Always),
    (libc::SYS_nfsservctl, When::Always),
];

const FAMILIES: When = When::NoneOf(0, &[AF_UNIX as u64, AF_INET as u64, AF_INET6 as u64]);

/// Address families other than local and IP.
const SOCKETS: &[(c_long, When)] =
    &[(libc::SYS_socket, FAMILIES), (libc::SYS_socketpair, FAMILIES)];

/// Protocols that local and IP sockets may have: none given, ICMP (1, which is what PF_UNIX is as
/// well), TCP, UDP, ICMPv6. Others would have the kernel load their modules.
const PROTOCOLS: &[(c_long, When)] = &[(
    libc::SYS_socket,
    When::NoneOf(
        2,
        &[0, IPPROTO_ICMP as u64, IPPROTO_TCP as u64, IPPROTO_UDP as u64, IPPROTO_ICMPV6 as u64],
    ),
)];

/// All tables.
pub const TABLES: &[Table] = &[
    Table { errno: EPERM, calls: FORBIDDEN },
    Table { errno: ENOSYS, calls: ABSENT },
    Table { errno: EAFNOSUPPORT, calls: SOCKETS },
    Table { errno: EPROTONOSUPPORT, calls: PROTOCOLS },
];

/// What marks a call of the x32 ABI.
pub const X32_BIT: u32 = 0x4000_0000;

const OPEN_TREE_ATTR: c_long = 467;
const TIOCLINUX: u64 = 0x541c;
/// Since Linux 6.19: F_LINUX_SPECIFIC_BASE + 16 (linux/fcntl.h).
const F_SETDELEG: u64 = 1040;

/// Sets `no_new_privs` for this process and whatever it starts. Without it, the filters need a
/// capability.
///
/// # Errors
/// When the kernel refuses.
pub fn forbid_new_privileges() -> Result<(), ConfineError> {
    step("set no_new_privs", set_no_new_privs(true))
}

/// Filters this process, and whatever it starts, for good.
///
/// # Errors
/// When a filter cannot be built or loaded; then some of them may be in force, and the process
/// must not go on.
pub fn restrict() -> Result<(), ConfineError> {
    let refused = |error: &dyn std::fmt::Display| ConfineError::Filter(error.to_string());
    for table in TABLES {
        let program = compile(table).map_err(|error| refused(&error))?;
        apply_filter(&program).map_err(|error| refused(&error))?;
    }
    apply_filter(&no_x32()).map_err(|error| refused(&error))
}

fn compile(table: &Table) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules = std::collections::BTreeMap::new();
    for (call, when) in table.calls {
        rules.insert(*call, rules_for(*when)?);
    }
    let refuse = SeccompAction::Errno(table.errno as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, ARCH)?.try_into()
}

/// Rules are alternatives, the conditions of one rule must all hold. The kernel looks at 32 bits
/// of all arguments that the tables name, so the filter must not look at more.
fn rules_for(when: When) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let condition = |arg, op, value| SeccompCondition::new(arg, SeccompCmpArgLen::Dword, op, value);
    let alternative = |arg, op, value| SeccompRule::new(vec![condition(arg, op, value)?]);
    match when {
        When::Always => Ok(Vec::new()),
        When::AnyBit(arg, bits) => (0..u64::BITS)
            .map(|shift| bits & (1 << shift))
            .filter(|bit| *bit != 0)
            .map(|bit| alternative(arg, MaskedEq(bit), bit))
            .collect(),
        When::OneOf(arg, values) => {
            values.iter().map(|value| alternative(arg, Eq, *value)).collect()
        }
        When::Masked(arg, mask, values) => {
            values.iter().map(|value| alternative(arg, MaskedEq(mask), *value)).collect()
        }
        When::NoneOf(arg, values) => {
            let all = values.iter().map(|value| condition(arg, Ne, *value));
            Ok(vec![SeccompRule::new(all.collect::<Result<_, _>>()?)?])
        }
    }
}

/// Refuses every call number with [`X32_BIT`]. On other architectures no such number exists.
fn no_x32() -> [sock_filter; 4] {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    let refuse = u32::from(SeccompAction::Errno(ENOSYS as u32));
    let allow = u32::from(SeccompAction::Allow);
    let op = |code, jt, k| sock_filter { code, jt, jf: 0, k };
    // The call's number is the first word of what a filter sees.
    [
        op(LOAD_WORD, 0, 0),
        op(JUMP_IF_AT_LEAST, 1, X32_BIT),
        op(RETURN, 0, allow),
        op(RETURN, 0, refuse),
    ]
}

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_table_compiles_and_is_small() {
        for table in TABLES {
            let program = compile(table).unwrap();
            assert!(program.len() < 512, "{} instructions", program.len());
        }
    }

    #[test]
    fn no_call_is_listed_twice_in_a_table() {
        for table in TABLES {
            let all: BTreeSet<_> = table.calls.iter().map(|(call, _)| *call).collect();
            assert_eq!(all.len(), table.calls.len(), "{table:?}");
        }
    }

    /// What the kernel decides by all filters: the answer of the highest precedence, which is the
    /// lowest as a signed number.
    fn verdict(arch: u32, call: c_long) -> u32 {
        verdict_with(arch, call, 0)
    }

    fn verdict_with(arch: u32, call: c_long, second: u64) -> u32 {
        let programs = TABLES.iter().map(|table| compile(table).unwrap());
        let programs = programs.chain([no_x32().to_vec()]);
        let answers = programs.map(|it| answer(&it, (arch, call), second));
        answers.min_by_key(|answer| answer.cast_signed()).unwrap()
    }

    /// Runs a filter as the kernel does, on a call whose arguments but the second are zero.
    fn answer(program: &[sock_filter], (arch, call): (u32, c_long), second: u64) -> u32 {
        // The number, the architecture, the instruction's address, the arguments, low words first.
        let seen = [call as u32, arch, 0, 0, 0, 0, second as u32, (second >> 32) as u32];
        let (mut at, mut word) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let jump_if = |yes| usize::from(if yes { jt } else { jf });
            match code {
                0x20 => word = seen.get(k as usize / 4).copied().unwrap_or(0),
                0x54 => word &= k,
                0x05 => at += k as usize,
                0x15 => at += jump_if(word == k),
                0x25 => at += jump_if(word > k),
                0x35 => at += jump_if(word >= k),
                0x06 => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    /// The architecture's own value, and that of the 32-bit one that its kernels run as well
    /// (linux/audit.h).
    #[cfg(target_arch = "x86_64")]
    const ARCHITECTURES: [u32; 2] = [0xc000_003e, 0x4000_0003];
    #[cfg(target_arch = "aarch64")]
    const ARCHITECTURES: [u32; 2] = [0xc000_00b7, 0x4000_0028];

    /// Whatever the kernel under the test knows of them.
    #[test]
    fn calls_of_other_architectures_are_refused_by_number_alone() {
        let [native, foreign] = ARCHITECTURES;
        let errno = |errno: c_int| u32::from(SeccompAction::Errno(errno as u32));
        let x32 = c_long::from(X32_BIT);
        for call in [libc::SYS_getpid, libc::SYS_mount, libc::SYS_add_key, 600] {
            assert_eq!(verdict(foreign, call), u32::from(SeccompAction::KillProcess), "{call}");
            assert_eq!(verdict(native, call | x32), errno(ENOSYS), "{call}");
        }
        assert_eq!(verdict(native, libc::SYS_getpid), u32::from(SeccompAction::Allow));
        assert_eq!(verdict(native, libc::SYS_mount), errno(EPERM));
    }

    #[test]
    fn leases_are_refused_whatever_is_in_the_upper_half_of_the_word() {
        let [native, _] = ARCHITECTURES;
        let fcntl = |command: u64| verdict_with(native, libc::SYS_fcntl, command);
        // F_SETLEASE, F_NOTIFY, F_SETDELEG.
        for command in [1024, 1026, 1040] {
            let refused = u32::from(SeccompAction::Errno(EPERM as u32));
            assert_eq!(fcntl(command), refused, "{command}");
            assert_eq!(fcntl(command | 1 << 32), refused, "{command}");
        }
        // F_GETLEASE, and what programs live of: F_GETFD, F_SETLK, F_DUPFD_CLOEXEC, F_OFD_SETLK.
        for command in [1025, 1, 6, 1030, 37] {
            assert_eq!(fcntl(command), u32::from(SeccompAction::Allow), "{command}");
        }
    }
}
