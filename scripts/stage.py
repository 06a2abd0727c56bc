#!/usr/bin/env python3
"""Puts what packaging/files lists where it belongs, and tells cargo-deb and cargo-generate-rpm.

    stage.py install ROOT      copies every file beneath ROOT
    stage.py uninstall ROOT    removes them again
    stage.py manifest ROOT     prints the Cargo.toml from which packages of what is in ROOT are made
    stage.py changelog         prints the changelog of the deb
    stage.py third-party       prints the notices of what is linked; `install` makes them by itself

Packages name who answers for them: MAINTAINER="NAME <ADDRESS>", who makes them.
"""

import argparse
import email.utils
import gzip
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import third_party

TOP = Path(__file__).resolve().parent.parent
FLAGS = {"config", "doc", "fixed", "systemd", "deb", "not-deb"}

# Our own programs, as units and scripts name them.
OURS = re.compile(r"/usr(?=/(?:sbin/ashd|bin/ashctl|lib/ash)\b)")

# When nobody says who answers for a package. Its form is prescribed; there is no such address, and
# the name of its host says so (RFC 2606).
NOBODY = "ash maintainers <maintainers@ashd.invalid>"


class Entry(NamedTuple):
    """A line of the list."""

    source: str
    destination: str
    mode: int
    flags: frozenset[str]


def read_list(text: str) -> list[Entry]:
    """The entries of a list; a line that is none ends the program."""
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split("#")[0].split()
        if not fields:
            continue
        if len(fields) < 3 or not set(fields[3:]) <= FLAGS or not fields[1].startswith("/"):
            sys.exit(f"packaging/files:{number}: not SOURCE DESTINATION MODE FLAGS: {line}")
        entries.append(Entry(*fields[:2], int(fields[2], 8), frozenset(fields[3:])))
    return entries


def wanted(entries: list[Entry], deb: bool) -> list[Entry]:
    """Those for a deb, or those for everything else."""
    return [entry for entry in entries if ("not-deb" if deb else "deb") not in entry.flags]


def version() -> str:
    with open(TOP / "Cargo.toml", "rb") as file:
        return tomllib.load(file)["workspace"]["package"]["version"]


def maintainer() -> tuple[str, str]:
    """Who answers for the packages: name, and name with address."""
    whole = os.environ.get("MAINTAINER") or NOBODY
    found = re.fullmatch(r"([^<>\"\\\n]+) <[^<>@\"\\\s]+@[^<>@\"\\\s]+>", whole)
    if not found:
        sys.exit(f"MAINTAINER is not NAME <ADDRESS>: {whole}")
    return found[1], whole


class Stage:
    """Where things come from and where they go."""

    def __init__(self, options: argparse.Namespace):
        self.root = options.root
        self.prefix = "/" + options.prefix.strip("/")
        self.bin = options.bin
        self.made = options.made
        entries = read_list((TOP / "packaging/files").read_text())
        self.entries = wanted(entries, options.deb)

    def source(self, entry: Entry) -> Path:
        kind, _, name = entry.source.rpartition(":")
        return {"bin": self.bin, "made": self.made, "": TOP}[kind] / name

    def place(self, entry: Entry) -> str:
        if not entry.destination.startswith("/usr/") or "fixed" in entry.flags:
            return entry.destination
        elsewhere = "systemd" in entry.flags and self.prefix != "/usr"
        prefix = "/usr/local" if elsewhere else self.prefix
        return prefix + entry.destination.removeprefix("/usr")

    def target(self, entry: Entry) -> Path:
        return self.root / self.place(entry).lstrip("/")

    def content(self, entry: Entry) -> bytes:
        data = self.source(entry).read_bytes()
        if entry.source.startswith("systemd/"):
            data = OURS.sub(self.prefix, data.decode()).encode()
        return gzip.compress(data, mtime=0) if entry.destination.endswith(".gz") else data

    def make_notices(self) -> None:
        """Unless they came with the rest of what was made."""
        notices = self.made / "third-party"
        if not notices.exists():
            notices.write_text(third_party.text(), encoding="utf-8")

    def install(self) -> None:
        self.make_notices()
        for entry in self.entries:
            target = self.target(entry)
            if "config" in entry.flags and target.exists():
                continue
            make_directories(target.parent)
            fresh = target.with_name(target.name + ".new")
            if entry.source.startswith("bin:"):
                put_program(self.source(entry), fresh)
            else:
                fresh.write_bytes(self.content(entry))
            fresh.chmod(entry.mode)
            fresh.rename(target)

    def uninstall(self) -> None:
        for entry in self.entries:
            target = self.target(entry)
            if "config" in entry.flags and not self.untouched(entry, target):
                continue
            target.unlink(missing_ok=True)
            self.remove_empty(target.parent)

    def untouched(self, entry: Entry, target: Path) -> bool:
        return target.exists() and target.read_bytes() == self.content(entry)

    def remove_empty(self, directory: Path) -> None:
        """Of a system's own directories only ours, in a tree that was made for us all."""
        whole = self.root != Path("/")
        while directory != self.root and directory.is_dir() and not any(directory.iterdir()):
            if whole or directory.name in ("ash", "ashd"):
                directory.rmdir()
            directory = directory.parent

    def manifest(self) -> str:
        text = (TOP / "packaging/package.toml").read_text().replace("@version@", version())
        name, whole = maintainer()
        text = text.replace("@maintainer@", whole).replace("@vendor@", name)
        for entry in self.entries:
            assets = f"source = '{self.target(entry).absolute()}'\nmode = '{entry.mode:o}'\n"
            text += f"\n[[package.metadata.deb.assets]]\n{assets}"
            text += f"dest = '{self.place(entry).lstrip('/')}'\n"
            text += f"\n[[package.metadata.generate-rpm.assets]]\n{assets}"
            text += f"dest = '{self.place(entry)}'\n"
            text += "doc = true\n" if "doc" in entry.flags else ""
            text += "config = 'noreplace'\n" if "config" in entry.flags else ""
        return text


def put_program(source: Path, target: Path) -> None:
    """Without what only debuggers read, where binutils is there to take it off."""
    if shutil.which("strip"):
        subprocess.run(["strip", "-o", target, source], check=True)
    else:
        shutil.copyfile(source, target)


def make_directories(directory: Path) -> None:
    """Whatever umask the caller has."""
    if not directory.is_dir():
        make_directories(directory.parent)
        directory.mkdir()
        directory.chmod(0o755)


def changelog() -> str:
    """What changed is in CHANGELOG.md; a deb also has to say so in a format of its own."""
    revision = os.environ.get("REVISION", "1")
    when = email.utils.formatdate(int(os.environ["SOURCE_DATE_EPOCH"]))
    return (
        f"ashd ({version()}-{revision}) unstable; urgency=medium\n\n"
        "  * See changelog.gz, which all formats of this package share.\n\n"
        f" -- {maintainer()[1]}  {when}\n"
    )


# What is only printed.
TEXTS = {"changelog": changelog, "third-party": third_party.text}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["install", "uninstall", "manifest", *TEXTS])
    parser.add_argument("root", nargs="?", type=Path, default=Path("/"))
    parser.add_argument("--prefix", default="/usr", help="instead of /usr")
    parser.add_argument("--bin", type=Path, help="directory of the programs")
    parser.add_argument("--made", type=Path, help="directory of what was made")
    parser.add_argument("--deb", action="store_true", help="as a deb wants it")
    options = parser.parse_args()
    if options.verb in TEXTS:
        print(TEXTS[options.verb](), end="")
        return
    stage = Stage(options)
    if options.verb == "manifest":
        print(stage.manifest(), end="")
    else:
        getattr(stage, options.verb)()


if __name__ == "__main__":
    main()
