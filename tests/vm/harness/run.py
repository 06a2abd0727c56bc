"""A run of journeys: several at a time, where the host has room for more than one machine."""

import os
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from .image import cache
from .journey import MEMORY
from .lane import Lane
from .payload import payload
from .room import Room, needed


@dataclass(frozen=True)
class Parts:
    """What is tried: packages, programs for tests, the CLI; and where to put what was seen."""

    packages: Path
    programs: list
    claude: Path
    results: Path


class Run:
    """What all machines of a run are made from."""

    def __init__(self, parts):
        self.parts = parts
        self.room = Room(available())
        # Not where temporary files usually are: that may be in memory, and disks are large.
        self.scratch = Path(tempfile.mkdtemp(dir=cache(), prefix="run."))
        self.sockets = Path(tempfile.mkdtemp(prefix="ash-vm."))
        shutil.rmtree(parts.results, ignore_errors=True)

    def __enter__(self):
        self.payload = payload(
            self.scratch, self.parts.packages, self.parts.programs, self.parts.claude
        )
        return self

    def __exit__(self, *_):
        for path in (self.scratch, self.sockets):
            shutil.rmtree(path)

    def go(self, journeys):
        """Runs them and tells a line each; whether none failed."""
        todo = Todo(journeys)
        # Threads of a run that is ended are not waited for; their machines end with them.
        lanes = [Lane(self) for _ in range(min(machines(self.room), len(journeys)))]
        threads = [threading.Thread(target=lane.go, args=(todo,), daemon=True) for lane in lanes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return not todo.journeys and all(lane.good for lane in lanes)

    def shell(self, talk):
        """A machine with ash on it, for somebody who wants to look."""
        with Lane(self) as lane:
            talk(lane.set_up().machine)
        return True


class Todo:
    """The journeys that nobody has taken yet."""

    def __init__(self, journeys):
        # What spoils a machine comes behind what can still use it, and what needs a large one before
        # what can use that as well.
        self.journeys = sorted(journeys, key=lambda each: (each.spoils, -each.memory))
        self.lock = threading.Lock()

    def take(self, likes):
        """The next one, if possible one that the taker likes; `None` when there is none."""
        with self.lock:
            liked = [each for each in self.journeys if likes(each)]
            for each in (liked or self.journeys)[:1]:
                self.journeys.remove(each)
                return each
        return None


def machines(room):
    """How many machines this host can run at a time: each keeps a processor busy."""
    return max(1, min(2, len(os.sched_getaffinity(0)), room.all // needed(MEMORY)))


def available():
    """What there is of this host's memory, in MiB."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) >> 10 for line in file if line.startswith("MemAvailable"))
