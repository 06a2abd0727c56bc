"""What the units leave off of what systemd can take away from a service has a reason beside it, and
systemd understands the rest. A systemd that can take away more than those before it asks for one more
reason."""

import json
import re
import shutil
import subprocess
import unittest
from pathlib import Path

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"

# Which the oldest systemd that will do does not know.
NEWER = "Unknown key '(RestartSteps|RestartMaxDelaySec)' in section"


def looked_at(unit):
    """The names of directives that would take away more, and complaints about lines of the unit."""
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--json=short", "--no-pager", unit],
        capture_output=True,
        text=True,
    )
    if not said.stdout:
        raise AssertionError(said.stderr)
    entries = json.loads(said.stdout)
    more = {entry["name"].split("=")[0] for entry in entries if entry["set"] is False}
    return more, [line for line in said.stderr.splitlines() if f"{unit}:" in line]


def said(unit, directive):
    """What a unit says of a directive, once."""
    (value,) = re.findall(rf"(?m)^{directive}=(.*)$", (SYSTEMD / unit).read_text())
    return value


def megabytes(unit):
    """What a unit keeps of the memory."""
    return int(said(unit, "MemoryMin").removesuffix("M"))


@unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not here")
class Units(unittest.TestCase):
    def check(self, name):
        unit = SYSTEMD / f"{name}.service"
        directives, complaints = looked_at(unit)
        self.assertTrue(directives, "systemd-analyze finds nothing at all")
        for complaint in complaints:
            self.assertRegex(complaint, NEWER)
        for directive in directives:
            # One that is set is set as far as it goes.
            self.assertRegex(unit.read_text(), rf"(?m)^({directive}=|# .*\b{directive}\b)")

    def test_what_serves_everybody_goes_before_the_sandboxes(self):
        for service in ("ashd", "ash-broker"):
            for weight in ("CPUWeight", "IOWeight"):
                own, theirs = (
                    int(said(f"{name}.service", weight)) for name in (service, "ash-sandboxes")
                )
                self.assertGreater(own, theirs, f"{weight} of {service}")

    def test_what_services_keep_of_the_memory_their_slice_has(self):
        kept = [megabytes(f"{name}.service") for name in ("ashd", "ash-broker")]
        self.assertTrue(all(kept))
        self.assertGreaterEqual(megabytes("system.slice.d/ash.conf"), sum(kept))

    def test_ashd(self):
        self.check("ashd")

    def test_the_broker(self):
        self.check("ash-broker")

    def test_the_sandboxes(self):
        self.check("ash-sandboxes")


if __name__ == "__main__":
    unittest.main()
