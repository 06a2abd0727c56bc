"""Memory for machines, of which a host has only so much."""

import threading

from .journey import MEMORY
from .skip import Skip

# What qemu keeps of translated code, in MiB.
TRANSLATED = 1024


def needed(memory):
    """What a machine with so much memory takes of the host's at most, all of it in MiB."""
    return memory + TRANSLATED


class Room:
    """What all machines of a run may take of the host's memory. Whoever waits for it has none of it, and
    is served before those who come later."""

    def __init__(self, free):
        # A machine as most journeys want it is tried wherever it is the only one.
        self.all = self.free = max(free, needed(MEMORY))
        self.line = []
        self.changed = threading.Condition()

    def check(self, memory):
        """Skips when there can never be room for a machine with so much memory."""
        if needed(memory) > self.all:
            raise Skip(f"it needs {needed(memory)} MiB of memory, and {self.all} MiB are there")

    def take(self, memory):
        """Waits until there is room for such a machine, and takes it."""
        with self.changed:
            place = object()
            self.line.append(place)
            self.changed.wait_for(lambda: self.line[0] is place and needed(memory) <= self.free)
            self.line.remove(place)
            self.free -= needed(memory)
            self.changed.notify_all()

    def give_back(self, memory):
        """Such a machine is gone."""
        with self.changed:
            self.free += needed(memory)
            self.changed.notify_all()

    def is_awaited(self):
        """Whether somebody waits for others to go."""
        with self.changed:
            return bool(self.line)
