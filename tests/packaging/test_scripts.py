"""The packages' scripts, run as dpkg and rpm run them, with stand-ins for what they call."""

import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
CALLED = ("systemctl", "journalctl", "systemd-sysusers", "systemd-tmpfiles")
PLACES = {
    "/usr/lib/ash": "lib",
    "/usr/bin/bwrap": "bin/bwrap",
    "/run/systemd/system": "run",
    "/run/ash": "sockets",
    "/etc/ash": "etc",
    "/usr/share": "share",
}
HINT = "ashd is installed, not started."


class Scripts(unittest.TestCase):
    def setUp(self):
        self.scratch = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.scratch)
        for directory in ("bin", "lib", "run"):
            (self.scratch / directory).mkdir()
        for name in (*CALLED, "bwrap"):
            program = self.scratch / "bin" / name
            program.write_text(f"#!/bin/sh\necho {name} $* >>{self.scratch}/called\n")
            program.chmod(0o755)

    def script(self, name, *arguments):
        """Runs one that sees nothing but the scratch directory; returns what it says."""
        common = (PACKAGING / "common.sh").read_text()
        text = (PACKAGING / name).read_text().replace(". packaging/common.sh", common)
        for place, here in PLACES.items():
            text = text.replace(place, str(self.scratch / here))
        path = f"{self.scratch}/bin:/usr/bin:/bin"
        ran = subprocess.run(
            ["/bin/sh", "-c", text, name, *arguments],
            env={"PATH": path},
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        )
        return ran.stdout

    def called(self):
        """What was called since the last time."""
        told = self.scratch / "called"
        lines = told.read_text().splitlines() if told.exists() else []
        told.unlink(missing_ok=True)
        return lines

    def test_a_deb_says_what_comes_next_when_it_is_new(self):
        self.assertIn(HINT, self.script("deb/postinst", "configure", ""))
        self.assertNotIn("systemctl try-restart ashd.service", self.called())
        self.assertTrue((self.scratch / "lib/bwrap").is_file())

    def test_a_deb_says_nothing_when_it_is_upgraded(self):
        self.script("deb/postinst", "configure", "")
        self.assertEqual(self.script("deb/postinst", "configure", "0.1.0-1"), "")
        self.assertIn("systemctl try-restart ashd.service", self.called())

    def test_a_deb_says_it_again_when_it_is_back_after_a_removal(self):
        """dpkg then names the version that was configured last, as for an upgrade."""
        self.script("deb/postinst", "configure", "")
        # As postrm does; it cannot be run here, where what it removes is named by whole paths.
        (self.scratch / "lib/bwrap").unlink()
        self.assertIn(HINT, self.script("deb/postinst", "configure", "0.1.0-1"))

    def test_a_deb_copies_bubblewrap_again_when_that_has_changed(self):
        self.script("deb/postinst", "configure", "")
        (self.scratch / "bin/bwrap").write_text("#!/bin/sh\n# newer\n")
        self.assertEqual(self.script("deb/postinst", "triggered", "/usr/bin/bwrap"), "")
        self.assertIn("newer", (self.scratch / "lib/bwrap").read_text())

    def test_an_rpm_does_the_same(self):
        self.assertIn(HINT, self.script("rpm/post", "1"))
        self.assertNotIn("systemctl try-restart ashd.service", self.called())
        self.assertEqual(self.script("rpm/post", "2"), "")
        self.assertIn("systemctl try-restart ashd.service", self.called())

    def test_an_rpm_that_is_removed_leaves_only_what_others_wrote(self):
        settings = self.scratch / "etc/ashd.toml.d"
        for written in (True, False):
            settings.mkdir(parents=True, exist_ok=True)
            local = settings / "local.toml"
            local.touch() if written else local.unlink()
            self.script("rpm/postun", "0")
            self.assertEqual((self.scratch / "etc").exists(), written)
        self.assertFalse((self.scratch / "lib").exists())


if __name__ == "__main__":
    unittest.main()
