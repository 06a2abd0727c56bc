"""More is asked of a machine than fits, by some who take all that they can get."""

import json

from harness.ash import AGENT, UNITS, URL, Turn
from harness.journey import journey
from harness.several import several
from harness.sse import check_ids, parse

from .limits import MEMORY

DROP_IN = "/etc/ash/ashd.toml.d/60-overload.toml"
STOP = "/var/tmp/overload-is-over"
STUB = "/usr/lib/ash/runtime/stub"
SANDBOXES = 3
TURNS = 2
SESSIONS = 10 * SANDBOXES

# What hogs do. One that takes all memory is ended for that. One that takes all processors and one that
# takes all processes that it may have end by themselves, after so many seconds.
SECONDS = 15
SPIN = f"perl -e 'fork for 1..4; $e = time + {SECONDS}; 1 while time < $e; print q(spun)'"
FORK = (
    f"perl -e '$p = $$; $e = time + {SECONDS}; "
    "while (time < $e) { $no = 1 unless defined fork } print $$ == $p && $no ? q(held) : q()'"
)
HOGS = [MEMORY, SPIN, MEMORY, FORK, MEMORY]
SAID = {SPIN: "spun", FORK: "held"}

# With the stand-in for the CLI, which says the same and starts at once: on emulated processors the real
# one computes for many seconds before it takes a message, and it would in each of more than a hundred
# sandboxes.
CONFIG = f"""\
[sandbox]
claude = "{STUB}/claude"
max = {SANDBOXES}
memory = "128MiB"
pids = 48

[admission]
turns = {TURNS}

[pool]
idle_timeout = "2s"
"""

# Seconds that somebody who looks after the machine may wait for an answer, each time and 99 times of
# 100. On two emulated processors /health took up to 1.2, and `ashctl status`, which is a program that has to
# start among those that take all of them, 5.7.
BOUND = 30
P99 = {"health": 3, "status": 10}

# How many times as long the neighbours of hogs may have to wait.
SLOWED = 2

# That no sandbox lives, and that nothing runs and nobody waits.
AT_REST = """\
import json, sys
told = json.load(sys.stdin)
places = told["admission"]["turns"], told["admission"]["launches"]
busy = [each[what] for each in places for what in ("running", "waiting")]
sys.exit(any([told["pool"]["total"], told["pool"]["warming"], *busy]))
"""


class Heard(Turn):
    """A turn whose stream has been heard to its end."""

    def __init__(self, ash, session, answer):
        self.ash = ash
        self.session = session
        self.seconds = answer["seconds"]
        self.frames = parse(answer["text"])
        assert answer["status"] == 200 and self.ended(), answer
        check_ids([frame for frame in self.frames if frame.id])


def crowd(ash, requests):
    """The answers to requests that are sent all at once, in their order. One that is refused for want of
    room is sent again as late as it is told; if it is not told when, that is the answer."""
    words = {"address": URL.removeprefix("http://"), "key": ash.key, "requests": requests}
    told = ash.machine.do("python3 /payload/crowd.py", limit=900, input=json.dumps(words))
    return [json.loads(line) for line in told.splitlines()]


def create(ash, count):
    """So many sessions, each as soon as there is room for it."""
    made = crowd(ash, [["POST", "/api/sessions", {"agent": AGENT}]] * count)
    assert all(answer["status"] == 201 for answer in made), made
    return [json.loads(answer["text"])["session"]["id"] for answer in made]


def purge(ash, ids):
    several(lambda id: ash.delete(id, "?purge=true"), ids, SANDBOXES)


def ask(ash, prompts):
    """A turn of each session, by what it is asked."""

    def request(id, prompt):
        body = {"content": prompt, "includePartialMessages": True}
        return ["POST", f"/api/sessions/{id}/messages", body]

    answers = crowd(ash, [request(*each) for each in prompts.items()])
    return {id: Heard(ash, id, answer) for id, answer in zip(prompts, answers, strict=True)}


def await_rest(ash):
    told = f"curl -fsS {URL}/health | python3 -c '{AT_REST}'"
    ash.machine.until(told, "no sandbox lives, and nobody waits for one")


def restart(ash):
    """Has ashd take over what only a start does."""
    ash.machine.do("systemctl restart ashd", limit=300)
    ash.await_up()


@journey()
def an_overloaded_host_keeps_answering(ash):
    """Ten times as many sessions as sandboxes, and agents among them that take all memory, which are ended
    for that, all processors, and all processes that they may have: the others get all their answers and
    wait for them little longer, nobody is refused without being told when to come again, and afterwards
    there is what there was before."""
    machine = ash.machine
    machine.do(f"install -D -m 0755 /payload/bin/ash-stub-claude {STUB}/claude")
    machine.write(DROP_IN, CONFIG)
    restart(ash)
    # What the first session of an installation makes for all is there from then on.
    purge(ash, create(ash, 1))
    await_rest(ash)
    active, before = ash.call("GET", "/health")["activeSessions"], ash.look()
    pids = [ash.pid(unit) for unit in UNITS]
    since = machine.do("date +%s.%N").strip()

    machine.do(f"rm -f {STOP}")
    command = f"python3 /payload/probe.py {URL.removeprefix('http://')} {STOP} {BOUND}"
    probe = machine.begin(command, limit=1800)
    ids = create(ash, SESSIONS)
    check_neighbours(ash, ids)
    check_all(ash, ids)
    machine.do(f"touch {STOP}")
    check_probe(probe.result())
    check_killed(machine, since)
    assert [ash.pid(unit) for unit in UNITS] == pids, "a service has ended"
    told = ash.call("GET", "/health")
    # Each had one when it was made, and no more than these may live.
    assert told["pool"]["cooled"] >= len(ids) - SANDBOXES, told
    refused = {what: times for what, times in told["admission"]["refused"].items() if times}
    print(f"{told['pool']['cooled']} have made room; refused: {refused}", flush=True)

    purge(ash, ids)
    await_rest(ash)
    assert ash.call("GET", "/health")["activeSessions"] == active
    ash.check_left(before)
    machine.do(f"rm -r {DROP_IN} {STOP} {STUB}")
    restart(ash)


def check_neighbours(ash, ids):
    """All of them at once, without hogs and with some: the others get their own answers, and wait for them
    less than so many times as long."""
    hogs = dict(zip(ids[:: SESSIONS // len(HOGS)], HOGS, strict=True))

    def neighbours(turns):
        return p99(turn.seconds for id, turn in turns.items() if id not in hogs)

    calm = neighbours(take_turns(ash, ids, {}))
    crowded = neighbours(take_turns(ash, ids, hogs))
    print(f"neighbours' p99: {calm:.1f} s, with hogs {crowded:.1f} s", flush=True)
    assert crowded < SLOWED * calm, f"with hogs they wait {crowded / calm:.1f} times as long"


def take_turns(ash, ids, hogs):
    """A turn of each, in which hogs do what they do."""
    says = {id: f"[[say number {number}]]" for number, id in enumerate(ids)}
    turns = ask(ash, says | {id: f"[[exec {command}]]" for id, command in hogs.items()})
    for number, (id, turn) in enumerate(turns.items()):
        match hogs.get(id):
            case None:
                assert turn.text() == f"number {number}" and not turn.errors(), turn.told()
            case command if command == MEMORY:
                assert turn.errors() == ["The sandbox ran out of memory and was ended"], turn.told()
            case command:
                assert SAID[command] in turn.text() and not turn.errors(), turn.told()
    several(Turn.check_history, [turns[id] for id in hogs], TURNS)
    return turns


def check_all(ash, ids):
    """That each goes on with its conversation, in another sandbox, and that nothing of it is lost."""
    turns = ask(ash, {id: "[[history]]" for id in ids})
    for number, turn in enumerate(turns.values()):
        assert f"[[say number {number}]]" in turn.text() and not turn.errors(), turn.told()
    several(Turn.check_history, turns.values(), TURNS)


def p99(seconds):
    """By nearest rank."""
    ordered = sorted(seconds)
    return ordered[-(-99 * len(ordered) // 100) - 1]


def check_probe(done):
    """That there was an answer each time, and soon, and that no more lived and ran than may."""
    assert done.ok and done.out, done
    looks = [json.loads(line) for line in done.out.splitlines()]
    slow = {what: p99(look[what] for look in looks) for what in P99}
    print(f"p99 of {len(looks)} looks, in seconds: {slow}", flush=True)
    assert all(slow[what] < bound for what, bound in P99.items()), slow
    seen = [look["told"] for look in looks]
    assert max(told["activeSandboxes"] for told in seen) <= SANDBOXES, seen
    assert max(told["admission"]["turns"]["running"] for told in seen) <= TURNS, seen


def check_killed(machine, since):
    """That the kernel ended those that take memory, each at its own limit, and nobody for want of the
    machine's."""
    killed = machine.run(f"journalctl -k -o cat --since @{since} | grep oom-kill:").out.splitlines()
    assert len(killed) >= HOGS.count(MEMORY), killed
    assert all("CONSTRAINT_MEMCG" in line for line in killed), killed
