#!/usr/bin/env python3
"""Prints what others want to be said of their code in our programs: names, licenses and notices.

Which crates the programs of packaging/files link says cargo, for this machine's platform; macros
count, for they write parts of programs, but what they are made of does not. Texts come from the
crates' own directories. What is in the programs and is no crate follows: SQLite, the standard
library, the C library.
"""

import html.parser
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

TOP = Path(__file__).resolve().parent.parent

# Names of files and directories that hold notices, and of files that only look like it.
NOTICES = re.compile(r"(?:un)?licen[cs]e|copying|copyright|notice", re.IGNORECASE)
CODE = (".rs", ".c", ".h", ".S", ".py", ".sh", ".toml", ".json", ".html")

BEGINNING = """\
The programs of ash hold code of others. Each is named here with its licenses and the numbers of its
texts, which stand below. Where there is a choice of licenses, any of them may be taken.

ash-bridge is linked statically with the GNU C Library. To have it with another version of that,
build it from its source, as scripts/build.sh does.

"""


class Library(NamedTuple):
    """Something of others: its name, its licenses as an SPDX expression, its texts."""

    name: str
    license: str
    texts: list[str]


def text() -> str:
    listed = (TOP / "packaging/files").read_text()
    programs = set(re.findall(r"^bin:(\S+)", listed, re.MULTILINE))
    crates = linked(metadata(), programs)
    return page([*map(library, crates), *bundled(crates), rust(), c_library()])


def metadata() -> dict[str, Any]:
    """What cargo knows. After a build all is here; else, what only tests need is fetched as well."""
    platform = f"{os.uname().machine}-unknown-linux-gnu"
    command = ["cargo", "metadata", "--locked", "--format-version=1", "--filter-platform", platform]
    for more in (["--offline"], []):
        done = run(*command, *more)
        if done.returncode == 0:
            return json.loads(done.stdout)
    sys.exit(f"what is linked is not known: {done.stderr.strip()}")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Where rustup finds our toolchain."""
    try:
        return subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit(f"what is linked is not known: {command[0]} is missing")


def linked(metadata: dict[str, Any], programs: set[str]) -> list[dict[str, Any]]:
    """The crates of others in these programs, by name."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    ours = set(metadata["workspace_members"])
    todo = [id for id in ours if programs & targets(packages[id], "bin")]
    missing = programs.difference(*(targets(packages[id], "bin") for id in todo))
    if missing:
        sys.exit(f"no crate of ours has the program {', '.join(sorted(missing))}")
    found = set()
    while todo:
        id = todo.pop()
        if id in found:
            continue
        found.add(id)
        if not targets(packages[id], "proc-macro"):
            todo += [link["pkg"] for link in nodes[id]["deps"] if is_normal(link)]
    return sorted((packages[id] for id in found - ours), key=lambda it: (it["name"], it["version"]))


def targets(package: dict[str, Any], kind: str) -> set[str]:
    return {target["name"] for target in package["targets"] if kind in target["kind"]}


def is_normal(link: dict[str, Any]) -> bool:
    return any(kind["kind"] is None for kind in link["dep_kinds"])


def library(crate: dict[str, Any]) -> Library:
    directory = Path(crate["manifest_path"]).parent
    named = [directory / crate["license_file"]] if crate["license_file"] else []
    texts = [path.read_text(errors="replace") for path in [*named, *notices(directory)]]
    # An old way to write a choice.
    license = re.sub(r" ?/ ?", " OR ", crate["license"] or "as its text says")
    return Library(f"{crate['name']} {crate['version']}", license, texts)


def notices(directory: Path) -> list[Path]:
    """What has such a name, or lies in a directory that has."""
    paths = sorted(path for path in directory.rglob("*") if not path.name.endswith(CODE))
    parts = [(path, path.relative_to(directory).parts) for path in paths if path.is_file()]
    return [path for path, names in parts if any(map(NOTICES.match, names))]


def bundled(crates: list[dict[str, Any]]) -> list[Library]:
    """SQLite has no license, but a notice, at the head of its files."""
    found = []
    for crate in crates:
        header = Path(crate["manifest_path"]).parent / "sqlite3/sqlite3.h"
        if crate["name"] == "libsqlite3-sys" and header.is_file():
            code = header.read_text()
            version = re.search(r'#define SQLITE_VERSION +"(.+)"', code)[1]
            notice = re.sub(r"^[/*]+ ?", "", code.split("****")[0], flags=re.MULTILINE)
            found.append(Library(f"SQLite {version}", "in the public domain", [notice]))
    return found


class Plain(html.parser.HTMLParser):
    """The words of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.words = ""

    def handle_data(self, data: str) -> None:
        self.words += data


def rust() -> Library:
    """What its own notices are made of comes with the toolchain that rustup installs."""
    root = run("rustc", "--print", "sysroot").stdout.strip()
    path = Path(root) / "share/doc/rust/COPYRIGHT-library.html"
    plain = Plain()
    plain.feed(path.read_text() if path.is_file() else "")
    words = re.sub(r"\n\s*\n", "\n\n", plain.words)
    return Library("Rust standard library", "Apache-2.0 OR MIT", [words] if words else [])


def c_library() -> Library:
    words = (TOP / "packaging/LGPL-2.1").read_text()
    return Library("GNU C Library, in ash-bridge", "LGPL-2.1-or-later", [words])


def page(libraries: list[Library]) -> str:
    """All of them, with each text once; texts that differ only in white space are the same."""
    numbers: dict[str, int] = {}
    listed, below = BEGINNING, ""
    for name, license, texts in libraries:
        mine = []
        for words in texts:
            key = " ".join(words.split())
            if key and key not in numbers:
                numbers[key] = len(numbers) + 1
                below += f"\n{'=' * 36} {numbers[key]} {'=' * 36}\n\n{tidy(words)}\n"
            mine += [numbers[key]] if key else []
        told = ", ".join(map(str, sorted(set(mine)))) or "none of its own"
        listed += f"{name}: {license}. Texts: {told}.\n"
    return listed + below


def tidy(words: str) -> str:
    lines = [line.rstrip() for line in words.expandtabs().splitlines()]
    return "\n".join(lines).strip("\n")


if __name__ == "__main__":
    print(text(), end="")
