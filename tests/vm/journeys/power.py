"""The power fails at any moment: what was acknowledged is on the disk, and all of it agrees."""

import contextlib
import json
import random
import shutil
import sqlite3
import subprocess
import uuid
from dataclasses import dataclass, field

from harness.ash import AGENT, bash, installed
from harness.journey import journey

ROUNDS = 6
CUTS = 10
SEED = 4


@dataclass
class Promised:
    """What clients were told, and when."""

    disk: object
    events: list = field(default_factory=list)
    points: list = field(default_factory=list)
    versions: list = field(default_factory=list)

    def event(self, session, seq):
        self.events.append((self.disk.now(), session, seq))

    def point(self, session, name):
        self.points.append((self.disk.now(), session, name))

    def version(self, number):
        self.versions.append((self.disk.now(), number))


@journey(fresh=True, logged=True)
def the_power_fails_ten_times(machine):
    """During turns, checkpoints and deployments. The disk is looked at as each failure leaves it:
    file system, database, every chunk of every checkpoint, and what clients were told."""
    machine.do("install -d -m 0700 /var/lib/ash; mount LABEL=state /var/lib/ash")
    ash = installed(machine)
    promised = Promised(machine.disk)
    begin = machine.disk.now()
    work(ash, promised)
    span = random.Random(SEED)
    moments = sorted(span.randrange(begin, machine.disk.now()) for _ in range(CUTS))
    daemon = unpack(machine)
    for number, moment in enumerate(moments):
        with machine.disk.at(moment, seed=number) as image:
            try:
                check(machine, image, daemon, promised, moment)
            except AssertionError as error:
                raise AssertionError(f"cut {number} at {moment - begin}: {error}") from None


def work(ash, promised):
    """Turns that write files, checkpoints, pauses, deployments."""
    session, other = ash.create(), ash.create()
    for number in range(ROUNDS):
        write = f"head -c 300000 /dev/urandom > file-{number}; sha256sum file-* > sums"
        turn = ash.send(session, bash(write)).end()
        assert not turn.errors(), turn.told()
        promised.event(session, max(frame.id[0] for frame in turn.frames if frame.id))
        ash.call("POST", f"/api/sessions/{session}/checkpoints", {"name": f"point {number}"}, 201)
        promised.point(session, f"point {number}")
        ash.verb(other, "pause" if number % 2 == 0 else "resume")
        promised.event(other, max(event["sequence"] for event in ash.events(other)))
        ash.machine.write("/root/hello/CLAUDE.md", f"Answer briefly, {number}.\n")
        ash.machine.do(f"ashctl deploy /root/{AGENT}")
        promised.version(number + 2)


def unpack(machine):
    """The daemon of the package, for this host."""
    package, into = machine.packages / "ashd.deb", machine.disk.scratch
    subprocess.run(["dpkg-deb", "--extract", package, into / "package"], check=True)
    return into / "package/usr/sbin/ashd"


def check(machine, image, daemon, promised, moment):
    state = machine.disk.scratch / "state"
    state.mkdir()
    try:
        # The kernel would bring the journal back at the mount.
        done = subprocess.run(["e2fsck", "-f", "-y", image], capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stdout
        dump = ["debugfs", "-R", f"rdump / {state}", image]
        subprocess.run(dump, check=True, capture_output=True)
        state.chmod(0o700)
        check_database(state, promised, moment)
        check_all(state, daemon)
        check_versions(state, promised, moment)
    finally:
        shutil.rmtree(state)


def check_database(state, promised, moment):
    """Sound, without gaps, and with everything that was acknowledged."""
    with contextlib.closing(sqlite3.connect(state / "ash.db")) as database:
        sound = database.execute("PRAGMA integrity_check").fetchall()
        assert sound == [("ok",)], sound
        assert not database.execute("PRAGMA foreign_key_check").fetchall()
        rows = database.execute(
            "SELECT id, last_seq, count(seq), ifnull(max(seq), 0) FROM sessions"
            " LEFT JOIN events ON session = key GROUP BY key"
        )
        last = {}
        for id, newest, count, largest in rows:
            assert newest == count == largest, (newest, count, largest)
            last[str(uuid.UUID(bytes=id))] = newest
        for at, session, seq in promised.events:
            assert at > moment or last.get(session, 0) >= seq, f"{session} has lost event {seq}"
        names = database.execute("SELECT name FROM points WHERE name IS NOT NULL").fetchall()
        for at, _, name in promised.points:
            assert at > moment or (name,) in names, f"{name} is lost"


def check_all(state, daemon):
    """Nothing is damaged, and what is half done the next start finishes by itself."""
    config = state.parent / "ashd.toml"
    config.write_text(f'[state]\ndata_dir = "{state}"\n')
    look = [daemon, "fsck", "--deep", "--json", "--config", config]
    done = subprocess.run(look, capture_output=True, text=True)
    assert done.returncode in (0, 10), f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    differences = json.loads(done.stdout)["differences"]
    assert all(each["mending"] == "itself" for each in differences), differences


def check_versions(state, promised, moment):
    for at, number in promised.versions:
        folder = state / "agents" / "default" / AGENT / str(number)
        expected = f"Answer briefly, {number - 2}.\n"
        if at <= moment:
            assert (folder / "CLAUDE.md").read_text() == expected, f"version {number} is lost"
