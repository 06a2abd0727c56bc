"""The power fails at any moment: what was acknowledged is on the disk, and all of it agrees."""

import contextlib
import json
import random
import shutil
import sqlite3
import subprocess
import uuid
from dataclasses import dataclass, field
from urllib.parse import quote

from harness.ash import AGENT, bash, installed
from harness.journey import journey
from harness.powercut import AGAIN, STATE

ROUNDS = 6
CUTS = 10
SEED = 4

DOWN = """\
systemctl stop ashd ash-sandboxes ash-broker.socket ash-broker
umount /var/lib/ash
find /run/ash -mindepth 1 -delete
"""
# Without it a daemon takes what it finds for its own boot's.
ANOTHER_BOOT = """\
cat /proc/sys/kernel/random/uuid >/run/boot
mount --bind /run/boot /proc/sys/kernel/random/boot_id
"""
UP = f"blockdev --flushbufs {AGAIN}; mount {AGAIN} /var/lib/ash"


@dataclass
class Promised:
    """What clients were told, and when."""

    disk: object
    events: list = field(default_factory=list)
    points: list = field(default_factory=list)
    versions: list = field(default_factory=list)
    files: list = field(default_factory=list)

    def event(self, session, seq):
        self.events.append((self.disk.now(), session, seq))

    def point(self, session, name, sums):
        self.points.append((self.disk.now(), session, name, sums))

    def version(self, number):
        self.versions.append((self.disk.now(), number))

    def file(self, name):
        self.files.append((self.disk.now(), name))

    def moments(self, begin):
        """When the power fails: at any time, and just when a promise is made."""
        dice = random.Random(SEED)
        told = [at for at, *_ in self.events + self.points + self.versions + self.files]
        half, end = CUTS // 2, self.disk.now()
        return sorted(dice.sample(told, half) + [dice.randrange(begin, end) for _ in range(half)])


@journey(fresh=True, logged=True)
def the_power_fails_ten_times(machine):
    """During turns, checkpoints and deployments. The disk is looked at as each failure leaves it:
    file system, database, every chunk of every checkpoint, and what clients were told. Then ash goes
    on with it."""
    machine.do(f"install -d -m 0700 /var/lib/ash; mount {STATE} /var/lib/ash")
    ash = installed(machine)
    promised = Promised(machine.disk)
    begin = machine.disk.now()
    work(ash, promised)
    moments = promised.moments(begin)
    machine.do(DOWN + ANOTHER_BOOT)
    daemon = unpack(machine)
    for number, moment in enumerate(moments):
        with machine.disk.at(moment, seed=number) as image:
            try:
                machine.disk.give_back(image)
                check(machine, image, daemon, promised, moment)
                go_on(ash, promised, moment)
            except AssertionError as error:
                raise AssertionError(f"cut {number} at {moment - begin}: {error}") from None
    check_that_it_shows(machine, daemon, promised)


def work(ash, promised):
    """Turns that write files, checkpoints, files from outside, pauses, deployments."""
    session, other = ash.create(), ash.create()
    for number in range(ROUNDS):
        write = f"head -c 300000 /dev/urandom > file-{number}; sha256sum file-* > sums"
        turn = ash.send(session, bash(write)).end()
        assert not turn.errors(), turn.told()
        promised.event(session, max(frame.id[0] for frame in turn.frames if frame.id))
        sums = ash.exec(session, "cat sums")
        ash.call("POST", f"/api/sessions/{session}/checkpoints", {"name": f"point {number}"}, 201)
        promised.point(session, f"point {number}", sums)
        ash.call("PUT", f"/api/sessions/{session}/files/put-{number}", number, 201)
        promised.file(f"put-{number}")
        ash.verb(other, "pause" if number % 2 == 0 else "resume")
        promised.event(other, max(event["sequence"] for event in ash.events(other)))
        ash.machine.write("/root/hello/CLAUDE.md", f"Answer briefly, {number}.\n")
        ash.machine.do(f"ashctl deploy /root/{AGENT}")
        promised.version(number + 2)


def go_on(ash, promised, moment):
    """What a checkpoint promised is in the files that the machine still has, and in what is brought
    back; the conversation goes on."""
    points = [point for point in promised.points if point[0] <= moment]
    ash.machine.do(UP)
    try:
        ash.start()
        if points:
            check_session(ash, points[-1], [name for at, name in promised.files if at <= moment])
        found = ash.machine.run("ashctl fsck --deep")
        assert found.ok, found
    finally:
        ash.machine.do(DOWN)


def check_session(ash, point, files):
    _, session, name, sums = point
    path = f"/api/sessions/{session}"
    ash.verb(session, "resume")
    ash.exec(session, f"sha256sum -c <<'end'\n{sums}end\nls {' '.join(files)}")
    ash.call("POST", f"{path}/checkpoints/{quote(name)}/restore")
    kept = ash.exec(session, "sha256sum -c sums >/dev/null && cat sums")
    assert kept == sums, f"{name} has\n{kept}and was\n{sums}"
    newest = sums.splitlines()[-1].split()[-1]
    assert f"> {newest};" in ash.ask(session, "[[history]]"), f"the agent knows nothing of {newest}"


def check_that_it_shows(machine, daemon, promised):
    """Nothing of this says anything if a disk gets away with losing what it was to keep: of two that
    differ in nothing else, the one that heeds no flush is found out."""
    first, last = promised.points[0][0], promised.points[-1][0]
    with machine.disk.at(last, seed=0) as image:
        check(machine, image, daemon, promised, last)
    with machine.disk.at(last, seed=0, heeded=first) as image:
        try:
            check(machine, image, daemon, promised, last)
        except (AssertionError, OSError, sqlite3.Error, subprocess.CalledProcessError):
            return
    raise AssertionError("a disk that heeds no flush is not found out")


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
        for at, _, name, _ in promised.points:
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
