"""A disk whose writes are logged, so that it can be had as a power failure at any moment would have
left it.

QEMU's `blklogwrites` writes down every write when it is done, in the format of the kernel's
dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst): a sector that describes the
log, then for each write a sector that says where it went, and what was written."""

import contextlib
import random
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .image import filesystem

SECTOR = 512
MAGIC = 0x6A736677736872
HEAD = struct.Struct("<QQQQ")
FLUSH, FUA, DISCARD = 1, 2, 4
LABEL = "state"
# Not by label: the two disks are alike.
STATE = "/dev/disk/by-id/virtio-state"
AGAIN = "/dev/disk/by-id/virtio-again"


@dataclass(frozen=True)
class Write:
    """A write that was done: where in the log it begins, where it went, and how."""

    begin: int
    sector: int
    count: int
    flags: int

    @property
    def data(self):
        return self.begin + SECTOR

    @property
    def end(self):
        return self.data + (0 if self.flags & DISCARD else self.count * SECTOR)


class LoggedDisk:
    """An ext4 file system called `state`, for one machine; and a disk beside it that can be what a power
    failure has left."""

    def __init__(self, scratch, size="2G"):
        self.scratch = Path(scratch)
        self.disk, self.log = self.scratch / "state.img", self.scratch / "state.log"
        self.before, self.again = self.scratch / "state.before", self.scratch / "again.img"
        empty = self.scratch / "empty"
        empty.mkdir()
        filesystem(empty, self.disk, size, LABEL)
        for copy in (self.before, self.again):
            sparse(self.disk, copy)
        self.log.touch()

    def options(self):
        """What QEMU has to be told."""
        return [
            *("-blockdev", f"driver=file,filename={self.disk},node-name=state-file"),
            *("-blockdev", "driver=raw,file=state-file,node-name=state-raw"),
            *("-blockdev", f"driver=file,filename={self.log},node-name=state-log"),
            *("-blockdev", "driver=blklogwrites,file=state-raw,log=state-log,node-name=state"),
            # Behind the others: the kernel counts disks in the order of their slots.
            *("-device", "virtio-blk-pci,drive=state,serial=state,addr=0x10"),
            *("-blockdev", f"driver=file,filename={self.again},node-name=again-file"),
            *("-blockdev", "driver=raw,file=again-file,node-name=again"),
            *("-device", "virtio-blk-pci,drive=again,serial=again,addr=0x11"),
        ]

    def now(self):
        """This moment: what was flushed before it is on the disk behind it."""
        return self.log.stat().st_size

    def give_back(self, image):
        """Has the machine find this at AGAIN, where nothing may be mounted."""
        size = str(image.stat().st_size)
        subprocess.run(["fallocate", "--punch-hole", "--length", size, self.again], check=True)
        sparse(image, self.again)

    @contextlib.contextmanager
    def at(self, moment, seed, heeded=None):
        """The disk as the power failure at a moment leaves it. What was written behind the last
        flush is there, or not, or the beginning of it. A disk that is not what it should be heeds no
        flush behind the moment `heeded`."""
        heeded = moment if heeded is None else heeded
        image = self.scratch / f"state.{moment}"
        sparse(self.before, image)
        chance = random.Random(seed)
        try:
            with open(self.log, "rb") as log, open(image, "r+b") as disk:
                writes = [write for write in read(log) if write.end <= moment]
                kept = [write.flags if write.end <= heeded else 0 for write in writes]
                flushed = max((n for n, flags in enumerate(kept) if flags & FLUSH), default=0)
                for n, write in enumerate(writes):
                    sure = n < flushed or kept[n] & FUA
                    part = 1 if sure else chance.choice([0, 1, chance.random()])
                    apply(log, disk, write, int(write.count * part))
            yield image
        finally:
            image.unlink()


def sparse(source, target):
    """Copies what is not empty, over what is."""
    piece = 1 << 20
    target.touch()
    with open(source, "rb") as old, open(target, "r+b") as new:
        new.truncate(source.stat().st_size)
        at = 0
        while data := old.read(piece):
            if data.strip(b"\0"):
                new.seek(at)
                new.write(data)
            at += len(data)


def read(log):
    """Every write in a log, in the order in which they were done."""
    magic, _, _, sector = struct.unpack("<QQQL", log.read(28))
    assert magic == MAGIC and sector == SECTOR, "the log is none"
    at = SECTOR
    while True:
        log.seek(at)
        head = log.read(HEAD.size)
        if len(head) < HEAD.size:
            return
        where, count, flags, _ = HEAD.unpack(head)
        if not (count or flags):
            return
        write = Write(at, where, count, flags)
        yield write
        at = write.end


def apply(log, disk, write, count):
    """Writes the first sectors of a write. What was given up may still be there: it stays."""
    if write.flags & DISCARD or not count:
        return
    log.seek(write.data)
    disk.seek(write.sector * SECTOR)
    disk.write(log.read(count * SECTOR))
