"""Stopping and starting: the daemon and the whole machine."""

from harness.journey import journey

from .crashes import begin_tool

SHUT_DOWN = "Interrupted: the server was shut down"


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
