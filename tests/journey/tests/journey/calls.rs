//! The system calls that are refused, with arguments that do no harm should one not be.

use libc::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER,
    CLONE_NEWUTS, EAFNOSUPPORT, ENOSYS, EPERM, SIGCHLD, SOCK_DGRAM, SOCK_RAW, TIOCSTI, c_long,
};
use serde_json::{Value, json};

/// A call and what must come of it: an errno, 0, or a signal, negated.
pub(crate) struct Call {
    pub(crate) name: &'static str,
    number: i64,
    arguments: Vec<Value>,
    way: &'static str,
    pub(crate) outcome: i32,
}

impl Call {
    /// As `probe.py` reads it.
    pub(crate) fn written(&self) -> Value {
        json!([self.number, self.arguments, self.way])
    }
}

const NATIVE: &str = "native";

fn call(name: &'static str, number: c_long, arguments: &[i64], outcome: i32) -> Call {
    let arguments = arguments.iter().map(|value| json!(value)).collect();
    Call { name, number, arguments, way: NATIVE, outcome }
}

/// A call whose first arguments are texts.
fn texts(name: &'static str, number: c_long, words: &[&str], more: &[i64]) -> Call {
    let words = words.iter().map(|word| json!(word));
    let arguments = words.chain(more.iter().map(|value| json!(value))).collect();
    Call { name, number, arguments, way: NATIVE, outcome: EPERM }
}

/// All of them.
pub(crate) fn calls() -> Vec<Call> {
    let groups =
        [namespaces(), mounts(), processes(), kernel(), machine(), absent(), sockets(), allowed()];
    groups.into_iter().flatten().collect()
}

fn namespaces() -> Vec<Call> {
    let flags = [
        ("clone newuser", CLONE_NEWUSER),
        ("clone newns", CLONE_NEWNS),
        ("clone newnet", CLONE_NEWNET),
        ("clone newpid", CLONE_NEWPID),
        ("clone newipc", CLONE_NEWIPC),
        ("clone newuts", CLONE_NEWUTS),
        ("clone newcgroup", CLONE_NEWCGROUP),
    ];
    let clones = flags.map(|(name, flag)| {
        call(name, libc::SYS_clone, &[i64::from(flag | SIGCHLD), 0, 0, 0, 0], EPERM)
    });
    let mut all: Vec<_> = clones.into();
    all.push(call("unshare newuser", libc::SYS_unshare, &[i64::from(CLONE_NEWUSER)], EPERM));
    all.push(call("unshare newns", libc::SYS_unshare, &[i64::from(CLONE_NEWNS)], EPERM));
    all.push(call("setns", libc::SYS_setns, &[-1, 0], EPERM));
    all
}

fn mounts() -> Vec<Call> {
    vec![
        texts("mount", libc::SYS_mount, &["none", "/tmp", "tmpfs"], &[0, 0]),
        texts("umount2", libc::SYS_umount2, &["/tmp"], &[0]),
        texts("pivot_root", libc::SYS_pivot_root, &["/tmp", "/tmp"], &[]),
        texts("chroot", libc::SYS_chroot, &["/tmp"], &[]),
        call("open_tree", libc::SYS_open_tree, &[-1, 0, 0], EPERM),
        call("move_mount", libc::SYS_move_mount, &[-1, 0, -1, 0, 0], EPERM),
        call("mount_setattr", libc::SYS_mount_setattr, &[-1, 0, 0, 0, 0], EPERM),
        texts("fsopen", libc::SYS_fsopen, &["tmpfs"], &[0]),
        call("fsconfig", libc::SYS_fsconfig, &[-1, 0, 0, 0, 0], EPERM),
        call("fsmount", libc::SYS_fsmount, &[-1, 0, 0], EPERM),
        call("fspick", libc::SYS_fspick, &[-1, 0, 0], EPERM),
        call("quotactl", libc::SYS_quotactl, &[0, 0, 0, 0], EPERM),
        call("open_by_handle_at", libc::SYS_open_by_handle_at, &[-1, 0, 0], EPERM),
        call("name_to_handle_at", libc::SYS_name_to_handle_at, &[-1, 0, 0, 0, 0], EPERM),
        call("fanotify_init", libc::SYS_fanotify_init, &[0, 0], EPERM),
        fcntl("fcntl F_SETLEASE", libc::F_SETLEASE),
        fcntl("fcntl F_NOTIFY", libc::F_NOTIFY),
        fcntl("fcntl F_SETDELEG", F_SETDELEG),
        mknod("mknodat character", libc::S_IFCHR),
        mknod("mknodat block", libc::S_IFBLK),
    ]
}

/// Since Linux 6.19 (linux/fcntl.h).
const F_SETDELEG: i32 = 1040;

fn fcntl(name: &'static str, command: i32) -> Call {
    call(name, libc::SYS_fcntl, &[-1, i64::from(command), 0], EPERM)
}

fn mknod(name: &'static str, kind: libc::mode_t) -> Call {
    let at = json!(i64::from(libc::AT_FDCWD).cast_unsigned());
    let arguments = vec![at, json!("/tmp/node"), json!(kind | 0o600), json!(0x103)];
    Call { name, number: libc::SYS_mknodat, arguments, way: NATIVE, outcome: EPERM }
}

fn processes() -> Vec<Call> {
    vec![
        call("ptrace", libc::SYS_ptrace, &[0x4206, 1, 0, 0], EPERM),
        call("process_vm_readv", libc::SYS_process_vm_readv, &[1, 0, 0, 0, 0, 0], EPERM),
        call("process_vm_writev", libc::SYS_process_vm_writev, &[1, 0, 0, 0, 0, 0], EPERM),
        call("process_madvise", libc::SYS_process_madvise, &[-1, 0, 0, 0, 0], EPERM),
        call("pidfd_getfd", libc::SYS_pidfd_getfd, &[-1, 0, 0], EPERM),
        call("kcmp", libc::SYS_kcmp, &[1, 1, 0, 0, 0], EPERM),
        call("prlimit64 of another", libc::SYS_prlimit64, &[1, 0, 0, 0], EPERM),
    ]
}

fn kernel() -> Vec<Call> {
    vec![
        call("bpf", libc::SYS_bpf, &[0, 0, 0], EPERM),
        call("perf_event_open", libc::SYS_perf_event_open, &[0, 0, -1, -1, 0], EPERM),
        call("userfaultfd", libc::SYS_userfaultfd, &[0], EPERM),
        call("keyctl", libc::SYS_keyctl, &[0, 0, 0, 0, 0], EPERM),
        call("add_key", libc::SYS_add_key, &[0, 0, 0, 0, 0], EPERM),
        call("request_key", libc::SYS_request_key, &[0, 0, 0, 0], EPERM),
        call("personality", libc::SYS_personality, &[0x0004_0000], EPERM),
        call("ioctl TIOCSTI", libc::SYS_ioctl, &[0, TIOCSTI.cast_signed(), 0], EPERM),
        call("ioctl TIOCLINUX", libc::SYS_ioctl, &[0, 0x541c, 0], EPERM),
        call("syslog", libc::SYS_syslog, &[10, 0, 0], EPERM),
        call("vhangup", libc::SYS_vhangup, &[], EPERM),
    ]
}

fn machine() -> Vec<Call> {
    vec![
        call("init_module", libc::SYS_init_module, &[0, 0, 0], EPERM),
        call("finit_module", libc::SYS_finit_module, &[-1, 0, 0], EPERM),
        call("delete_module", libc::SYS_delete_module, &[0, 0], EPERM),
        call("kexec_load", libc::SYS_kexec_load, &[0, 0, 0, 0], EPERM),
        call("kexec_file_load", libc::SYS_kexec_file_load, &[-1, -1, 0, 0, 0], EPERM),
        call("reboot", libc::SYS_reboot, &[0, 0, 0, 0], EPERM),
        call("swapon", libc::SYS_swapon, &[0, 0], EPERM),
        call("swapoff", libc::SYS_swapoff, &[0], EPERM),
        call("acct", libc::SYS_acct, &[0], EPERM),
        call("settimeofday", libc::SYS_settimeofday, &[0, 0], EPERM),
        call("clock_settime", libc::SYS_clock_settime, &[0, 0], EPERM),
        call("clock_adjtime", libc::SYS_clock_adjtime, &[0, 0], EPERM),
        call("adjtimex", libc::SYS_adjtimex, &[0], EPERM),
        call("sethostname", libc::SYS_sethostname, &[0, 0], EPERM),
        call("setdomainname", libc::SYS_setdomainname, &[0, 0], EPERM),
    ]
}

fn absent() -> Vec<Call> {
    vec![
        call("clone3", libc::SYS_clone3, &[0, 0], ENOSYS),
        call("io_uring_setup", libc::SYS_io_uring_setup, &[1, 0], ENOSYS),
        call("io_uring_enter", libc::SYS_io_uring_enter, &[-1, 0, 0, 0, 0, 0], ENOSYS),
        call("io_uring_register", libc::SYS_io_uring_register, &[-1, 0, 0, 0], ENOSYS),
        #[cfg(target_arch = "x86_64")]
        call("getpid of x32", libc::SYS_getpid | X32, &[], ENOSYS),
        #[cfg(target_arch = "x86_64")]
        call("ptrace of x32", 521 | X32, &[0, 0, 0, 0], ENOSYS),
        #[cfg(target_arch = "x86_64")]
        call("add_key of x32", libc::SYS_add_key | X32, &[0, 0, 0, 0, 0], ENOSYS),
    ]
}

/// What marks a call of x32.
#[cfg(target_arch = "x86_64")]
const X32: c_long = 0x4000_0000;

/// Calls of i386, by their numbers there. Harmless ones too: none is let through.
pub(crate) fn of_i386() -> Vec<Call> {
    let numbers = [
        ("getpid", 20),
        ("mount", 21),
        ("ptrace", 26),
        ("umount2", 52),
        ("chroot", 61),
        ("socketcall", 102),
        ("personality", 136),
        ("pivot_root", 217),
        ("add_key", 286),
        ("keyctl", 288),
        ("unshare", 310),
        ("perf_event_open", 336),
        ("prlimit64", 340),
        ("setns", 346),
        ("process_vm_readv", 347),
        ("bpf", 357),
        ("io_uring_setup", 425),
    ];
    let killed = -libc::SIGSYS;
    let call = |(name, number)| Call { way: "i386", ..call(name, number, &[], killed) };
    numbers.map(call).into()
}

fn sockets() -> Vec<Call> {
    let socket = |name, family: i32, kind: i32| {
        call(name, libc::SYS_socket, &[i64::from(family), i64::from(kind), 0], EAFNOSUPPORT)
    };
    vec![
        socket("socket packet", libc::AF_PACKET, SOCK_RAW),
        socket("socket netlink", libc::AF_NETLINK, SOCK_RAW),
        socket("socket alg", libc::AF_ALG, libc::SOCK_SEQPACKET),
        socket("socket vsock", libc::AF_VSOCK, libc::SOCK_STREAM),
        socket("socket xdp", libc::AF_XDP, SOCK_RAW),
        socket("socket tipc", libc::AF_TIPC, libc::SOCK_STREAM),
        socket("socket bluetooth", libc::AF_BLUETOOTH, SOCK_RAW),
        socket("socket can", libc::AF_CAN, SOCK_RAW),
        call("socket raw", libc::SYS_socket, &[2, i64::from(SOCK_RAW), 1], EPERM),
    ]
}

/// That the probe can succeed at all.
fn allowed() -> Vec<Call> {
    vec![
        call("getpid", libc::SYS_getpid, &[], 0),
        call("socket inet", libc::SYS_socket, &[2, i64::from(SOCK_DGRAM), 0], 0),
        call("fcntl F_GETFD", libc::SYS_fcntl, &[1, i64::from(libc::F_GETFD), 0], 0),
        call("prlimit64 of itself", libc::SYS_prlimit64, &[0, 0, 0, 0], 0),
    ]
}
