"""A real Debian in qemu, and what journeys in it are written with."""
