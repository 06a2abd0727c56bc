"""A run of journeys: several at a time, where the host has room for more than one machine."""

import os
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from .image import cache
from .lane import Lane
from .machine import MEMORY
from .payload import payload

# A machine never has more than its memory and what qemu keeps of translated code.
ROOM = int(MEMORY) * 5 // 4


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
        lanes = [Lane(self) for _ in range(min(machines(), len(journeys)))]
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
        # What spoils a machine comes behind what can still use it.
        self.journeys = sorted(journeys, key=lambda each: each.spoils)
        self.lock = threading.Lock()

    def take(self, likes):
        """The next one, if possible one that the taker likes; `None` when there is none."""
        with self.lock:
            liked = [each for each in self.journeys if likes(each)]
            for each in (liked or self.journeys)[:1]:
                self.journeys.remove(each)
                return each
        return None


def machines():
    """How many machines this host can run at a time: each keeps a processor busy."""
    with open("/proc/meminfo") as file:
        free = next(int(line.split()[1]) >> 10 for line in file if line.startswith("MemAvailable"))
    return max(1, min(2, len(os.sched_getaffinity(0)), free // ROOM))
