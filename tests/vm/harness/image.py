"""The machine's disk: a Debian with systemd, built once and kept.

An image is kept under a hash of its recipe, so a change of the recipe makes a new one and nothing
else does. It is never written to: a machine gets an overlay that ends with it. What changes from
run to run comes on a second disk, see `payload`.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from .skip import Skip

# What a machine of somebody who installs ash has anyway, what ash depends on (there is no network
# to fetch it through), and what journeys look at things with.
PACKAGES = [
    "apt",
    "bubblewrap",
    "ca-certificates",
    "curl",
    "dbus",
    "e2fsprogs",
    "findutils",
    "iproute2",
    "kmod",
    "libpam-systemd",
    "linux-image-cloud-amd64",
    "make",
    "needrestart",
    "openssh-server",
    "perl-base",
    "polkitd",
    "procps",
    "python3",
    "rpm",
    "sqlite3",
    "systemd",
    "systemd-sysv",
    "udev",
    "util-linux",
]

AGENT_UNIT = """\
[Unit]
Description=What tests drive this machine through
RequiresMountsFor=/payload
After=dbus.service

[Service]
ExecStart=/usr/bin/python3 /payload/agent.py
KillMode=process
OOMScoreAdjust=-1000
OOMPolicy=continue

[Install]
WantedBy=multi-user.target
"""

# A script for the shell that gets the root's directory, when the packages are in it.
CUSTOMIZE = """\
set -eu
cd "$1"
printf '/dev/vda / ext4 defaults 0 1\\nLABEL=payload /payload ext4 ro 0 0\\n' >etc/fstab
echo ashvm >etc/hostname
printf '127.0.0.1 localhost ashvm\\n::1 localhost\\n' >etc/hosts
wants=etc/systemd/system/multi-user.target.wants
mkdir -p payload var/log/journal "$wants"
ln -s ../ash-vm-agent.service "$wants/ash-vm-agent.service"
# The console is a file for the kernel's last words; a getty would hang it up.
ln -s /dev/null etc/systemd/system/serial-getty@ttyS0.service
# These run when a journey says so: a server is something else that listens, and needrestart, which
# apt would call, may restart what drives this machine.
rm -f etc/systemd/system/multi-user.target.wants/ssh.service etc/systemd/system/sshd.service
rm -f etc/systemd/system/sockets.target.wants/ssh.socket etc/apt/apt.conf.d/99needrestart
for timer in apt-daily apt-daily-upgrade dpkg-db-backup e2scrub_all fstrim man-db; do
    ln -sf /dev/null "etc/systemd/system/$timer.timer"
done
"""

SIZE = "6G"
KEPT_DAYS = 14

# Why there is no image of a release. What could not be had is not asked for again.
refused = {}


def cache():
    """The directory that images are kept in, outside of every checkout."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "ash" / "vm"
    path.mkdir(parents=True, exist_ok=True)
    return path


def key(suite):
    """Names the image of this recipe."""
    recipe = "\0".join([suite, *PACKAGES, AGENT_UNIT, CUSTOMIZE, SIZE])
    return f"{suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"


def image(suite):
    """The directory with disk.img, vmlinuz and initrd of a Debian release, built if need be."""
    if suite in refused:
        raise refused[suite]
    home = cache()
    path = home / key(suite)
    with locked(home / "lock"):
        try:
            if not path.is_dir():
                build(suite, path)
        except Skip as why:
            refused[suite] = why
            raise
        os.utime(path)
        prune(home)
    return path


@contextlib.contextmanager
def locked(path):
    """Keeps two test runs from building the same image."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(suite, path):
    """Makes the image beside its place, and moves it there when it is whole."""
    for program in ("mmdebstrap", "mke2fs"):
        if not shutil.which(program):
            raise Skip(f"{program} is not installed")
    print(
        f"building the image of {suite}, which takes some minutes and is kept in {path}", flush=True
    )
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="build.") as scratch:
        scratch = Path(scratch)
        root, made = scratch / "root", scratch / "image"
        bootstrap(suite, root, scratch)
        customize(root)
        made.mkdir()
        shutil.copy(next((root / "boot").glob("vmlinuz-*")), made / "vmlinuz")
        shutil.copy(next((root / "boot").glob("initrd.img-*")), made / "initrd")
        filesystem(root, made / "disk.img", SIZE, "root")
        made.rename(path)


def bootstrap(suite, root, scratch):
    """Installs Debian into a directory; skips when its packages cannot be had."""
    log = scratch.parent / f"{suite}.log"
    with open(log, "w") as out:
        done = subprocess.run(
            [
                "mmdebstrap",
                "--variant=minbase",
                f"--include={','.join(PACKAGES)}",
                suite,
                root,
            ],
            env=os.environ | {"TMPDIR": str(scratch)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    if done.returncode != 0:
        last = log.read_text().strip().splitlines()[-3:]
        raise Skip(f"Debian {suite} cannot be had here: {'; '.join(last)} (all of it: {log})")
    log.unlink()


def customize(root):
    """Makes an installed Debian one that boots, and that can be driven."""
    (root / "etc/systemd/system/ash-vm-agent.service").write_text(AGENT_UNIT)
    subprocess.run(["sh", "-c", CUSTOMIZE, "sh", root], check=True)


def filesystem(tree, disk, size, label):
    """Makes an ext4 file system of a directory, without mounting anything."""
    with open(disk, "wb") as file:
        file.truncate(bytes_of(size))
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-m", "0", "-L", label, "-d", tree, disk], check=True
    )


def bytes_of(size):
    """The number of bytes in a size such as 6G or 300M."""
    return int(size[:-1]) << {"M": 20, "G": 30}[size[-1]]


def prune(home):
    """Removes images that nobody has used for a while, and what a killed run left."""
    for path in home.iterdir():
        unused = time.time() - path.stat().st_mtime
        if path.is_dir() and unused > KEPT_DAYS * 86400:
            shutil.rmtree(path)
