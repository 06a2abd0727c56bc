"""Every example of docs/operating.md is one that a journey in the virtual machine runs."""

import sys
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "vm"))

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


if __name__ == "__main__":
    unittest.main()
