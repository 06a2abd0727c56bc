"""The journeys, in the order in which they are run."""

from . import people, operator, manual, limits, idle, overload, journal, crashes  # noqa: F401
from . import boots, power, daemon, disk, chaos, services, sockets, remote, libraries  # noqa: F401
from . import upgrade, removal, releases, floor  # noqa: F401
