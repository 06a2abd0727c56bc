"""Tries once each what single layers have to stop. Prints a name and what came of it, a line each.

Arguments: the uid of another session, the port and the abstract name of listeners on the host.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import socket
import stat
import sys

libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
OTHER, PORT, ABSTRACT = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
ADDR_NO_RANDOMIZE = 0x40000
PROCESSES = 100


def check(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def call(x86, arm, *arguments):
    number = ctypes.c_long(x86 if X86 else arm)
    return check(libc.syscall(number, *map(ctypes.c_long, arguments)))


def read(path):
    with open(path, "rb") as file:
        file.read()


def reads_what_all_may_read():
    read("/host/public")


def reads_what_is_root_s():
    read("/host/private")


def reads_what_is_another_session_s():
    read("/host/foreign")


def plants_a_file_among_root_s():
    os.close(os.open("/host/planted", os.O_WRONLY | os.O_CREAT, 0o600))
    os.unlink("/host/planted")


def mounts():
    check(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))


def makes_a_mount_namespace():
    check(libc.unshare(CLONE_NEWNS))


def makes_a_user_namespace():
    check(libc.unshare(CLONE_NEWUSER))


def makes_a_call_of_i386():
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\0\0\0\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
    said = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
    if said != os.getpid():
        raise OSError(errno.ENOSYS, "no process id")


def gives_up_randomised_addresses():
    check(libc.personality(ADDR_NO_RANDOMIZE))


def makes_a_device():
    os.mknod("/tmp/device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.unlink("/tmp/device")


def opens_a_packet_socket():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


def has_whoever_opens_its_file_wait():
    with open("/tmp/leased", "w+b") as file:
        os.unlink("/tmp/leased")
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)


def becomes_another_session():
    os.setuid(OTHER)


def limits_the_bridge():
    check(libc.prlimit(1, resource.RLIMIT_NOFILE, (ctypes.c_ulong * 2)(1000, 1000), None))


def signals_the_bridge():
    os.kill(1, 0)


def looks_into_the_bridge():
    os.readlink("/proc/1/root")


def compares_itself_with_the_bridge():
    call(312, 272, 1, os.getpid(), 1, 0, 0)


def connects_to_the_host():
    socket.create_connection(("127.0.0.1", PORT)).close()


def connects_to_the_host_by_a_name():
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect("\0" + ABSTRACT)


def starts_many_processes():
    children = []
    try:
        while len(children) < PROCESSES:
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def attempt(action):
    """In a child, because what succeeds changes its caller."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            action()
            os.write(writer, b"OK")
        except OSError as failure:
            os.write(writer, errno.errorcode[failure.errno].encode())
        finally:
            os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    with os.fdopen(reader) as answer:
        return answer.read()


ATTEMPTS = (
    reads_what_all_may_read, reads_what_is_root_s, reads_what_is_another_session_s,
    plants_a_file_among_root_s, mounts, makes_a_mount_namespace, makes_a_user_namespace,
    makes_a_call_of_i386, gives_up_randomised_addresses, makes_a_device, opens_a_packet_socket,
    has_whoever_opens_its_file_wait, becomes_another_session, limits_the_bridge, signals_the_bridge,
    looks_into_the_bridge, compares_itself_with_the_bridge, connects_to_the_host,
    connects_to_the_host_by_a_name, starts_many_processes,
)

print("landlock_abi", call(444, 444, 0, 0, 1))
for each in ATTEMPTS:
    print(each.__name__, attempt(each))
