"""Which journeys there are."""

from dataclasses import dataclass
from typing import Callable

JOURNEYS = {}
SUITE = "trixie"
# Of a machine, in MiB.
MEMORY = 4096


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
    memory: int


def journey(
    core=False, fresh=False, spoils=False, suite=SUITE, boot="", logged=False, memory=MEMORY
):
    """Makes a function a journey. One of the core set is part of `make test`; a fresh one gets a
    machine of its own, on which nothing is installed, as a `Machine`; the others share one with ash
    running on it, as an `Ash`, until one fails or spoils it. `boot` goes onto the kernel's command
    line of a fresh one; one that is `logged` has a disk more, a `LoggedDisk`. It gets `memory` MiB at
    least; it is skipped where there can never be so much."""

    def register(go):
        each = Journey(go.__name__, go, core, fresh, spoils, suite, boot, logged, memory)
        JOURNEYS[go.__name__] = each
        return go

    return register
