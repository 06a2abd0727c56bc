"""The journeys, in the order in which they are run."""

from . import people, operator, manual, limits, idle, journal, crashes, boots, power  # noqa: F401
from . import daemon, disk, chaos, services, sockets, remote, libraries  # noqa: F401
from . import upgrade, removal, releases, floor  # noqa: F401
