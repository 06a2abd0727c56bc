"""Runs in the machine: does what comes through the virtio port, many things at a time.

A request is a line of JSON {id, script, user, limit, input}: a script for bash, the user who runs
it, how many seconds it may take, and what it reads. The answer is a line {id, code, out, err}. The
first line says which boot this is.
"""

import json
import os
import pathlib
import pwd
import subprocess
import threading
import time

PORT = "/dev/virtio-ports/ash"
SEARCH = "/payload/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
writing = threading.Lock()


def answer(port, **words):
    line = json.dumps(words).encode() + b"\n"
    with writing:
        while line:
            line = line[os.write(port, line) :]


def work(port, id, script, user, limit, input):
    """Runs one script and tells what came of it."""
    try:
        code, out, err = run(script, user, limit, input)
    except (OSError, KeyError) as error:
        code, out, err = 127, b"", str(error).encode()
    out, err = (text.decode(errors="replace") for text in (out, err))
    answer(port, id=id, code=code, out=out, err=err)


def run(script, user, limit, input):
    """What it leaves in the background must not keep its output open."""
    home = pwd.getpwnam(user).pw_dir
    command = ["timeout", "--kill-after=5", str(limit), "bash", "-c", script]
    if user != "root":
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *command]
    done = subprocess.run(
        command,
        input=input.encode(),
        capture_output=True,
        cwd=home,
        env={"PATH": SEARCH, "HOME": home, "USER": user, "LANG": "C.UTF-8"},
        start_new_session=True,
    )
    return done.returncode, done.stdout, done.stderr


def serve():
    port = os.open(PORT, os.O_RDWR)
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    answer(port, boot=boot)
    rest = b""
    while True:
        chunk = os.read(port, 1 << 16)
        if not chunk:  # Nobody is at the other end.
            time.sleep(0.1)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            threading.Thread(target=work, args=(port,), kwargs=json.loads(line)).start()


if __name__ == "__main__":
    serve()
