"""One machine: qemu, and what goes on in it."""

import base64
import concurrent.futures
import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .image import image
from .journey import MEMORY
from .powercut import LoggedDisk
from .skip import Skip

QEMU = "qemu-system-x86_64"
BOOT_LIMIT = 240


class Broken(Exception):
    """The machine does not do what it was told."""


class Panicked(Broken):
    """The machine's kernel gave up. Where processors are emulated it does so now and then when it
    changes its own code: one of them still runs what was there before."""


@dataclass(frozen=True)
class Done:
    """What came of a script."""

    code: int
    out: str
    err: str

    @property
    def ok(self):
        return self.code == 0

    def __str__(self):
        return f"exit {self.code}\n{self.out}{self.err}"


class Machine:
    """A Debian that was started for these journeys, and is gone when it is closed."""

    def __init__(self, suite, payload, sockets, memory=MEMORY, boot="", logged=False):
        """Boots, with so many MiB of memory, `boot` for the kernel and, if `logged`, a disk whose writes
        are; what has to have a short path goes beneath `sockets`. Skips when this host has no qemu."""
        if not shutil.which(QEMU):
            raise Skip(f"{QEMU} is not installed")
        self.suite = suite
        self.memory = memory
        self.scratch = Path(tempfile.mkdtemp(dir=sockets))
        self.ids = itertools.count(1)
        self.waiting = {}
        self.boots = []
        self.changed = threading.Condition()
        self.console = self.scratch / "console"
        self.disk = LoggedDisk(tempfile.mkdtemp(dir=payload.parent)) if logged else None
        self.qemu = self.start(image(suite), payload, boot)
        try:
            self.port = self.connect()
            threading.Thread(target=self.listen, daemon=True).start()
            self.await_boot(0)
        except BaseException:
            self.close()
            raise

    def start(self, image, payload, boot):
        port = self.scratch / "port"
        disk = "if=virtio,format=raw,cache=unsafe"
        command = [
            # Whatever ends the thread that runs it, or all of them, ends the machine.
            *("setpriv", "--pdeathsig", "KILL"),
            *(QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", self.memory),
            *("-kernel", image / "vmlinuz", "-initrd", image / "initrd"),
            *("-append", f"root=/dev/vda rw panic=-1 psi=1 quiet console=ttyS0 {boot}".rstrip()),
            # What is written goes into an unnamed file, and is gone with the process.
            *("-drive", f"file={image}/disk.img,snapshot=on,{disk}"),
            *("-drive", f"file={payload},readonly=on,{disk}"),
            *(self.disk.options() if self.disk else ()),
            *("-nic", "none", "-display", "none", "-serial", f"file:{self.console}"),
            *("-device", "virtio-rng-pci", "-device", "virtio-serial"),
            *("-chardev", f"socket,id=port,path={port},server=on,wait=off"),
            *("-device", "virtserialport,chardev=port,name=ash"),
        ]
        with open(self.scratch / "qemu.log", "w") as log:
            return subprocess.Popen(
                [str(word) for word in command],
                env=os.environ | {"TMPDIR": str(payload.parent)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def connect(self):
        """Reaches the port, which is there soon after qemu is."""
        port = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + 30
        while True:
            try:
                port.connect(str(self.scratch / "port"))
                return port
            except OSError as error:
                if self.qemu.poll() is not None or time.monotonic() > deadline:
                    raise Broken(f"qemu: {error}; {self.last_words()}") from None
                time.sleep(0.05)

    def listen(self):
        """Gives every answer to whoever waits for it, until the machine is gone."""
        with contextlib.suppress(OSError), self.port.makefile("rb") as lines:
            for line in lines:
                self.hear(json.loads(line))
        with self.changed:
            self.lose(Broken("the machine is gone"))

    def hear(self, words):
        with self.changed:
            if "boot" in words:
                self.boots.append(words["boot"])
                self.lose(self.why_anew())
            elif job := self.waiting.pop(words["id"], None):
                job.set_result(Done(words["code"], words["out"], words["err"]))
            self.changed.notify_all()

    def why_anew(self):
        console = self.console.read_text(errors="replace") if self.console.exists() else ""
        panics = [line for line in console.splitlines() if "Kernel panic" in line]
        return Panicked(panics[-1]) if panics else Broken("the machine was started anew")

    def lose(self, why):
        """Nobody will answer what was asked before."""
        for job in self.waiting.values():
            job.set_exception(why)
        self.waiting.clear()

    def await_boot(self, before):
        """Waits until it has been started more often than before."""
        with self.changed:
            up = self.changed.wait_for(lambda: len(self.boots) > before, BOOT_LIMIT)
        if not up:
            raise Broken(f"it is not up after {BOOT_LIMIT} s; {self.last_words()}")

    def last_words(self):
        words = []
        for name in ("qemu.log", "console"):
            path = self.scratch / name
            words += path.read_text(errors="replace").splitlines()[-15:] if path.exists() else []
        return "\n".join(words)

    def begin(self, script, user="root", limit=300, input=""):
        """Starts a script; `result()` of what this returns waits for its end."""
        job = concurrent.futures.Future()
        words = {"script": script, "user": user, "limit": limit, "input": input}
        with self.changed:
            id = next(self.ids)
            self.waiting[id] = job
            self.port.sendall(json.dumps({"id": id, **words}).encode() + b"\n")
        return job

    def run(self, script, user="root", limit=300, input=""):
        """Runs a script to its end, whatever that is."""
        return self.begin(script, user, limit, input).result(limit + 60)

    def do(self, script, user="root", limit=300, input=""):
        """What a script that must succeed prints."""
        done = self.run(script, user, limit, input)
        if not done.ok:
            raise AssertionError(f"{user}: {script}\n{done}")
        return done.out

    def until(self, condition, what, limit=180):
        """Waits inside for a condition, a command of the shell."""
        done = self.run(
            f"until {{ {condition}\n}} >/dev/null 2>&1; do sleep 0.2; done", limit=limit
        )
        if not done.ok:
            said = self.run(condition, limit=30)
            raise AssertionError(f"not within {limit} s: {what}\n{condition}\n{said}")

    def properties(self, unit, *names):
        """What systemd knows of a unit, in this order."""
        return [self.do(f"systemctl show -P {name} {unit}").strip() for name in names]

    def write(self, path, text, mode="0644"):
        """Puts a file there."""
        self.do(f"install -D -m {mode} /dev/stdin {path}", input=text)

    def reboot(self, how="systemctl reboot"):
        """Starts the machine anew, in an orderly way unless it is told otherwise."""
        before = len(self.boots)
        self.begin(f"sync; {how}")
        self.await_boot(before)

    def fetch(self, path, to):
        """Brings a file out of the machine."""
        to.write_bytes(base64.b64decode(self.do(f"base64 -w0 {path}", limit=120)))

    def results(self, to):
        """Brings the journal and the console out."""
        to.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.console, to / "console")
        journal = "journalctl --no-pager --all -o short-precise | gzip >/run/journal.gz"
        if self.run(journal, limit=120).ok:
            self.fetch("/run/journal.gz", to / "journal.gz")

    def close(self):
        """Ends it; nothing of it is left."""
        self.qemu.kill()
        self.qemu.wait()
        shutil.rmtree(self.scratch)
