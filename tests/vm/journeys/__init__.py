"""The journeys, in the order in which they are run."""

from . import people, operator, limits, crashes, boots, daemon, disk, chaos, upgrade, removal, releases  # noqa: F401
