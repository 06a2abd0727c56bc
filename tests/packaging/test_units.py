"""What the units leave off of what systemd can take away from a service has a reason beside it."""

import json
import re
import shutil
import subprocess
import unittest
from pathlib import Path

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"


def left_off(unit):
    """The names of directives that would take away more."""
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--json=short", "--no-pager", unit],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    entries = json.loads(said.stdout)
    return {entry["name"].split("=")[0] for entry in entries if entry["set"] is False}


@unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not here")
class Units(unittest.TestCase):
    def check(self, name):
        unit = SYSTEMD / f"{name}.service"
        directives = left_off(unit)
        self.assertTrue(directives, "systemd-analyze finds nothing at all")
        for directive in directives:
            # One that is set is set as far as it goes.
            self.assertRegex(unit.read_text(), rf"(?m)^({directive}=|# .*\b{directive}\b)")

    def test_ashd(self):
        self.check("ashd")

    def test_the_broker(self):
        self.check("ash-broker")

    def test_the_sandboxes(self):
        self.check("ash-sandboxes")


if __name__ == "__main__":
    unittest.main()
