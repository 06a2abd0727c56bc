"""Every example of docs/operating.md is one that a journey in the virtual machine runs, and what it
says of this machine's files is what is done to them."""

import re
import sys
import unittest
from pathlib import Path
from unittest import mock

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests/vm"), str(TOP / "scripts")]

import stage  # noqa: E402
from journeys import manual  # noqa: E402


class Manual(unittest.TestCase):
    def test_the_journey_runs_every_example(self):
        self.assertEqual(list(manual.examples()), manual.EXAMPLES)

    def test_an_example_that_is_new_or_another_is_noticed(self):
        text = manual.DOCUMENT.read_text()
        for other in (text + "\n```sh\nreboot\n```\n", text.replace("-d -m 0700", "-d -m 0755")):
            with mock.patch.object(manual, "DOCUMENT") as document:
                document.read_text.return_value = other
                with self.assertRaises(AssertionError):
                    manual.examples()

    def test_every_path_that_root_touches_is_listed(self):
        section = manual.DOCUMENT.read_text().partition("\n## What root touches\n")[2]
        rows = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)
        listed = [Path(path) for row in rows for path in re.findall("`(/.+?)`", row)]
        for path in listed:
            self.assertNotIn(str(path), ("/usr/lib", "/usr/share", "/usr", "/etc", "/var/lib"))
        entries = stage.read_list((TOP / "packaging/files").read_text())
        made = (TOP / "systemd/tmpfiles.d/ash.conf").read_text()
        directories = re.findall(r"^d (\S+)", made, re.MULTILINE)
        for path in (*(entry.destination for entry in entries), *directories):
            self.assertTrue(any(map(Path(path).is_relative_to, listed)), path)

    def test_the_directory_for_settings_is_made(self):
        made = (TOP / "systemd/tmpfiles.d/ash.conf").read_text()
        (settings,) = set(re.findall(r"/etc/ash/\S+?\.d\b", manual.DOCUMENT.read_text()))
        self.assertRegex(made, f"(?m)^d {settings} ")


if __name__ == "__main__":
    unittest.main()
