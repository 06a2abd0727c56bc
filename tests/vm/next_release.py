#!/usr/bin/env python3
"""Makes a copy of this project into its next release: `next_release.py TREE`.

Bridges of this release then speak the previous version of the wire protocol, and its database lacks
the newest migration. So the upgrade from what is installed today to what will be is tried before
there is anything to upgrade to.
"""

import re
import sys
from pathlib import Path

WIRE = "bridge/wire/src/lib.rs"
SCHEMA = "ashd/src/store/sqlite/schema.rs"
MIGRATION = "ashd/src/store/sqlite/next.sql"


def change(path, pattern, new):
    """Replaces the one place that matches."""
    text, times = re.subn(pattern, new, path.read_text(), flags=re.DOTALL)
    if times != 1:
        sys.exit(f"{path}: {times} places match {pattern}; tell {__file__} how it looks now")
    path.write_text(text)


def main(tree):
    constant = r"(pub const {}: u16 = )(\d+);"
    version = constant.format("VERSION")
    now = int(re.search(version, (tree / WIRE).read_text()).group(2))
    change(tree / WIRE, version, rf"\g<1>{now + 1};")
    change(tree / WIRE, constant.format("OLDEST_VERSION"), rf"\g<1>{now};")
    change(
        tree / SCHEMA,
        r"const MIGRATIONS: \[&str; (\d+)\] =\s*\[(.*?),?\s*\];",
        lambda found: (
            f"const MIGRATIONS: [&str; {int(found[1]) + 1}] = "
            f'[{found[2]}, include_str!("next.sql")];'
        ),
    )
    (tree / MIGRATION).write_text("CREATE TABLE later (key INTEGER PRIMARY KEY) STRICT;\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
