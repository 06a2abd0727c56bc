"""The list of files that are installed, and what scripts/stage.py does with it."""

import gzip
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
        """What systemd reads only to where systemd looks, and naming programs where they are."""
        for prefix, home in [("/usr/local", "/usr/local"), ("/opt/ash", "/usr/local")]:
            self.run_stage("install", "--prefix", prefix)
            self.assertTrue((self.root / f"{prefix[1:]}/sbin/ashd").is_file())
            self.assertFalse((self.root / "usr/lib").exists())
            below = [entry for entry in ENTRIES if entry.source.startswith("systemd/")]
            for entry in below:
                place = entry.destination
                if "fixed" not in entry.flags:
                    place = home + place.removeprefix("/usr")
                text = (self.root / place[1:]).read_text()
                self.assertNotRegex(text, "/usr/(sbin/ashd|bin/ashctl|lib/ash)", place)
            unit = self.root / "usr/local/lib/systemd/system/ashd.service"
            self.assertIn(f"ExecStart={prefix}/sbin/ashd\n", unit.read_text())
            self.run_stage("uninstall", "--prefix", prefix)
            self.assertEqual(list(self.root.iterdir()), [])

    def test_a_prefix_that_no_service_sees_is_refused_before_anything_is_written(self):
        for prefix in ("/home/ann/ash", "/root", "/tmp/ash/", "opt/ash", "/opt/our ash"):
            told = subprocess.run(
                [TOP / "scripts/install.sh", "install"],
                env=os.environ | {"DESTDIR": str(self.root), "PREFIX": prefix},
                text=True,
                capture_output=True,
            )
            self.assertEqual((told.returncode, told.stdout), (1, ""), told)
            self.assertEqual(told.stderr.count("\n"), 1, told)
            self.assertIn(f"PREFIX={prefix}", told.stderr)
            self.assertFalse(self.root.exists())

    def test_an_image_that_presets_everything_has_it_off(self):
        if not shutil.which("systemctl"):
            self.skipTest("systemctl is not here")
        for prefix in ("/usr", "/opt/ash"):
            self.run_stage("install", "--prefix", prefix)
            command = ["systemctl", f"--root={self.root}", "preset-all"]
            subprocess.run(command, check=True, capture_output=True)
            links = [path for path in (self.root / "etc").rglob("*") if path.is_symlink()]
            self.assertEqual(links, [])
            shutil.rmtree(self.root)

    def test_notices_are_made_unless_they_are_there(self):
        made = self.scratch / "made/third-party"
        options = ["--bin", self.scratch / "bin", "--made", self.scratch / "made"]
        argv = ["stage.py", "install", *map(str, [self.root, *options])]
        made.write_text("those of before")
        with (
            unittest.mock.patch.object(sys, "argv", argv),
            unittest.mock.patch.object(stage.third_party, "text", return_value="new"),
        ):
            stage.main()
            made.unlink()
            stage.main()
        installed = self.root / "usr/share/doc/ashd/THIRD-PARTY.gz"
        self.assertEqual(gzip.decompress(installed.read_bytes()), b"new")

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
