"""What an agent writes, and what a tree holds.

    lasting.py tree DIR            one of everything that a file system has
    lasting.py many DIR COUNT      so many small files
    lasting.py large DIR MIB HOLE  a file with so many MiB of noise, and as much of a hole
    lasting.py noise DIR           files that are named by what they hold, for ever
    lasting.py pairs DIR COUNT     two of each that never differ by more than one step, for ever
    lasting.py look DIR            a line for each thing that is there
"""

import hashlib
import itertools
import os
import random
import stat
import sys

MIB = 1 << 20


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def tree(top):
    names = [b"plain", b"-rf", b" a b ", b"new\nline", b"\xff\xfe", "grüße".encode(), b"x" * 255]
    names += [b"yarn.lock", b"Cargo.lock", b".hidden", b"*", b"tab\t", b"core", b"a.tmp"]
    folders = [b"names", b".git/objects/aa", b"node_modules/.bin", b"venv/bin", b"tmp", b".cache"]
    for folder in folders:
        os.makedirs(os.path.join(top, folder))
    for name in names:
        write(os.path.join(top, b"names", name), name)
    write(os.path.join(top, b".git/HEAD"), b"ref: refs/heads/main\n")
    write(os.path.join(top, b".git/index.lock"), b"")
    write(os.path.join(top, b".git/objects/aa/0"), b"\0" * 100)
    os.chmod(os.path.join(top, b".git/objects/aa/0"), 0o444)
    write(os.path.join(top, b"node_modules/x.js"), b"x")
    os.symlink(b"../x.js", os.path.join(top, b"node_modules/.bin/x"))
    os.symlink(b"/etc/passwd", os.path.join(top, b"absolute"))
    os.symlink(b"nothing", os.path.join(top, b"dangling"))
    os.symlink(b".", os.path.join(top, b"loop"))
    os.makedirs(os.path.join(top, b"empty/emptier"))
    os.chmod(os.path.join(top, b"empty/emptier"), 0o2750)
    os.mkfifo(os.path.join(top, b"pipe"), 0o640)
    for name in [b"one", b"two", b"empty/three"]:
        if name == b"one":
            write(os.path.join(top, name), b"of three names")
        else:
            os.link(os.path.join(top, b"one"), os.path.join(top, name))
    write(os.path.join(top, b"run.sh"), b"#!/bin/sh\n")
    os.chmod(os.path.join(top, b"run.sh"), 0o4755)
    os.setxattr(os.path.join(top, b"run.sh"), "user.origin", b"\0somewhere\xff")
    os.setxattr(os.path.join(top, b"empty"), "user.empty", b"")
    os.utime(os.path.join(top, b"one"), ns=(1, 123456789_987654321))
    os.utime(os.path.join(top, b"empty"), ns=(1, 1))
    with open(os.path.join(top, b"sparse"), "wb") as file:
        for at in [0, 3 * MIB, 5 << 30]:
            file.seek(at)
            file.write(b"data at %d" % at)
        file.truncate((5 << 30) + MIB)


def many(top, count):
    for n in range(int(count)):
        folder = os.path.join(top, b"%03d" % (n % 500))
        if n < 500:
            os.makedirs(folder)
        write(os.path.join(folder, b"%d" % n), b"%d\n" % n)


def large(top, mib, hole):
    os.makedirs(top, exist_ok=True)
    with open(os.path.join(top, b"large"), "wb") as file:
        file.seek(int(hole) * MIB)
        for _ in range(int(mib)):
            file.write(os.urandom(MIB))


def noise(top):
    """A file has its name only when it is whole."""
    os.makedirs(top, exist_ok=True)
    part = os.path.join(top, b".part")
    while True:
        content = os.urandom(random.choice([10, 5_000, 100_000]))
        name = hashlib.sha256(content).hexdigest().encode()
        write(part, content)
        os.rename(part, os.path.join(top, name))
        all_names = [name for name in os.listdir(top) if name != b".part"]
        if len(all_names) > 60:
            os.remove(os.path.join(top, random.choice(all_names)))


def pairs(top, count):
    """First `a`, then `b`: at no moment is `b` ahead, or behind by more than one."""
    for folder in [b"a", b"b"]:
        os.makedirs(os.path.join(top, folder))
        for n in range(int(count)):
            write(os.path.join(top, folder, b"%d" % n), b"%20d" % 0)
    files = [
        [open(os.path.join(top, folder, b"%d" % n), "r+b", buffering=0) for folder in [b"a", b"b"]]
        for n in range(int(count))
    ]
    for step in itertools.count(1):
        for both in files:
            for file in both:
                os.pwrite(file.fileno(), b"%20d" % step, 0)


def content_of(path):
    """What is in a file, wherever it has holes: pieces without anything in them do not count."""
    digest, at = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while (at := data_from(file, at)) is not None:
            at -= at % MIB
            piece = os.pread(file.fileno(), MIB, at)
            if any(piece):
                digest.update(b"%d " % at + piece)
            at += MIB
    return digest.hexdigest()


def data_from(file, at):
    try:
        return os.lseek(file.fileno(), at, os.SEEK_DATA)
    except OSError:
        return None


def look(top):
    inodes = {}
    for folder, folders, files in os.walk(top):
        folders.sort()
        for name in sorted(files) + folders + [b"."]:
            path = os.path.join(folder, name)
            shown = os.lstat(path)
            kind = stat.S_IFMT(shown.st_mode)
            line = [oct(shown.st_mode), shown.st_mtime_ns]
            if kind == stat.S_IFLNK:
                line.append(os.readlink(path))
            elif kind == stat.S_IFREG:
                has_holes = shown.st_blocks * 512 < shown.st_size // 2
                first = inodes.setdefault(shown.st_ino, os.path.relpath(path, top))
                line += [shown.st_size, has_holes, first, content_of(path)]
            if kind != stat.S_IFLNK:
                attributes = sorted(os.listxattr(path))
                line += [(name, os.getxattr(path, name)) for name in attributes]
            print(os.path.relpath(path, top), *line)


if __name__ == "__main__":
    what, top, *rest = sys.argv[1:]
    globals()[what](os.fsencode(top), *rest)
