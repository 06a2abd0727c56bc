"""Types at a terminal what somebody would: `typist.py SCRIPT`, a line of JSON on standard input.

The line is a list of [words, answer]: when the program has shown the words, the answer is typed.
What was shown goes to standard output, and the program's exit code is ours.
"""

import json
import os
import pty
import sys


def shown(terminal):
    """What the program shows next; nothing when it has hung up."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


def main():
    dialogue = [(words.encode(), answer.encode()) for words, answer in json.load(sys.stdin)]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("bash", ["bash", "-c", sys.argv[1]])
    seen, at = b"", 0
    while chunk := shown(terminal):
        seen += chunk
        while dialogue and (found := seen.find(dialogue[0][0], at)) >= 0:
            words, answer = dialogue.pop(0)
            at = found + len(words)
            os.write(terminal, answer + b"\n")
    sys.stdout.buffer.write(seen)
    _, status = os.waitpid(pid, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
