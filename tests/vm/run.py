#!/usr/bin/env python3
"""Runs journeys in a virtual machine; `scripts/vm.sh` builds what they need and calls this."""

import argparse
import signal
import sys
from pathlib import Path

import journeys  # noqa: F401 (registers them)
from harness.journey import JOURNEYS
from harness.run import Parts, Run
from harness.shell import shell


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, help="directory of the packages")
    parser.add_argument(
        "--program", type=Path, action="append", default=[], help="put into the machine's PATH"
    )
    parser.add_argument("--claude", type=Path, help="the Claude Code CLI")
    parser.add_argument("--results", type=Path, help="where journals go")
    parser.add_argument("--all", action="store_true", help="not only the core set")
    parser.add_argument("--list", action="store_true", help="only say what there is")
    parser.add_argument("--shell", action="store_true", help="run commands instead")
    parser.add_argument("names", nargs="*", help="only these")
    return parser.parse_args()


def chosen(args):
    """The journeys to run, in the order in which they are written."""
    unknown = set(args.names) - set(JOURNEYS)
    if unknown:
        sys.exit(f"no such journey: {', '.join(sorted(unknown))}; there are: {', '.join(JOURNEYS)}")
    if args.names:
        return [each for each in JOURNEYS.values() if each.name in args.names]
    return [each for each in JOURNEYS.values() if args.all or each.core]


def main():
    args = arguments()
    wanted = chosen(args)
    if args.list:
        print("\n".join(f"{each.name}{' *' if each.core else ''}" for each in wanted))
        return
    # An exit cleans up, an unhandled signal does not.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parts = Parts(args.packages, args.program, args.claude, args.results)
    with Run(parts) as run:
        good = run.shell(shell) if args.shell else run.go(wanted)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
