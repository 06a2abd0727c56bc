"""Makes every call of calls.json and prints what came of it as JSON: errno by name, 0 for success.

`calls.json` maps a name to a call's number and arguments; text stands for a pointer to that text.
"""

import ctypes
import json
import os
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def argument(value):
    return ctypes.c_char_p(value.encode()) if isinstance(value, str) else ctypes.c_ulong(value)


def call(number: int, arguments: list) -> int:
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *map(argument, arguments))
    return ctypes.get_errno() if result == -1 else 0


def attempt(number: int, arguments: list) -> int:
    """In a child: a call that is not refused may do anything to its caller."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"%d" % call(number, arguments))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    return int(said) if said else -status


def main() -> None:
    calls = json.loads(Path(__file__).with_name("calls.json").read_text())
    print(json.dumps({name: attempt(*what) for name, what in calls.items()}))


main()
