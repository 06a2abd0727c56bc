import ctypes, errno, os, resource, signal, socket, sys

# stand-in for nothing: each probe prints what it met
libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"


def name(number):
    return "OK" if number == 0 else errno.errorcode.get(number, str(number))


def call(number, *args):
    ctypes.set_errno(0)
    words = [ctypes.c_long(arg) for arg in args] + [ctypes.c_long(0)] * (6 - len(args))
    result = libc.syscall(ctypes.c_long(number), *words)
    return ctypes.get_errno() if result == -1 else 0


# name: (x86-64, aarch64, arguments)
EPERM = {
    "clone-newuser": (56, 220, 0x10000000 | 17), "clone-newnet": (56, 220, 0x40000000 | 17),
    "unshare-newuser": (272, 97, 0x10000000), "unshare-newns": (272, 97, 0x20000),
    "unshare-newtime": (272, 97, 0x80), "unshare-high-bits": (272, 97, 0x100000000 | 0x10000000),
    "setns": (308, 268, 0, 0), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "open_tree_attr": (467, 467),
    "move_mount": (429, 429), "mount_setattr": (442, 442), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "setlease": (72, 25, -1, 1024, 1),
    "setlease-high": (72, 25, -1, 0x100000400, 1), "notify": (72, 25, -1, 1026, 2),
    "setdeleg": (72, 25, -1, 1040, 0), "mknod-char": (133, None, 0, 0o20600, 0x103),
    "mknodat-block": (259, 33, -100, 0, 0o60600, 0x801), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "pidfd_getfd": (438, 438), "kcmp": (312, 272),
    "prlimit64-other": (302, 261, 1, 0, 0, 0), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "personality": (135, 92, 0x0040000),
    "tiocsti": (16, 29, 0, 0x5412, 0), "tiocsti-high": (16, 29, 0, 0x100005412, 0),
    "tioclinux": (16, 29, 0, 0x541C, 0), "syslog": (103, 116), "vhangup": (153, 58),
    "iopl": (172, None, 3), "ioperm": (173, None, 0, 1, 1), "modify_ldt": (154, None),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162),
}
ENOSYS = {
    "clone3": (435, 435), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "lookup_dcookie": (212, 18), "nfsservctl": (180, 42),
}
FAMILY = {
    "socket-netlink": (41, 198, 16, 3, 0), "socket-packet": (41, 198, 17, 3, 0),
    "socket-alg": (41, 198, 38, 5, 0), "socket-vsock": (41, 198, 40, 1, 0),
    "socket-xdp": (41, 198, 44, 3, 0), "socket-tipc": (41, 198, 30, 1, 0),
    "socketpair-tipc": (53, 199, 30, 1, 0, 0),
}
ALLOWED = {
    "unshare-files": (272, 97, 0x400), "personality-query": (135, 92, 0xFFFFFFFF),
    "prlimit64-self": (302, 261, 0, 7, 0, 0), "socket-unix": (41, 198, 1, 1, 0),
    "socket-inet": (41, 198, 2, 1, 0), "socket-inet6": (41, 198, 10, 1, 0),
    "fcntl-getfd": (72, 25, 1, 1, 0),
}


def syscalls():
    for wanted, table in ("EPERM", EPERM), ("ENOSYS", ENOSYS), ("EAFNOSUPPORT", FAMILY), ("OK", ALLOWED):
        for label, (x86, arm, *args) in table.items():
            number = x86 if X86 else arm
            if number is not None:
                print(label, wanted, name(call(number, *args)), flush=True)


def foreign():
    if not X86:
        return
    print("x32", name(call(0x40000000 + 39)), flush=True)
    pid = os.fork()
    if pid == 0:
        # mov eax, 20 (getpid of i386); int 0x80; ret
        import mmap
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))
        said = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
        os._exit(said != os.getpid())
    print("i386", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def network():
    for label, family, address in (
        ("public", socket.AF_INET, ("192.0.2.1", 80)),
        ("metadata", socket.AF_INET, ("169.254.169.254", 80)),
        ("abstract", socket.AF_UNIX, "\0/tmp/.X11-unix/X0"),
    ):
        print(label, name(socket.socket(family).connect_ex(address)))


def others():
    class Limit(ctypes.Structure):
        _fields_ = [("soft", ctypes.c_ulong), ("hard", ctypes.c_ulong)]
    limit = Limit(1, 1)
    number = 302 if X86 else 261
    for label, pid in ("1", 1), ("parent", os.getppid()):
        print("prlimit-" + label, name(call(number, pid, 0, ctypes.addressof(limit), 0)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print("prlimit-self OK")


def descriptors():
    print(*sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1])


globals()[sys.argv[1]]()
