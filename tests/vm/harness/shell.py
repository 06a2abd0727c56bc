"""A person at the machine."""

from .machine import Broken


def shell(machine):
    """Runs lines until there are no more."""
    print("commands are run as root; Ctrl-D ends, and nothing is kept", flush=True)
    while True:
        try:
            done = machine.run(input("ashvm# "), limit=3600)
            print(done.out + done.err, end="", flush=True)
        except (EOFError, KeyboardInterrupt):
            return
        except Broken as error:
            print(error, flush=True)
