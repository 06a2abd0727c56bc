"""Which journeys there are, and how they are run."""

import shutil
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from .ash import Ash
from .image import cache
from .machine import Broken, Machine, Panicked
from .payload import payload
from .skip import Skip

JOURNEYS = {}
SUITE = "trixie"


@dataclass(frozen=True)
class Journey:
    """Something that must go well on a real machine."""

    name: str
    go: Callable
    core: bool
    fresh: bool
    spoils: bool
    suite: str
    boot: str
    logged: bool


def journey(core=False, fresh=False, spoils=False, suite=SUITE, boot="", logged=False):
    """Makes a function a journey. One of the core set is part of `make test`; a fresh one gets a
    machine of its own, on which nothing is installed, as a `Machine`; the others share one with ash
    running on it, as an `Ash`, until one fails or spoils it. `boot` goes onto the kernel's command
    line of a fresh one; one that is `logged` has a disk more, a `LoggedDisk`."""

    def register(go):
        each = Journey(go.__name__, go, core, fresh, spoils, suite, boot, logged)
        JOURNEYS[go.__name__] = each
        return go

    return register


@dataclass(frozen=True)
class Parts:
    """What is tried: packages, programs for tests, the CLI; and where to put what was seen."""

    packages: Path
    programs: list
    claude: Path
    results: Path


class Run:
    """The machines of a run, at most one at a time."""

    def __init__(self, parts):
        self.parts = parts
        # Not where temporary files usually are: that may be in memory, and disks are large.
        self.scratch = Path(tempfile.mkdtemp(dir=cache(), prefix="run."))
        self.shared = None
        self.used = []
        self.hopeless = False
        shutil.rmtree(parts.results, ignore_errors=True)

    def __enter__(self):
        self.payload = payload(
            self.scratch, self.parts.packages, self.parts.programs, self.parts.claude
        )
        return self

    def __exit__(self, *_):
        self.drop_shared()
        shutil.rmtree(self.scratch)

    def go(self, journeys):
        """Runs them and tells a line each; whether none failed."""
        good = True
        for each in journeys:
            begun = time.monotonic()
            try:
                self.one(each)
                told = f"PASS {each.name}"
            except Skip as skip:
                told = f"SKIP {each.name}: {skip}"
            except Exception:
                good = False
                traceback.print_exc()
                told = f"FAIL {each.name}"
            print(f"{told} ({time.monotonic() - begun:.0f} s)", flush=True)
        return good

    def one(self, journey):
        """A machine whose kernel gave up says nothing of ash: then it is another one's turn, once."""
        run = self.fresh if journey.fresh else self.together
        try:
            run(journey)
        except Panicked as panic:
            print(f"AGAIN {journey.name}: {panic}", flush=True)
            run(journey)

    def shell(self, talk):
        """A machine with ash on it, for somebody who wants to look."""
        self.shared = self.set_up()
        self.used.append("shell")
        talk(self.shared.machine)
        return True

    def fresh(self, journey):
        self.drop_shared()
        machine = Machine(journey.suite, self.payload, journey.boot, journey.logged)
        machine.packages = self.parts.packages
        try:
            journey.go(machine)
        finally:
            self.close(machine, journey.name)

    def together(self, journey):
        """A machine on which a journey failed is not used again."""
        if not self.shared:
            self.shared = self.set_up()
        self.used.append(journey.name)
        good = False
        try:
            journey.go(self.shared)
            good = not journey.spoils
        finally:
            if not good:
                self.drop_shared()

    def set_up(self):
        """One with ash running on it. What failed once is not tried for every journey again."""
        if self.hopeless:
            raise Broken("ash could not be installed, see above")
        machine = Machine(SUITE, self.payload)
        try:
            return installed(machine)
        except BaseException as error:
            self.hopeless = not isinstance(error, Panicked)
            self.close(machine, "install")
            raise

    def drop_shared(self):
        if self.shared:
            shared, self.shared = self.shared, None
            self.close(shared.machine, "-".join(self.used)[:100])
            self.used = []

    def close(self, machine, name):
        """Keeps what was seen, if the machine still answers."""
        try:
            machine.results(self.parts.results / name)
        except (Broken, AssertionError, OSError) as error:
            print(f"the journal of {name} is lost: {error}", flush=True)
        machine.close()


def installed(machine):
    """Everything that journeys expect which do not install it themselves."""
    ash = Ash(machine)
    ash.install()
    ash.set_up()
    return ash
