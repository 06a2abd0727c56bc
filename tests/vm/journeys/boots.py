"""Stopping and starting: the daemon and the whole machine."""

import json

from harness.journey import journey

from .crashes import begin_tool

SHUT_DOWN = "Interrupted: the server was shut down"

SANDBOXES = 8
# Processes that do not listen to SIGTERM, and what they share of memory.
DEAF = "perl -e '$SIG{TERM} = q(IGNORE); $x = q(x) x 32_000_000; fork for 1..5; sleep'"
PROCESSES = 32
# Of what there may be of sandboxes: all that is not kept.
ALIVE = "process|mount|control group|socket"


def conversations(ash):
    """A paused session, and one with a running turn."""
    paused, running = ash.create(), ash.create()
    for id in (paused, running):
        ash.ask(id, "[[say before]]")
    ash.verb(paused, "pause")
    return paused, running, begin_tool(ash, running, "never")


def check_resumable(ash, ids):
    for id in ids:
        assert ash.session(id)["status"] == "paused", ash.session(id)
        ash.verb(id, "resume")
        assert "[[say before]]" in ash.ask(id, "[[history]]")


def check_interrupted(ash, turn):
    """The history says how the turn ended, to whoever comes back."""
    told = [event for event in ash.events(turn.session) if event["type"] == "error"]
    assert SHUT_DOWN in str(told), told
    turn.broken()
    if not turn.ended():
        turn.join()
    assert SHUT_DOWN in turn.errors(), turn.told()
    turn.check_history()


@journey()
def a_stop_pauses_and_a_start_resumes(ash):
    """Nothing runs after a stop of ashd, and nothing is lost."""
    paused, running, turn = conversations(ash)
    ash.machine.do("systemctl stop ashd")
    assert not ash.inside("bridge") and not ash.inside("claude")
    ash.start()
    check_interrupted(ash, turn)
    check_resumable(ash, [paused, running])
    for id in (paused, running):
        ash.delete(id)


@journey()
def a_stop_ends_many_large_sandboxes(ash):
    """In the time that it has, although they are full of what does not listen: a stop of ashd, then
    one of all of ash. Every session is paused and saved, and goes on with its files."""
    # What the first session of an installation makes for all is there from then on.
    ash.delete(ash.create(), "?purge=true")
    before = ash.look()
    ids = [ash.create() for _ in range(SANDBOXES)]
    busy = ids[:2]
    for id in busy:
        ash.ask(id, "[[say before]]")
    turns = [begin_tool(ash, id, "never") for id in busy]
    fill(ash, ids)
    stop(ash, before, "ashd")

    ash.start()
    for turn in turns:
        check_interrupted(ash, turn)
    for id in ids:
        check_paused(ash, id)
        ash.verb(id, "resume")
        assert ash.exec(id, "cat kept") == f"{id}\n"
    fill(ash, ids)
    stop(ash, before, "ashd", "ash-sandboxes")

    ash.start()
    for id in ids:
        check_paused(ash, id)
    check_resumable(ash, busy)
    for id in ids:
        ash.delete(id)


def fill(ash, ids):
    """Has them all write a file and be full of what does not listen."""
    for id in ids:
        ash.exec(id, f"echo {id} >kept; {DEAF} >/dev/null 2>&1 &")
    full = f"[ $(pgrep -xc perl) -ge {len(ids) * PROCESSES} ]"
    ash.machine.until(full, "the sandboxes are full")


def stop(ash, before, *units):
    """Stops units, and checks that none had to be killed and that nothing of a sandbox is left."""
    ash.machine.do(f"systemctl stop {' '.join(units)}", limit=300)
    for unit in units:
        shown = ash.machine.properties(unit, "ActiveState", "Result")
        assert shown == ["inactive", "success"], f"{unit}: {shown}"
    left = {name: ash.inside(name) for name in ("perl", "bridge", "claude")}
    assert not any(left.values()), left
    ash.check_left(before, ALIVE)


def check_paused(ash, id):
    """That history ends with it, and that the newest checkpoint has all that was said before."""
    assert ash.session(id)["status"] == "paused", ash.session(id)
    *others, last = ash.events(id)
    assert json.loads(last["data"])["action"] == "paused", last
    checkpoints = ash.call("GET", f"/api/sessions/{id}/checkpoints")["checkpoints"]
    said = max(event["sequence"] for event in others)
    assert checkpoints and checkpoints[0]["sequence"] >= said, f"{said}: {checkpoints[:1]}"


@journey(core=True)
def the_machine_is_rebooted(ash):
    """With a running turn, which fails truthfully, and a paused session."""
    paused, running, turn = conversations(ash)
    ash.machine.do("systemctl enable ashd")
    ash.machine.reboot()
    ash.await_up()
    check_interrupted(ash, turn)
    check_resumable(ash, [paused, running])
    for id in (paused, running):
        ash.delete(id)


@journey()
def the_power_fails(ash):
    """In the middle of a turn: what was acknowledged is there, and the turn has an end."""
    id = ash.create()
    ash.ask(id, "[[say before]]")
    turn = begin_tool(ash, id, "never")
    ash.machine.do("systemctl enable ashd")
    ash.machine.reboot("sync; echo b >/proc/sysrq-trigger")
    ash.await_up()
    turn.broken().join()
    assert turn.ended() and len(turn.errors()) == 1, turn.told()
    turn.check_history()
    if ash.session(id)["status"] == "paused":
        ash.verb(id, "resume")
    assert "[[say before]]" in ash.ask(id, "[[history]]")
    ash.delete(id)
