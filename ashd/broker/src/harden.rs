//! Takes away what the broker does not need: everything but its sockets and the few files that name
//! resolution reads.
//!
//! Whoever takes the process over from inside a sandbox shall find no file, no program and no other
//! process in reach.

use std::collections::BTreeMap;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::CapabilitySet;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

/// Where name resolution reads. All of `/etc`, because `resolv.conf` and `hosts` are replaced, not
/// rewritten, when a network changes; what is secret there is not readable for the broker's user.
const READABLE: [&str; 8] = [
    "/etc",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/run/systemd/resolve",
    "/run/NetworkManager",
    "/run/resolvconf",
];

/// Why the process could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was started with privileges.
    #[error("the broker must not run as root or with capabilities: start it as a user of its own")]
    Privileged,
    /// A limit or attribute of the process cannot be set.
    #[error("the process cannot be restricted: {0}")]
    Process(#[from] rustix::io::Errno),
    /// No landlock.
    #[error("landlock cannot confine the broker (Linux 6.1 or newer with landlock is needed): {0}")]
    Landlock(#[from] RulesetError),
    /// Landlock is built in but switched off.
    #[error("landlock is not enabled: add it to the kernel's lsm= list")]
    NoLandlock,
    /// The filter cannot be built.
    #[error("the system call filter cannot be built: {0}")]
    Filter(#[from] seccompiler::BackendError),
    /// The filter cannot be installed.
    #[error("the system call filter cannot be installed: {0}")]
    Seccomp(#[from] seccompiler::Error),
}

/// Confines the calling thread and all that it will start. Call it before there are others.
pub fn confine() -> Result<(), Error> {
    require_no_privilege()?;
    forbid_dumps()?;
    raise_open_files()?;
    rustix::thread::set_no_new_privs(true)?;
    restrict_files()?;
    restrict_calls()
}

fn require_no_privilege() -> Result<(), Error> {
    let sets = rustix::thread::capabilities(None)?;
    let held = sets.effective | sets.permitted | sets.inheritable;
    let root = rustix::process::getuid().is_root() || rustix::process::geteuid().is_root();
    if root || held != CapabilitySet::empty() { Err(Error::Privileged) } else { Ok(()) }
}

/// A dump would hold the key. The limit alone would not stop a handler that the kernel pipes to.
fn forbid_dumps() -> Result<(), Error> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// Each sandbox takes a listener and some connections.
fn raise_open_files() -> Result<(), Error> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    Ok(())
}

fn restrict_files() -> Result<(), Error> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V2))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .add_rules(path_beneath_rules(READABLE, AccessFs::ReadFile))?
        .restrict_self()?;
    if status.ruleset == RulesetStatus::NotEnforced { Err(Error::NoLandlock) } else { Ok(()) }
}

fn restrict_calls() -> Result<(), Error> {
    // All of them are asked; a filter can only refuse with one error, and clone3 needs another.
    seccompiler::apply_filter(&foreign_numbers())?;
    seccompiler::apply_filter(&filter(forbidden()?, libc::EPERM)?)?;
    // The C library falls back to clone, whose flags can be judged.
    seccompiler::apply_filter(&filter([(libc::SYS_clone3, vec![])].into(), libc::ENOSYS)?)?;
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn filter(rules: Rules, errno: i32) -> Result<BpfProgram, Error> {
    let refuse = SeccompAction::Errno(errno.unsigned_abs());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()?)
}

/// Numbers from 2^30 up are x32's, another name for every call that the filter forbids.
fn foreign_numbers() -> BpfProgram {
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO_ENOSYS: u32 = 0x0005_0000 | 38;
    let step = |code, jt, k| sock_filter { code, jt, jf: 0, k };
    vec![
        step(LOAD_NUMBER, 0, 0),
        step(JUMP_IF_AT_LEAST, 1, 0x4000_0000),
        step(RETURN, 0, ALLOW),
        step(RETURN, 0, ERRNO_ENOSYS),
    ]
}

/// Calls that the broker never makes and an intruder would like to.
const FORBIDDEN: &[i64] = &[
    // other programs, other processes
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_setns,
    libc::SYS_unshare,
    // other file trees
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    // its listeners come from ashd
    libc::SYS_listen,
    // surface of the kernel
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
];

/// The same, where the architecture still has them.
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_HERE: &[i64] = &[libc::SYS_fork, libc::SYS_vfork, libc::SYS_modify_ldt];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_HERE: &[i64] = &[];

fn forbidden() -> Result<Rules, Error> {
    let always = FORBIDDEN.iter().chain(FORBIDDEN_HERE).map(|&call| (call, vec![]));
    let mut rules: Rules = always.collect();
    rules.insert(libc::SYS_socket, odd_sockets()?);
    rules.insert(libc::SYS_clone, new_processes()?);
    rules.insert(libc::SYS_tgkill, vec![signals_to_others()?]);
    rules.insert(libc::SYS_prlimit64, vec![rule(vec![when(0, SeccompCmpOp::Ne, 0)?])?]);
    Ok(rules)
}

/// Anything but Unix, IP, and what the resolver asks the kernel about routes.
fn odd_sockets() -> Result<Vec<SeccompRule>, Error> {
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let none = families.map(|family| when(0, SeccompCmpOp::Ne, u64::from(family.unsigned_abs())));
    let netlink = u64::from(libc::AF_NETLINK.unsigned_abs());
    let route = u64::from(libc::NETLINK_ROUTE.unsigned_abs());
    let other_netlink =
        vec![when(0, SeccompCmpOp::Eq, netlink)?, when(2, SeccompCmpOp::Ne, route)?];
    Ok(vec![rule(none.into_iter().collect::<Result<_, _>>()?)?, rule(other_netlink)?])
}

/// Threads yes, processes no.
fn new_processes() -> Result<Vec<SeccompRule>, Error> {
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    Ok(vec![rule(vec![when(0, SeccompCmpOp::MaskedEq(thread), 0)?])?])
}

/// `abort` signals its own thread; nobody else is to be signalled.
fn signals_to_others() -> Result<SeccompRule, Error> {
    let own = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
    rule(vec![when(0, SeccompCmpOp::Ne, u64::from(own))?])
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, Error> {
    Ok(SeccompRule::new(conditions)?)
}

fn when(argument: u8, operation: SeccompCmpOp, value: u64) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operation, value)?)
}
