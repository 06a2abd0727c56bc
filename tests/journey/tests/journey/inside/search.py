"""Searches every byte that this user can read for a text: files, and all of /proc.

The text comes in two halves, so that it stands nowhere by itself. A file that has not changed since
`since` (seconds) cannot hold what was made up later. Memory is searched of processes whose name begins with `name`. Prints where it was
found, a line each.
"""

import os
import stat
import sys

HALF, REST, SINCE = sys.argv[1].encode(), sys.argv[2].encode(), float(sys.argv[3])
NAME = sys.argv[4] if len(sys.argv) > 4 else ""
# Threads have the files of their process once more; the others are slow, and hold but numbers.
SKIPPED = {"/proc", "/sys", "task", "map_files", "smaps", "smaps_rollup", "numa_maps", "mem", "pagemap"}
CHUNK = 1 << 20


def holds(read) -> bool:
    """Whether the text is in what `read` gives, piece by piece."""
    tail = b""
    while piece := read(CHUNK):
        window = tail + piece
        at = window.find(HALF)
        while at >= 0:
            if window.startswith(REST, at + len(HALF)):
                return True
            at = window.find(HALF, at + 1)
        tail = window[-len(HALF) - len(REST):]
    return False


def file_holds(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        try:
            return holds(file.read)
        except OSError:
            return False


def memory_holds(pid: str) -> bool:
    """Whether the text is in the memory of a process."""
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in maps:
                area, rights = line.split()[:2]
                begin, end = (int(part, 16) for part in area.split("-"))
                if rights.startswith("r") and pages_hold(pid, memory, begin, end):
                    return True
    except OSError:
        pass
    return False


def pages_hold(pid: str, memory, begin: int, end: int) -> bool:
    """Looks at the pages that are there: large areas are mostly empty."""
    page = os.sysconf("SC_PAGE_SIZE")
    with open(f"/proc/{pid}/pagemap", "rb", 0) as pagemap:
        for start in range(begin, end, 512 * page):
            pagemap.seek(start // page * 8)
            count = min(512, (end - start) // page)
            # The highest bits of an entry say that the page is in memory, or swapped out.
            if max(pagemap.read(count * 8)[7::8], default=0) >= 0x40:
                memory.seek(start)
                try:
                    data = memory.read(count * page + 4096)
                except OSError:
                    data = b""
                if HALF + REST in data:
                    return True
    return False


def name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm") as comm:
            return comm.read()
    except OSError:
        return ""


def files(top: str):
    for directory, folders, names in os.walk(top):
        folders[:] = [f for f in folders if not {f, os.path.join(directory, f)} & SKIPPED]
        yield from (os.path.join(directory, name) for name in names if name not in SKIPPED)


def is_new(path: str) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_ctime >= SINCE


def main() -> None:
    looked = 0
    for path in files("/"):
        if is_new(path):
            looked += 1
            if file_holds(path):
                print(path)
    for path in files("/proc"):
        if path.split("/")[2] not in ("self", "thread-self"):
            looked += 1
            if file_holds(path):
                print(path)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        # Our own memory holds both halves side by side.
        if int(pid) != os.getpid() and name(pid).startswith(NAME) and memory_holds(pid):
            print(f"/proc/{pid}/mem")
    print(f"looked at {looked} files", file=sys.stderr)


main()
