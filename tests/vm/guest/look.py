"""Prints a line for everything that ash could leave behind: processes, mounts, control groups,
sockets, files and leases."""

import os
import pathlib
import re
import sqlite3

OWN_GROUP = "/system.slice/ash-vm-agent.service"
STATE = pathlib.Path("/var/lib/ash")

# What systemd makes for PrivateTmp=, anew at each start of a service.
PRIVATE = re.compile(r"(/systemd-private-[^/]+)-\w{6}\b")


def processes():
    """All but the kernel's threads and those that look."""
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            args = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            group = (entry / "cgroup").read_text().strip().removeprefix("0::")
        except OSError:
            continue
        if args and not group.startswith(OWN_GROUP):
            yield f"process {args.strip()} in {group}"


def groups():
    for path, _, _ in os.walk("/sys/fs/cgroup"):
        if not path.startswith(f"/sys/fs/cgroup{OWN_GROUP}"):
            yield f"control group {path}"


def mounts():
    for line in pathlib.Path("/proc/1/mountinfo").read_text().splitlines():
        yield f"mount {line.split()[4]}"


def sockets():
    for line in pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        if len(words) > 7:
            yield f"socket {words[7]}"


def files():
    """The database grows by itself; what it says is looked at apart. So is what packs hold: they are
    written anew, under other names, when something of them goes."""
    for top in (STATE, pathlib.Path("/run/ash"), pathlib.Path("/tmp")):
        for path in top.rglob("*"):
            if not path.name.startswith("ash.db") and path.suffix != ".pack":
                yield "file " + PRIVATE.sub(r"\1", str(path))


def chunks():
    """By the table at the end of each pack, see ashd/src/snapshot/pack.rs."""
    for path in STATE.glob("snapshots/store/*/packs/*.pack"):
        pack = path.read_bytes()
        rows = int.from_bytes(pack[-44:-40], "little")
        table = pack[len(pack) - 44 - rows * 41 : -44]
        for at in range(0, len(table), 41):
            yield f"chunk {table[at : at + 32].hex()}"


def leases():
    if not (STATE / "ash.db").exists():
        return
    with sqlite3.connect(f"file:{STATE}/ash.db?mode=ro", uri=True) as database:
        for (id,) in database.execute("SELECT hex(id) FROM sessions WHERE slot IS NOT NULL"):
            yield f"lease of {id}"


if __name__ == "__main__":
    for kind in (processes, groups, mounts, sockets, files, chunks, leases):
        for line in sorted(set(kind())):
            print(line)
