"""The list of files that are installed, and what scripts/stage.py does with it."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "scripts"))

import stage  # noqa: E402

ENTRIES = stage.read_list((TOP / "packaging/files").read_text())


class TheList(unittest.TestCase):
    def test_everything_that_is_to_be_installed_is_in_it(self):
        sources = {entry.source for entry in ENTRIES}
        for directory in ("systemd", "ashd/dbus/xml"):
            for path in (TOP / directory).rglob("*"):
                if path.is_file():
                    self.assertIn(str(path.relative_to(TOP)), sources)

    def test_sources_exist_and_nothing_is_installed_twice(self):
        for entry in ENTRIES:
            self.assertTrue(":" in entry.source or (TOP / entry.source).is_file(), entry)
        for deb in (True, False):
            places = [entry.destination for entry in stage.wanted(ENTRIES, deb)]
            self.assertEqual(len(places), len(set(places)))

    def test_a_line_that_is_none_is_refused(self):
        for line in ("a /b", "a b 0644", "a /b 0644 strange"):
            with self.assertRaises(SystemExit):
                stage.read_list(line)


class Installing(unittest.TestCase):
    def setUp(self):
        self.scratch = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.scratch)
        self.root = self.scratch / "root"
        for entry in ENTRIES:
            kind, _, name = entry.source.rpartition(":")
            if kind:
                path = self.scratch / kind / name
                path.parent.mkdir(exist_ok=True)
                shutil.copy("/bin/true", path)

    def run_stage(self, verb, *more):
        command = [sys.executable, "-B", TOP / "scripts/stage.py", verb, self.root, *more]
        places = ["--bin", self.scratch / "bin", "--made", self.scratch / "made"]
        return subprocess.run([*command, *places], check=True, text=True, stdout=subprocess.PIPE)

    def test_everything_is_there_with_its_mode_and_goes_away_again(self):
        self.run_stage("install")
        for entry in stage.wanted(ENTRIES, deb=False):
            path = self.root / entry.destination.lstrip("/")
            self.assertEqual(path.stat().st_mode & 0o7777, entry.mode, entry)
        self.run_stage("uninstall")
        self.assertEqual(list(self.root.iterdir()), [])

    def test_a_prefix_moves_what_can_be_moved(self):
        self.run_stage("install", "--prefix", "/opt/ash")
        self.assertTrue((self.root / "opt/ash/sbin/ashd").is_file())
        beneath_usr = {path.relative_to(self.root) for path in (self.root / "usr").rglob("*")}
        self.assertFalse([path for path in beneath_usr if "lib" in path.parts])
        for unit in (self.root / "opt/ash").rglob("*.service"):
            self.assertNotIn("/usr/lib/ash", unit.read_text())
        self.run_stage("uninstall", "--prefix", "/opt/ash")
        self.assertEqual(list(self.root.iterdir()), [])

    def test_a_configuration_that_was_changed_is_kept(self):
        self.run_stage("install")
        config = self.root / "etc/ash/ashd.toml"
        config.write_text("[log]\n")
        self.run_stage("install")
        self.run_stage("uninstall")
        left = [path for path in self.root.rglob("*") if path.is_file()]
        self.assertEqual((left, config.read_text()), ([config], "[log]\n"))


class Maintainer(unittest.TestCase):
    """Who answers for a package is said by whoever makes it."""

    def said(self, **env):
        with unittest.mock.patch.dict(os.environ, {"SOURCE_DATE_EPOCH": "0", **env}):
            return stage.maintainer(), stage.changelog()

    def test_a_name_and_an_address_are_taken(self):
        whole = "Ann Other <ann@example.com>"
        found, changelog = self.said(MAINTAINER=whole)
        self.assertEqual(found, ("Ann Other", whole))
        self.assertIn(f" -- {whole}  Thu, 01 Jan 1970", changelog)

    def test_without_them_no_address_is_made_up(self):
        (name, whole), _ = self.said(MAINTAINER="")
        self.assertEqual(name, "ash maintainers")
        self.assertTrue(whole.endswith(".invalid>"), whole)

    def test_what_would_break_a_manifest_is_refused(self):
        for wrong in ("Ann", "<ann@example.com>", "Ann <ann>", 'A"nn <a@b>', "A\nB <a@b>"):
            with self.assertRaises(SystemExit):
                self.said(MAINTAINER=wrong)


if __name__ == "__main__":
    unittest.main()
