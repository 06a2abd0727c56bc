"""The journeys, in the order in which they are run."""

from . import people, operator, manual, limits, crashes, boots, power, daemon, disk, chaos  # noqa: F401
from . import services, sockets, remote, libraries, upgrade, removal, releases, floor  # noqa: F401
