"""One journey after the other, with one machine at a time."""

import time
import traceback

from .ash import installed
from .journey import MEMORY, SUITE
from .machine import Broken, Machine, Panicked
from .skip import Skip


class Lane:
    """A machine that journeys share, or the one of a journey that wants a fresh one."""

    def __init__(self, run):
        self.run = run
        self.shared = None
        self.used = []
        self.hopeless = False
        self.good = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.drop_shared()

    def go(self, todo):
        """Runs what nobody else has taken, and prefers what needs no other machine than it has."""
        with self:
            while each := todo.take(self.likes):
                self.try_one(each)

    def likes(self, journey):
        """Whether to take it before others: the shared machine does for it; or there is none, and others
        need none or can use the one that it wants afterwards, because that is larger than usual."""
        if self.shared:
            return not journey.fresh and self.suffices(journey)
        return journey.fresh or journey.memory > MEMORY

    def suffices(self, journey):
        """Whether the shared machine is large enough."""
        return journey.memory <= self.shared.machine.memory

    def try_one(self, journey):
        begun = time.monotonic()
        try:
            self.one(journey)
            told = f"PASS {journey.name}"
        except Skip as skip:
            told = f"SKIP {journey.name}: {skip}"
        except Exception:
            self.good = False
            told = f"{traceback.format_exc()}FAIL {journey.name}"
        tell(f"{told} ({time.monotonic() - begun:.0f} s)")

    def one(self, journey):
        """A machine whose kernel gave up says nothing of ash: then it is another one's turn, once."""
        self.run.room.check(journey.memory)
        run = self.fresh if journey.fresh else self.together
        try:
            run(journey)
        except Panicked as panic:
            tell(f"AGAIN {journey.name}: {panic}")
            run(journey)

    def fresh(self, journey):
        self.drop_shared()
        machine = self.machine(journey.suite, journey.memory, journey.boot, journey.logged)
        machine.packages = self.run.parts.packages
        try:
            journey.go(machine)
        finally:
            self.close(machine, journey.name)

    def together(self, journey):
        """A machine on which a journey failed is not used again, nor one whose room somebody waits for."""
        if self.shared and not self.suffices(journey):
            self.drop_shared()
        ash = self.shared or self.set_up(journey.memory)
        self.used.append(journey.name)
        good = False
        try:
            journey.go(ash)
            good = not journey.spoils
        finally:
            if not good or self.run.room.is_awaited():
                self.drop_shared()

    def set_up(self, memory=MEMORY):
        """One with ash running on it. What failed once is not tried for every journey again."""
        if self.hopeless:
            raise Broken("ash could not be installed, see above")
        machine = self.machine(SUITE, memory)
        try:
            self.shared = installed(machine)
        except BaseException as error:
            self.hopeless = not isinstance(error, Panicked)
            self.close(machine, "install")
            raise
        return self.shared

    def machine(self, suite, memory, *how):
        """Another one; when there is room for it."""
        self.run.room.take(memory)
        try:
            return Machine(suite, self.run.payload, self.run.sockets, memory, *how)
        except BaseException:
            self.run.room.give_back(memory)
            raise

    def drop_shared(self):
        if self.shared:
            shared, self.shared = self.shared, None
            self.close(shared.machine, "-".join(self.used or ["shell"])[:100])
            self.used = []

    def close(self, machine, name):
        """Keeps what was seen, if the machine still answers."""
        try:
            machine.results(self.run.parts.results / name)
        except (Broken, AssertionError, OSError) as error:
            tell(f"the journal of {name} is lost: {error}")
        finally:
            machine.close()
            self.run.room.give_back(machine.memory)


def tell(words):
    """In one piece: another lane may tell something at the same time."""
    print(f"{words}\n", end="", flush=True)
