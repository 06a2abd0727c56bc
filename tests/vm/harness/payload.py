"""The second disk: what changes from run to run."""

import shutil
from pathlib import Path

from .image import filesystem

GUEST = Path(__file__).parents[1] / "guest"


def payload(scratch, packages, programs, claude):
    """Makes a disk of packages, test programs, the CLI, and what drives the machine."""
    tree = scratch / "payload"
    tree.mkdir()
    for path in GUEST.iterdir():
        shutil.copy(path, tree)
    shutil.copytree(packages, tree / "packages")
    (tree / "bin").mkdir()
    for program in programs:
        shutil.copy(program, tree / "bin")
    shutil.copy(claude, tree / "claude")
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    disk = scratch / "payload.img"
    filesystem(tree, disk, f"{(size >> 20) * 11 // 10 + 32}M", "payload")
    shutil.rmtree(tree)
    return disk
