"""The notices of what is linked, from a tree that was made up."""

import shutil
import sys
import tempfile
import unittest
import unittest.mock
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "scripts"))

import third_party  # noqa: E402

SQLITE = """\
/*
** 2001-09-15
**
** The author disclaims copyright to this source code.
**
*************************************************************************
** This header file
*/
#define SQLITE_VERSION        "3.1.4"
"""

# Who is made of whom, and how: `None` is for programs themselves.
LINKS = {
    "program": [("one", None), ("macro", None), ("builder", "build"), ("tester", "dev")],
    "one": [("libsqlite3-sys", None), ("both", "build"), ("both", None)],
    "macro": [("parser", None)],
    "other": [("elsewhere", None)],
}
NAMES = [*LINKS, *(name for links in LINKS.values() for name, _ in links)]
OURS = ("program", "other")


class Notices(unittest.TestCase):
    def setUp(self):
        self.scratch = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.scratch)
        self.write("one/LICENSE-MIT", "Copyright A\n\nDo  what you like.\n")
        self.write("one/src/license.rs", "fn code() {}")
        self.write("one/vendored/COPYING.txt", "Copyright B\n")
        self.write("macro/licenses/mine", "Copyright A\r\n\r\nDo what you like.\r\n")
        self.write("both/THE-TERMS", "Copyright C\n")
        self.write("libsqlite3-sys/sqlite3/sqlite3.h", SQLITE)

    def write(self, name, text):
        path = self.scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, newline="")

    def metadata(self):
        kinds = {"macro": "proc-macro"} | dict.fromkeys(OURS, "bin")
        packages = [
            {
                "id": f"path+{name}",
                "name": name,
                "version": "1.0.0",
                "license": "MIT/Apache-2.0" if name == "one" else "MIT",
                "license_file": "THE-TERMS" if name == "both" else None,
                "manifest_path": str(self.scratch / name / "Cargo.toml"),
                "targets": [{"name": name, "kind": [kinds.get(name, "lib")]}],
            }
            for name in set(NAMES)
        ]
        nodes = []
        for name in set(NAMES):
            links = [
                {"pkg": f"path+{to}", "dep_kinds": [{"kind": kind, "target": None}]}
                for to, kind in LINKS.get(name, [])
            ]
            nodes.append({"id": f"path+{name}", "deps": links})
        ours = [f"path+{name}" for name in OURS]
        return {"packages": packages, "workspace_members": ours, "resolve": {"nodes": nodes}}

    def crates(self, *programs):
        return third_party.linked(self.metadata(), set(programs))

    def test_what_a_program_links_counts_and_nothing_else(self):
        names = [crate["name"] for crate in self.crates("program")]
        self.assertEqual(names, ["both", "libsqlite3-sys", "macro", "one"])

    def test_a_program_that_nothing_builds_is_refused(self):
        with self.assertRaisesRegex(SystemExit, "lost"):
            self.crates("program", "lost")

    def test_each_text_is_there_once_with_all_who_have_it(self):
        crates = self.crates("program")
        libraries = [*map(third_party.library, crates), *third_party.bundled(crates)]
        head, *texts = third_party.page(libraries).split("\n" + "=" * 36)
        self.assertEqual(
            head.removeprefix(third_party.BEGINNING).splitlines(),
            [
                "both 1.0.0: MIT. Texts: 1.",
                "libsqlite3-sys 1.0.0: MIT. Texts: none of its own.",
                "macro 1.0.0: MIT. Texts: 2.",
                "one 1.0.0: MIT OR Apache-2.0. Texts: 2, 3.",
                "SQLite 3.1.4: in the public domain. Texts: 4.",
            ],
        )
        bodies = [text.partition("\n\n")[2].strip() for text in texts]
        blessing = "2001-09-15\n\nThe author disclaims copyright to this source code."
        words = ["Copyright C", "Copyright A\n\nDo what you like.", "Copyright B", blessing]
        self.assertEqual(bodies, words)

    def test_libraries_that_are_no_crates_are_named(self):
        self.write("share/doc/rust/COPYRIGHT-library.html", "<p>Copyright <b>D</b> &amp; E</p>\n")
        with unittest.mock.patch.object(third_party, "run") as run:
            run.return_value.stdout = f"{self.scratch}\n"
            (text,) = third_party.rust().texts
        self.assertEqual(text.strip(), "Copyright D & E")
        (text,) = third_party.c_library().texts
        self.assertIn("GNU LESSER GENERAL PUBLIC LICENSE", text)

    def test_without_cargo_it_says_so(self):
        with unittest.mock.patch.dict("os.environ", {"PATH": str(self.scratch)}):
            with self.assertRaisesRegex(SystemExit, "cargo is missing"):
                third_party.metadata()


if __name__ == "__main__":
    unittest.main()
