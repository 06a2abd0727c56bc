"""More is asked of a machine than fits, by some who take all that they can get."""

import json

from harness.ash import AGENT, UNITS, URL, Turn, bash
from harness.journey import journey

from .limits import MEMORY

DROP_IN = "/etc/ash/ashd.toml.d/60-overload.toml"
STOP = "/var/tmp/overload-is-over"
SANDBOXES = 3
TURNS = 2
NEIGHBOURS = 7
HOGS = 2

# Processors are emulated: a CLI that waits uses more of them than on a real machine.
CONFIG = f"""\
[sandbox]
max = {SANDBOXES}

[admission]
turns = {TURNS}

[pool]
idle_timeout = "2s"
busy_cpus = 0.5
"""

# Sends a request again when there is no room for it, as late as it is told. Whoever is not told when
# has been refused for good.
PATIENTLY = r"""
cat >{file}.sent
while
    rm -f {file} {file}.head
    {command} -N -D {file}.head <{file}.sent >{file} || exit
    grep -q '^HTTP/1.1 503' {file}.head
do
    sleep $(sed -n 's/^retry-after: *\([0-9]\+\).*/\1/Ip' {file}.head) || exit
done
"""

# Somebody who looks after the machine; how long an answer may take is far above what it takes on the
# slowest host.
BOUND = 60
PROBE = f"""\
until test -e {STOP}; do
    curl -fsS -m {BOUND} {URL}/health || exit
    echo
    timeout {BOUND} ashctl status >/dev/null || exit
    sleep 1
done
"""

# That no sandbox lives, and that nothing runs and nobody waits.
AT_REST = """\
import json, sys
told = json.load(sys.stdin)
places = told["admission"]["turns"], told["admission"]["launches"]
busy = [each[what] for each in places for what in ("running", "waiting")]
sys.exit(any([told["pool"]["total"], told["pool"]["warming"], *busy]))
"""


class Patient(Turn):
    """A message of a client that sends it again when it is refused for want of room."""

    def begin(self, command, input=""):
        script = PATIENTLY.format(file=self.file, command=command)
        return self.ash.machine.begin(script, limit=900, input=input)

    def end(self):
        done = self.job.result()
        assert done.ok, done
        super().end()
        self.ash.machine.do(f"rm {self.file}.*")
        return self


def create(ash, count):
    """So many sessions, each as soon as there is room for it."""
    body = {"agent": AGENT}
    command = ash.curl("/api/sessions") + ash.body(body)
    jobs = []
    for _ in range(count):
        file = f"/var/tmp/create-{next(ash.turns)}"
        script = PATIENTLY.format(file=file, command=command) + f"cat {file}; rm {file} {file}.*"
        jobs.append(ash.machine.begin(script, limit=900, input=json.dumps(body)))
    made = [job.result() for job in jobs]
    assert all(done.ok and '"session"' in done.out for done in made), made
    return [json.loads(done.out)["session"]["id"] for done in made]


def await_rest(ash):
    told = f"curl -fsS {URL}/health | python3 -c '{AT_REST}'"
    ash.machine.until(told, "no sandbox lives, and nobody waits for one")


def restart(ash):
    """Has ashd take over what only a start does."""
    ash.machine.do("systemctl restart ashd", limit=300)
    ash.await_up()


@journey()
def an_overloaded_host_keeps_answering(ash):
    """Three times as many sessions as sandboxes, and agents among them that take all memory: these are
    ended, the others get all their answers, nobody is refused without being told when to come again,
    and afterwards there is what there was before."""
    machine = ash.machine
    machine.write(DROP_IN, CONFIG)
    restart(ash)
    # What the first session of an installation makes for all is there from then on.
    (first,) = create(ash, 1)
    ash.delete(first, "?purge=true")
    await_rest(ash)
    active, before = ash.call("GET", "/health")["activeSessions"], ash.look()
    pids = [ash.pid(unit) for unit in UNITS]
    since = machine.do("date +%s.%N").strip()

    machine.do(f"rm -f {STOP}")
    probe = machine.begin(PROBE, limit=900)
    ids = create(ash, HOGS + NEIGHBOURS)
    crowd(ash, ids[:HOGS], ids[HOGS:])
    machine.do(f"touch {STOP}")
    check_probe(probe.result())
    check_killed(machine, since)
    assert [ash.pid(unit) for unit in UNITS] == pids, "a service has ended"
    told = ash.call("GET", "/health")
    # Each had one when it was made, and no more than these may live.
    assert told["pool"]["cooled"] >= len(ids) - SANDBOXES, told
    refused = {what: times for what, times in told["admission"]["refused"].items() if times}
    print(f"{told['pool']['cooled']} have made room; refused: {refused}", flush=True)

    for id in ids:
        ash.delete(id, "?purge=true")
    await_rest(ash)
    assert ash.call("GET", "/health")["activeSessions"] == active
    ash.check_left(before)
    machine.do(f"rm {DROP_IN} {STOP}")
    restart(ash)


def crowd(ash, hogs, neighbours):
    """All of them at once. A hog's limit ends it however fast the host is; the others notice nothing but
    that they wait: each gets its own answers, also when another sandbox goes on with its conversation."""
    greedy = [Patient(ash, id, bash(MEMORY)) for id in hogs]
    turns = [Patient(ash, id, f"[[say number {n}]]") for n, id in enumerate(neighbours)]
    for number, turn in enumerate(turns):
        assert turn.end().text() == f"number {number}" and not turn.errors(), turn.told()
    turns = [Patient(ash, id, "[[history]]") for id in neighbours]
    for number, turn in enumerate(turns):
        assert f"[[say number {number}]]" in turn.end().text() and not turn.errors(), turn.told()
    for turn in greedy:
        assert turn.end().errors() == ["The sandbox ran out of memory and was ended"], turn.told()
    for turn in [*turns, *greedy]:
        turn.check_history()


def check_probe(done):
    """That there was an answer each time, and that no more lived and ran than may."""
    assert done.ok and done.out, done
    seen = [json.loads(line) for line in done.out.splitlines()]
    assert max(told["activeSandboxes"] for told in seen) <= SANDBOXES, seen
    assert max(told["admission"]["turns"]["running"] for told in seen) <= TURNS, seen


def check_killed(machine, since):
    """That the kernel ended the hogs, each at its own limit, and nobody for want of the machine's."""
    killed = machine.run(f"journalctl -k -o cat --since @{since} | grep oom-kill:").out.splitlines()
    assert len(killed) >= HOGS, killed
    assert all("CONSTRAINT_MEMCG" in line for line in killed), killed
